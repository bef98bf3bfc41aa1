"""What frozen features know of labels: the best linear classifier, and the nearest neighbours.

Features come in as arrays, so that nothing here can train what made them; `fingerprint` of the
parameters, printed beside a result, shows it. A probe is a convex problem and is solved as one, in
float64: two people with the same features get the same number.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Sequence

import jax
import numpy as np

from library import checks
from library.types import Array, PyTree

STRENGTHS = tuple(10.0**power for power in range(-6, 2))  # of the penalty, tried for l2=None
_TOLERANCE = 1e-6  # largest entry of the gradient at an optimum
_NEWTON_STEPS = 10
_CG_STEPS = 500  # of each: an inexact step is followed by another
_BLOCK = 1024  # test features that are compared with all training features at a time


@dataclasses.dataclass(frozen=True)
class Linear:
    """A solved linear probe.

    Attributes:
        accuracy: share of test examples it is right on.
        weights: [D + 1, C], the last row the biases.
        predictions: [N] int, labels of the test examples.
        l2: strength of the penalty.
        gradient: largest entry of the objective's gradient at the weights.
    """

    accuracy: float
    weights: np.ndarray
    predictions: np.ndarray
    l2: float
    gradient: float


@dataclasses.dataclass(frozen=True)
class Nearest:
    """A vote of nearest neighbours.

    Attributes:
        accuracy: share of test examples it is right on.
        predictions: [N] int, labels of the test examples.
    """

    accuracy: float
    predictions: np.ndarray


def linear(
    train_x: Array, train_y: Array, test_x: Array, test_y: Array, l2: float | None = None
) -> Linear:
    """Multinomial logistic regression on features as they are, solved to its optimum.

    It minimises the mean cross-entropy in nats plus l2/2 times the squares of the weights, the
    biases free: scikit-learn's `LogisticRegression(C=1 / (N l2))`.

    Args:
        train_x, test_x: [N, D], [M, D] features.
        train_y, test_y: [N], [M] int labels from 0; all classes occur in training.
        l2: strength, positive; None takes the best of `STRENGTHS` on every fifth training example,
            trained on the others, and then trains on all.
    Raises:
        ValueError: for features or labels that do not fit together or are not finite, a class
            missing in training, a test label outside the classes, a strength that is not positive.
    """
    x, y, test_x, test_y = _checked(train_x, train_y, test_x, test_y)
    if l2 is None:
        l2 = _best_strength(x, y)
    elif not l2 > 0 or not np.isfinite(l2):
        raise ValueError(f"l2={l2}: expected a positive number, or None to choose it")
    weights, gradient = _solve(x, y, int(y.max()) + 1, l2, None)
    predictions = _logits(weights, test_x).argmax(1)
    return Linear(float(np.mean(predictions == test_y)), weights, predictions, l2, gradient)


def knn(
    train_x: Array,
    train_y: Array,
    test_x: Array,
    test_y: Array,
    k: int = 200,
    temperature: float = 0.07,
) -> Nearest:
    """A vote of the k nearest by cosine, weighted exp(cosine / temperature).

    Wu et al. 2018, arXiv:1805.01978, section 3.4. Of equal votes the lowest label wins. A feature
    of length 0, where all units of a layer are dead, has cosine 0 with all.

    Args:
        train_x, test_x, train_y, test_y: as `linear`.
        k: neighbours; all of the training set if it has fewer.
        temperature: positive.
    Raises:
        ValueError: as `linear`; for k below 1, or a temperature that is not positive.
    """
    x, y, test_x, test_y = _checked(train_x, train_y, test_x, test_y)
    k = min(checks.count("k", k, of="neighbours"), len(x))
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}: expected a positive number")
    x, test_x = _unit(x), _unit(test_x)
    num_classes, votes = int(y.max()) + 1, []
    for start in range(0, len(test_x), _BLOCK):
        cosines = test_x[start : start + _BLOCK] @ x.T  # [b, N]
        near = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
        cosines = np.take_along_axis(cosines, near, 1)
        weights = np.exp((cosines - cosines.max(1, keepdims=True)) / temperature)
        votes.append(_tally(weights, y[near], num_classes))
    predictions = np.concatenate(votes).argmax(1)
    return Nearest(float(np.mean(predictions == test_y)), predictions)


def features(
    apply: Callable[[Array], Array], images: Sequence | np.ndarray, block: int = 250
) -> np.ndarray:
    """[N, D] float32 of all images [N, ...], `block` of them at a time through one program.

    Args:
        apply: images [B, ...] -> features [B, D], pure.
        images: [N, ...].
        block: images a call; the last call is filled up, so that nothing is compiled twice.
    Raises:
        ValueError: for no image.
    """
    if not len(images):
        raise ValueError("images: got none, expected at least one")
    block = min(checks.count("block", block, of="images"), len(images))
    run, found = jax.jit(apply), []
    for start in range(0, len(images), block):
        part = np.asarray(images[start : start + block])
        full = np.concatenate([part, np.repeat(part[-1:], block - len(part), axis=0)])
        found.append(np.asarray(run(full), np.float32)[: len(part)])
    return np.concatenate(found)


def fingerprint(params: PyTree) -> str:
    """Twelve hexadecimal digits of the bytes, dtypes, shapes and names of all leaves."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        leaf = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:12]


def fraction(labels: Array, share: float, seed: int = 0) -> np.ndarray:
    """Which examples to label: the same share of every class, at least one of each, in order.

    Args:
        labels: [N] int.
        share: in (0, 1]; 0.01 and 0.1 are the usual ones.
        seed: of the draw. Of one seed, a smaller share is a part of a larger one.
    Returns:
        [n] int, rising.
    Raises:
        ValueError: for a share outside (0, 1].
    """
    if not checks.share("share", share):
        raise ValueError("share=0: expected a number in (0, 1]")
    labels, rng = np.asarray(labels), np.random.default_rng(seed)
    chosen = []
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        chosen.append(rows[: max(1, round(share * len(rows)))])
    return np.sort(np.concatenate(chosen))


def _best_strength(x: np.ndarray, y: np.ndarray) -> float:
    """The first of `STRENGTHS` that is right most often on every fifth example."""
    held = np.arange(len(x)) % 5 == 4
    if not held.any():
        return 1e-2
    right, weights = [], None
    for l2 in reversed(STRENGTHS):  # each solution starts from that of a stronger penalty
        weights, _ = _solve(x[~held], y[~held], int(y.max()) + 1, l2, weights)
        right.append(np.mean(_logits(weights, x[held]).argmax(1) == y[held]))
    return STRENGTHS[::-1][int(np.argmax(right))]


def _solve(
    x: np.ndarray, y: np.ndarray, num_classes: int, l2: float, start: np.ndarray | None
) -> tuple[np.ndarray, float]:
    """Weights [D + 1, C] of the optimum, and the largest entry of the gradient there.

    L-BFGS goes most of the way on centred features, scaled as a whole; Newton steps end it.
    """
    from scipy import optimize  # late: it takes as long to import as JAX

    if len(x) < x.shape[1]:  # the optimum lies in the span of the centred features
        basis = np.linalg.qr((x - x.mean(0)).T)[0]  # [D, N]
        if start is not None:
            start = np.concatenate([basis.T @ start[:-1], start[-1:]])
        inside, _ = _solve(x @ basis, y, num_classes, l2, start)
        weights = np.concatenate([basis @ inside[:-1], inside[-1:]])
        return weights, _largest_slope(x, y, weights, l2)
    centre = x.mean(0)
    scale = np.sqrt(np.mean((x - centre) ** 2)) or 1.0
    rows = np.concatenate([(x - centre) / scale, np.ones((len(x), 1))], axis=1)  # [N, D + 1]
    penalty = np.full((rows.shape[1], 1), l2 / scale**2)
    penalty[-1] = 0
    hot = np.eye(num_classes)[y]
    shape = rows.shape[1], num_classes

    def objective(flat):
        w = flat.reshape(shape)
        logits = rows @ w
        logits -= logits.max(1, keepdims=True)
        normal = np.log(np.exp(logits).sum(1))
        loss = np.mean(normal - logits[np.arange(len(y)), y]) + np.sum(penalty * w**2) / 2
        errors = np.exp(logits - normal[:, None]) - hot  # [N, C]
        return loss, (rows.T @ errors / len(y) + penalty * w).ravel()

    def hessian(flat, vector):
        p = _softmax(rows @ flat.reshape(shape))
        v = vector.reshape(shape)
        along = rows @ v
        curved = p * (along - np.sum(p * along, axis=1, keepdims=True))
        return (rows.T @ curved / len(y) + penalty * v).ravel()

    def largest(flat):  # of the gradient by the weights of features as they came
        gradient = objective(flat)[1].reshape(shape)
        gradient[:-1] = gradient[:-1] * scale + np.outer(centre, gradient[-1])
        return float(abs(gradient).max())

    flat = np.zeros(shape) if start is None else _centred(start, centre, scale)
    options = {"maxiter": 500, "maxfun": 1000, "gtol": 1e-8, "ftol": 1e-15, "maxcor": 20}
    flat = optimize.minimize(
        objective, flat.ravel(), jac=True, method="L-BFGS-B", options=options
    ).x
    for _ in range(_NEWTON_STEPS):  # near the optimum, where no line search has digits left
        if largest(flat) <= _TOLERANCE / 100:
            break
        flat = flat - _newton_step(functools.partial(hessian, flat), objective(flat)[1])
    return _as_they_came(flat.reshape(shape), centre, scale), largest(flat)


def _largest_slope(x: np.ndarray, y: np.ndarray, weights: np.ndarray, l2: float) -> float:
    """The largest entry of the objective's gradient."""
    errors = (_softmax(_logits(weights, x)) - np.eye(weights.shape[1])[y]) / len(x)
    return float(max(abs(x.T @ errors + l2 * weights[:-1]).max(), abs(errors.sum(0)).max()))


def _newton_step(hessian: Callable, gradient: np.ndarray) -> np.ndarray:
    from scipy.sparse import linalg

    size = len(gradient)
    operator = linalg.LinearOperator((size, size), matvec=hessian, dtype=np.float64)
    return linalg.cg(operator, gradient, rtol=1e-6, maxiter=min(size, _CG_STEPS))[0]


def _centred(weights: np.ndarray, centre: np.ndarray, scale: float) -> np.ndarray:
    slopes, biases = weights[:-1], weights[-1]
    return np.concatenate([slopes * scale, (biases + centre @ slopes)[None]])


def _as_they_came(weights: np.ndarray, centre: np.ndarray, scale: float) -> np.ndarray:
    slopes = weights[:-1] / scale
    return np.concatenate([slopes, (weights[-1] - centre @ slopes)[None]])


def _logits(weights: np.ndarray, x: np.ndarray) -> np.ndarray:
    return x @ weights[:-1] + weights[-1]


def _softmax(logits: np.ndarray) -> np.ndarray:
    p = np.exp(logits - logits.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def _tally(weights: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """[b, C] sums of weights [b, k] by label [b, k]."""
    rows = np.arange(len(weights))[:, None] * num_classes + labels
    return np.bincount(rows.ravel(), weights.ravel(), len(weights) * num_classes).reshape(
        len(weights), num_classes
    )


def _unit(x: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(lengths > 0, lengths, 1)


def _checked(train_x, train_y, test_x, test_y) -> tuple[np.ndarray, ...]:
    """Features as float64, labels as integers."""
    out = []
    for name, x, y in (("train", train_x, train_y), ("test", test_x, test_y)):
        x, y = np.asarray(x), np.asarray(y)
        if x.ndim != 2 or y.shape != x.shape[:1] or not x.size:
            raise ValueError(
                f"{name}_x {list(x.shape)}, {name}_y {list(y.shape)}: expected features [N, D] and "
                "labels [N], N and D at least 1"
            )
        if not np.issubdtype(y.dtype, np.integer):
            raise ValueError(f"{name}_y holds {y.dtype}: expected whole numbers from 0")
        x = x.astype(np.float64)
        if not np.isfinite(x).all():
            raise ValueError(f"{name}_x holds values that are not finite")
        out += [x, y.astype(np.int64)]
    x, y, test_x, test_y = out
    if x.shape[1] != test_x.shape[1]:
        raise ValueError(
            f"test_x has {test_x.shape[1]} features: expected {x.shape[1]}, as train_x"
        )
    found = np.unique(y)
    missing = np.setdiff1d(np.arange(found[-1] + 1), found)
    if found[0] < 0 or missing.size or len(found) < 2:
        wrong = f"lacks class {missing[0]}" if missing.size else f"holds {found[:3].tolist()}"
        raise ValueError(f"train_y {wrong}: expected all of the labels 0 to C - 1, C at least 2")
    outside = np.setdiff1d(test_y, found)
    if outside.size:
        raise ValueError(f"test_y holds {outside[0]}: expected labels of training, 0 to {y.max()}")
    return x, y, test_x, test_y
