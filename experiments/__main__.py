"""The command line: list the questions, run one, judge the claims of all runs.

python -m experiments                            every question
python -m experiments STUDY.QUESTION [OPTIONS]   run it; --help: its options
python -m experiments claims [DIR]               the claims under runs/ or DIR; --help: more
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import itertools
import os
import pathlib
import re
import sys
import types
from typing import Annotated, Any, Literal

from experiments import catalogue, launch, options

CLAIMS_HELP = """python -m experiments claims [DIR] [--all]

Prints the claims of the finished runs under DIR (runs/ where none is named): what was measured,
beside the number of a paper, a theorem, a baseline or a bar; then how many hold, by kind.
Of several runs of a question and preset the newest counts; --all shows and counts the others too.
Claims of smoke runs are not judged, and not shown. Status 1 if a claim fails."""


def main(argv: list[str] | None = None, package: str = "experiments") -> int:
    """Does what the words ask and returns the exit status; see `experiments.launch`."""
    argv = sys.argv[1:] if argv is None else argv
    with launch.Session(argv, package) as session:
        if not argv or argv[0] in ("-h", "--help"):
            _list(package, with_usage=bool(argv))
        elif argv[0] == "claims":
            session.status = _claims(argv[1:])
        elif argv[0].startswith("-"):
            raise ValueError(
                f"{argv[0]} comes before a question: `python -m {package} STUDY.QUESTION`"
            )
        else:
            question = catalogue.find(argv[0], package)
            module = _import(question)
            config, preset, workdir = parse(argv[1:], question, module, package)
            launch.run_question(session, question, module, config, preset, workdir)
    return session.status


def parse(
    args: list[str], question: catalogue.Question, module: types.ModuleType, package: str
) -> tuple[Any, str, pathlib.Path | None]:
    """The config, the preset's name and the folder that the words after a question ask for.

    Raises:
        ValueError: for an unknown option or preset, a value that does not fit or a number out of
            range, in one line.
        SystemExit: with status 0 once the help is shown.
    """
    import tyro

    presets = dict(module.PRESETS)
    preset = _preset(args, presets, question)
    default = presets[preset]
    arguments = dataclasses.make_dataclass(
        "Arguments",
        [
            _option("preset", Literal[tuple(presets)], preset, "Size of the study to start from."),
            _option(
                "workdir",
                pathlib.Path | None,
                None,
                "Folder of the run; the same one again resumes it. None: a new one under runs/.",
                metavar="DIR",
            ),
            ("config", Annotated[type(default), tyro.conf.arg(name="")], default),
        ],
        frozen=True,
    )
    prog = f"python -m {package} {question.name}"
    wanted_help = any(arg in ("-h", "--help") for arg in args)
    printed = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")  # tyro draws its box by encoding
    with contextlib.ExitStack() as stack:
        if not wanted_help:
            stack.enter_context(_wide())
            stack.enter_context(contextlib.redirect_stdout(printed))
            stack.enter_context(contextlib.redirect_stderr(printed))
        try:
            parsed = tyro.cli(arguments, prog=prog, description=module.__doc__, args=args)
        except SystemExit as stop:
            if wanted_help and not stop.code:
                raise
            printed.seek(0)
            raise ValueError(f"{_one_line(printed.read())} (see {prog} --help)") from None
    options.check(parsed.config, presets.values())
    return parsed.config, parsed.preset, parsed.workdir


def _option(name: str, kind: Any, default: Any, text: str, **extra: Any) -> tuple:
    import tyro

    return name, Annotated[kind, tyro.conf.arg(help=text, **extra)], default


def _preset(args: list[str], presets: dict[str, Any], question: catalogue.Question) -> str:
    """The preset named last, or the default one: its values are the defaults of all options."""
    named = [value for word, value in itertools.pairwise(args) if word == "--preset"]
    named += [word.partition("=")[2] for word in args if word.startswith("--preset=")]
    preset = named[-1] if named else ("default" if "default" in presets else next(iter(presets)))
    if preset not in presets:
        raise ValueError(
            f"{question.name} has no preset {preset!r}: expected {' or '.join(presets)}"
        )
    return preset


def _one_line(box: str) -> str:
    """The message of tyro's box: its first part, and the option it expected or takes for meant."""
    inner = [line.strip("│ ") for line in box.splitlines() if line.startswith("│")]
    parts = re.split(r"\n─+\n", "\n".join(inner) or box)
    message = " ".join(parts[0].split()).rstrip(".")
    for part in parts[1:]:
        options = re.findall(r"^--\S+(?: [A-Z{\[|}\]]\S*)*", part, re.MULTILINE)
        if part.startswith("Perhaps you meant") and options:
            names = [option.split()[0] for option in options[:3]]
            return f"{message}; perhaps you meant {' or '.join(names)}"
        if part.startswith("Argument helptext") and options:
            return f"{message}; expected {options[0]}"
    return message


@contextlib.contextmanager
def _wide() -> Any:
    """A terminal so wide that no message is broken."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "2000"
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def _import(question: catalogue.Question) -> types.ModuleType:
    try:
        return importlib.import_module(question.module)
    except ModuleNotFoundError as error:
        if error.name.split(".")[0] in ("library", "research", question.module.split(".")[0]):
            raise
        raise ValueError(f"{question.name} needs {error.name}, which is not installed") from None


def _list(package: str, with_usage: bool) -> None:
    """Prints every question with its claim and cost."""
    import rich.console
    import rich.table
    import rich.text

    console = rich.console.Console(highlight=False)
    if with_usage:
        console.print(__doc__, markup=False)
    found = catalogue.questions(package)
    for question in found:
        console.print(question.name, style="bold cyan", markup=False)
        _print_indented(console, rich.text.Text(question.asks))
        parts = rich.table.Table.grid(padding=(0, 2))
        for label in ("claim", "cost"):
            if text := getattr(question, label):
                parts.add_row(rich.text.Text(label, style="dim"), rich.text.Text(text))
        _print_indented(console, parts)
        console.print()
    if not found:
        console.print(f"no questions in {package}", markup=False)
    console.print(
        f"run one: python -m {package} STUDY.QUESTION [--preset smoke] [--help]",
        style="dim",
        markup=False,
    )


def _print_indented(console: Any, what: Any) -> None:
    import rich.padding

    console.print(rich.padding.Padding(what, (0, 0, 0, 4), expand=False))


def _claims(args: list[str]) -> int:
    """Prints the table of claims; status 1 if a judged one fails."""
    if {"-h", "--help"} & set(args):
        print(CLAIMS_HELP)
        return 0
    folders = [word for word in args if word != "--all"]
    if len(folders) > 1 or any(word.startswith("-") for word in folders):
        raise ValueError(f"claims {' '.join(args)}: expected `claims [DIR] [--all]`")
    import rich.console

    from library.report import claims_table

    root = folders[0] if folders else "runs"
    runs, older = claims_table.collect(root), []
    if "--all" not in args:
        runs, older = claims_table.newest(runs)
    rows = [row for run in runs for row in run.rows]
    judged = [row for row in rows if row.claim.judged]
    failed = claims_table.failed(rows)
    if judged:
        rich.console.Console().print(claims_table.table(judged))
    skipped = f", {len(rows) - len(judged)} not judged" if len(rows) > len(judged) else ""
    kinds = f" ({claims_table.sums(judged)})" if judged else ""
    print(f"{len(judged) - len(failed)} of {len(judged)} claims hold under {root}{skipped}{kinds}")
    if older:
        names = ", ".join(run.name for run in older)
        print(f"left out, as newer runs replace them (--all shows them): {names}")
    return launch.FAILED if failed else 0


if __name__ == "__main__":
    sys.exit(main())
