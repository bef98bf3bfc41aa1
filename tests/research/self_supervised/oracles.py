"""Every loss once more, in NumPy and by loops; gradients by complex steps, free of cancellation."""

import functools

import jax
import numpy as np
from jax.sharding import PartitionSpec as P

from library import sharding
from research.self_supervised import losses

RNG = np.random.default_rng(0)
B, D, K, Q = 6, 4, 5, 7
normal = lambda *shape: RNG.normal(size=shape)  # noqa: E731
Z = normal(2, B, D)
LABELS = np.array([0, 1, 0, 2, 1, 3])
PROBABILITIES = np.abs(normal(2, B, K)) / 3


def unit(z):
    return z / np.sqrt((z * z).sum(-1, keepdims=True))


def log_sum_exp(values):
    values = np.array(values)
    top = values.real.max()
    return top + np.log(np.exp(values - top).sum())


def sup_con(z, labels, temperature):
    z = unit(z)
    who = [(v, i) for v in range(len(z)) for i in range(len(labels))]
    total = 0
    for a in who:
        score = {b: z[a] @ z[b] / temperature for b in who if b != a}
        positives = [b for b in score if labels[b[1]] == labels[a[1]]]
        total += log_sum_exp(list(score.values())) - np.mean([score[b] for b in positives])
    return total / len(who)


def nt_xent(z1, z2, temperature):
    return sup_con(np.stack([z1, z2]), np.arange(len(z1)), temperature)


def info_nce(queries, keys, negatives, temperature):
    queries, keys, negatives = map(unit, (queries, keys, negatives))
    scores = [[q @ k, *(negatives @ q)] for q, k in zip(queries, keys)]
    rows = [np.array(row) / temperature for row in scores]
    return np.mean([log_sum_exp(row) - row[0] for row in rows])


def moco_v3(queries, keys, temperature):
    queries, keys = unit(queries), unit(keys)
    total = 0
    for v in (0, 1):
        for i, q in enumerate(queries[v]):
            row = keys[1 - v] @ q / temperature
            total += (log_sum_exp(row) - row[i]) / len(queries[v])
    return 2 * temperature * total


def spectral(z1, z2):
    size = len(z1)
    agree = np.mean([a @ b for a, b in zip(z1, z2)])
    others = [(z1[i] @ z2[j]) ** 2 for i in range(size) for j in range(size) if i != j]
    return -2 * agree + np.mean(others)


def byol(predictions, targets):
    return np.mean([2 - 2 * a @ b for a, b in zip(unit(predictions), unit(targets))])


def simsiam(p, z):
    p, z = unit(p), unit(z)
    return -(np.mean((p[0] * z[1]).sum(1)) + np.mean((p[1] * z[0]).sum(1))) / 2


def barlow_twins(z1, z2, weight, epsilon=0.0):
    def standardised(z):
        z = z - z.mean(0)
        return z / np.sqrt((z * z).mean(0) + epsilon)

    c = standardised(z1).T @ standardised(z2) / len(z1)
    off = c * (1 - np.eye(len(c)))
    return ((1 - np.diag(c)) ** 2).sum() + weight * (off**2).sum()


def vicreg(z1, z2, invariance, variance, covariance):
    loss = invariance * ((z1 - z2) ** 2).mean()
    for z in (z1, z2):
        z = z - z.mean(0)
        cov = z.T @ z / (len(z) - 1)
        spread = np.sqrt(np.diag(cov) + 1e-4)
        loss = loss + variance * np.mean([max(0, 1 - s, key=np.real) for s in spread])
        loss = loss + covariance * ((cov * (1 - np.eye(len(cov)))) ** 2).sum() / len(cov)
    return loss


def view_cross_entropy(student, targets, temperature):
    total = []
    for t, probabilities in enumerate(targets):
        for v, logits in enumerate(student):
            if v != t:
                rows = [(p @ (s / temperature), s) for p, s in zip(probabilities, logits)]
                weight = probabilities.sum(1)
                cross = [w * log_sum_exp(s / temperature) - x for w, (x, s) in zip(weight, rows)]
                total.append(np.mean(cross))
    return np.mean(total)


def dino(student, teacher, centre, student_temperature, teacher_temperature):
    rows = np.exp((teacher - centre) / teacher_temperature)
    return view_cross_entropy(student, rows / rows.sum(-1, keepdims=True), student_temperature)


def koleo(z):
    z = unit(z)
    total = 0
    for i, a in enumerate(z):
        squares = [((a - b) * (a - b)).sum() for j, b in enumerate(z) if j != i]
        total -= np.log(min(squares, key=np.real)) / 2
    return total / len(z)


def sinkhorn(logits, temperature, num_iterations):
    q = np.exp(logits / temperature)
    for _ in range(num_iterations):
        q = q / q.sum(0)
        q = q / q.sum(1, keepdims=True)
    return q


# {case: (loss, its copy, arrays, options, how many of the arrays have a gradient, the axis along
# which each array is split over devices: None is whole)}.
STUDENT, TEACHER = normal(4, B, K), normal(2, B, K)
pair = lambda **options: ((Z[0], Z[1]), options, 2, (0, 0))  # noqa: E731
views = lambda z, **options: ((z, LABELS), options, 1, (1, 0))  # noqa: E731
queue = lambda **options: ((Z[0], Z[1], normal(Q, D)), options, 1, (0, 0, None))  # noqa: E731
crops = lambda **options: ((STUDENT, TEACHER, normal(K)), options, 1, (1, 1, None))  # noqa: E731
ROWS = {
    "nt_xent": ("nt_xent", nt_xent, *pair(temperature=0.5)),
    "nt_xent, cold": ("nt_xent", nt_xent, *pair(temperature=0.07)),
    "sup_con": ("sup_con", sup_con, *views(Z, temperature=0.1)),
    "sup_con, three views": ("sup_con", sup_con, *views(normal(3, B, D), temperature=0.3)),
    "info_nce": ("info_nce", info_nce, *queue(temperature=0.2)),
    "info_nce, warm": ("info_nce", info_nce, *queue(temperature=0.9)),
    "moco_v3": ("moco_v3", moco_v3, (Z, normal(2, B, D)), {"temperature": 0.2}, 1, (1, 1)),
    "moco_v3, warm": ("moco_v3", moco_v3, (Z, normal(2, B, D)), {"temperature": 1.0}, 1, (1, 1)),
    "spectral": ("spectral", spectral, *pair()),
    "byol": ("byol", byol, (Z[0], Z[1]), {}, 1, (0, 0)),
    "simsiam": ("simsiam", simsiam, (Z, normal(2, B, D)), {}, 1, (1, 1)),
    "barlow_twins": ("barlow_twins", barlow_twins, *pair(weight=5e-3)),
    "barlow_twins, epsilon": ("barlow_twins", barlow_twins, *pair(weight=0.4, epsilon=0.1)),
    "vicreg": ("vicreg", vicreg, *pair(invariance=25.0, variance=25.0, covariance=1.0)),
    "vicreg, other weights": (
        "vicreg", vicreg, (Z[0] / 3, Z[1] / 3),
        {"invariance": 2.0, "variance": 3.0, "covariance": 5.0}, 2, (0, 0),
    ),
    "dino": ("dino", dino, *crops(student_temperature=0.1, teacher_temperature=0.04)),
    "dino, warm": ("dino", dino, *crops(student_temperature=0.5, teacher_temperature=0.9)),
    "view_cross_entropy": (
        "view_cross_entropy", view_cross_entropy, (STUDENT, PROBABILITIES), {"temperature": 0.1},
        1, (1, 1),
    ),
    "view_cross_entropy, warm": (
        "view_cross_entropy", view_cross_entropy, (STUDENT[:2], PROBABILITIES),
        {"temperature": 0.7}, 1, (1, 1),
    ),
    "koleo": ("koleo", koleo, (Z[0],), {}, 1, (0,)),
}  # fmt: skip
PLAIN = [case for case in ROWS if "," not in case]  # they state the defaults
LOCAL = ("info_nce", "byol", "simsiam", "dino", "view_cross_entropy")  # means over examples


def complex_step(function, arrays, num):
    """Exact derivatives of a function that is analytic where it is, by the first `num` arrays."""
    grads = []
    for which, array in enumerate(arrays[:num]):
        grad = np.zeros(array.shape)
        for index in np.ndindex(array.shape):
            moved = array.astype(complex)
            moved[index] += 1e-30j
            grad[index] = function(*arrays[:which], moved, *arrays[which + 1 :]).imag / 1e-30
        grads.append(grad)
    return grads


def expected(case):
    """Value and gradients of a case by the copy."""
    _, copy, arrays, options, num, _ = ROWS[case]
    function = functools.partial(copy, **options)
    return function(*arrays), complex_step(function, arrays, num)


def _floating(entries, case):
    """Those of the entries, one an array of the case, whose array is floating."""
    return [entry for entry, x in zip(entries, ROWS[case][2]) if x.dtype == np.float64]


def _loss(case, axis_name=None, plain=False):
    name, _, _, options, _, _ = ROWS[case]
    extra = {} if name in LOCAL else {"axis_name": axis_name}
    return functools.partial(getattr(losses, name), **({} if plain else options), **extra)


def _of(case, axis_name=None, plain=False):
    """Value and gradients by all floating arrays of a case, as a function of its arrays."""
    arrays = range(len(ROWS[case][2]))
    return jax.value_and_grad(
        lambda *arrays: _loss(case, axis_name, plain)(*arrays), tuple(_floating(arrays, case))
    )


@functools.cache
def found():
    """{case: (value, gradients)} of all cases, on one device, in one program (float64)."""
    run = jax.jit(lambda inputs: {case: _of(case)(*inputs[case]) for case in inputs})
    return jax.device_get(run({case: row[2] for case, row in ROWS.items()}))


@functools.cache
def by_default():
    """The cases that state the defaults, without stating them: values."""
    run = jax.jit(lambda inputs: {case: _of(case, plain=True)(*inputs[case])[0] for case in inputs})
    return jax.device_get(run({case: ROWS[case][2] for case in PLAIN}))


@functools.cache
def pmapped():
    """{case: (value, gradients)} with the batch split over two devices, averaged over them."""

    def moved(x, axis):
        return np.stack([x, x] if axis is None else np.split(x, 2, axis))

    def whole(x, axis):
        return x.mean(0) if axis is None else np.concatenate(list(x), axis) / 2

    run = lambda inputs: {case: _of(case, "i")(*inputs[case]) for case in inputs}  # noqa: E731
    split = {case: tuple(map(moved, row[2], row[5])) for case, row in ROWS.items()}
    out = jax.device_get(jax.pmap(run, "i", devices=jax.devices()[:2])(split))
    return {
        case: (value.mean(), list(map(whole, grads, _floating(ROWS[case][5], case))))
        for case, (value, grads) in out.items()
    }


@functools.cache
def shard_mapped():
    """The same under `jax.shard_map`, where types say what varies and gradients come out whole."""
    rows = {case: ROWS[case] for case in PLAIN}
    spec = lambda axis: P() if axis is None else P(*[None] * axis, "i")  # noqa: E731
    specs = {case: tuple(map(spec, row[5])) for case, row in rows.items()}

    def values(inputs):
        found = {case: _loss(case, "i")(*inputs[case]) for case in rows}
        return {c: jax.lax.pmean(x, "i") if c in LOCAL else x for c, x in found.items()}

    mesh = sharding.make_mesh({"i": 2})
    mapped = jax.shard_map(values, mesh=mesh, in_specs=(specs,), out_specs=P())

    def total(arrays):
        fixed = {case: iter(arrays[case]) for case in rows}
        take = lambda case, x: next(fixed[case]) if x.dtype == float else x  # noqa: E731
        found = mapped({c: tuple(take(c, x) for x in row[2]) for c, row in rows.items()})
        return sum(found.values()), found

    arrays = {case: _floating(row[2], case) for case, row in rows.items()}
    (_, found), grads = jax.device_get(jax.jit(jax.value_and_grad(total, has_aux=True))(arrays))
    return {case: (found[case], grads[case]) for case in rows}


def check(case, found):
    """Asserts a case's value and gradients, which are exactly 0 where there are none."""
    value, grads = expected(case)
    np.testing.assert_allclose(found[0], value, rtol=1e-10)
    for got, wanted in zip(found[1], grads):
        np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-12)
    for got in found[1][len(grads) :]:
        assert (got == 0).all()


def check_default(case):
    """Asserts that the case's options are the defaults."""
    np.testing.assert_allclose(by_default()[case], expected(case)[0], rtol=1e-10)
