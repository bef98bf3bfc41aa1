"""The page shows what the run left, and needs nothing else."""

import base64
import dataclasses
import html.parser

from library import claims, metrics, plots
from library.report import html as report_html
from library.report import style
from tests.library.report.runs import claim, finished


class Page(html.parser.HTMLParser):
    """Tags of a page: unbalanced ones, links out of it, and its text by tag."""

    VOID = {"meta", "img", "line", "circle", "path", "wbr"}

    def __init__(self, source):
        super().__init__()
        self.open, self.unbalanced, self.links, self.tags, self.text = [], [], [], [], ""
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data


def test_the_page_shows_everything_and_needs_nothing_else(tmp_path):
    trap = "</td><script>alert(1)</script> & <b>"
    wrong = dataclasses.replace(claim(3.0), name=trap)
    run = finished(tmp_path / "run", claims.Result({"final error": 0.25}, [claim(), wrong]))
    run.write_versions(3)
    picture = run.figure("nearest_digits", plots.heatmap([[0.0, 1.0]]))
    with metrics.MetricsWriter(run.path) as writer:
        for step in range(1, 4):
            writer.write(step, {"loss": 1 / step, "eval/loss": 2 / step, trap: step, "size": 128})
    text = "Claim: `x` < y.\n\n    python -m toy\nand after"
    path = report_html.write(run, f"Does it? {trap}", text)
    page = Page(path.read_text(encoding="utf-8"))
    assert (page.unbalanced, page.open) == ([], [])
    assert page.tags.count("script") == 1 and page.tags.count("svg") == 2
    for part in (
        "1 of 2 claims hold", "theorem 1 of 2", "theorem: Peano 1889", "FAILS", "< 2",
        "final error", "0.25", "num_steps", "run.mesh",
        "nearest digits", "eval/loss", "Constant: size = 128", trap, "jaxlib", "toy.ask", "12 s",
        "Claim: x < y.", "python -m toy", "and after",
    ):  # fmt: skip
        assert part in page.text, part
    (link,) = page.links
    assert base64.b64decode(link.removeprefix("data:image/png;base64,")) == picture.read_bytes()
    assert "http" not in style.CSS + style.SCRIPT


def test_a_page_without_claims_curves_or_pictures_leaves_them_out(tmp_path):
    run = finished(tmp_path / "run", claims.Result({}))
    page = Page(report_html.write(run, "").read_text(encoding="utf-8"))
    assert "No claims." in page.text and "toy.ask" in page.text
    assert "Curves" not in page.text and "Pictures" not in page.text
