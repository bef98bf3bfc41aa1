"""Each test belongs to one topic, and the budget names topics that there are."""

import pytest

from tests import seconds


@pytest.mark.parametrize(
    "node_id, topic",
    [
        ("tests/test_house.py::test_a_door_opens[ntk]", "house"),
        ("tests/library/data/test_text.py::test_a", "library"),
        ("tests/research/ntk/test_predict.py::test_b[x-1]", "research/ntk"),
        (
            "tests/experiments/test_questions.py::test_smoke[score_sde.mnist]",
            "experiments/score_sde",
        ),
        (
            "tests/experiments/test_questions.py::test_form[score_sde.toys-x]",
            "experiments/score_sde",
        ),
        ("tests/experiments/test_command_line.py::test_c[no.such]", "experiments"),
        ("tests/experiments/test_command_line.py::test_d", "experiments"),
    ],
)
def test_a_test_belongs_to_its_topic(node_id, topic):
    assert seconds.topic_of(node_id) == topic


def test_the_budget_names_what_there_is():
    for topic, allowed in seconds.budgets().items():
        assert 0 < allowed <= 250
        folder = seconds.ROOT / ("tests" if topic == "house" else topic)
        assert folder.is_dir(), topic


def test_comments_are_no_topics(tmp_path):
    (tmp_path / "budget.txt").write_text("# a comment\nhouse 3  # seconds\n\n")
    assert seconds.budgets(tmp_path / "budget.txt") == {"house": 3.0}
