"""The README's programs run as they are pasted, and the files that it links to are there."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: re.search(r"from (\S+)", block)[1])
def test_a_block_runs_as_pasted(block):
    exec(compile(block, "README.md", "exec"), {})


def test_links_lead_somewhere():
    for page in [ROOT / "README.md", *ROOT.glob("experiments/*/README.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)}: {target}"
