"""What the READMEs and the papers say of the default presets, beside the presets."""

import dataclasses
import importlib
import math

import pytest

from experiments import catalogue
from tests.experiments import published
from tests.experiments.preset_facts import ELSEWHERE, STATED
from tests.experiments.preset_growth import LARGER

QUESTIONS = {question.name: question for question in catalogue.questions()}


def preset(name, which="default"):
    return importlib.import_module(QUESTIONS[name].module).PRESETS[which]


def flat(config, before=""):
    """{dotted name: value} of a config and the groups in it."""
    found = {}
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), before + field.name
        found |= flat(value, f"{name}.") if dataclasses.is_dataclass(value) else {name: value}
    return found


@pytest.mark.parametrize("name", STATED)
def test_the_default_is_what_the_readme_measured(name):
    config = flat(preset(name))
    assert {field: config[field] for field in STATED[name]} == STATED[name]


@pytest.mark.parametrize("name, which, known", ELSEWHERE)
def test_sizes_known_from_elsewhere(name, which, known):
    config = flat(preset(name, which))
    assert {field: config[field] for field in known} == known


def test_every_question_that_a_readme_describes_has_its_facts():
    described = {name for name in QUESTIONS if published.has_readme(name)}
    assert described - set(STATED) == {"scaling_laws.repetition"}  # whose README has no sizes


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_smoke_is_no_larger_and_an_accelerator_no_smaller_than_the_default(name):
    """Of what is counted in whole numbers: rows, updates, draws, widths."""
    free = ("seed", "log_every", "checkpoint_every", "keep_checkpoints", "length", "unroll",
            "memory_bytes", "steps_per_call", "num_test", "num_seeds")  # fmt: skip
    smoke, default, large = (flat(preset(name, which)) for which in ("smoke", "default",
                                                                     "accelerator"))  # fmt: skip
    for field, value in default.items():
        if field.rpartition(".")[2] not in free and type(value) is int:
            assert smoke[field] <= value <= large[field], field
        if isinstance(value, tuple) and all(type(each) is int for each in value):
            assert (
                max(smoke[field], default=0)
                <= max(value, default=0)
                <= max(large[field], default=0)
            ), field


@pytest.mark.parametrize("name", QUESTIONS)
def test_an_accelerator_enlarges_what_it_should(name):
    default, large = (flat(preset(name, which)) for which in ("default", "accelerator"))
    changed = [field for field in default if default[field] != large[field]]
    assert not published.has_readme(name) or changed == LARGER.get(name, "").split()


# Not round: examples, vocabularies, points with both ends, evaluations of Karras et al. 2022.
ODD = {1497, 65, 50_257, 241, 49, 193, 25, 35}


@pytest.mark.parametrize("which", ["default", "accelerator"])
@pytest.mark.parametrize("name", QUESTIONS)
def test_whole_numbers_are_round(name, which):
    """Batches, widths, updates and draws: multiples of 4 or of 10, that share out over devices."""
    for field, value in flat(preset(name, which)).items():
        numbers = value if isinstance(value, tuple) else (value,)
        sizes = [number for number in numbers if type(number) is int and number > 16]
        odd = [number for number in sizes if number % 4 and number % 10 and number not in ODD]
        assert not odd, f"{field}={value}"


def test_numbers_that_follow_from_others():
    """As the READMEs put them: kernels have equally many settings, batches have so many tokens."""
    uci = preset("ntk.uci")
    assert len(uci.penalties) * len(uci.depths) == len(uci.penalties) * len(uci.scales) == 20
    mup = preset("scaling_laws.mup")
    assert mup.batch_size * mup.length == 128 and len(mup.num_seeds) == len(mup.widths)
    sweep = preset("scaling_laws.sweep")
    assert len(sweep.tune_widths) == len(sweep.tune_budgets) == len(sweep.written_tune_budgets) == 2
    assert len(sweep.rates) == 5 and set(sweep.tune_widths) <= set(sweep.widths)
    # 3,500 updates of the novels are 4.5e5 characters.
    assert sweep.written_min_steps * sweep.batch_size * sweep.length == pytest.approx(4.5e5, 0.01)
    # Hutchinson's spread is stated as 22.8 +- 2.0, four standard errors of so many probes.
    probes = preset("score_sde.likelihood")
    freedom = 2 * probes.num_images * (probes.num_probes - 1)
    assert probes.num_images == probes.num_probes and round(4 * 22.8 / freedom**0.5, 1) == 2.0
    assert set(probes.processes) == {"vp", "sub_vp", "ve", "edm", "cosine", "flow", "alpha_sigma"}
    cifar, mnist = preset("score_sde.cifar10"), preset("score_sde.mnist")
    assert cifar.num_steps * cifar.fit.batch_size / 50_000 == pytest.approx(2.5, rel=0.03)
    assert mnist.num_steps * mnist.fit.batch_size / mnist.num_train == pytest.approx(1, rel=0.07)
    tiled = preset("ntk.tiled")
    tiles = math.ceil(tiled.num_images / tiled.largest_tile)
    assert tiled.num_images / tiles == 2000 and tiles * (tiles + 1) / 2 == 55
    orders = preset("score_sde.orders")
    assert orders.max_steps == max(
        entry.most for entry in importlib.import_module(
            "experiments.score_sde.orders.problems"
        ).SOLVERS.values()
    )  # fmt: skip
