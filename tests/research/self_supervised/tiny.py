"""Small networks, batches and steps for all methods, whatever norms and layout."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from library import train_step
from research.self_supervised import heads, methods, networks, teachers, training

B, SHAPE = 8, (4, 4, 3)
RNG = np.random.default_rng(0)
VIEWS = RNG.normal(size=(2, B, 2, *SHAPE))  # [steps, B, V, H, W, C]
LOCAL = RNG.normal(size=(2, B, 2, 2, 2, 3))
LABELS = np.array([0, 1, 0, 2, 1, 0, 0, 1], np.int32)
SCHEDULE = functools.partial(teachers.momentum, num_steps=4, start=0.6)


class Encoder(nn.Module):
    """Mean over pixels of a perceptron, for images of any size."""

    norm: str | None = "batch"
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.tanh(nn.Dense(6)(x)).mean((1, 2))
        head = heads.Perceptron((5,), self.norm, last_norm=True, axis_name=self.axis_name)
        return head(x, train)


@dataclasses.dataclass(frozen=True)
class Together:
    """Several methods of the same needs as one, which adds their losses: one program for all."""

    methods: tuple

    @property
    def needs(self):
        return dataclasses.replace(
            self.methods[0].needs, labels=any(method.needs.labels for method in self.methods)
        )

    @property
    def momentum(self):
        return self.methods[0].momentum

    def init(self, rng, dim):
        states = [method.init(rng, dim) for method in self.methods]
        return {name: value for state in states for name, value in state.items()}

    def loss(self, student, state, given):
        total, metrics = 0.0, {}
        for index, method in enumerate(self.methods):
            loss, new, more = method.loss(student, state, given)
            total, state = total + loss, {**state, **new}
            metrics |= {f"{name}{index}": value for name, value in more.items()} | {
                f"loss{index}": loss
            }
        return total, state, metrics


WARMUP = functools.partial(teachers.warmup, num_steps=3, start=0.1, end=0.2)
METHODS = {
    "stateless": Together((
        methods.SimCLR(0.3), methods.SupCon(), methods.Spectral(2.0), methods.BarlowTwins(),
        methods.VICReg(),
    )),
    "simsiam": methods.SimSiam(),
    "teacher": Together((methods.MoCoV3(momentum=SCHEDULE), methods.BYOL())),
    "moco_v2": methods.MoCoV2(2 * B, momentum=0.7),
    "dino": Together((
        methods.DINO(num_local=2, momentum=SCHEDULE, teacher_temperature=WARMUP),
        methods.DINO(num_local=2, centring="sinkhorn"),
    )),
}  # fmt: skip


def parts(method, norm):
    """Networks of 4 dimensions for a method; norm is "batch" or "layer"."""
    of = networks.of_module
    projector = heads.Perceptron((4,), None)
    if method.needs.num_local:
        projector = heads.Prototypes(4, hidden=(), bottleneck=3)
    predictor = of(heads.Perceptron((4,), norm, last_norm=True)) if method.needs.predictor else None
    return networks.Networks(of(Encoder(norm)), of(projector), predictor)


def pretraining(name, norm="batch", **options):
    method = METHODS[name]
    return training.Pretraining(method, parts(method, norm), SHAPE, **options)


def batch(name, step):
    """Step 0 or 1."""
    needs = METHODS[name].needs
    found = {"views": VIEWS[step]}
    found |= {"labels": LABELS} if needs.labels else {}
    return found | ({"local": LOCAL[step]} if needs.num_local else {})


RATE = 0.05
SGD = optax.sgd(RATE)  # what it subtracts is the gradient itself, but for the rate


@functools.cache
def states(norm):
    """{method: the state before the first update}, in float64; made by NumPy, without a program."""
    rng = np.random.default_rng(1)

    def fill(leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return np.zeros(leaf.shape, leaf.dtype)
        return rng.uniform(0.2, 1.0, leaf.shape) * rng.choice([-1, 1], leaf.shape)

    found = {}
    for name in METHODS:
        pre = pretraining(name, norm)
        params, state = jax.eval_shape(
            lambda rng, pre=pre: (pre.init_params(rng), pre.init_state(rng)), jax.random.key(0)
        )
        params, state = jax.tree.map(fill, (params, state))
        state["batch_stats"] = jax.tree.map(np.abs, state["batch_stats"])
        found[name] = train_step.init_state(params, SGD, jax.random.key(3), state)
    return found


def step_of(norm, axis_name=None, **options):
    """({method: state}, {method: batch}) -> ({method: state}, {method: metrics})."""
    steps = {
        name: train_step.make_train_step(
            pretraining(name, norm, **options).loss_fn, SGD, axis_name=axis_name
        )
        for name in METHODS
    }

    def step(states, batches):
        out = {name: steps[name](states[name], batches[name]) for name in METHODS}
        return {n: state for n, (state, _) in out.items()}, {n: m for n, (_, m) in out.items()}

    return step


def run(step, norm, place=lambda batch: batch):
    """{method: (gradients of two updates, model state, metrics)}."""
    states_t, grads = states(norm), []
    for t in (0, 1):
        batches = jax.tree.map(place, {name: batch(name, t) for name in METHODS})
        after, metrics = step(states_t, batches)
        moved = lambda old, new: (np.asarray(old) - np.asarray(new)) / RATE  # noqa: E731
        grads.append({n: jax.tree.map(moved, states_t[n].params, after[n].params) for n in METHODS})
        states_t = after
    return jax.device_get(
        {n: (grads[0][n], grads[1][n], states_t[n].model_state, metrics[n]) for n in METHODS}
    )
