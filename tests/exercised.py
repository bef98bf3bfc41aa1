"""Which public keywords no test ever sets or leaves out, and which refusals none provokes.

    python -m tests.exercised                     all of library and research (Python 3.12 or later)
    python -m tests.exercised research/ntk ...    these topics, by their own tests

Runs the topics' tests and watches: a keyword is set once a call gives it another value than its
default, and left once a call runs with its default; a `raise` counts once it raised. Smokes do not
count, since they compare with nothing. Prints the rest by file, then a table by topic. That a test
would notice another default is what the tables of `test_defaults.py` are for.
"""

import ast
import collections
import dataclasses
import importlib
import inspect
import pathlib
import pkgutil
import sys
import types

import pytest

ROOT = pathlib.Path(__file__).parent.parent
FLAX = ("parent", "name")  # fields of every Flax module
IDLE = sys.monitoring.DISABLE if hasattr(sys, "monitoring") else None


class Watch:
    """A plugin of pytest that notes the keywords that calls set and the lines that raise."""

    def __init__(self, folders: list[str]):
        self.folders = folders
        self.keywords: dict[tuple[str, str], set[str]] = {}  # {(file, function): not yet set}
        self.always: dict[tuple[str, str], set[str]] = {}  # {(file, function): not yet left}
        self.counts: collections.Counter = collections.Counter()  # of keywords, by file
        self.codes: dict[int, tuple] = {}  # {id of code: (code, key, {keyword: defaults})}
        self.raised: set[tuple[str, int]] = set()

    def pytest_configure(self, config):
        """Before tests are collected: their tables and constants, made at import, count too."""
        for folder in ("library", "research"):  # calls of these imports are not the tests' own
            modules(folder)
        for folder in self.folders:
            for module in modules(folder):
                for name, function in functions(module):
                    self.watch(module, name, function)
        monitor = sys.monitoring
        monitor.use_tool_id(monitor.COVERAGE_ID, "exercised")
        monitor.register_callback(monitor.COVERAGE_ID, monitor.events.PY_START, self.on_start)
        monitor.register_callback(monitor.COVERAGE_ID, monitor.events.RAISE, self.on_raise)
        monitor.set_events(monitor.COVERAGE_ID, monitor.events.PY_START | monitor.events.RAISE)

    def watch(self, module: types.ModuleType, name: str, function: types.FunctionType) -> None:
        parameters = inspect.signature(function, follow_wrapped=False).parameters.values()
        defaults = {p.name: [p.default] for p in parameters if p.default is not p.empty}
        defaults = {key: values for key, values in defaults.items() if key[0] != "_"}
        if hasattr(module, name.split(".")[0]) and name.endswith("__init__"):
            owner = getattr(module, name.split(".")[0])
            if any(base.__module__.startswith("flax.linen") for base in owner.__mro__):
                defaults = {key: values for key, values in defaults.items() if key not in FLAX}
            for field in dataclasses.fields(owner) if dataclasses.is_dataclass(owner) else ():
                if field.name in defaults and field.default_factory is not dataclasses.MISSING:
                    defaults[field.name].append(field.default_factory())  # beside "not given"
        if defaults:
            key = (module.__file__, name)
            self.keywords[key], self.always[key] = set(defaults), set(defaults)
            self.counts[module.__file__] += len(defaults)
            self.codes[id(function.__code__)] = (function.__code__, key, defaults)

    def on_start(self, code, offset):
        if id(code) not in self.codes:
            return IDLE
        _, key, defaults = self.codes[id(code)]
        given = sys._getframe(1).f_locals
        unset, always = self.keywords[key], self.always[key]
        if unset or always:
            plain = {name for name, values in defaults.items() if among(given.get(name), values)}
            unset &= plain
            always -= plain
        return None if unset or always else IDLE

    def on_raise(self, code, offset, exception):
        if code.co_filename.startswith(str(ROOT)):
            self.raised.add((code.co_filename, sys._getframe(1).f_lineno))


def among(value, defaults: list) -> bool:
    """Whether a call left a keyword at one of its defaults."""
    return any(same(value, default) for default in defaults)


def same(value, default) -> bool:
    if value is default:
        return True
    try:
        return type(value) is type(default) and bool(value == default)
    except Exception:  # arrays and whatever compares to no truth
        return False


def modules(folder: str) -> list[types.ModuleType]:
    package = importlib.import_module(folder.strip("/").replace("/", "."))
    names = [
        found.name for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    ]
    return [package, *(importlib.import_module(name) for name in names)]


def functions(module: types.ModuleType):
    """(dotted name, function) of all that a module defines for others, constructors included."""
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if not inspect.isclass(value):
            members = {"": value}
        else:
            members = {f".{key}": member for key, member in vars(value).items()}
        for suffix, member in members.items():
            member = getattr(member, "__func__", member)  # static and class methods
            member = inspect.unwrap(member) if callable(member) else member
            short = suffix.lstrip(".")
            public = short[:1] != "_" or short in ("__init__", "__call__")
            if isinstance(member, types.FunctionType) and public:
                if member.__code__.co_filename in (module.__file__, "<string>"):  # of a dataclass
                    yield name + suffix, member


def refusals(path: pathlib.Path) -> list[tuple[int, int, str]]:
    """(first line, last line, text) of every raise of a new exception and assertion of Chex."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            found.append((node.lineno, node.end_lineno, ast.unparse(node.exc)))
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("chex.assert_"):
            found.append((node.lineno, node.end_lineno, ast.unparse(node)))
    return sorted(found)


def named(keywords: dict[tuple[str, str], set[str]], path: pathlib.Path, after: str) -> list[str]:
    """A line for each function of a file that has keywords left."""
    return [
        f"  {name.removesuffix('.__init__')}({', '.join(sorted(left))}){after}"
        for (file, name), left in sorted(keywords.items())
        if file == str(path) and left
    ]


def number(keywords: dict[tuple[str, str], set[str]], path: pathlib.Path) -> int:
    return sum(len(left) for (file, _), left in keywords.items() if file == str(path))


def report(watch: Watch) -> None:
    total = collections.defaultdict(collections.Counter)
    for folder in watch.folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            lines = {line for file, line in watch.raised if file == str(path)}
            raises = refusals(path)
            silent = [
                f"  line {first}: {text}"
                for first, last, text in raises
                if not lines & set(range(first, last + 1))
            ]
            total[folder].update(
                keywords=watch.counts[str(path)],
                set=watch.counts[str(path)] - number(watch.keywords, path),
                left=watch.counts[str(path)] - number(watch.always, path),
                raises=len(raises),
                raised=len(raises) - len(silent),
            )
            found = named(watch.keywords, path, "") + named(watch.always, path, " never left out")
            if found or silent:
                print(f"\n{path.relative_to(ROOT)}", *found, *silent, sep="\n")
    print(f"\n{'':28}{'keywords':>9} {'set':>6} {'left':>6}{'raises':>9} {'raised':>6}")
    for folder, n in total.items():
        counts = f"{n['keywords']:9} {n['set']:6} {n['left']:6}{n['raises']:9} {n['raised']:6}"
        print(f"{folder:28}{counts}")


def main(folders: list[str]) -> int:
    if not hasattr(sys, "monitoring"):
        raise SystemExit("tests.exercised watches by sys.monitoring: Python 3.12 or later")
    topics = sorted(p.parent for p in (ROOT / "research").glob("*/__init__.py"))
    folders = folders or ["library", *(str(path.relative_to(ROOT)) for path in topics)]
    watch = Watch([folder.removeprefix("tests/").strip("/") for folder in folders])
    tests = [f"tests/{folder}" for folder in watch.folders]
    status = pytest.main(["-q", "-p", "no:xdist", "-p", "no:cacheprovider", *tests], [watch])
    report(watch)
    return int(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
