"""Values and gradients of all losses against copies in PyTorch, in matrices and by autograd."""

import jax
import numpy as np
import pytest

from research.self_supervised import losses

torch = pytest.importorskip("torch")
F = torch.nn.functional

B, D = 7, 5
RNG = np.random.default_rng(11)
normal = lambda *shape: RNG.normal(size=shape)  # noqa: E731
LABELS = np.array([0, 1, 2, 0, 1, 2, 0])


def nt_xent(z1, z2, tau):
    """As in the authors' code: the diagonal is pushed away, cross-entropy of both views."""
    a, b = F.normalize(z1, dim=1), F.normalize(z2, dim=1)
    masks = 1e9 * torch.eye(len(a), dtype=a.dtype)
    aa, bb = a @ a.T / tau - masks, b @ b.T / tau - masks
    ab, labels = a @ b.T / tau, torch.arange(len(a))
    one = F.cross_entropy(torch.cat([ab, aa], 1), labels)
    two = F.cross_entropy(torch.cat([ab.T, bb], 1), labels)
    return (one + two) / 2


def sup_con(z, tau):
    flat = F.normalize(z.reshape(-1, D), dim=1)
    labels = torch.tensor(np.tile(LABELS, len(z)))
    others = 1 - torch.eye(len(flat), dtype=z.dtype)
    positives = (labels[:, None] == labels[None, :]) * others
    logits = flat @ flat.T / tau
    log_p = logits - torch.log((torch.exp(logits) * others).sum(1, keepdim=True))
    return -((positives * log_p).sum(1) / positives.sum(1)).mean()


def info_nce(q, k, queue, tau):
    q, k, queue = (F.normalize(x, dim=1) for x in (q, k.detach(), queue.detach()))
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.T], 1) / tau
    return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long))


def moco_v3(q, k, tau):
    def one(q, k):
        logits = F.normalize(q, dim=1) @ F.normalize(k.detach(), dim=1).T / tau
        return F.cross_entropy(logits, torch.arange(len(q))) * 2 * tau

    return one(q[0], k[1]) + one(q[1], k[0])


def spectral(z1, z2):
    off = (z1 @ z2.T)[~torch.eye(len(z1), dtype=bool)]
    return -2 * (z1 * z2).sum(1).mean() + (off**2).mean()


def byol(p, t):
    return (2 - 2 * F.cosine_similarity(p, t.detach(), dim=-1)).mean()


def simsiam(p, z):
    one = F.cosine_similarity(p[0], z[1].detach(), dim=-1).mean()
    return -0.5 * (one + F.cosine_similarity(p[1], z[0].detach(), dim=-1).mean())


def barlow_twins(z1, z2, weight, eps):
    norm = lambda z: (z - z.mean(0)) / torch.sqrt(z.var(0, correction=0) + eps)  # noqa: E731
    c = norm(z1).T @ norm(z2) / len(z1)
    off = c - torch.diag(torch.diagonal(c))
    return ((torch.diagonal(c) - 1) ** 2).sum() + weight * (off**2).sum()


def vicreg(z1, z2, weights):
    invariance, variance, covariance = weights
    loss = invariance * F.mse_loss(z1, z2)
    for z in (z1, z2):
        loss = loss + variance * F.relu(1 - torch.sqrt(z.var(0) + 1e-4)).mean()
        cov = torch.cov(z.T)
        loss = loss + covariance * (cov - torch.diag(torch.diagonal(cov))).pow(2).sum() / D
    return loss


def dino(student, teacher, centre, tau_s, tau_t):
    """The loops of the authors' code."""
    targets = F.softmax((teacher - centre) / tau_t, dim=-1).detach()
    total, terms = 0, 0
    for i, q in enumerate(targets):
        for v, s in enumerate(student):
            if v != i:
                total = total + torch.sum(-q * F.log_softmax(s / tau_s, dim=-1), dim=-1).mean()
                terms += 1
    return total / terms


def koleo(z):
    z = F.normalize(z, dim=1)
    distances = torch.cdist(z, z) + 10 * torch.eye(len(z), dtype=z.dtype)
    return -torch.log(distances.min(1).values).mean()


PAIR, VIEWS = (normal(B, D), normal(B, D)), (normal(2, B, D), normal(2, B, D))
CASES = {
    "nt_xent": (losses.nt_xent, nt_xent, PAIR, (0.3,)),
    "sup_con": (
        lambda z, tau: losses.sup_con(z, LABELS, tau), sup_con, (normal(3, B, D),), (0.2,),
    ),
    "info_nce": (losses.info_nce, info_nce, (*PAIR, normal(9, D)), (0.2,)),
    "moco_v3": (losses.moco_v3, moco_v3, VIEWS, (0.4,)),
    "spectral": (losses.spectral, spectral, PAIR, ()),
    "byol": (losses.byol, byol, PAIR, ()),
    "simsiam": (losses.simsiam, simsiam, VIEWS, ()),
    "barlow_twins": (losses.barlow_twins, barlow_twins, PAIR, (5e-3, 0.0)),
    "barlow_twins, epsilon": (losses.barlow_twins, barlow_twins, PAIR, (5e-3, 1e-5)),
    "vicreg": (
        lambda a, b, w: losses.vicreg(a, b, *w), vicreg, tuple(x / 2 for x in PAIR),
        ((25.0, 25.0, 1.0),),
    ),
    "dino": (losses.dino, dino, (normal(4, B, D), normal(2, B, D), normal(D)), (0.1, 0.04)),
    "koleo": (losses.koleo, koleo, PAIR[:1], ()),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_against_torch(x64, case):
    ours, theirs, arrays, options = CASES[case]
    tensors = [torch.tensor(x, requires_grad=True) for x in arrays]
    expected = theirs(*tensors, *options)
    expected.backward()
    which = tuple(range(len(arrays)))
    run = jax.jit(jax.value_and_grad(lambda *arrays: ours(*arrays, *options), which))
    value, grads = run(*arrays)
    np.testing.assert_allclose(value, expected.item(), rtol=1e-9)
    for grad, tensor in zip(grads, tensors):
        wanted = np.zeros(grad.shape) if tensor.grad is None else tensor.grad.numpy()
        np.testing.assert_allclose(grad, wanted, rtol=1e-9, atol=1e-12)
