"""The shape of the house: imports point downwards, files stay readable, floors keep theirs."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
FLOORS = ("library", "research", "experiments")  # each may import those before it
MAX_LINES = 400

# Topics that a topic may import besides itself; a new arrow is a decision, made here.
PARENTS = {
    "attention": (),
    "transformers": ("attention",),
    "vision": ("attention", "transformers"),
    "vae": (),
    "gan": (),
    "diffusion": ("attention", "vae"),
    "ntk": (),
    "scaling_laws": (),
    "language_models": ("attention", "transformers"),
}

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


def imports_of(path: pathlib.Path) -> set[str]:
    return imported_modules(ast.parse(path.read_text(), str(path)))


def violations(floor: str, topic: str, modules: set[str]) -> set[str]:
    """The imports that a file of this floor and topic must not have."""
    above = FLOORS[FLOORS.index(floor) + 1 :]
    bad = {name for name in modules if name.split(".")[0] in above + ("tests",)}
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
    tree = ast.parse("from research import ntk\ndef f():\n    import research.vae")
    assert {"research.ntk", "research.vae"} <= imported_modules(tree)


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_point_downwards(path):
    parts = path.relative_to(ROOT).parts
    topic = parts[1].removesuffix(".py")
    assert violations(parts[0], topic, imports_of(path)) == set()


def test_every_topic_is_declared_and_parents_have_no_cycle():
    topics = {p.name for p in (ROOT / "research").iterdir() if p.is_dir() and list(p.glob("*.py"))}
    assert topics <= set(PARENTS)
    visited: list[str] = []

    def visit(topic: str, trail: tuple[str, ...]) -> None:
        assert topic not in trail, f"cycle: {' -> '.join(trail + (topic,))}"
        for parent in PARENTS[topic]:
            visit(parent, trail + (topic,))
        visited.append(topic)

    for topic in PARENTS:
        visit(topic, ())
    assert set(visited) == set(PARENTS)


def test_no_cycle_between_files():
    """Imports at the head of files; those inside functions are made late on purpose."""
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sources()
    }
    arrows = {}
    for name, path in modules.items():
        tree = ast.parse(path.read_text())
        head = ast.Module([n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)], [])
        arrows[name] = (imported_modules(head) & set(modules)) - {name}
    packages = {name for name, path in modules.items() if path.name == "__init__.py"}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"cycle: {' -> '.join(trail + (name,))}"
        if name not in done:
            for target in arrows[name]:
                # `from package import module` names the package too, which need not be an arrow.
                if target not in packages or not name.startswith(target + "."):
                    visit(target, trail + (name,))
            done.add(name)

    for name in modules:
        visit(name, ())


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
