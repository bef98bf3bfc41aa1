"""Each method is the loss that it names, with its options; queue, centre, entropies by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.self_supervised import losses, methods, queues
from tests.research.self_supervised import oracles

RNG = np.random.default_rng(5)
B, D = 6, 4
S, T = RNG.normal(size=(2, B, D)), RNG.normal(size=(2, B, D))
CROPS = RNG.normal(size=(4, B, D))
CENTRE = RNG.normal(size=D)
QUEUE = queues.Queue(jnp.asarray(RNG.normal(size=(12, D)), jnp.float32), jnp.zeros((), jnp.int32))


def both_ways(p, t):
    return losses.byol(p[0], t[1]) + losses.byol(p[1], t[0])


def sinkhorn_dino(student, teacher):
    """Both views of the teacher are balanced together."""
    rows = losses.sinkhorn(teacher.reshape(2 * B, D), 0.05)
    return losses.view_cross_entropy(student, rows.reshape(2, B, D), 0.2)


# {case: (method, student's output, its state, the loss that it names)}; defaults come first.
CASES = {
    "simclr": (methods.SimCLR(), S, {}, lambda: losses.nt_xent(*S, 0.5)),
    "simclr, cold": (methods.SimCLR(0.1), S, {}, lambda: losses.nt_xent(*S, 0.1)),
    "sup_con": (methods.SupCon(), S, {}, lambda: losses.sup_con(S, oracles.LABELS, 0.1)),
    "sup_con, warm": (methods.SupCon(0.7), S, {}, lambda: losses.sup_con(S, oracles.LABELS, 0.7)),
    "spectral": (methods.Spectral(), S, {}, lambda: losses.spectral(*S)),
    "spectral, radius": (
        methods.Spectral(1.5), S, {}, lambda: losses.spectral(*(1.5 * oracles.unit(S))),
    ),
    "barlow": (methods.BarlowTwins(), S, {}, lambda: losses.barlow_twins(*S, 5e-3, 1e-5)),
    "barlow, other": (
        methods.BarlowTwins(0.1, 0.2), S, {}, lambda: losses.barlow_twins(*S, 0.1, 0.2),
    ),
    "vicreg": (methods.VICReg(), S, {}, lambda: losses.vicreg(*S)),
    "vicreg, other": (
        methods.VICReg(1.0, 2.0, 3.0), S, {}, lambda: losses.vicreg(*S, 1.0, 2.0, 3.0),
    ),
    "simsiam": (methods.SimSiam(), S, {}, lambda: losses.simsiam(S, T)),
    "byol": (methods.BYOL(), S, {}, lambda: both_ways(S, T)),
    "moco_v2": (
        methods.MoCoV2(), S, {"queue": QUEUE},
        lambda: losses.info_nce(S[0], T[0], QUEUE.keys, 0.2),
    ),
    "moco_v2, cold": (
        methods.MoCoV2(12, 0.07), S, {"queue": QUEUE},
        lambda: losses.info_nce(S[0], T[0], QUEUE.keys, 0.07),
    ),
    "moco_v3": (methods.MoCoV3(), S, {}, lambda: losses.moco_v3(S, T, 0.2)),
    "moco_v3, warm": (methods.MoCoV3(1.0), S, {}, lambda: losses.moco_v3(S, T, 1.0)),
    "dino": (
        methods.DINO(), CROPS, {"centre": CENTRE}, lambda: losses.dino(CROPS, T, CENTRE),
    ),
    "dino, other": (
        methods.DINO(student_temperature=0.3, teacher_temperature=lambda step: 0.1 * step,
                     centre_momentum=0.6),
        CROPS, {"centre": CENTRE}, lambda: losses.dino(CROPS, T, CENTRE, 0.3, 0.2),
    ),
    "dino, sinkhorn": (
        methods.DINO(centring="sinkhorn", student_temperature=0.2, teacher_temperature=0.05),
        CROPS, {"centre": CENTRE}, lambda: sinkhorn_dino(CROPS, T),
    ),
}  # fmt: skip


@functools.cache
def found():
    """{case: ((loss, state, metrics), the loss by its name)} in one program."""

    def run():
        given = methods.Given(jnp.asarray(T), jnp.asarray(oracles.LABELS), jnp.asarray(2), None)
        return {
            case: (method.loss(jnp.asarray(student), state, given), expected())
            for case, (method, student, state, expected) in CASES.items()
        }

    return jax.device_get(jax.jit(run)())


@pytest.mark.parametrize("case", CASES)
def test_a_method_is_its_loss(x64, case):
    (loss, state, metrics), expected = found()[case]
    np.testing.assert_allclose(loss, expected, rtol=1e-12)
    assert set(state) == set(CASES[case][2]) and (not metrics or case.startswith("dino"))


def test_keys_are_pushed_after_the_loss(x64):
    queue = found()["moco_v2"][0][1]["queue"]
    np.testing.assert_allclose(queue.keys[:B], oracles.unit(T[0]), rtol=1e-6)
    np.testing.assert_array_equal(queue.keys[B:], QUEUE.keys[B:])
    assert queue.position == B and methods.MoCoV2().queue_size == 4096


@pytest.mark.parametrize("case, momentum", [("dino", 0.9), ("dino, other", 0.6)])
def test_the_centre_moves_after_the_loss(x64, case, momentum):
    expected = momentum * CENTRE + (1 - momentum) * T.mean((0, 1))
    np.testing.assert_allclose(found()[case][0][1]["centre"], expected, rtol=1e-12)


def test_what_tells_the_two_collapses_apart(x64):
    """Uniform outputs: entropy ln K, divergence 0; one prototype for all: 0 and ln K."""

    @jax.jit
    def metrics(teacher):
        given = methods.Given(teacher, None, jnp.asarray(0), None)
        return methods.DINO().loss(jnp.zeros((2, 3, 5)), {"centre": jnp.zeros(5)}, given)[2]

    uniform = metrics(jnp.ones((2, 3, 5)))
    one = metrics(jnp.zeros((2, 3, 5)).at[:, :, 1].set(50.0))
    np.testing.assert_allclose(uniform["teacher_entropy"], np.log(5), rtol=1e-12)
    np.testing.assert_allclose(uniform["prototypes_kl"], 0, atol=1e-12)
    np.testing.assert_allclose(one["teacher_entropy"], 0, atol=1e-12)
    np.testing.assert_allclose(one["prototypes_kl"], np.log(5), rtol=1e-12)
    spread = metrics(50 * jnp.eye(5)[None, :3].repeat(2, 0))  # certain, and each another
    np.testing.assert_allclose(spread["teacher_entropy"], 0, atol=1e-12)
    np.testing.assert_allclose(spread["prototypes_kl"], np.log(5 / 3), rtol=1e-12)


def test_momenta_of_the_papers():
    """BYOL's and DINO's start of the schedule, MoCo's constant, MoCo v3's start."""
    makers = (methods.BYOL, methods.DINO, methods.MoCoV2, methods.MoCoV3)
    assert [make().momentum for make in makers] == [0.996, 0.996, 0.999, 0.99]


def test_what_a_method_starts_with():
    for method in (methods.SimCLR(), methods.BYOL(), methods.SimSiam()):
        assert method.init(jax.random.key(0), 3) == {}
    queue = methods.MoCoV2(8).init(jax.random.key(0), 3)["queue"]
    assert queue.keys.shape == (8, 3)
    centre = methods.DINO().init(jax.random.key(0), 3)["centre"]
    assert centre.shape == (3,) and not centre.any()
    needs = methods.DINO(num_global=3, num_local=4).needs
    assert (needs.num_views, needs.num_local) == (3, 4)


@pytest.mark.parametrize("message, make", [
    ("num_global=0: expected a positive whole number of crops", lambda: methods.DINO(0)),
    ("num_local=-1: expected a whole number >= 0", lambda: methods.DINO(num_local=-1)),
    ("centring='mode': expected 'mean' or 'sinkhorn'", lambda: methods.DINO(centring="mode")),
])  # fmt: skip
def test_bad_options(message, make):
    with pytest.raises(ValueError, match=message):
        make()


def test_bad_input():
    given = methods.Given(jnp.ones((2, 3, 5)), None, jnp.asarray(0), None)
    state = {"centre": jnp.zeros(5)}
    with pytest.raises(ValueError, match="teacher_temperature=0: expected a positive"):
        methods.DINO(teacher_temperature=0).loss(jnp.ones((2, 3, 5)), state, given)
    with pytest.raises(ValueError, match="targets has shape"):
        methods.BYOL().loss(jnp.ones((2, 4, 5)), {}, given)
