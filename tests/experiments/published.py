"""What the claims of a run say beside `published.txt`, which says what the READMEs do."""

import functools
import math
import pathlib

FILE = pathlib.Path(__file__).with_suffix(".txt")
STUDIES = pathlib.Path(__file__).parents[2] / "experiments"


def has_readme(question: str) -> bool:
    """Whether the study of a question says what it has measured."""
    return (STUDIES / question.partition(".")[0] / "README.md").exists()


@functools.cache
def lines() -> dict[str, list[str]]:
    """{question: its claims, a line each}; a question stands at the margin, a claim does not."""
    found: dict[str, list[str]] = {}
    question = ""
    for line in FILE.read_text().splitlines():
        if line.startswith(" "):
            found[question].append(line.strip())
        elif not line.startswith("#"):
            question = line
            found[question] = []
    return found


def differences(question: str, claims: list[dict], complete: bool = True) -> list[str]:
    """Where claims, as `result.json` holds them, are not those on record; in their order.

    Without `complete` some may be missing: those on data that are not there.
    """
    if question not in lines():
        return [f"{question} has no lines in {FILE.name}: write its claims there, by its README"]
    expected, given = lines()[question], [claim["name"] for claim in claims]
    names = [line.split(" | ")[0] for line in expected]
    if not complete:
        expected = [line for name, line in zip(names, expected) if name in given]
    elif names != given:
        return [f"{question} claims {given}, on record {names}"]
    return [wrong for pair in zip(claims, expected) if (wrong := misstated(*pair))]


def misstated(claim: dict, line: str) -> str:
    """How a claim differs from a line `name | relation number +- number | kind`; empty if not."""
    name, bound, kind = line.split(" | ")
    relation, _, numbers = bound.partition(" ")
    expected, _, tolerance = numbers.partition(" +- ")
    same = (claim["name"], claim["relation"], claim["kind"]) == (name, relation, kind)
    if same and says(expected, claim["expected"]) and says(tolerance or "0", claim["tolerance"]):
        return ""
    return f"{claim}: expected {line}"


def says(text: str, number: float) -> bool:
    """Whether a printed number is this one: `~` for to its last digit, `measured` for any."""
    if text == "measured":
        return True
    slack = 0.51 * 10.0 ** -len(text.partition(".")[2]) if text.startswith("~") else 0.0
    return math.isclose(number, float(text.strip("~")), rel_tol=1e-9, abs_tol=slack)
