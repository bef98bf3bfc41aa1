"""Where the suite's seconds go: by topic beside its budget, and what JAX traces and compiles.

`tests/budget.txt` holds what each topic may take, in seconds of one worker on an idle core of an
empty compilation cache. A topic above it is named at the end of the run, as a warning.
"""

import collections
import pathlib

import jax

ROOT = pathlib.Path(__file__).parent.parent
BUDGET = ROOT / "tests" / "budget.txt"
DEFAULTS = {"research": 200.0, "experiments": 40.0}  # of a topic without a line
PARTS = {
    "/jax/core/compile/jaxpr_trace_duration": "trace",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lower",
    "/jax/core/compile/backend_compile_duration": "compile",
}

_spent: collections.Counter = collections.Counter()  # seconds by part since the process began
_before: collections.Counter = collections.Counter()  # the same when the running test began
_totals: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)


def topic_of(node_id: str) -> str:
    """What a test belongs to: a topic, a study, the library or the house."""
    parts = node_id.split("::")[0].split("/")[1:]
    if len(parts) == 1:
        return "house"
    if parts[0] == "experiments" and "[" in node_id:
        study = node_id.rpartition("[")[2].partition(".")[0]
        if (ROOT / "experiments" / study / "__init__.py").exists():
            return f"experiments/{study}"
    return parts[0] if len(parts) == 2 or parts[0] != "research" else f"research/{parts[1]}"


def budgets(path: pathlib.Path = BUDGET) -> dict[str, float]:
    """{topic: seconds} from lines `topic seconds`; # starts a comment."""
    lines = (line.partition("#")[0].split() for line in path.read_text().splitlines())
    return {fields[0]: float(fields[1]) for fields in lines if fields}


def listen() -> None:
    """Counts what JAX reports of its own work, in this process."""

    def note(event: str, seconds: float, **_) -> None:
        if event in PARTS:
            _spent[PARTS[event]] += seconds

    jax.monitoring.register_event_duration_secs_listener(note)


def pytest_runtest_setup(item):
    _before.clear()
    _before.update(_spent)


def pytest_runtest_teardown(item):
    spent = {part: float(_spent[part] - _before[part]) for part in PARTS.values()}
    item.user_properties.append(("jax seconds", spent))


def pytest_runtest_logreport(report):
    total = _totals[topic_of(report.nodeid)]
    total["all"] += report.duration
    if report.when == "call":
        total["tests"] += 1
    if report.when == "teardown":
        total.update(dict(report.user_properties).get("jax seconds", {}))


def pytest_terminal_summary(terminalreporter):
    if not _totals:
        return
    allowed = budgets()
    terminalreporter.section("seconds by topic")
    names = ("tests", "seconds", "budget", "trace", "lower", "compile")
    terminalreporter.write_line(" " * 28 + "".join(f"{name:>9}" for name in names))
    for topic, total in sorted(_totals.items(), key=lambda pair: -pair[1]["all"]):
        budget = allowed.get(topic, DEFAULTS.get(topic.partition("/")[0]))
        over = " over its budget" if budget is not None and total["all"] > budget else ""
        numbers = [total["tests"], total["all"], budget, *(total[part] for part in PARTS.values())]
        cells = ["-" if number is None else f"{number:.0f}" for number in numbers]
        terminalreporter.write_line(f"{topic:28}" + "".join(f"{c:>9}" for c in cells) + over)
