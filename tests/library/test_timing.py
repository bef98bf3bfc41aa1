"""Alternating timings against a clock that the test turns."""

import jax
import jax.numpy as jnp
import numpy as np

from library import timing


def test_rounds_alternate_and_the_first_is_not_counted(monkeypatch):
    now, order = [0.0], []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def run(name, seconds):
        def call():
            order.append(name)
            now[0] += seconds

        return call

    times = timing.alternate({"a": run("a", 1.0), "b": run("b", 3.0)}, rounds=3)
    np.testing.assert_allclose(times["a"], [1.0] * 3)
    np.testing.assert_allclose(times["b"], [3.0] * 3)
    assert order == ["a", "b", "b", "a", "a", "b", "b", "a"]  # a warm-up, then three rounds
    assert timing.median_ratio(times, "b", "a") == 3.0


def test_the_ratio_is_taken_round_by_round():
    times = {"a": np.array([1.0, 2.0, 8.0]), "b": np.array([1.0, 1.0, 2.0])}
    assert timing.median_ratio(times, "a", "b") == 2.0  # of medians it would be 2 too: not of means
    times["b"] = np.array([4.0, 1.0, 1.0])
    assert timing.median_ratio(times, "a", "b") == 2.0  # the median of 1/4, 2 and 8


def test_seconds_wait_for_the_result(monkeypatch):
    waited = []
    monkeypatch.setattr(jax, "block_until_ready", waited.append)
    assert timing.seconds(lambda: "result") >= 0 and waited == ["result"]


def test_compiled_bytes_count_arguments_and_outputs():
    x = jnp.zeros(1000, jnp.float32)
    assert 8000 <= timing.compiled_bytes(jax.jit(lambda x: x + 1), x) < 8600
