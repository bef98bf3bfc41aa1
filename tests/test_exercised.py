"""What `tests.exercised` counts: in a small tree, values given in tests and in their tables."""

import pathlib
import shutil
import subprocess
import sys

import pytest

FILES = {
    "library/__init__.py": "",
    "research/__init__.py": "",
    "research/topic/__init__.py": """
import dataclasses


@dataclasses.dataclass
class Law:
    slope: float = 1.0
    offset: float = 0.0
    names: list = dataclasses.field(default_factory=list)


def scaled(x, factor=2, shift=0, *, power=1, root=1, _private=0):
    if power < 1:
        raise ValueError(f"power={power}")
    if factor == 0:
        raise ValueError("factor=0")
    return (factor * x + shift) ** (power / root)


LAW = Law(offset=1.0)
TABLE = scaled(1, shift=3)
""",
    "tests/__init__.py": "",
    "tests/research/__init__.py": "",
    "tests/research/topic/__init__.py": "",
    "tests/research/topic/test_topic.py": """
import pytest

from research import topic

LAW = topic.Law(slope=3.0)
CASES = [topic.scaled(1, 5, root=2)]


def test_values():
    assert topic.scaled(1, 2, power=1, root=2) == 2**0.5  # the defaults, said aloud
    assert LAW.slope == 3 and topic.Law(names=[]).names == []
    with pytest.raises(ValueError, match="power=0"):
        topic.scaled(1, power=0, root=3)
""",
}


@pytest.mark.skipif(sys.version_info < (3, 12), reason="sys.monitoring is of Python 3.12")
def test_tables_of_tests_count_and_the_modules_own_do_not(tmp_path):
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    shutil.copy(pathlib.Path(__file__).parent / "exercised.py", tmp_path / "tests")
    command = [sys.executable, "-m", "tests.exercised", "research/topic"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    found = lines[lines.index("research/topic/__init__.py") :]
    assert found[1:5] == [
        "  Law(names, offset)",
        "  scaled(shift)",
        "  scaled(root) never left out",
        "  line 16: ValueError('factor=0')",
    ]
    assert found[-1].split() == ["research/topic", "7", "4", "6", "2", "1"]
