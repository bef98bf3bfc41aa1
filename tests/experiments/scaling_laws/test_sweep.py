"""What the sweep rests on: a language of known entropy, a text cut in two, cells that fit it."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments.scaling_laws import _gpt, _languages
from experiments.scaling_laws.sweep import cells, question, study


@pytest.mark.parametrize("weights", [(0.2, 0.8, 0.0), (0.1, 0.5, 0.4)])
def test_the_known_language_costs_its_entropy(weights):
    """The mean surprise of 2,000 windows under the table, within 4 standard errors of the sum."""
    language = _languages.Known(12, 16, seed=3, weights=weights)
    windows = language.windows(1, 2000)
    assert windows.shape == (2000, 17) and windows.max() < 12
    surprise = -language.source.log_prob(windows).mean(1)
    error = surprise.std() / 2000**0.5
    assert abs(surprise.mean() - language.source.entropy_rate()) < 4 * error
    if not weights[2]:
        assert language.entropy() == pytest.approx(language.source.entropy_rate(), rel=1e-12)
        return
    # The first prediction of a window sees one symbol of two, which costs more.
    first = language.source.conditional_entropies()[1]
    mean = (first + 15 * language.source.entropy_rate()) / 16
    assert language.entropy() == pytest.approx(mean, rel=1e-12) and first > mean + 0.1


def test_windows_of_different_seeds_are_different_and_longer_streams_go_on():
    language = _languages.Known(6, 8)
    assert not np.array_equal(language.windows(1, 50), language.windows(2, 50))
    np.testing.assert_array_equal(language.windows(1, 80)[:50], language.windows(1, 50))


def test_what_is_held_out_is_no_training_stream():
    language = _languages.Known(6, 8)
    held = language.held_out(50)
    assert not any(np.array_equal(held, language.windows(seed, 50)) for seed in range(5))


@pytest.mark.parametrize("exponent", [0.0, 1.0, 1.5])
def test_symbols_alone_follow_zipf(exponent):
    """Without the tables of single symbols the entropy is that of Zipf's law."""
    language = _languages.Known(12, 4, weights=(1.0, 0.0, 0.0), exponent=exponent)
    law = np.arange(1, 13) ** -exponent / np.sum(np.arange(1, 13) ** -exponent)
    assert language.entropy() == pytest.approx(-np.sum(law * np.log(law)), rel=1e-10)


def test_the_rate_rises_and_falls_by_a_cosine_to_zero(monkeypatch):
    """Adam moves by the rate where every gradient is the same; 40 updates, 4 of them rising."""
    monkeypatch.setattr(_gpt.sweep, "compile_stages", lambda *parts, at_once: parts)
    recipe = _gpt.Recipe(vocab_size=5, length=4, depth=1)
    parts = _gpt.compiled.__wrapped__(recipe.model(16), 1.0, 1.0, 0.1, None)
    optimizer, params = parts[2](np.float32(0.01), np.float32(40)), {"w": np.zeros(3, np.float32)}
    state, moved = optimizer.init(params), []
    for _ in range(40):
        updates, state = optimizer.update({"w": np.ones(3, np.float32)}, state, params)
        moved.append(-float(updates["w"][0]))
    step = np.arange(40)
    fall = 0.5 + 0.5 * np.cos(np.pi * np.clip((step - 4) / 36, 0, 1))
    np.testing.assert_allclose(moved, 0.01 * np.minimum((step + 1) / 4, fall), rtol=1e-3, atol=1e-8)


def test_a_large_run_is_as_long_as_its_language_allows():
    """Of the width next to the best size, unless the text has too few windows for it."""
    recipe = _gpt.Recipe(vocab_size=9, length=6, depth=2)
    plan = question._plan(question.Config(widths=(16, 32, 64)), novels=False)

    def width(num_windows, best=recipe.num_parameters(16)):
        language = type("Language", (), {"num_windows": num_windows})
        own = cells.Cells(recipe, language, None, 1)
        return study.nearest_width(plan, own, best, 1e11)

    assert width(float("inf")) == 16
    # A term of the fit that vanished leaves all to tokens, or all to parameters.
    assert (width(float("inf"), 0.0), width(float("inf"), np.inf)) == (16, 64)
    assert width(recipe.num_steps(32, 1e11) * recipe.batch_size) == 32
    with pytest.raises(ValueError, match="too short"):
        width(10)


def test_a_sweep_reads_no_text_twice():
    """Cells with too few updates, or more than the language has windows for, are left out."""
    recipe = _gpt.Recipe(vocab_size=9, length=6, depth=2)
    most, least = (recipe.num_steps(width, 1e11) for width in (16, 64))

    def widths(num_windows, min_steps):
        language = type("Language", (), {"num_windows": num_windows})
        config = question.Config(widths=(16, 32, 64), budgets=(1e11,), min_steps=min_steps)
        plan = question._plan(config, novels=False)
        return [w for w, _ in study.places_of(plan, cells.Cells(recipe, language, None, 1))]

    assert widths(float("inf"), least) == [16, 32, 64]
    assert widths(float("inf"), least + 1) == [16, 32]
    assert widths(most * recipe.batch_size - 1, least) == [32, 64]
    with pytest.raises(ValueError, match="no run of the sweep"):
        widths(10, least)


def test_a_text_is_cut_into_parts_without_overlap(tmp_path):
    rng = np.random.default_rng(0)
    symbols = "".join(rng.choice(list("abcdefghij"), 40 * 4096, p=np.arange(1, 11) / 55))
    path = tmp_path / "text.txt"
    path.write_text(symbols)
    language = _languages.Written(str(path), 4, 31, held_out_every=8)
    assert language.tokens.max() == 3
    np.testing.assert_array_equal(  # h, i, j are commonest; all others are one symbol
        language.tokens[:2000], ["hij".find(c) % 4 for c in symbols[:2000]]
    )
    held, train = language.held_out(5 * 128), language.windows(0, 35 * 128)
    assert held.shape[1] == train.shape[1] == 32
    assert not {row.tobytes() for row in held} & {row.tobytes() for row in train}
    assert len({row.tobytes() for row in train}) == len(train)
    both = np.sort(np.concatenate([held, train]).ravel())
    np.testing.assert_array_equal(both, np.sort(language.tokens))  # nothing lost
    with pytest.raises(ValueError, match="4481 windows .* it has 4480 for training"):
        language.windows(0, 4481)


def test_the_vertex_of_a_parabola_is_exact():
    rates = np.geomspace(1e-3, 16e-3, 5)
    values = 2.0 + 0.3 * (np.log(rates) - np.log(5.3e-3)) ** 2
    assert _gpt.vertex(rates, values) == pytest.approx(5.3e-3, rel=1e-9)
    assert _gpt.vertex(rates, rates) == rates[0]
    values[-1] = np.nan  # diverged
    assert _gpt.vertex(rates, values) == pytest.approx(5.3e-3, rel=1e-9)


def test_a_recipe_counts_what_its_model_has():
    recipe = _gpt.Recipe(vocab_size=9, length=6, depth=2)
    shapes = jax.eval_shape(
        lambda rng: _gpt.models.Decoder(recipe.model(24)).init(rng, np.zeros((1, 1), np.int32)),
        jax.random.key(0),
    )
    sizes = [
        leaf.size
        for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
        if path[-1].key in ("kernel", "embedding")
    ]
    assert sum(sizes) == recipe.num_parameters(24)
    steps = recipe.num_steps(24, 1e9)
    assert steps % recipe.steps_per_call == 0
    flops = 6 * recipe.num_parameters(24) * steps * recipe.batch_size * recipe.length
    assert flops == pytest.approx(1e9, rel=0.1)


def test_the_noise_of_a_sweep_is_the_sample_deviation_of_its_middle_cell():
    """Losses 1 and 2 of two seeds: log 2 / sqrt 2."""
    config = question.Config(widths=(16, 32, 64), budgets=(1e11,), min_steps=1)
    plan = dataclasses.replace(question._plan(config, novels=False), num_seeds=2)
    language = type("Language", (), {"num_windows": float("inf")})

    class Done(cells.Cells):
        def results(self, jobs):
            return {name: {"losses": [2.0 if name == "noise-1" else 1.0]} for name in jobs}

    own = Done(_gpt.Recipe(vocab_size=9, length=6, depth=2), language, None, 1)
    data, noise = study.sweep(plan, own, {"c": 1e-3, "p": 0.0, "q": 0.0})
    assert noise == pytest.approx(np.log(2) / 2**0.5, rel=1e-12)
    assert len(data) == 3 and np.all(data.loss == 1)


def test_every_batch_is_one_update_of_all_runs():
    """Seven batches in calls of three, none left out and none twice."""
    seen, batches = [], np.arange(7 * 2 * 3).reshape(7, 2, 3)

    def start(rngs, hyper):
        np.testing.assert_array_equal(hyper["num_steps"], [7, 7])
        return type("States", (), {"params": "those at the end"})

    def go_on(states, batch, hyper):
        seen.append(np.asarray(batch["tokens"]))
        return states, jax.numpy.zeros(2)

    assert _gpt.advance((start, go_on), batches, 3, [0.1, 0.2], [0, 1]) == "those at the end"
    assert [len(part) for part in seen] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate(seen), batches)
