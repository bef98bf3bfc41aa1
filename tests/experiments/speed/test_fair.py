"""What the studies of speed compare is the same on both sides, and counted rightly."""

import json
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from experiments.scaling_laws.chinchilla import replication
from experiments.speed.cores import cases as core_cases
from experiments.speed.cores import question as cores
from experiments.speed.decode import question as decode
from experiments.speed.ntk import cases, comparisons
from experiments.speed.ntk import question as kernels
from experiments.speed.sampling import likelihood as densities
from experiments.speed.sampling import question as sampling
from experiments.speed.scaling_laws import ours as own
from experiments.speed.scaling_laws import references
from experiments.speed.sweep import runs
from experiments.speed.train_step import cases as step_cases
from experiments.speed.train_step import pairs
from experiments.speed.train_step import question as steps
from library import timing
from research.diffusion import processes
from research.scaling_laws.runs import Runs


def held(claim):
    return claim.measured, claim.relation, claim.expected


def test_the_field_minimises_the_objective_of_the_notebook_with_its_exact_gradient():
    rng = np.random.default_rng(0)
    n, d = rng.uniform(1e8, 1e10, 6), rng.uniform(1e9, 1e11, 6)
    theta = references.HOFFMANN + rng.normal(size=5) * 1e-3
    named = dict(zip(("A", "B", "E", "alpha", "beta"), (*np.exp(theta[:3]), *theta[3:])))
    clean = named["E"] + named["A"] * n ** -named["alpha"] + named["B"] * d ** -named["beta"]
    # Residuals on both sides of the threshold of 1e-3.
    data = Runs(parameters=n, tokens=d, loss=clean * np.exp([1e-4, -5e-4, 3e-3, -0.1, 2e-3, 0]))
    logs = np.log(n), np.log(d), np.log(data.loss)
    expected = replication.objective(data, named)
    assert references._objective(theta, *logs) == pytest.approx(expected, rel=1e-12)
    value, gradient = references._with_gradient(theta, *logs)
    assert value == pytest.approx(expected, rel=1e-12)
    found = scipy.optimize.approx_fprime(theta, references._objective, 1e-7, *logs)
    np.testing.assert_allclose(gradient, found, rtol=2e-3, atol=1e-6)


def test_the_grid_is_the_replications_in_a_random_order():
    grid = references.grid()
    assert grid.shape == (4500, 5) and len(np.unique(grid, axis=0)) == 4500
    np.testing.assert_array_equal(grid.min(0), [0, 0, -1, 0, 0])
    np.testing.assert_array_equal(grid.max(0), [25, 25, 1, 2, 2])
    assert len(np.unique(grid[:40, 0])) == 6  # not in the order of the product
    np.testing.assert_allclose(np.exp(references.HOFFMANN[:3]), [406.4, 410.7, 1.69])
    np.testing.assert_allclose(references.HOFFMANN[3:], [0.34, 0.28])


def test_seconds_of_a_sample_are_scaled_to_all_starts_and_resamples(monkeypatch):
    """Starts take 1 second each, resamples 10; of 2 of 4,500 and of 4 of 4,000."""
    now = [0.0]
    monkeypatch.setattr(references, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))

    def minimize(function, start, data, method, jac=False):
        assert (jac, len(data[0])) == (True, 3)
        now[0] += {"L-BFGS-B": 1.0, "BFGS": 10.0}[method]

    monkeypatch.setattr(references.scipy.optimize, "minimize", minimize)
    data = Runs(parameters=np.array([1e8, 2e8, 3e8]), tokens=np.full(3, 1e9), loss=np.ones(3) * 3)
    found = references.seconds(data, 2, 4)
    assert found["analytic"] == pytest.approx(4500 / 2 * 2 + 4000 / 4 * 40)


def test_a_fresh_process_is_timed_cold_warm_and_with_many_starts(monkeypatch, capsys):
    """Fits that take 8 and 2 seconds, and 5 of resamples from many starts."""
    now, seen = [0.0], []
    runs_of = Runs(parameters=np.array([1e8, 2e8]), tokens=np.full(2, 1e9), loss=np.ones(2))
    fitted = types.SimpleNamespace(theta=np.zeros(5), objective=0.5)

    def fit(law, data, method="lbfgs", starts=None, delta=None):
        assert delta == 1e-3 and len(data) == 2
        seen.append((method, starts))
        now[0] += [8.0, 2.0, 100.0, 8.0, 2.0][len(seen) - 1]
        return fitted

    def bootstrap_from(fit, counts, starts):
        assert counts.shape == (6, 2)
        now[0] += 5.0 if np.ndim(starts) == 3 else 0.0

    monkeypatch.setattr(own, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(own.published, "chinchilla", lambda: runs_of)
    monkeypatch.setattr(own.fitting, "fit", fit)
    monkeypatch.setattr(own.fitting, "bootstrap_from", bootstrap_from)
    monkeypatch.setattr(own.fitting, "restarts", lambda fit, num: np.zeros((num, 5, 1)))
    own.main(3, 6, 4)
    found = json.loads(capsys.readouterr().out)
    assert found == {"cold": 8.0, "warm": 2.0, "many": 5.0, "objective": 0.5}
    assert [method for method, _ in seen] == ["newton", "newton", "lbfgs"]
    starts, grid = seen[0][1], references.grid()
    assert len(starts) == 3 and starts[1]["alpha"] == grid[1, 3]
    assert starts[2]["A"] == pytest.approx(np.exp(grid[2, 0]), rel=1e-12)
    own.main(3, 6, 0)
    assert "many" not in json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("side, seconds", [("many", 3.0), ("loop", 7.0)])
def test_a_side_of_the_sweep_is_timed_with_its_compilation(monkeypatch, capsys, side, seconds):
    now = [0.0]

    def spend(amount):
        def work(*_):
            now[0] += amount
            return jnp.zeros(1)

        return work

    monkeypatch.setattr(runs, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(runs.sweep, "train_many", spend(3.0))
    monkeypatch.setattr(runs, "by_loop", spend(1.0))
    monkeypatch.setattr(runs, "update", spend(3.0))
    runs.main(side, 2, 3, 4, 5, 1)
    assert float(capsys.readouterr().out) == seconds


def test_imports_are_compared_by_the_median_of_ratios(monkeypatch):
    times = {"import library.train_step": iter([3.0, 2.0, 9.0]),
             "import jax, optax, flax.linen": iter([2.0, 2.0, 3.0])}  # fmt: skip
    monkeypatch.setattr(steps, "_import_seconds", lambda statement: next(times[statement]))
    result = steps._imports(3)
    assert result.metrics == {"import_ratio": 1.5}
    assert held(result.claims[0]) == (1.5, "<=", 1.15)


def test_networks_of_the_comparison_by_hand():
    """NTK parameterisation: factors (2 / fan-in)^1/2, no ReLU after the last layer."""
    rng = np.random.default_rng(0)
    x, w1, w2 = rng.normal(size=(3, 4)), rng.normal(size=(4, 5)), rng.normal(size=(5, 2))
    hidden = np.maximum(x @ w1 * math.sqrt(2 / 4), 0)
    found = cases.apply([w1, w2], jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(found, hidden @ w2 * math.sqrt(2 / 5), rtol=1e-5, atol=1e-6)
    image, conv, last = rng.normal(size=(1, 3, 3, 2)), rng.normal(size=(3, 3, 2, 4)), w2[:4]
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)))
    out = sum(
        np.einsum("bhwi,io->bhwo", padded[:, i : i + 3, j : j + 3], conv[i, j])
        for i in range(3) for j in range(3)
    )  # fmt: skip
    mean = np.maximum(out * math.sqrt(2 / 18), 0).mean((1, 2))
    found = cases.apply([conv.astype(np.float32), last], jnp.asarray(image, jnp.float32))
    np.testing.assert_allclose(found, mean @ last * math.sqrt(2 / 4), rtol=1e-5, atol=1e-6)
    shapes = jax.eval_shape(
        cases.Transformer(8, 20, 2).init, jax.random.key(0), jnp.zeros((1, 6), jnp.int32)
    )["params"]
    sizes = {name: sum(leaf.size for leaf in jax.tree.leaves(p)) for name, p in shapes.items()}
    assert (sizes["Embed_0"], sizes["positions"]) == (160, 48)
    assert sizes["MultiHeadDotProductAttention_1"] == 4 * 72 and "Dense_5" not in sizes
    assert (sizes["Dense_0"], sizes["Dense_1"], sizes["Dense_4"]) == (288, 264, 90)


def test_least_arithmetic_is_what_the_readme_counts():
    """Its shares of the floor, 0.83 and 0.52, at 227 GFLOP/s; and by hand at small sizes."""
    assert cases.mlp(128, 1024).flops / 227e9 / 0.037 == pytest.approx(0.83, abs=0.02)
    assert cases.cnn(16, 64, 32, 4).flops / 227e9 / 1.11 == pytest.approx(0.52, abs=0.005)
    small = cases.mlp(2, 3)
    forward = 2 * 2 * (784 * 3 + 9 + 30)  # both sets; a product is two operations
    backward = 2 * 2 * 10 * 9
    pairs = 4 * (784 + 3 + 3 + 10 * 6)
    assert small.flops == 2 * (forward + backward + pairs)
    assert [small.arrays[f"weights.{i}"].shape for i in range(3)] == [(784, 3), (3, 3), (3, 10)]
    image = cases.cnn(2, 3, 4, 2)
    first, second = 9 * 3 * 3, 9 * 3 * 3
    product = 2 * 2 * 16 * np.array([first, second])
    jacobians = product[1] + 10 * product[0]
    pairs = 2 * 4 * (10 * first + 3 * 9 * 3)
    assert image.flops == 2 * (product.sum() + 10 * product[1] + jacobians) + pairs
    for kind, sizes in ((cases.infinite_fc(2, 3), (2, 784)), (cases.infinite_cnn(2, 4, 3), None)):
        assert kind.arrays["depth"] == 3 and kind.flops == 0
        assert kind.arrays["x1"].shape == (sizes or (2, 4, 4, 3))


def test_a_peer_is_timed_in_turn_and_compared(monkeypatch):
    """Ours take 1, 2, 3, ... seconds and theirs 10; the first round is not counted."""
    ours, order = iter([9.0, 1.0, 3.0, 2.0]), []

    def seconds(run):
        order.append("ours")
        return next(ours)

    class Peer:
        versions = "peer 1"

        def seconds(self, name):
            order.append(name)
            return 10.0

        def value(self, name):
            return np.array([1.0, -4.0])

    monkeypatch.setattr(comparisons.timing, "seconds", seconds)
    case = cases.Case({}, lambda: jnp.array([1.5, -4.0]))
    result = comparisons.beside_peer("mlp", case, Peer(), 3, 0.8)
    assert order == ["mlp", "ours", "ours", "mlp", "mlp", "ours", "ours", "mlp"]
    assert result.metrics == {"mlp_seconds": 2.0, "mlp_peer_seconds": 10.0, "mlp_ratio": 0.2,
                              "mlp_error": 0.125}  # fmt: skip
    assert [held(claim) for claim in result.claims] == [(0.2, "<=", 0.8), (0.125, "<=", 1e-4)]
    ours = iter([9.0, 5.0])
    assert comparisons.beside_peer("mlp", case, None, 1, 0.8).metrics == {"mlp_seconds": 5.0}


def test_rates_are_operations_over_the_best_time(monkeypatch):
    times = iter([0.1, 4.0, 2.0, 8.0, 5.0] + [0.1] + [2.0] * 9 + [1.0])
    monkeypatch.setattr(timing, "seconds", lambda run: next(times))
    assert comparisons.matmul_rate(10, 2) == 2 * 1000 / 2.0  # the first, a compilation, is not
    assert decode._bandwidth(1) == pytest.approx(2**20 / 1.0 / 1e9)


def test_decoders_must_write_the_same_tokens():
    times = {"ours": np.array([1.0, 2.0]), "transformers": np.array([3.0, 3.0])}
    written = {"ours": np.array([[1, 2, 3]]), "scanned": np.array([[1, 2, 4]]),
               "transformers": np.array([[0, 0, 3]])}  # fmt: skip
    assert [held(c) for c in decode._claims(times, written, with_peer=True)] == [
        (1, "==", 0), (2.25, ">=", 1.5), (2, "==", 0),
    ]  # fmt: skip
    assert len(decode._claims(times, written, with_peer=False)) == 1


def test_points_of_the_ring_lie_about_eight_centres():
    points = np.asarray(densities._ring(jax.random.key(0), 4000))
    centres = np.exp(1j * np.arange(8) * math.pi / 4)
    off = (points @ [1, 1j])[:, None] - centres
    which = np.abs(off).argmin(1)
    assert np.bincount(which, minlength=8).min() > 400
    near = off[np.arange(4000), which]
    assert near.real.std() == pytest.approx(0.15, rel=0.1)


def test_the_hosts_flow_has_the_density_of_a_gaussian():
    """The score of N(0, 1) keeps N(0, 1) on a variance-preserving process."""
    solve = densities._on_host(processes.vp(), lambda x, t: -x)
    points = jnp.array([[0.5, -1.0], [2.0, 0.0]])
    found, nfe = solve(points)
    expected = -0.5 * np.sum(np.square(points), 1) - math.log(2 * math.pi)
    np.testing.assert_allclose(found, expected, atol=2e-4)
    assert nfe >= 8


def test_what_is_compared_with_diffusers_is_the_ratio_of_both(monkeypatch):
    lists = {"forward": {"ours": [1e-3, 2e-3, 3e-3], "theirs": [2e-3, 2e-3, 4e-3]}}
    monkeypatch.setattr(sampling.diffusers, "seconds", lambda *_: lists)
    result = sampling._against_diffusers(sampling.Config())
    assert list(result.metrics.values()) == pytest.approx([0.75, 2.0, 2.0])
    assert held(result.claims[0]) == (pytest.approx(0.75), "<=", 1.0)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="--peer no-such: no such interpreter"):
        kernels.run(kernels.Config(peer="no-such"), None)
    with pytest.raises(ValueError, match="expected all at least 1"):
        decode.run(decode.Config(rounds=0), None)
    with pytest.raises(ValueError, match="--timed other"):
        cores.run(cores.Config(timed=("other",)), None)


@pytest.mark.parametrize(
    "name, relation, bar",
    [("digits", ">=", 1.05), ("images", ">=", 1.2), ("draws", ">=", 1.3), ("vit", "<=", 1.15)],
)
def test_cores_gain_by_the_median_of_ratios(monkeypatch, name, relation, bar):
    times = {"1": np.array([4.0, 6.0, 9.0]), "2": np.array([2.0, 2.0, 9.0])}
    monkeypatch.setattr(timing, "alternate", lambda runs, rounds: {key: times[key] for key in runs})
    result = cores._compare(name, {2: None, 1: None}, 3, 4)
    assert result.metrics == {f"{name}_ms": 1500.0, f"{name}_gain": 2.0}
    assert held(result.claims[0]) == (2.0, relation, bar)
    assert not cores._compare(name, {1: None}, 3, 4).metrics


def test_cases_of_cores_have_the_shapes_of_their_studies():
    made = core_cases.training(40, (8, 16), 64)
    shapes = {k: jax.tree.map(np.shape, case.batch) for k, case in made.items()}
    assert shapes["digits"] == {"image": (40, 8, 8, 1), "label": (40,)}
    assert shapes["images"] == {"image": (20, 28, 28, 1), "label": (20,)}
    assert (shapes["vit"], shapes["decoder"], shapes["perceptron"]) == (
        (20, 32, 32, 3), (4, 129), (40, 64),
    )  # fmt: skip
    params = jax.eval_shape(made["perceptron"].init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 4 * 65 * 64 + 65
    assert set(core_cases.NAMES) == {*made, "draws"}

    def size(name):
        shapes = jax.eval_shape(made[name].init, jax.random.key(0))
        return sum(leaf.size for leaf in jax.tree.leaves(shapes))

    # Width 16: a quarter of the perceptron's; four layers of 4 heads, hidden ones four times wider.
    block = 4 * (16 * 16) + 2 * 16 * 64
    biases = 4 * 16 + 4 * 16 + 16 + 64
    assert size("vit") == 4 * (block + biases) + (49 + 66 + 2) * 16 + 17 * 10
    assert size("decoder") == 4 * (block + 16 * 64 + 2 * 16) + 2 * 65 * 16 + 16


def test_the_update_by_hand_is_the_shared_one():
    """Two updates, parameters and their average alike."""
    case = step_cases.mlp(2, 1, 1)
    step, state, optimizer = pairs.compiled(case)
    hand = step_cases.by_hand(case.loss_fn, optimizer)
    ours = theirs = None
    for _ in range(2):
        ours, metrics = step.one(ours or step.place_state(state), case.batch)
        theirs, other = hand(theirs or step.place_state(state), case.batch)
        for name in ("loss", "grad_norm"):
            assert float(metrics[name]) == pytest.approx(float(other[name]), rel=1e-5)
    for one, two in ((ours.params, theirs.params), (ours.ema, theirs.ema)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), one, two)
    shapes = [leaf.shape for leaf in jax.tree.leaves(case.params)]
    assert (32, 32) in shapes and (32, 1) in shapes and case.batch["x"].shape == (16, 32)


def test_sweeps_are_compared_on_the_same_losses():
    """A model of 7 hidden layers of 128; the gap is the largest relative one."""
    sizes = runs.Sizes(3, 4, 5, 128, 7)
    init, loss, _ = runs.parts(sizes)
    params = jax.eval_shape(init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 17 * 128 + 6 * 129 * 128 + 129
    batches, rngs, hyper = runs.data(sizes, jnp.float32)
    assert batches["x"].shape == (4, 5, 16) and rngs.shape == (3,)
    np.testing.assert_allclose(hyper["rate"], [1e-5, (3e-8) ** 0.5, 3e-3], rtol=1e-5)
    np.testing.assert_allclose(batches["y"], np.sin(batches["x"].sum(-1)), rtol=1e-5, atol=1e-5)
    batch, params = jax.tree.map(lambda leaf: leaf[0], batches), init(jax.random.key(0))
    error = np.asarray(runs.testing.mlp_apply(params, batch["x"]))[:, 0] - np.asarray(batch["y"])
    value, aux = loss(params, {}, None, batch)
    assert float(value) == pytest.approx(np.mean(error**2), rel=1e-5) and aux.weight == 5
    assert runs.gap(jnp.array([[1.0, 2.0]]), [np.array([1.0, 1.6])]) == pytest.approx(0.25)
    one = lambda batches, rng, hyper: (None, float(hyper["rate"]))  # noqa: E731
    np.testing.assert_allclose(runs.by_scan(one, batches, rngs, hyper), hyper["rate"])
