"""The shape of the house: imports point downwards, files stay readable, floors keep theirs."""

import ast
import doctest
import importlib
import pathlib
import statistics
import subprocess
import sys

import pytest

from experiments import catalogue

ROOT = pathlib.Path(__file__).parent.parent
FLOORS = ("library", "research", "experiments")  # each may import those before it
# Modules whose tests bear another name, and which.
UNTESTED_BY_NAME: dict[str, str] = {}
MAX_LINES, MAX_QUESTION_LINES = 400, 200

# Parents that doors name and that are still to come.
PLANNED: set[str] = set()

# Packages that only the named places may import, so that everything else runs without them.
CONFINED = {
    "tensorflow_datasets": "library/data/",
    "grain": "library/data/",
    "orbax": "library/checkpoint.py",
    "tyro": "experiments/__main__.py",
    "tensorboardX": "library/metrics.py",
}
FORBIDDEN = ("tensorflow", "clu", "jraph", "distrax", "brax", "jaxopt", "gymnax")


def sources():
    return [path for floor in FLOORS for path in sorted((ROOT / floor).rglob("*.py"))]


def imported_modules(tree: ast.AST) -> set[str]:
    """Every module named by an import anywhere in the file, `from a import b` as a and a.b."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the arrows"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def module_name(path: pathlib.Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def doors() -> dict[str, pathlib.Path]:
    """{topic: the file that is its door}."""
    return {path.parent.name: path for path in sorted((ROOT / "research").glob("*/__init__.py"))}


def constant(tree: ast.Module, name: str) -> tuple[str, ...] | None:
    """The literal that a file assigns to a name, found without importing it."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == name:
            return tuple(ast.literal_eval(node.value))
    return None


DOORS = {topic: ast.parse(path.read_text()) for topic, path in doors().items()}
PARENTS = {topic: constant(tree, "PARENTS") or () for topic, tree in DOORS.items()}


def imports_of(path: pathlib.Path) -> set[str]:
    return imported_modules(ast.parse(path.read_text(), str(path)))


def violations(floor: str, topic: str, modules: set[str]) -> set[str]:
    """The imports that a file of this floor and topic must not have."""
    above = FLOORS[FLOORS.index(floor) + 1 :]
    bad = {name for name in modules if name.split(".")[0] in above + ("tests",)}
    if floor == "experiments" and topic:
        studies = {name for name in modules if name.startswith("experiments.")}
        bad |= {name for name in studies if name.split(".")[1] != topic}
    if floor == "research":
        allowed = {topic, *PARENTS.get(topic, ())}
        for name in modules:
            parts = name.split(".")
            if parts[0] == "research" and len(parts) > 1 and parts[1] not in allowed:
                bad.add(name)
    return bad


def test_the_rule_itself_catches_every_kind_of_wrong_arrow():
    assert violations("library", "", {"research.ntk"}) == {"research.ntk"}
    assert violations("research", "ntk", {"experiments.report"}) == {"experiments.report"}
    assert violations("research", "ntk", {"research.vae.losses"}) == {"research.vae.losses"}
    assert violations("research", "diffusion", {"research.vae.losses", "library.fit"}) == set()
    assert violations("experiments", "", {"research.ntk", "library.fit"}) == set()
    assert violations("experiments", "ntk", {"experiments.ntk._tables", "research.ntk"}) == set()
    assert violations("experiments", "ntk", {"experiments.vision.sets"}) == {
        "experiments.vision.sets"
    }
    assert violations("experiments", "", {"experiments.catalogue"}) == set()
    tree = ast.parse("from research import ntk\ndef f():\n    import research.vae")
    assert {"research.ntk", "research.vae"} <= imported_modules(tree)


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_point_downwards(path):
    parts = path.relative_to(ROOT).parts
    topic = parts[1].removesuffix(".py")
    if parts[0] == "experiments" and len(parts) == 2:
        topic = ""  # the stem of the floor, which belongs to no study
    wrong = sorted(violations(parts[0], topic, imports_of(path)))
    assert not wrong, (
        f"{path.relative_to(ROOT)} imports {', '.join(wrong)}: arrows point downwards, a topic "
        "imports those that its door names in PARENTS, a study imports no other study"
    )


def test_parents_are_topics_and_have_no_cycle():
    folders = {p.name for p in (ROOT / "research").iterdir() if p.is_dir() and list(p.glob("*.py"))}
    assert folders == set(PARENTS), "a topic without a door (__init__.py)"
    silent = [topic for topic, tree in DOORS.items() if constant(tree, "PARENTS") is None]
    assert not silent, f"the doors of {silent} lack PARENTS = (...), the topics that they import"

    def visit(topic: str, trail: tuple[str, ...]) -> None:
        assert topic not in trail, f"cycle: {' -> '.join(trail + (topic,))}"
        for parent in PARENTS.get(topic, ()):
            assert parent in PARENTS or parent in PLANNED, f"{topic} names {parent}, which is none"
            visit(parent, trail + (topic,))

    for topic in PARENTS:
        visit(topic, ())


@pytest.mark.parametrize("topic", doors())
def test_a_door_opens(topic):
    """All that it names is there, and its example gives what it shows, in ten lines."""
    door = importlib.import_module(f"research.{topic}")
    assert list(door.__all__) == sorted(door.__all__) and all(
        hasattr(door, n) for n in door.__all__
    )
    example = doctest.DocTestParser().get_doctest(door.__doc__, {}, topic, None, 0)
    assert 1 <= len(example.examples) <= 10, "a door opens with an example of at most ten lines"
    assert f"from research import {topic}" in example.docstring
    failed, _ = doctest.DocTestRunner(verbose=False).run(example)
    assert failed == 0, "the example of the door does not give what it shows: see the output"


def test_the_training_step_and_all_doors_open_without_what_is_imported_late():
    absent = "safetensors tokenizers sentencepiece tensorflow_datasets grain orbax tyro diffrax"
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({absent.split()!r}))\n"
        "import library.train_step, library.fit, library.sharding\n"
        f"from research import {', '.join(doors())}"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def cycle(arrows: dict[str, set[str]]) -> tuple[str, ...]:
    """The first circle in a graph, empty if there is none."""
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> tuple[str, ...]:
        if name in trail:
            return trail[trail.index(name) :] + (name,)
        if name not in done:
            for target in sorted(arrows.get(name, ())):
                if found := visit(target, trail + (name,)):
                    return found
            done.add(name)
        return ()

    return next((found for name in arrows if (found := visit(name, ()))), ())


def arrows_between(trees: dict[str, ast.AST], packages: set[str]) -> dict[str, set[str]]:
    """{module: modules that it imports}, at its head or inside a function.

    `from package import module` is an arrow to the module alone; `from package import name` inside
    the package would be one to its own door, and is kept as such.
    """
    arrows = {}
    for name, tree in trees.items():
        named = imported_modules(tree) & set(trees)
        inner = {other.rpartition(".")[0] for other in named}
        arrows[name] = {n for n in named if not (n in packages and n in inner)} - {name}
    return arrows


def test_the_cycle_rule_catches_planted_circles():
    late = {
        "library.a": ast.parse("def f():\n    from library import b"),
        "library.b": ast.parse("from library.c import g"),
        "library.c": ast.parse("import library.a"),
        "library": ast.parse("from library import a"),
    }
    assert cycle(arrows_between(late, {"library"})) == (
        "library.a",
        "library.b",
        "library.c",
        "library.a",
    )
    late["library.c"] = ast.parse("")
    assert cycle(arrows_between(late, {"library"})) == ()
    late["library.c"] = ast.parse("from library import name_of_the_door")
    assert cycle(arrows_between(late, {"library"}))


def test_no_cycle_between_files():
    trees = {module_name(path): ast.parse(path.read_text()) for path in sources()}
    packages = {module_name(path) for path in sources() if path.name == "__init__.py"}
    found = cycle(arrows_between(trees, packages))
    assert not found, f"files that import each other in a circle: {' -> '.join(found)}"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_heavy_packages_are_confined(path):
    name = str(path.relative_to(ROOT))
    packages = {module.split(".")[0] for module in imports_of(path)}
    for package, home in CONFINED.items():
        assert package not in packages or name.startswith(home), f"{package} belongs to {home}"
    assert not packages & set(FORBIDDEN)


def test_files_stay_within_the_budget():
    paths = sources() + sorted((ROOT / "tests").rglob("*.py"))
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in paths}
    assert {name: count for name, count in lines.items() if count > MAX_LINES} == {}


def public_modules() -> list[pathlib.Path]:
    """The files of library and research that define a public function or class."""
    found = []
    for path in sources():
        floor, *_ = path.relative_to(ROOT).parts
        nodes = ast.parse(path.read_text()).body
        public = [n for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef)]
        if floor != "experiments" and any(n.name[0] != "_" for n in public):
            found.append(path)
    return found


def test_a_stranger_finds_the_tests_of_a_module():
    """`test_<module>.py` in the folder of its topic; `test_<wing>_<module>.py` serves too."""
    missing = []
    for path in public_modules():
        floor, topic, *rest = path.relative_to(ROOT).with_suffix("").parts
        folder = ROOT / "tests" / floor / (topic if rest else "")
        files = [found for found in folder.rglob("test_*.py") if "def test_" in found.read_text()]
        names = {found.stem for found in files}
        stem = (rest or [topic])[-1]
        wing = rest[-2] if len(rest) > 1 else topic
        if not names & {f"test_{stem}", f"test_{wing}_{stem}"}:
            missing.append(str(path.relative_to(ROOT)))
    missing = sorted(set(missing) - set(UNTESTED_BY_NAME))
    assert not missing, f"without tests/<floor>/<topic>/test_<module>.py: {missing}"


def question_files() -> list[pathlib.Path]:
    found = []
    for question in catalogue.questions():
        found.append((ROOT / question.module.replace(".", "/")).with_suffix(".py"))
    return found


def test_questions_only_assemble():
    lines = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in question_files()}
    assert {name: count for name, count in lines.items() if count > MAX_QUESTION_LINES} == {}
    assert statistics.median(lines.values()) <= 140


def test_every_file_says_what_it_is():
    missing = [
        str(p.relative_to(ROOT))
        for p in sources()
        if not ast.get_docstring(ast.parse(p.read_text()))
    ]
    assert missing == []


def test_public_functions_are_documented():
    missing = []
    for path in sources():
        if path.relative_to(ROOT).parts[0] == "experiments":
            continue
        for node in ast.parse(path.read_text()).body:
            public = isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_"
            if public and not ast.get_docstring(node):
                missing.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert missing == []
