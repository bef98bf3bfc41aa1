"""Methods on small networks: which is built by which name, and what features are worth."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments.self_supervised import _pretrain
from research.self_supervised import heads, methods, networks, probes, teachers, views

_SIZES = _pretrain.Sizes((8, 8, 1), 4, (1,), hidden=6, dim=5, queue_size=16, momentum=0.9)
_KINDS = {
    "simclr": methods.SimCLR, "moco": methods.MoCoV2, "moco_v3": methods.MoCoV3,
    "spectral": methods.Spectral, "byol": methods.BYOL, "simsiam": methods.SimSiam,
    "barlow": methods.BarlowTwins, "vicreg": methods.VICReg, "dino": methods.DINO,
}  # fmt: skip


@pytest.mark.parametrize("name", _pretrain.NAMES)
def test_each_name_has_its_method_and_networks(name):
    made = _pretrain.pretraining(name, _SIZES, views.uncoloured(8), 100)
    assert type(made.method) is _KINDS[name]
    assert made.image_shape == (8, 8, 1)
    params, stats = jax.eval_shape(lambda: made.networks.init(jax.random.key(0), (8, 8, 1)))
    assert ("predictor" in params) == (name in ("byol", "simsiam", "moco_v3"))
    assert bool(jax.tree.leaves(stats["encoder"])) == (name != "moco")
    out = jax.tree.leaves(params["projector"])
    assert {leaf.shape[-1] for leaf in out} <= ({6, 5, 20} if name == "dino" else {6, 5})
    if name == "dino":
        assert params["projector"]["prototypes"].shape == (20, 5)
    if name in ("byol", "moco_v3", "dino"):
        want = teachers.momentum(30, 100, 0.9)
        np.testing.assert_allclose(made.method.momentum(30), want, rtol=1e-6)
    if name == "moco":
        assert (made.method.queue_size, made.method.momentum) == (16, 0.9)


def test_projectors_that_end_in_a_norm():
    for name in _pretrain.NAMES:
        made = _pretrain.pretraining(name, _SIZES, views.uncoloured(8), 100)
        params = jax.eval_shape(lambda made=made: made.networks.init(jax.random.key(0), (8, 8, 1)))
        assert ("bias" not in params[0]["projector"].get("dense1", {"bias"})) == (
            name in ("simsiam", "moco_v3")
        )


def test_another_name_is_refused():
    with pytest.raises(ValueError, match="method 'simclrr': expected one of simclr, moco, "):
        _pretrain.pretraining("simclrr", _SIZES, views.uncoloured(8), 10)


def test_an_encoder_takes_squares_of_pixels_as_one():
    part = _pretrain.encoder(dataclasses.replace(_SIZES, patch=2))
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)
    params, stats = part.init(jax.random.key(0), x[:1])
    cut = np.stack([x[:, i::2, j::2, 0] for i in (0, 1) for j in (0, 1)], -1)  # [2, 4, 4, 4]
    whole = _pretrain.encoder(_SIZES)
    assert jax.tree.leaves(params["stem"])[0].shape == (3, 3, 4, 4)
    found, want = (each.apply(params, stats, y, False, None)[0]
                   for each, y in ((part, x), (whole, cut)))  # fmt: skip
    np.testing.assert_allclose(found, want, rtol=1e-5)


def test_squares_that_do_not_divide_an_image_are_refused():
    with pytest.raises(ValueError, match="patch=3 does not divide images of "):
        _pretrain.encoder(dataclasses.replace(_SIZES, patch=3))


def test_the_temperature_is_simclrs():
    made = _pretrain.pretraining(
        "simclr", dataclasses.replace(_SIZES, temperature=0.2), views.uncoloured(8), 10
    )
    assert made.method.temperature == 0.2


def test_what_features_are_worth_is_what_the_probes_say():
    part = networks.of_module(heads.Perceptron((3, 2), None))
    rng = np.random.default_rng(0)
    (x, y), (test_x, test_y) = ((rng.normal(size=(n, 4)), np.arange(n) % 3) for n in (30, 20))
    params, stats = part.init(jax.random.key(0), x[:1].astype(np.float32))
    double = lambda x: 2 * x
    found = _pretrain.worth(
        part, params, stats, (x, y), (test_x, test_y), k=3, l2=0.1, to_floats=double
    )
    apply = lambda x: np.asarray(part.apply(params, stats, 2 * x, False, None)[0])
    given = apply(x.astype(np.float32)), y, apply(test_x.astype(np.float32)), test_y
    assert found.linear == probes.linear(*given, l2=0.1).accuracy
    assert found.knn == probes.knn(*given, k=3).accuracy
    assert found.fingerprint == probes.fingerprint((params, stats))
