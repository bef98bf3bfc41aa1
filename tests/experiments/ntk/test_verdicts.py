"""What the kernel studies make of outputs, kernels and accuracies."""

import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.ntk import _by_width, _networks
from experiments.ntk.attribution import methods as attribution
from experiments.ntk.attribution import picture as bars
from experiments.ntk.attribution import question as attributed
from experiments.ntk.lazy_training import question as lazy
from experiments.ntk.mnist import methods as classifiers
from experiments.ntk.mnist import picture as errors
from experiments.ntk.mnist import question as mnist
from experiments.ntk.spectrum import picture as spectra
from experiments.ntk.spectrum import question as spectrum
from experiments.ntk.tiled import question as tiled
from experiments.ntk.tiled import worker
from experiments.ntk.uci import question as uci
from experiments.ntk.uci import tabular
from library import figure_style, report


def held(claim):
    return claim.measured, claim.relation, claim.expected, claim.tolerance


def test_networks_are_what_their_docstrings_say():
    """A CNN by hand with strides 1, 2, 1; the others by their parameters."""
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)
    key = jax.random.key(0)
    params = jax.jit(_networks.CNN(3).init)(key, x)["params"]

    @jax.jit
    def by_hand(params, y):
        for index, stride in enumerate((1, 2, 1)):
            layer = params[f"Conv_{index}"]
            y = jax.lax.conv_general_dilated(
                y, layer["kernel"], (stride, stride), "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )  # fmt: skip
            y = jnp.maximum(y + layer["bias"].reshape(1, 1, 1, -1), 0)
        last = params["Dense_0"]
        return y.mean((1, 2)) @ last["kernel"] + last["bias"][None], y

    expected, features = by_hand(params, x)
    assert features.shape == (2, 4, 4, 3)
    found = jax.jit(_networks.CNN(3).apply)({"params": params}, x)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)

    def size(name, width):
        shapes = jax.eval_shape(_networks.NETWORKS[name](width).init, key, x)
        return sum(leaf.size for leaf in jax.tree.leaves(shapes)), shapes["params"]

    assert size("MLP", 5)[0] == 65 * 5 + 6 * 5 + 6 * 10
    num, shapes = size("transformer", 6)
    heads = 4 * (6 * 6 + 6)
    assert num == (8 * 6 + 6) + 8 * 6 + heads + 3 * 12 + (6 * 12 + 12) + (12 * 6 + 6) + 7 * 10
    assert shapes["MultiHeadDotProductAttention_0"]["query"]["kernel"].shape == (6, 2, 3)
    draws = jax.jit(_networks.Transformer(64).init)(key, x)["params"]["positions"]
    assert float(draws.std()) == pytest.approx(0.2, rel=0.15)


def test_digits_are_centred_and_drawn_by_the_seed():
    few, more, other = (_networks.read_digits("train", n, s) for n, s in ((5, 0), (9, 0), (9, 1)))
    np.testing.assert_array_equal(few.x, more.x[:5])
    assert np.abs(more.x - other.x).max() > 0 and (few.x.min(), few.x.max()) == (-1, 1)
    np.testing.assert_allclose(few.y.sum(1), 0, atol=1e-6)
    assert few.y[np.arange(5), few.label] == pytest.approx(np.full(5, 0.9))


def test_power_laws_are_drawn_through_their_fit_and_centre():
    _, axes = figure_style.single("", "", "")
    x = np.array([4, 16, 64])
    series = {"a": 3.0 * x**-0.5, "b": 5.0 * x**-1.0}
    _by_width.power_laws(axes, x, series, slope=-0.25)
    drawn = [line.get_ydata() for line in axes.lines]
    for k, y in enumerate(series.values()):
        np.testing.assert_allclose(drawn[2 * k], y, rtol=1e-9)
        np.testing.assert_array_equal(drawn[2 * k + 1], y)
    # Through the centre of the first in logarithms, at x = 16.
    np.testing.assert_allclose(drawn[4], 0.75 * (x / 16) ** -0.25, rtol=1e-9)
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == ["a: slope −0.50 ± 0.00", "b: slope −1.00 ± 0.00", "expected −0.25"]
    assert list(axes.get_xticks()) == [4, 16, 64]


def test_attribution_exceeds_by_more_than_two_standard_errors():
    ours, theirs = np.array([0.5, 0.7, 0.9]), np.array([0.1, 0.5, 0.3])
    claim = attributed._exceeds("random", ours, theirs)
    assert held(claim) == (pytest.approx(0.4 - 2 * 0.2 / 3**0.5), ">", 0, 0)


def test_the_ceiling_ranks_half_of_the_starts_by_the_others():
    """Four halves of the data, three starts, two test digits: one ranked alike, one in reverse."""
    first = np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0], [4.0, 4.0]])
    rest = np.stack([first[:, 0], -first[:, 1]], 1)
    outputs = np.stack([first, rest + 0.5, rest - 0.5], axis=1)  # [S, starts, M]
    assert attributed._ceiling(outputs) == pytest.approx(0, abs=1e-6)
    assert attributed._ceiling(outputs[:, :, :1]) == pytest.approx(1, rel=1e-6)
    assert math.isnan(attributed._ceiling(outputs[:, :1]))


def test_halves_and_neighbours():
    halves = attribution.halves(jax.random.key(0), 3, 40)
    assert halves.shape == (3, 40) and (halves.sum(1) == 20).all()
    assert len({*map(bytes, halves)}) == 3
    make = lambda x, label: _networks.Digits(np.array(x, np.float32), np.array(label))  # noqa: E731
    train, test = make([[3.0, 0.0], [3.0, 4.0]], [0, 1]), make([[2.0, 0.0]], [0])
    signed, plain = (attribution.neighbours(train, test, signed) for signed in (True, False))
    np.testing.assert_allclose(plain, [[1, 0.6]], rtol=1e-6)
    np.testing.assert_allclose(signed, [[1, -0.6]], rtol=1e-6)
    axes = bars.bars({"projected gradients": (0.5, 0.1), "random": (-0.25, 0.05)}).axes[0]
    assert [patch.get_width() for patch in axes.patches] == [-0.25, 0.5]
    reach = axes.collections[1].get_segments()[0]
    np.testing.assert_allclose(reach[:, 0], [0.3, 0.7])


def test_lazy_training_measures_the_largest_distance_on_the_way():
    path = np.array([[0.0, 0.0], [3.0, 4.0], [1.0, 0.0]])
    assert lazy._distance(path, np.zeros((3, 2))) == pytest.approx(12.5**0.5)
    data = _networks.Digits(None, np.array([0, 3, 8]))
    np.testing.assert_array_equal(lazy._signs(data), [1, -1, 1])


def test_lazy_training_is_judged_by_slope_and_eulers_error(tmp_path):
    config = lazy.Config(widths=(4, 16, 64))
    x = np.array(config.widths, float)
    out = report.RunDir(tmp_path)
    result = lazy._judge(config, out, 2 * x**-0.75, x**-0.5, euler=0.02, bound=0.03)
    found = result.metrics
    assert found["slope"] == pytest.approx(-0.75) and found["slope_to_flow"] == pytest.approx(-0.5)
    assert found["error_16"] == pytest.approx(0.25)
    upper, rate, euler = map(held, result.claims)
    assert upper == (pytest.approx(-0.75), "<=", -0.5, 0.15)
    assert rate == (pytest.approx(-0.75), "within", -1, 0.2) and euler == (0.02, "<=", 0.03, 1e-4)


def test_ridge_regression_on_pixels_takes_the_ridge_of_the_least_error_left_out():
    """Each image is left out and predicted by the rest, for the six ridges."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 12)
    x = rng.normal(size=(12, 5)) + np.eye(5)[label]
    x_test = rng.normal(size=(30, 5))
    gram, y = x @ x.T, classifiers.targets(label).astype(float)
    scores = []
    for ridge in np.mean(np.diag(gram)) * np.array([1e-3, 1e-2, 0.1, 1, 10, 100]):
        off = []
        for i in range(12):
            k = np.arange(12) != i
            weights = np.linalg.solve(gram[np.ix_(k, k)] + ridge * np.eye(11), y[k])
            off.append(y[i] - gram[i, k] @ weights)
        scores.append((np.mean(np.square(off)), ridge))
    best = min(scores)[1]
    assert best not in (scores[0][1], scores[-1][1])
    expected = (x_test @ x.T) @ np.linalg.solve(gram + best * np.eye(12), y)
    np.testing.assert_array_equal(classifiers.linear(x, label, x_test), expected.argmax(1))
    np.testing.assert_allclose(y.sum(1), 0, atol=1e-6)
    nearest = classifiers.nearest_neighbour(np.eye(3), np.array([7, 8, 9]), np.eye(3)[[2, 0]])
    np.testing.assert_array_equal(nearest, [9, 7])


def test_kernels_are_judged_against_both_baselines():
    found = {"ntk": 0.8, "nngp": 0.6, "nearest neighbour": 0.7, "linear": 0.5, "network": 0.1}
    result = mnist._compare(100, found)
    assert result.metrics["network_100"] == 0.1 and len(result.metrics) == 5
    stated = [held(claim)[:3] for claim in result.claims]
    assert stated == [(0.8, ">", 0.7), (0.8, ">", 0.5), (0.6, ">", 0.7), (0.6, ">", 0.5)]
    records = [{"images": 10, "ntk": 80.0}, {"images": 100, "ntk": 90.0}]
    axes = errors.errors(records, {"ntk": "NTK"}).axes[0]
    np.testing.assert_array_equal(axes.lines[0].get_data(), [[10, 100], [20, 10]])
    assert list(axes.get_xticks()) == [10, 100] and min(axes.get_yticks()) == 10


def test_images_have_the_norm_of_their_dimension_and_are_drawn_by_the_seed():
    config = mnist.Config(dataset="digits")
    x, label = mnist._read(config, "test", 7)
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 8, rtol=1e-6)
    more, labels = mnist._read(config, "test", 20)
    np.testing.assert_array_equal(more[:7], x)
    np.testing.assert_array_equal(labels[:7], label)
    images = tiled.read_images(tiled.Config(dataset="digits", num_images=5))
    np.testing.assert_allclose(np.linalg.norm(images, axis=1), 8, rtol=1e-6)


def test_growth_of_alignment_must_exceed_two_errors_of_a_difference():
    first = {"alignment": 0.1, "alignment_error": 0.03, "distance": 0.0, "effective_rank": 5.0}
    last = {"alignment": 0.3, "alignment_error": 0.04, "distance": 0.2, "effective_rank": 7.0}
    result = spectrum._growth("MLP", first, last)
    assert held(result.claims[0]) == (pytest.approx(0.3 - 0.1), ">", 0.1, 0)
    assert list(result.metrics.values()) == [0.1, 0.3, 0.2, 5.0, 7.0]
    with pytest.raises(ValueError, match="networks="):
        spectrum.run(spectrum.Config(networks=("RNN",)), None)


def test_spectra_are_drawn_by_rank_without_what_is_rounding():
    values = {"MLP": {"dense": np.array([4.0, 1.0, 1e-9]), "Lanczos": np.array([4.0])}}
    curves = {"MLP": [{"step": s, "alignment": 0.1 * s, "alignment_error": 0.05} for s in (1, 2)]}
    left, right = spectra.spectra(values, curves).axes
    np.testing.assert_array_equal(left.lines[0].get_data(), [[1, 2], [4, 1]])
    np.testing.assert_array_equal(left.lines[1].get_data(), [[1], [4]])
    np.testing.assert_allclose(right.lines[0].get_data(), [[1, 2], [0.1, 0.2]])
    corners = right.collections[0].get_paths()[0].vertices
    assert {tuple(np.round(c, 9)) for c in corners} == {(1, 0), (1, 0.2), (2, 0.1), (2, 0.3)}


def test_methods_of_tables_are_compared_by_rank_mean_and_paired_gap():
    accuracies = np.array([[0.9, 0.0, 0.5, 0.8], [0.7, 0.0, 0.6, 0.4]])
    ranks = {"ntk": 1.5, "nngp": 4.0, "gaussian": 3.0, "forest": 2.5}
    means = dict(zip(uci.NAMES, accuracies.mean(0)))
    result = uci._compare("ntk", "forest", accuracies, ranks, means)
    gap = np.array([0.1, 0.3])
    assert result.metrics == {
        "ntk_less_forest": pytest.approx(0.2),
        "ntk_less_forest_error": pytest.approx(gap.std(ddof=1) / 2**0.5),
    }
    rank, mean = map(held, result.claims)
    assert rank == (1.5, "<", 2.5, 0) and mean == (pytest.approx(0.8), ">", pytest.approx(0.6), 0)


def test_tables_are_thinned_only_where_they_are_larger(monkeypatch):
    table = tabular.Table("a", np.arange(10.0)[:, None], np.arange(10), np.zeros(1, int))
    assert tabular.thinned(table, 10) is table
    few = tabular.thinned(table, 4)
    assert len(few.labels) == 4 and (few.features[:, 0] == few.labels).all()
    assert len(set(few.labels)) == 4
    monkeypatch.setenv("ANSATZ_DATA", "")
    with pytest.raises(FileNotFoundError, match="uci_classification"):
        tabular.read_uci(10)
    monkeypatch.setenv("ANSATZ_DATA", "/nowhere")
    with pytest.raises(FileNotFoundError, match="/nowhere"):
        tabular.read_uci(10)


def test_tiles_of_both_halves_are_compared(monkeypatch, tmp_path):
    """A file whose entry [0, 3] differs by 0.25 and whose entry [3, 1] by 0.5."""
    images = np.arange(4.0, dtype=np.float32)[:, None]
    true = np.outer(images, images)
    stored = true.copy()
    stored[0, 3] += 0.25
    stored[3, 1] -= 0.5
    np.save(tmp_path / "k.npy", stored)
    monkeypatch.setattr(
        tiled.ntk.tiles, "compute",
        lambda matrix, grid, x: lambda tiles: np.stack(
            [np.outer(x[grid.rows(i)], x[grid.columns(j)]) for i, j in tiles]),
    )  # fmt: skip
    grid = tiled.Grid(4, 4, 2, True)
    file = types.SimpleNamespace(grid=grid, path=tmp_path / "k.npy")
    assert tiled._worst_difference(tiled.Config(), images, file) == 0.5
    monkeypatch.setattr(tiled, "_resident_bytes", lambda: 100)
    with pytest.raises(ValueError, match="memory_bytes=116: .* hold 116 bytes"):
        tiled._plan(tiled.Config(num_images=4, memory_bytes=116), images)


def test_the_room_for_tiles_is_nine_tenths_of_what_is_left(monkeypatch):
    seen = {}
    monkeypatch.setattr(tiled, "_resident_bytes", lambda: 1000)
    monkeypatch.setattr(tiled.ntk.tiles, "tile_bytes", lambda *_: lambda size: size)
    monkeypatch.setattr(tiled.ntk.tiles, "plan", lambda num, **kw: seen.update(kw, num=num))
    images = np.zeros((5, 10), np.float32)
    tiled._plan(tiled.Config(num_images=5, memory_bytes=11_200, largest_tile=7), images)
    assert (seen["num"], seen["memory_bytes"], seen["largest"]) == (5, 9000, 7)
    arrays = worker.note(images)
    assert arrays["inputs"] != worker.note(images + 1)["inputs"]


def test_peaks_are_the_larger_of_both_processes_in_bytes(monkeypatch):
    """The system tells KiB, and pages where it tells what is held now."""
    kib = {tiled.resource.RUSAGE_CHILDREN: 7, tiled.resource.RUSAGE_SELF: 5}
    monkeypatch.setattr(
        tiled.resource, "getrusage", lambda who: types.SimpleNamespace(ru_maxrss=kib[who])
    )
    assert tiled._peak_bytes() == 7 * 1024
    page = tiled.resource.getpagesize()
    assert tiled._resident_bytes() % page == 0 and tiled._resident_bytes() > 1000 * page

    def closed(path):
        raise OSError

    monkeypatch.setattr(tiled.pathlib.Path, "read_text", closed)
    assert tiled._resident_bytes() == 5 * 1024
