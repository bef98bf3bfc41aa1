"""`report.html`: a finished run on one self-contained page, for a laptop, a phone and dark mode."""

from __future__ import annotations

import base64
import html
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from library import metrics, progress
from library.report import claims_table, numbers, run_folder, style
from library.report import curves as report_curves
from library.storage import files

_PILLS = {"holds": "good", "FAILS": "bad", "not judged": "muted"}


def write(run: run_folder.RunDir, title: str, text: str = "") -> pathlib.Path:
    """Writes the page of a finished run and returns its path.

    Args:
        run: a folder with `result.json`; its other files are shown where they are there.
        title: what the run asks.
        text: paragraphs below the title, parted by empty lines; indented ones are shown as code.
    Raises:
        ValueError: if one of the files is damaged.
    """
    result, record = run.result(), run.record()
    rows = claims_table.rows_of(run.path.name, run.path / run_folder.RESULT)
    curves, constant = report_curves.charts(metrics.read(run.path))
    question = record["question"] or run.path.name
    values = {name: numbers.number(value) for name, value in result["metrics"].items()}
    versions = run.path / run_folder.VERSIONS
    versions = _flat(files.read_json(versions)) if versions.exists() else {}
    versions = {name.removeprefix("packages."): value for name, value in versions.items()}
    sections = [
        _section("Claims", _claims(rows)),
        _section("Pictures", _pictures(run.figures)),
        _section("Curves", _curves(curves, constant)),
        _section("Metrics", _pairs(values)),
        _section("Config", _pairs(_flat(record["config"]))),
        _section("Versions", _pairs(versions)),
    ]
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{html.escape(question)}: {html.escape(title)}</title>
<style>{style.CSS}</style></head>
<body><main>
<header>{_facts(question, result)}<h1>{html.escape(title or question)}</h1>
{_verdict(rows)}{_prose(text)}</header>
{"".join(sections)}
</main><script>{style.SCRIPT}</script></body></html>
"""
    return files.write_atomic(run.path / run_folder.HTML, page)


def _facts(question: str, result: Mapping[str, Any]) -> str:
    """The line above the title: which question, which preset, where, how long."""
    preset, device = result["preset"], result["device"]
    facts = [question, f"preset {preset}", device, progress.format_seconds(result["seconds"])]
    return f'<p class="facts">{" · ".join(map(html.escape, facts))}</p>'


def _verdict(rows: Sequence[claims_table.Row]) -> str:
    """How many claims hold, in one sentence."""
    judged = [row for row in rows if row.claim.judged]
    if not judged:
        text = "No claims." if not rows else "Claims are computed but not judged in this run."
        return f'<p class="verdict muted">{text}</p>'
    failed = len(claims_table.failed(rows))
    kind = "bad" if failed else "good"
    text = f"{len(judged) - failed} of {len(judged)} claims hold"
    return f'<p class="verdict {kind}">{text}</p><p class="note">{claims_table.sums(rows)}</p>'


def _prose(text: str) -> str:
    """Paragraphs, and code where lines are indented."""
    blocks = []
    for block in re.split(r"\n[ \t]*\n", text.strip("\n")):
        lines = block.splitlines()
        while lines:
            code = lines[0][:1].isspace()
            end = next((i for i, x in enumerate(lines) if x[:1].isspace() != code), len(lines))
            taken, lines = lines[:end], lines[end:]
            if code:
                indent = min(len(line) - len(line.lstrip()) for line in taken)
                body = "\n".join(line[indent:] for line in taken)
                blocks.append(f"<pre>{html.escape(body)}</pre>")
            else:
                blocks.append(f"<p>{_inline(' '.join(taken))}</p>")
    return f'<div class="prose">{"".join(blocks)}</div>' if text.strip() else ""


def _inline(text: str) -> str:
    """Escaped text with `code` spans."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(" ".join(text.split())))


def _section(title: str, body: str) -> str:
    """A titled part of the page, nothing where there is nothing to show."""
    return f"<section><h2>{title}</h2>{body}</section>" if body else ""


def _claims(rows: Sequence[claims_table.Row]) -> str:
    """A table, whose rows become cards on a phone."""
    if not rows:
        return ""
    lines = []
    for row in rows:
        claim, pill = row.claim, _PILLS[row.verdict]
        cells = (
            ("Claim", "name", html.escape(claim.name)),
            ("Measured", "number", html.escape(numbers.measured(claim))),
            ("Expected", "number", html.escape(numbers.expectation(claim))),
            ("Source", "source", html.escape(f"{claim.source.kind}: {claim.source.text}")),
            ("Verdict", "", f'<span class="pill {pill}">{row.verdict}</span>'),
        )
        line = "".join(f'<td class="{c}" data-label="{label}">{x}</td>' for label, c, x in cells)
        lines.append(f"<tr>{line}</tr>")
    heads = "".join(
        f"<th{' class=number' if name in ('Measured', 'Expected') else ''}>{name}</th>"
        for name in ("Claim", "Measured", "Expected", "Source", "Verdict")
    )
    head, body = f"<thead><tr>{heads}</tr></thead>", f"<tbody>{''.join(lines)}</tbody>"
    return f'<table class="claims">{head}{body}</table>'


def _curves(curves: Sequence[str], constant: Mapping[str, float]) -> str:
    """The charts side by side, and what never changed below them."""
    if not curves and not constant:
        return ""
    note = ", ".join(f"{html.escape(k)} = {numbers.number(v)}" for k, v in constant.items())
    note = f'<p class="note">Constant: {note}</p>' if constant else ""
    return f'<div class="charts">{"".join(curves)}</div>{note}'


def _pictures(folder: pathlib.Path) -> str:
    """All figures inline, named by their files."""
    items = []
    for path in sorted(folder.glob("*.png")):
        data = base64.b64encode(path.read_bytes()).decode()
        name = html.escape(path.stem.replace("_", " "))
        image = f'<img alt="{name}" src="data:image/png;base64,{data}">'
        items.append(f'<figure class="picture">{image}<figcaption>{name}</figcaption></figure>')
    return f'<div class="pictures">{"".join(items)}</div>' if items else ""


def _pairs(pairs: Mapping[str, str]) -> str:
    """Names and values in columns."""
    # Long names may break after an underscore or a dot, and nowhere else.
    names = {name: re.sub(r"([_.])", r"\1<wbr>", html.escape(name)) for name in pairs}
    items = (
        f"<div><dt>{names[name]}</dt><dd>{html.escape(value)}</dd></div>"
        for name, value in pairs.items()
    )
    return f'<dl class="pairs">{"".join(items)}</dl>' if pairs else ""


def _flat(value: Any, name: str = "") -> dict[str, str]:
    """Nested JSON as text by dotted name, without the names of the dataclasses."""
    if isinstance(value, dict):
        lines = {}
        for key, item in value.items():
            if key != "class":
                lines |= _flat(item, f"{name}.{key}" if name else key)
        return lines
    if isinstance(value, list):
        return {name: ", ".join(_flat(item, name).get(name, str(item)) for item in value) or "none"}
    return {name: "none" if value is None else "empty" if value == "" else str(value)}
