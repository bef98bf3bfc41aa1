"""Do projected gradients tell which training digits a prediction rests on?

Claims: the linear datamodeling score of projected-gradient attribution (TRAK, Park et al. 2023,
arXiv:2303.14186) exceeds those of nearest neighbours in pixels and of random scores by more than
two standard errors. Cost: 1 minute on 2 CPU cores.
    python -m experiments ntk.attribution

An MLP on 8 x 8 digits is retrained on random halves of the training set; a method's scores are good
if their sums over a half rank its outputs, the margins of test digits. Every output is a mean over
several starts, because one start's noise hides the data's effect. Attribution itself never
retrains: it averages over a few networks trained on everything.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.ntk import _networks, _pictures
from library import claims, report
from library.types import Array, Key, Params
from research import ntk
from research.ntk import attribution


@dataclasses.dataclass(frozen=True)
class Config:
    """Data, networks, retrainings and projections."""

    num_train: int = 400  # training digits
    num_test: int = 100  # test digits whose outputs are explained
    width: int = 32  # hidden units of each of two layers
    num_steps: int = 200  # of Adam, on all examples at once
    learning_rate: float = 5e-3  # of Adam
    weight_decay: float = 1e-3  # of the squared parameters, in the loss
    num_subsets: int = 100  # random halves
    num_starts: int = 5  # retrainings of each half
    num_models: int = 5  # networks trained on everything, for attribution
    num_features: int = 512  # of every projection
    ridge: float = 1e-2  # of the attribution, in mean eigenvalues
    seed: int = 0  # root of all randomness


PRESETS = {
    "smoke": Config(num_train=12, num_test=12, width=4, num_steps=3, num_subsets=4, num_starts=1,
                    num_models=1, num_features=8),
    "default": Config(),
    "accelerator": Config(num_train=1497, num_test=300, width=128, num_steps=500, num_subsets=400,
                          num_starts=10, num_models=10, num_features=4096),
}  # fmt: skip


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Retrains, attributes by every method, and compares their scores."""
    train = _networks.read_digits("train", config.num_train, config.seed)
    test = _networks.read_digits("test", config.num_test, config.seed)
    rngs = jax.random.split(jax.random.key(config.seed), 5)
    subsets = _halves(rngs[0], config.num_subsets, config.num_train)
    outputs = _outputs(config, train, test, subsets, rngs[1])  # [S, starts, M]
    methods = {
        "projected gradients": _gradients(config, train, test, rngs[2]),
        "nearest, by class": _neighbours(train, test, signed=True),
        "nearest": _neighbours(train, test, signed=False),
        "random": jax.random.normal(rngs[3], (config.num_test, config.num_train)),
    }
    mean = outputs.mean(1)  # [S, M]
    judge = jax.jit(attribution.linear_datamodeling_score)
    found = {name: np.asarray(judge(scores, subsets, mean)) for name, scores in methods.items()}
    scores = {name: (v.mean(), v.std(ddof=1) / len(v) ** 0.5) for name, v in found.items()}
    out.figure("attribution", _pictures.attribution(scores))
    metrics = {f"lds_{name.replace(' ', '_').replace(',', '')}": v for name, (v, _) in
               scores.items()}  # fmt: skip
    metrics["lds_of_other_starts"] = _ceiling(outputs)
    ours = found.pop("projected gradients")
    stated = [_exceeds(name, ours, theirs) for name, theirs in found.items()]
    return claims.Result(metrics, stated)


def _exceeds(name: str, ours: np.ndarray, theirs: np.ndarray) -> claims.Claim:
    """The mean difference over test digits less two standard errors is positive."""
    gap = ours - theirs
    bound = gap.mean() - 2 * gap.std(ddof=1) / len(gap) ** 0.5
    title = f"score of projected gradients less that of {name}, less two standard errors"
    return claims.above(title, bound, 0.0, source=claims.baseline(f"{name}, same retrainings"))


def _ceiling(outputs: np.ndarray) -> float:
    """Rank correlation of half of the starts with the others: what a perfect score would meet."""
    num = outputs.shape[1] // 2
    if not num:
        return float("nan")
    a, b = outputs[:, :num].mean(1), outputs[:, num:].mean(1)
    return float(jax.vmap(attribution.spearman, in_axes=1)(jnp.asarray(a), jnp.asarray(b)).mean())


def _halves(rng: Key, num: int, size: int) -> np.ndarray:
    """[S, N] bool, each row true in half of its places."""
    permute = jax.jit(jax.vmap(lambda key: jax.random.permutation(key, size)))
    order = permute(jax.random.split(rng, num))
    return np.asarray(order) < size // 2


def _fit(config: Config, train: _networks.Digits, rng: Key, weight: Array) -> Params:
    """One network, trained on the examples of weight 1."""
    model, optimizer = _networks.MLP(config.width), optax.adam(config.learning_rate)
    params = model.init(rng, train.x[:1])

    def loss(params: Params) -> Array:
        logits = model.apply(params, train.x)
        each = optax.softmax_cross_entropy_with_integer_labels(logits, train.label)
        return jnp.vdot(weight, each) / weight.sum() + config.weight_decay * optax.tree.norm(
            params, squared=True
        )

    def step(carry: tuple, _: None) -> tuple:
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    start = params, optimizer.init(params)
    return jax.lax.scan(step, start, None, length=config.num_steps)[0][0]


def _outputs(
    config: Config, train: _networks.Digits, test: _networks.Digits, subsets: np.ndarray, rng: Key
) -> np.ndarray:
    """Margins of the test digits after every retraining, [S, starts, M]."""
    apply = _networks.MLP(config.width).apply

    @jax.jit
    def retrain(weight: Array, rngs: Key) -> Array:
        params = jax.vmap(lambda key: _fit(config, train, key, weight))(rngs)
        return jax.vmap(lambda p: attribution.margin(apply(p, test.x), test.label))(params)

    weights = subsets.astype(np.float32)
    rngs = jax.random.split(rng, (config.num_subsets, config.num_starts))
    return np.stack([np.asarray(retrain(w, keys)) for w, keys in zip(weights, rngs)])


def _gradients(config: Config, train: _networks.Digits, test: _networks.Digits, rng: Key) -> Array:
    """Scores [M, N], means over networks, each with a projection of its own."""
    apply = _networks.MLP(config.width).apply

    def margin(params: Params, batch: dict) -> Array:
        return attribution.margin(apply(params, batch["x"]), batch["label"])

    everything = jnp.ones(config.num_train)
    slope = jax.jit(lambda params, batch: 1 - jax.nn.sigmoid(margin(params, batch)))
    score = jax.jit(functools.partial(attribution.scores, ridge=config.ridge))
    fit = jax.jit(functools.partial(_fit, config, train))
    total = 0.0
    for key in jax.random.split(rng, config.num_models):
        start, project = jax.random.split(key)
        params = fit(start, everything)
        features = [
            ntk.projection.features(
                margin, params, {"x": data.x, "label": data.label}, config.num_features, rng=project
            )
            for data in (train, test)
        ]
        total += score(*features, slope(params, {"x": train.x, "label": train.label}))
    return total / config.num_models


def _neighbours(train: _networks.Digits, test: _networks.Digits, signed: bool) -> Array:
    """Cosines of pixels [M, N]; signed: minus for a training digit of another class."""
    unit = lambda x: x.reshape(len(x), -1) / np.linalg.norm(x.reshape(len(x), -1), axis=1)[:, None]
    cosines = unit(test.x) @ unit(train.x).T
    same = test.label[:, None] == train.label[None]
    return jnp.asarray(np.where(same, cosines, -cosines) if signed else cosines)
