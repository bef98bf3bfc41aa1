"""Batches are pure functions of the step: order, epochs, shards, transforms, prefetch."""

import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from library.data import pipeline, synthetic, text

NUM = 23  # shares no factor with the batch sizes: batches straddle epochs
IMAGE = np.arange(NUM * 4.0).reshape(NUM, 2, 2)
ARRAYS = {"id": np.arange(NUM, dtype=np.int32), "image": IMAGE}


def by_grain(batch_size=8, **kwargs):
    return pipeline.batch_at(pipeline.ArraySource(ARRAYS), batch_size, **{"seed": 3, **kwargs})


def by_numpy(batch_size=8, **kwargs):
    return pipeline.array_batch_at(ARRAYS, batch_size, **{"seed": 3, **kwargs})


def ids(batch_at, steps):
    return np.concatenate([batch_at(step)["id"] for step in steps])


both = pytest.mark.parametrize("make", [by_grain, by_numpy])


@both
def test_every_example_once_per_epoch_and_a_new_order_each_time(make):
    stream = ids(make(), range(NUM))  # 8 epochs of 23
    epochs = stream.reshape(8, NUM)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(NUM), (8, 1)))
    assert len({tuple(epoch) for epoch in epochs}) == 8  # false alarm: 28 / 23! < 1e-20


@both
def test_leaves_of_a_row_stay_together(make):
    batch = make()(5)
    assert batch["image"].shape == (8, 2, 2) and batch["id"].dtype == np.int32
    np.testing.assert_array_equal(batch["image"], ARRAYS["image"][batch["id"]])


@both
def test_any_order_of_calls_and_a_fresh_function_give_the_same_batches(make):
    there, back, fresh = make(), make(), make()
    steps = [0, 7, 3, 1000, 3, 2]
    forward = {step: there(step)["id"] for step in sorted(set(steps))}
    for step in steps:
        np.testing.assert_array_equal(back(step)["id"], forward[step])
    # A resumed run starts in the middle.
    np.testing.assert_array_equal(fresh(7)["id"], forward[7])


@both
@pytest.mark.parametrize("count", [2, 4])
def test_shards_make_up_the_whole_batch(make, count):
    whole = make()
    parts = [make(shard=(index, count)) for index in range(count)]
    for step in (0, 2, 50):
        joined = np.concatenate([part(step)["image"] for part in parts])
        np.testing.assert_array_equal(joined, whole(step)["image"])


@both
def test_seeds_differ_and_unshuffled_is_the_source_order(make):
    assert not np.array_equal(ids(make(seed=0), range(3)), ids(make(seed=1), range(3)))
    expected = np.arange(48) % NUM
    np.testing.assert_array_equal(ids(make(shuffle=False), range(6)), expected)


@both
def test_batches_larger_than_the_set(make):
    batch = make(2 * NUM + 1)(0)
    counts = np.bincount(batch["id"])
    assert counts.min() == 2 and counts.sum() == 2 * NUM + 1


@both
def test_the_transform_is_applied(make):
    half = make(transform=lambda batch: {"id": batch["id"] * 2})
    np.testing.assert_array_equal(half(4)["id"], make()(4)["id"] * 2)


@both
@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"shard": (0, 3)}, "batch size 8 is not a positive multiple of 3"),
        ({"shard": (2, 2)}, r"shard=\(2, 2\)"),
        ({"batch_size": 0}, "batch_size=0: expected a positive whole number of examples"),
        ({"batch_size": 8.0}, "batch_size=8.0: expected a positive whole number"),
    ],
)
def test_bad_sizes_are_named(make, kwargs, message):
    with pytest.raises(ValueError, match=message):
        make(**kwargs)


@both
def test_negative_steps_are_refused(make):
    with pytest.raises(ValueError, match="step=-1"):
        make()(-1)


def test_a_random_transform_depends_on_the_place_only():
    def jitter(example, rng):
        return {**example, "noise": rng.standard_normal()}

    whole = by_grain(random_transform=jitter)
    noise = np.concatenate([whole(step)["noise"] for step in range(6)])
    assert len(set(noise)) == 48  # the same example draws anew in the next epoch
    parts = [by_grain(random_transform=jitter, shard=(index, 2))(4)["noise"] for index in (0, 1)]
    np.testing.assert_array_equal(np.concatenate(parts), whole(4)["noise"])


def test_shuffling_is_uniform():
    """Each example leads an epoch with probability 1 / N; false-alarm rate 1e-6."""
    leaders = np.bincount([by_numpy(1, seed=seed)(0)["id"][0] for seed in range(2300)])
    assert len(leaders) == NUM and stats.chisquare(leaders).pvalue > 1e-6


def test_grain_missing_is_one_clear_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(ModuleNotFoundError, match="batch_at needs Grain .*pip install grain"):
        by_grain()


def test_arrays_must_share_their_first_axis():
    with pytest.raises(ValueError, match=r"'b': \(4,\).*one common first axis"):
        pipeline.ArraySource({"a": np.zeros(3), "b": np.zeros(4)})
    with pytest.raises(ValueError, match="one common first axis"):
        pipeline.ArraySource({"a": np.float32(1)})
    with pytest.raises(ValueError, match="no examples"):
        pipeline.array_batch_at({"a": np.zeros((0, 3))}, 2, seed=0)


def test_in_memory_inverts_array_source_and_narrows_python_integers():
    back = pipeline.in_memory(pipeline.ArraySource(ARRAYS))
    for name, leaf in ARRAYS.items():
        np.testing.assert_array_equal(back[name], leaf)
    examples = [{"label": 3, "x": np.float32(1)}, {"label": 4, "x": np.float32(2)}]
    batch = pipeline.in_memory(examples)
    assert (batch["label"].dtype, batch["x"].dtype) == (np.int32, np.float32)
    with pytest.raises(ValueError, match="no examples"):
        pipeline.in_memory([])


@pytest.mark.parametrize(
    "values, dtype",
    [
        ([4, 4.5], np.float64),
        ([4.5, 4], np.float64),
        ([4, 5], np.int32),
        ([True, 3], np.int32),
        ([True, False], bool),
        ([4, np.float32(4.5)], np.float32),
        ([np.float32(4.5), 4], np.float32),
        ([4, np.uint8(200)], np.uint8),
        ([np.int8(-1), np.uint8(200)], np.int16),
        ([np.float16(1), np.float32(1e-6)], np.float32),
        ([np.int64(2**40), 1], np.int64),
        (["a", "long"], np.dtype("<U4")),
    ],
)
def test_a_leaf_takes_the_dtype_that_holds_all_examples(values, dtype):
    """Whatever the first one is; the values come out as they went in."""
    examples = [{"x": value} for value in values] * 50  # many examples: NumPy takes 64 operands
    leaf = pipeline.stack(examples)["x"]
    assert leaf.dtype == dtype and leaf.tolist() == [np.asarray(v).item() for v in values] * 50
    batch = pipeline.batch_at(examples, 2, seed=0, shuffle=False)(0)["x"]
    assert batch.dtype == pipeline.in_memory(examples)["x"].dtype == dtype
    np.testing.assert_array_equal(batch, leaf[:2])


@pytest.mark.parametrize(
    "examples, message",
    [
        ([{"x": 2**40}], "leaf 'x' of the examples: .* out of bounds for int32"),
        ([{"x": 300}, {"x": np.uint8(3)}], "leaf 'x' of the examples: .* out of bounds for uint8"),
        ([{"x": np.zeros(2)}, {"x": np.zeros(3)}], "leaf 'x' of the examples: .* same shape"),
        ([{"x": 1, "y": 2}, {"x": 1}], r"the leaves \['x', 'y'\] and \['x'\]: expected one set"),
    ],
)
def test_examples_that_make_no_batch_are_named(examples, message):
    with pytest.raises(ValueError, match=message):
        pipeline.stack(examples)


def test_typed_keys_are_examples_too():
    keys = jax.random.split(jax.random.key(0), 6)
    arrays = {"key": keys, "id": np.arange(6)}
    batch = pipeline.array_batch_at(arrays, 4, seed=0)(1)
    data = jax.random.key_data(keys)[batch["id"]]
    np.testing.assert_array_equal(jax.random.key_data(batch["key"]), data)
    source = pipeline.ArraySource(arrays)
    stacked = pipeline.take([source[2], source[5]], np.array([1, 0]))["key"]
    np.testing.assert_array_equal(*map(jax.random.key_data, (stacked, keys[jnp.array([5, 2])])))


def test_array_batches_gather_from_any_takeable_source():
    windows = text.Windows(np.arange(100, dtype=np.int32), length=4)
    tokens = pipeline.array_batch_at(windows, 16, seed=0)(3)["tokens"]
    assert tokens.shape == (16, 5)
    np.testing.assert_array_equal(np.diff(tokens), 1)
    through_grain = pipeline.batch_at(windows, 16, seed=0)(3)["tokens"]
    np.testing.assert_array_equal(np.diff(through_grain), 1)


def test_streams_do_not_depend_on_batch_size_or_shards():
    zipf = synthetic.Zipf(vocab_size=9, exponent=1.0, length=5)
    whole = pipeline.stream_batch_at(zipf, 8, seed=1)
    small = pipeline.stream_batch_at(zipf, 2, seed=1)
    part = pipeline.stream_batch_at(zipf, 8, seed=1, shard=(1, 4))
    expected = whole(5)["tokens"]
    joined = np.concatenate([small(20 + index)["tokens"] for index in range(4)])
    np.testing.assert_array_equal(joined, expected)
    np.testing.assert_array_equal(part(5)["tokens"], expected[2:4])
    assert not np.array_equal(pipeline.stream_batch_at(zipf, 8, seed=2)(5)["tokens"], expected)


@pytest.mark.parametrize("depth", [1, 3])
def test_prefetch_is_the_same_function(depth):
    plain = by_numpy()
    ahead = pipeline.prefetch(by_numpy(), depth)
    for step in [0, 1, 2, 3, 3, 10, 9, 11, 0]:
        np.testing.assert_array_equal(ahead(step)["id"], plain(step)["id"])


def test_prefetch_works_ahead_in_another_thread():
    done = {step: threading.Event() for step in range(10)}
    threads = set()

    def slow(step):
        threads.add(threading.current_thread())
        done[step].set()
        return {"step": np.array(step)}

    ahead = pipeline.prefetch(slow, depth=2)
    ahead(0)
    assert done[1].wait(10) and done[2].wait(10)  # without being asked for
    assert not done[3].is_set() and threads.isdisjoint({threading.current_thread()})


def test_prefetch_raises_at_the_step_that_fails():
    def finite_stream(step):
        if step >= 2:
            raise IndexError(f"no batch {step}")
        return {"step": np.array(step)}

    ahead = pipeline.prefetch(finite_stream, depth=4)
    assert [int(ahead(step)["step"]) for step in (0, 1)] == [0, 1]
    with pytest.raises(IndexError, match="no batch 2"):
        ahead(2)
    assert int(ahead(0)["step"]) == 0
    with pytest.raises(ValueError, match="depth=0"):
        pipeline.prefetch(finite_stream, depth=0)


@pytest.mark.parametrize("seed", [-1, 0.5])
def test_seeds_are_whole_numbers(seed):
    source = pipeline.ArraySource({"x": np.arange(4)})
    for make in (pipeline.batch_at, pipeline.array_batch_at, pipeline.stream_batch_at):
        with pytest.raises(ValueError, match=f"seed={seed}: expected a whole number >= 0"):
            make(source, 2, seed=seed)
    with pytest.raises(ValueError, match="examples=\\[\\]"):
        pipeline.stack([])


def test_a_bare_array_is_asked_for_a_name():
    """Its own `take` would give numbers of a flattened image."""
    for images in (np.zeros((6, 2, 2)), jnp.zeros((6, 2, 2))):
        with pytest.raises(TypeError, match="arrays is .*: expected a dict of arrays by name"):
            pipeline.array_batch_at(images, 2, seed=0)
