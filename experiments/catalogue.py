"""Which questions there are, read from the source of their files without importing any of them.

A question is a file `experiments/<study>/<question>.py` that defines `PRESETS` and `run`, or the
file `question.py` of a folder `experiments/<study>/<question>/`, which holds the parts of one that
has parts. Files whose names start with `_` are shared by the questions of their study; they and
files that lack one of the two names are no questions.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import importlib.util
import pathlib
import re

# The parts of a question's docstring; each ends before the next one or an empty line.
_END = r"(?=\s+Claims?:|\s+Cost:|\n[ \t]*\n|\s*$)"
_PARTS = {
    "asks": re.compile(r"\A(?!Claims?:|Cost:)(.+?)" + _END, re.DOTALL),
    "claim": re.compile(r"\bClaims?:\s+(.+?)" + _END, re.DOTALL),
    "cost": re.compile(r"\bCost:\s+(.+?)" + _END, re.DOTALL),
}


@dataclasses.dataclass(frozen=True)
class Question:
    """One question: its name on the command line, its module, and what its docstring says."""

    name: str  # STUDY.QUESTION
    module: str
    asks: str = ""
    claim: str = ""
    cost: str = ""
    text: str = ""  # the command and the paragraphs that follow


def questions(package: str = "experiments") -> list[Question]:
    """All questions of a package of studies, sorted by name.

    Raises:
        SyntaxError: if one of the files is not Python.
    """
    patterns = ("[!_.]*/[!_.]*.py", "[!_.]*/[!_.]*/question.py")
    paths = [p for root in folders(package) for pattern in patterns for p in root.glob(pattern)]
    found = [_question(package, path) for path in paths]
    return sorted((question for question in found if question), key=lambda q: q.name)


def folders(package: str) -> list[pathlib.Path]:
    """The folders that a package of studies lies in."""
    spec = importlib.util.find_spec(package)
    return [pathlib.Path(root) for root in spec.submodule_search_locations]


def find(name: str, package: str = "experiments") -> Question:
    """The question of that name.

    Raises:
        ValueError: if there is none, with the names that come close.
    """
    known = {question.name: question for question in questions(package)}
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    close = [other for other in known if other.startswith(f"{name}.")] or close
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    raise ValueError(f"there is no question {name!r}{hint} (`python -m {package}` lists them all)")


def describe(doc: str) -> dict[str, str]:
    """The question, the claim and the cost that a docstring names, each on one line, and the rest.

    All three stand before the line that shows the command, if there is one.
    """
    # The line need not be indented: formatters and Python strip indentation that all lines share.
    doc = re.sub(r"(?m)^[ \t]*(?=python -m )", "    ", doc)
    command = re.search(r"(?m)^    python -m ", doc)
    head = doc[: command.start()] if command else doc
    found = {name: part.search(head) for name, part in _PARTS.items()}
    lines = {name: match[1] if match else "" for name, match in found.items()}
    lines = {name: " ".join(text.split()).removesuffix(".") for name, text in lines.items()}
    end = max((match.end() for match in found.values() if match), default=0)
    return {**lines, "text": doc[end:].strip("\n")}


def _question(package: str, path: pathlib.Path) -> Question | None:
    """The question in a file, or None for a helper."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    defined = set()
    for node in tree.body:
        if isinstance(node, ast.Assign):
            defined |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            defined.add(node.target.id)
        elif isinstance(node, ast.FunctionDef):
            defined.add(node.name)
    if not {"PRESETS", "run"} <= defined:
        return None
    in_folder = path.stem == "question"  # then the folder bears the name
    names = path.parts[-3:-1] if in_folder else (path.parent.name, path.stem)
    name, module = ".".join(names), ".".join((package, *names) + ("question",) * in_folder)
    return Question(name, module, **describe(ast.get_docstring(tree) or ""))
