"""What the questions on decoding and on tokens make of what they measure."""

import dataclasses
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.language_models.inference import decoding, quality, speed
from experiments.language_models.inference import question as inference
from experiments.language_models.tokenizers import equality, libraries
from experiments.language_models.tokenizers import question as tokenizers
from library import claims
from research.attention import cache as attention_cache
from research.transformers import models

BASELINE = claims.baseline("x")


@pytest.mark.parametrize(
    "ours, theirs, differ", [("abc", "abc", 0), ("abc", "axc", 1), ("ab", "abcd", 2), ("", "ab", 2)]
)
def test_sequences_are_compared_place_by_place(ours, theirs, differ):
    claim = equality._equal("x", ours, theirs, BASELINE)
    assert (claim.measured, claim.relation, claim.expected) == (differ, "==", 0)


def test_texts_are_cut_from_both_ends_in_single_blanks(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("ab  cd\n\nef gh\tij")  # "ab cd ef gh ij", 14 characters
    config = tokenizers.Config(text=str(path), train_characters=5, test_characters=2)
    assert tokenizers._texts(config) == ("ab cd", "ij")
    longer = dataclasses.replace(config, train_characters=100)
    assert tokenizers._texts(longer) == ("ab cd ef gh ", "ij")
    for size in (0, 14, 15):
        with pytest.raises(ValueError, match=f"test_characters={size}: expected 1 to 13"):
            tokenizers._texts(dataclasses.replace(longer, test_characters=size))
    for sizes in ((), (400, 300), (300, 300)):
        with pytest.raises(ValueError, match="vocab_sizes="):
            tokenizers.run(tokenizers.Config(vocab_sizes=sizes), None)


def test_sentences_have_a_hundred_words():
    words = [str(k) for k in range(250)]
    found = libraries.sentences(" ".join(words))
    assert [len(sentence.split()) for sentence in found] == [100, 100, 50]
    assert " ".join(found).split() == words


def test_compression_is_drawn_by_size_with_gpt2_as_a_line():
    rows = [{"vocab": 100, "bpe": 2.1, "unigram": 2.2, "sentencepiece": 2.3},
            {"vocab": 200, "bpe": 3.1, "unigram": 3.2, "sentencepiece": 3.3}]  # fmt: skip
    axes = tokenizers._figure(rows, 4.3).axes[0]
    drawn = [line.get_ydata() for line in axes.lines]
    np.testing.assert_allclose(np.array(drawn[:3]), [[2.1, 3.1], [2.2, 3.2], [2.3, 3.3]])
    assert list(drawn[3]) == [4.3, 4.3] and axes.get_ylim() == (2.0, 4.5)
    assert axes.get_xscale() == "log"
    assert len(tokenizers._figure(rows, None).axes[0].lines) == 3


def test_methods_must_write_the_same_and_be_faster():
    full, other = np.array([[1, 2, 3]]), np.array([[1, 2, 4]])
    written = {("full pass", 1): full, ("cache", 1): full, ("paged cache", 1): other,
               ("int8 cache", 1): other, ("speculation", 1): np.array([[0, 0, 3]]),
               ("cache", 4): np.array([[1, 9, 9]] * 4)}  # fmt: skip
    stated = speed._same_text(written, ("paged cache", "int8 cache"), 1, 4)
    found = {claim.name.removeprefix("tokens that differ, "): claim.measured for claim in stated}
    assert found == {"cache": 0, "paged cache": 1, "speculation": 2, "batch 4": 2}
    assert all((claim.relation, claim.expected) == ("==", 0) for claim in stated)


def test_rates_are_tokens_over_the_median_of_the_rounds(monkeypatch):
    """A clock that a method turns on by 1, 3 and 2 seconds; the first call is not timed."""
    now, steps = [0.0], iter([9.0, 1.0, 3.0, 2.0])
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    tokens = jnp.zeros((2, 6), jnp.int32)
    kept, rounds = jnp.array([3, 5]), jnp.array([2, 2])

    class Written(types.SimpleNamespace):
        pass

    jax.tree_util.register_pytree_node(
        Written, lambda w: ((w.tokens, w.kept, w.rounds), None),
        lambda _, leaves: Written(tokens=leaves[0], kept=leaves[1], rounds=leaves[2]),
    )  # fmt: skip

    def method():
        now[0] += next(steps)
        return Written(tokens=tokens, kept=kept, rounds=rounds)

    bench = decoding.Bench(None, None, 6, 4)
    texts, rates, extra = bench.measure({"speculation": method}, 3)
    assert texts["speculation"].shape == (2, 6) and rates == {"speculation": 12 / 2.0}
    assert extra == {"drafts kept, share": 8 / (4 * 4), "tokens a round": 12 / 4}


def test_speeds_are_compared_at_the_first_and_last_number_of_rows(monkeypatch):
    rates = {1: {"cache": 30.0, "full pass": 10.0, "speculation": 5.0},
             4: {"cache": 90.0, "speculation": 6.0}}  # fmt: skip
    asked = []

    class Bench:
        caches = ()

        def methods(self, prompts, full):
            asked.append((prompts.shape, full))
            return len(prompts)

        def measure(self, batch, rounds):
            texts = {name: np.zeros((batch, 2)) for name in rates[batch]}
            return texts, rates[batch], {"tokens a round": 2.5}

    result = speed.measured(Bench(), np.arange(100), (1, 4), 5, rounds=3)
    assert asked == [((1, 5), True), ((4, 5), False)]
    assert result.metrics["tokens/s, cache, batch 4"] == 90
    assert result.metrics["tokens a round, batch 1"] == 2.5
    cache, batch = result.claims[-2:]
    assert (cache.measured, cache.relation, cache.expected) == (3, ">", 1)
    assert (batch.measured, batch.name) == (3, "tokens/s, batch 4 / batch 1")
    axes = speed.figure(result.metrics, (1, 4), ()).axes[0]
    drawn = [line.get_data() for line in axes.lines[:2]]
    np.testing.assert_array_equal(drawn, [[[1, 4], [30, 90]], [[1, 4], [5, 6]]])
    assert axes.get_xscale() == axes.get_yscale() == "log"


def test_rows_of_prompts_do_not_depend_on_their_number():
    tokens = np.arange(100)
    few, more = (np.asarray(decoding.prompts(tokens, batch, 3)) for batch in (2, 4))
    np.testing.assert_array_equal(more[:2], few)
    np.testing.assert_array_equal(more[:, 0], [0, 7, 14, 21])
    assert more.shape == (4, 3)


def test_a_model_has_heads_of_32_and_rotary_positions():
    stacks = [decoding.model(9, 2, width).config.stack for width in (16, 64, 128)]
    assert [stack.num_heads for stack in stacks] == [1, 2, 4]
    wide = stacks[2]
    assert (wide.depth, wide.width, wide.hidden_dim) == (2, 128, 512)
    assert wide.rope is not None and not wide.use_bias


def test_a_cache_gives_the_logits_of_the_model_itself():
    """One token at a time; and that of bytes is judged only where it is asked for."""
    model = decoding.model(11, 1, 16)
    tokens = np.arange(12).reshape(2, 6) % 11
    params = jax.jit(model.init)(jax.random.key(0), tokens)
    through = decoding.apply_through_cache(model, 6, attention_cache.contiguous)
    expected = jax.jit(model.apply)(params, tokens)
    np.testing.assert_allclose(jax.jit(through)(params, tokens), expected, rtol=1e-4, atol=1e-5)
    options = {"window": 6, "group": 4}
    test = np.arange(40) * 7 % 11
    result = quality.measured(model, params, test, int8_cache=True, **options)
    found = {claim.name: claim for claim in result.claims}
    int8 = found["perplexity, int8 cache / float32"]
    ratio = result.metrics["perplexity int8 cache"] / result.metrics["perplexity float32"]
    assert int8.measured == pytest.approx(ratio) and int8.expected == 1.01 and int8.holds
    assert found["perplexity, int4 weights, groups / float32"].expected == 1.05
    bits = {k.removeprefix("bits a weight, "): v for k, v in result.metrics.items() if "bits" in k}
    # A scale of 32 bits for each output of 16 or 64 inputs, or for each group of 4.
    assert bits["int4 weights, groups"] == pytest.approx(4 + 32 / 4, rel=0.05)
    assert bits["int8 weights"] > bits["int4 weights, channels"] > 4
    assert isinstance(model, models.Decoder)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"width": 48}, "width=48"),
        ({"batch_sizes": ()}, "batch_sizes="),
        ({"batch_sizes": (4, 0)}, "batch_sizes="),
        ({"caches": ("other",)}, "caches="),
    ],
)
def test_bad_options_are_named(change, words):
    with pytest.raises(ValueError, match=words):
        inference.run(dataclasses.replace(inference.Config(), **change), None)
