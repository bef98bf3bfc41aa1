"""The faults that are drawn are those that a person might make, and a seed draws the same ones."""

import pytest

from tests import mutate


@pytest.mark.parametrize(
    "text, faults",
    [
        ("a - b", {"a + b"}),
        ("a ** 2", {"a * 2", "a ** 3"}),
        ("0 <= a < b", {"0 < a < b", "0 <= a <= b", "1 <= a < b"}),
        ("a is not None and b", {"a is None and b", "a is not None or b"}),
        ("-a", {"a"}),
        ("a if b else c", {"a", "c"}),
        ("f(a, scale=b)", {"f(a, )", "pass"}),
        ("x.sum(0)", {"x.mean(0)", "x.sum(1)", "pass"}),
        ("if a:\n    b = 2.0", {"if False:\n    b = 2.0", "if a:\n    b = 4.0"}),
        ("raise ValueError(f'{a + 1}')", set()),
        ("def f(a: int = 1) -> int:\n    'text'", {"def f(a: int = 2) -> int:\n    'text'"}),
    ],
)
def test_faults_of_a_line(text, faults):
    found = mutate.Faults("a.py", text).found
    assert {mutate.broken(text.encode(), mutant).decode() for mutant in found} >= faults
    assert bool(found) == bool(faults)


def test_a_seed_draws_the_same_lines_and_each_fault_is_a_program(tmp_path):
    (tmp_path / "library").mkdir()
    text = "".join(f"a{index} = f(x + {index}, y * {index})\n" for index in range(20))
    (tmp_path / "library" / "m.py").write_text(text)
    first, again = (mutate.draw(tmp_path, "library", 5, 3) for _ in range(2))
    assert first == again != mutate.draw(tmp_path, "library", 5, 4)
    assert len({mutant.line for mutant in first}) == 5
    for mutant in first:
        assert text.encode()[mutant.begin : mutant.end].decode() == mutant.old
        compile(mutate.broken(text.encode(), mutant), "m.py", "exec")


def test_tests_of_a_module_come_before_those_of_its_topic():
    own, topic = mutate.tests_of("research/ntk/eigen.py", mutate.ROOT)
    assert own == ["tests/research/ntk/test_eigen.py"]
    assert topic[0] == "tests/research/ntk" and topic[1] == f"--ignore={own[0]}"


@pytest.mark.parametrize(
    "path, name",
    [
        ("experiments/ntk/mnist/methods.py", "ntk.mnist"),
        ("experiments/scaling_laws/plan.py", "scaling_laws.plan"),
        ("experiments/scaling_laws/_gpt.py", "scaling_laws."),
    ],
)
def test_a_study_is_tested_by_its_question_and_then_by_its_folder(path, name):
    question, study = mutate.tests_of(path, mutate.ROOT)
    assert question[-2:] == ["-k", name] and question[0].endswith("test_questions.py")
    assert study == [f"tests/experiments/{path.split('/')[1]}"]


def test_what_all_studies_share_is_tested_by_all_but_their_smokes():
    own, floor, smoke = mutate.tests_of("experiments/launch.py", mutate.ROOT)
    assert own == ["tests/experiments/test_launch.py"]
    assert floor == ["tests/experiments", "--deselect", mutate.SMOKES]
    assert smoke == [mutate.SMOKES, "-k", "ntk.uci"]


ALL = {"f( color=3)", "f(data=1, )", "f(data=2, color=3)", "f(data=1, color=4)", "pass"}


@pytest.mark.parametrize(
    "head, drawn",
    [
        ("from library import plots", {"f( color=3)", "f(data=2, color=3)", "pass"}),
        ("import math", ALL),
        ("import no_such_package", set()),
        ("from no_such_package import plots", set()),
        ("def late(): import no_such_package.part", set()),
        ("try: import no_such_package\nexcept ImportError: pass", ALL),
    ],
)
def test_looks_and_absent_peers_are_not_drawn(head, drawn):
    text = f"{head}\nf(data=1, color=3)\n"
    found = {mutate.broken(text.encode(), m).decode() for m in mutate.Faults("a.py", text).found}
    assert {line.splitlines()[-1] for line in found} == drawn


def test_sizes_of_a_figure_are_looks_and_those_of_a_model_are_not():
    text = "from library import figure_style\nfigure_style.row(2, width=3)\nMLP(2, width=4)\n"
    found = {(mutant.line, mutant.old) for mutant in mutate.Faults("a.py", text).found}
    assert (3, "width=4") in found and (2, "width=3") not in found
