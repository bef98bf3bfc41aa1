"""Breaks random lines one at a time and sees whether a test fails.

    python -m tests.mutate research/ntk --count 10 --seed 3      ten lines of one topic
    python -m tests.mutate --count 60 --seed 3 --workers 2       as many of each area

A line is drawn among those that compute or decide, then one fault that a person might make there:
an operator, a comparison, a constant, a condition, an index, an argument or a check. In a copy of
the committed tree the module's own tests run first, then, if they stay green, the topic's. The
table says which test turned red; what survived needs a test, or is no fault at all (say why): an
index that is clamped, a precision that CPUs lack. Nothing is drawn of the looks of a figure
(colours, widths of lines, sizes of marks and text) nor of a module that imports a peer that is not
installed.
"""

import argparse
import ast
import concurrent.futures
import dataclasses
import importlib.util
import io
import pathlib
import queue
import random
import re
import subprocess
import sys
import tarfile
import tempfile

ROOT = pathlib.Path(__file__).parent.parent
SWAPS = {
    **{ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "/", ast.Pow: "*"},
    **{ast.Mod: "//", ast.MatMult: "*", ast.BitAnd: "|", ast.BitOr: "&"},
    **{ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "=="},
    **{ast.In: "not in", ast.NotIn: "in", ast.Is: "is not", ast.IsNot: "is"},
    **{ast.And: "or", ast.Or: "and"},
}
NAMES = {"min": "max", "max": "min", "sum": "mean", "mean": "sum", "maximum": "minimum"}
NAMES |= {"minimum": "maximum", "psum": "pmean", "pmean": "psum", "exp": "exp2", "log": "log2"}
NAMES |= {"any": "all", "all": "any", "zeros": "ones", "ones": "zeros", "sqrt": "square"}
NAMES |= {"floor": "ceil", "ceil": "floor", "zeros_like": "ones_like", "ones_like": "zeros_like"}
DRAWING = ("matplotlib", "figure_style", "plots")  # a module that imports one of these draws
LOOKS = {"color", "ecolor", "alpha", "linewidth", "lw", "linestyle", "ls", "zorder", "cmap"}
LOOKS |= {"markersize", "ms", "mew", "mec", "mfc", "markerfacecolor", "capsize", "fontsize", "loc"}
LOOKS |= {"frameon", "ncols", "bbox_to_anchor", "xytext", "textcoords", "va", "ha", "marker"}
SIZES = {"width", "height", "width_ratios"}  # of a figure, in a call of figure_style
SMOKES = "tests/experiments/test_questions.py::test_smoke_runs_to_the_end_and_judges_nothing"


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One fault: where it is, and what stands there instead."""

    path: str
    line: int
    begin: int  # bytes of the file that are replaced
    end: int
    old: str
    new: str


class Faults(ast.NodeVisitor):
    """Collects the faults that a file offers."""

    def __init__(self, path: str, text: str):
        self.path, self.source = path, text.encode()
        starts = [0]
        for line in self.source.splitlines(keepends=True):
            starts.append(starts[-1] + len(line))
        self.starts, self.found, tree = starts, [], ast.parse(text)
        names = imported(tree)
        self.draws = bool(names & set(DRAWING))
        if not lacks_a_peer(tree):
            self.visit(tree)

    def span(self, node: ast.AST) -> tuple[int, int]:
        begin = self.starts[node.lineno - 1] + node.col_offset
        return begin, self.starts[node.end_lineno - 1] + node.end_col_offset

    def text(self, node: ast.AST) -> str:
        begin, end = self.span(node)
        return self.source[begin:end].decode()

    def add(self, line: int, begin: int, end: int, new: str) -> None:
        old = self.source[begin:end].decode()
        self.found.append(Mutant(self.path, line, begin, end, old, new))

    def replace(self, node: ast.AST, new: str) -> None:
        self.add(node.lineno, *self.span(node), new)

    def between(self, left: ast.AST, right: ast.AST, operator: ast.AST) -> None:
        """Swaps the operator that stands between two operands."""
        begin, end = self.span(left)[1], self.span(right)[0]
        gap = self.source[begin:end].decode()
        words = r"not\s+in|is\s+not|\bin\b|\bis\b|\band\b|\bor\b|//|\*\*|[<>=!]=|[-+*/@%<>&|]"
        match = re.search(words, gap)
        if match and type(operator) in SWAPS and "#" not in gap:
            line = self.source[: begin + match.start()].count(b"\n") + 1
            self.add(line, begin + match.start(), begin + match.end(), SWAPS[type(operator)])

    # What is no code that computes: texts, annotations, decorators, imports, error messages.
    def visit_JoinedStr(self, node):
        pass

    visit_Raise = visit_Import = visit_ImportFrom = visit_JoinedStr

    def visit_FunctionDef(self, node):
        for default in (*node.args.defaults, *(d for d in node.args.kw_defaults if d)):
            self.visit(default)
        for child in node.body:
            self.visit(child)

    def visit_ClassDef(self, node):
        for child in node.body:
            self.visit(child)

    def visit_AnnAssign(self, node):
        if node.value:
            self.visit(node.value)

    def visit_BinOp(self, node):
        if not isinstance(node.left, ast.Constant) or not isinstance(node.left.value, str):
            self.between(node.left, node.right, node.op)
        self.generic_visit(node)

    def visit_Compare(self, node):
        operands = [node.left, *node.comparators]
        for left, right, operator in zip(operands[:-1], operands[1:], node.ops, strict=True):
            self.between(left, right, operator)
        self.generic_visit(node)

    def visit_BoolOp(self, node):
        for left, right in zip(node.values[:-1], node.values[1:], strict=True):
            self.between(left, right, node.op)
        self.generic_visit(node)

    def visit_UnaryOp(self, node):
        if not isinstance(node.op, ast.Invert | ast.UAdd):
            self.replace(node, self.text(node.operand))
        self.generic_visit(node)

    def visit_IfExp(self, node):
        self.replace(node, self.text(node.body))
        self.replace(node, self.text(node.orelse))
        self.generic_visit(node)

    def visit_If(self, node):
        self.replace(node.test, "False")
        self.generic_visit(node)

    def visit_Constant(self, node):
        if isinstance(node.value, bool):
            self.replace(node, str(not node.value))
        elif isinstance(node.value, int):
            self.replace(node, str(node.value + 1))
        elif isinstance(node.value, float):
            self.replace(node, repr(2 * node.value if node.value else 1.0))

    def drawn_of(self, node: ast.Call) -> list[ast.keyword]:
        """The keywords of a call but those of the looks of a figure."""
        looks = LOOKS if self.draws else set()
        if isinstance(node.func, ast.Attribute) and self.text(node.func.value) == "figure_style":
            looks = looks | SIZES
        return [keyword for keyword in node.keywords if keyword.arg not in looks]

    def visit_Call(self, node):
        keywords = self.drawn_of(node)
        for keyword in keywords:
            if keyword.arg and len(node.args) + len(node.keywords) > 1:
                begin = self.starts[keyword.lineno - 1] + keyword.col_offset
                end = self.span(keyword.value)[1]
                after = re.match(rb"\s*,", self.source[end:])
                self.add(keyword.lineno, begin, end + (after.end() if after else 0), "")
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if name in NAMES:
            end = self.span(node.func)[1]
            line = node.func.end_lineno
            self.add(line, end - len(name), end, NAMES[name])
        for part in (node.func, *node.args, *keywords):
            self.visit(part)

    def visit_Expr(self, node):
        if isinstance(node.value, ast.Call):
            self.replace(node, "pass")
        if not isinstance(node.value, ast.Constant):
            self.generic_visit(node)


def imported(tree: ast.Module) -> set[str]:
    """All names in the import statements of a module."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            found |= {part for name in [*names, getattr(node, "module", None) or ""]
                      for part in name.split(".")}  # fmt: skip
    return found


def lacks_a_peer(tree: ast.Module) -> bool:
    """Whether a module imports a package that is not installed, and does not try only."""
    tried = {id(part) for node in ast.walk(tree) if isinstance(node, ast.Try)
             for part in ast.walk(node)}  # fmt: skip
    names = set()
    for node in ast.walk(tree):
        if id(node) not in tried and isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif id(node) not in tried and isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.split(".")[0])
    return any(importlib.util.find_spec(name) is None for name in names)


def committed() -> bytes:
    """The tree as it was last committed, as a tar archive."""
    return subprocess.run(
        ["git", "archive", "HEAD"], cwd=ROOT, capture_output=True, check=True
    ).stdout


def areas() -> list[str]:
    topics = sorted(path.parent.name for path in (ROOT / "research").glob("*/__init__.py"))
    return ["library", *(f"research/{topic}" for topic in topics), "experiments"]


def draw(root: pathlib.Path, area: str, count: int, seed: int) -> list[Mutant]:
    """`count` lines of an area without replacement, and a fault at each, by the seed."""
    lines: dict[tuple[str, int], list[Mutant]] = {}
    for path in sorted((root / area).rglob("*.py")):
        text = path.read_text()
        for mutant in Faults(str(path.relative_to(root)), text).found:
            try:
                ast.parse(broken(text.encode(), mutant))
            except SyntaxError:
                continue
            lines.setdefault((mutant.path, mutant.line), []).append(mutant)
    rng = random.Random(f"{seed} {area}")
    chosen = rng.sample(sorted(lines), min(count, len(lines)))
    return [rng.choice(lines[line]) for line in chosen]


def broken(whole: bytes, mutant: Mutant) -> bytes:
    return whole[: mutant.begin] + mutant.new.encode() + whole[mutant.end :]


def tests_of(path: str, root: pathlib.Path) -> list[list[str]]:
    """The tests to run for a file: its own, then those of its topic."""
    parts = pathlib.Path(path).parts
    stem = parts[-1].removesuffix(".py")
    folder = root / "tests" / pathlib.Path(*parts[: 2 if parts[0] == "research" else 1])
    if parts[0] == "experiments":
        return _of_a_study(parts, root)
    own = [*folder.rglob(f"test_{stem}.py"), *folder.rglob(f"test_{stem}_*.py")]
    own = sorted({str(found.relative_to(root)) for found in own})
    return [own, [str(folder.relative_to(root)), *(f"--ignore={name}" for name in own)]]


def _of_a_study(parts: tuple[str, ...], root: pathlib.Path) -> list[list[str]]:
    """Of a question what bears its name, of what a study shares all its questions; then the study's
    tests. Of what all studies share its own tests, all others of the floor, and one smoke."""
    if len(parts) == 2:
        own = root / "tests" / "experiments" / f"test_{parts[1]}"
        own = [str(own.relative_to(root))] if own.exists() else []
        return [own, ["tests/experiments", "--deselect", SMOKES], [SMOKES, "-k", "ntk.uci"]]
    question = parts[2].removesuffix(".py")
    name = f"{parts[1]}." if question.startswith("_") else f"{parts[1]}.{question}"
    named = [f"tests/experiments/test_{kind}.py" for kind in ("questions", "presets", "schedules")]
    folder = f"tests/experiments/{parts[1]}"
    return [[*named, "-k", name], [folder] if (root / folder).is_dir() else []]


def judge(mutant: Mutant, root: pathlib.Path, limit: float) -> str:
    """What became of a mutant in the copy at `root`: the test that killed it, or `survived`."""
    path = root / mutant.path
    whole = path.read_bytes()
    path.write_bytes(broken(whole, mutant))
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--durations=0"]
    try:
        for tests in tests_of(mutant.path, root):
            if not tests:
                continue
            command = [sys.executable, "-m", "pytest", *options, *tests]
            try:
                done = subprocess.run(
                    command, cwd=root, capture_output=True, text=True, timeout=limit
                )
            except subprocess.TimeoutExpired:
                return "killed: ran out of time"
            if done.returncode not in (0, 5):  # 5: no test was collected
                red = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
                return f"killed: {red[1] if red else done.stdout[-200:] + done.stderr[-200:]}"
        return "SURVIVED"
    finally:
        path.write_bytes(whole)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutate", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("areas", nargs="*", help="folders such as research/ntk; all where none is")
    parser.add_argument("--count", type=int, default=10, help="mutants, divided among the areas")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--workers", type=int, default=1, help="processes, of about one core each")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds of one run of tests")
    parser.add_argument("--list", action="store_true", help="only say what would be broken")
    options = parser.parse_args(argv)
    options.areas = [area.strip("/") for area in options.areas] or areas()
    for area in options.areas:
        if not list((ROOT / area).rglob("*.py")):
            parser.error(f"{area} holds no Python file of the repository")
    return options


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    archive = committed()
    roots: queue.Queue = queue.Queue()
    with tempfile.TemporaryDirectory() as folder:
        for index in range(options.workers):
            root = pathlib.Path(folder) / f"copy{index}"
            with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
                tar.extractall(root, filter="data")
            roots.put(root)
        shares = [
            len(range(index, options.count, len(options.areas)))
            for index in range(len(options.areas))
        ]
        mutants = []
        for area, share in zip(options.areas, shares, strict=True):
            mutants += draw(root, area, share, options.seed)

        def work(mutant: Mutant) -> str:
            if options.list:
                return "drawn"
            root = roots.get()
            try:
                return judge(mutant, root, options.limit)
            finally:
                roots.put(root)

        red = 0
        with concurrent.futures.ThreadPoolExecutor(options.workers) as pool:
            for mutant, verdict in zip(mutants, pool.map(work, mutants), strict=True):
                old, new = (" ".join(text.split()) for text in (mutant.old, mutant.new))
                place = f"{mutant.path}:{mutant.line}"
                print(f"| {place} | `{old}` | `{new}` | {verdict} |", flush=True)
                red += verdict.startswith("killed")
    if not options.list:
        print(f"{red} of {len(mutants)} turned a test red (seed {options.seed})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
