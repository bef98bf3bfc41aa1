"""Parts of networks: features of a ResNet and a ViT, crops of several sizes, statistics."""

import jax
import jax.numpy as jnp
import numpy as np

from library import testing
from research.self_supervised import heads, networks
from research.vision import resnet, vit
from tests.research.self_supervised import tiny

VIT = vit.ViT(7, patch=2, width=8, depth=1, num_heads=2)
SHAPE = (4, 4, 3)


def test_features_of_a_vit_at_its_size_and_at_another():
    """Learned positions are interpolated for local crops, without antialiasing; fixed ones fit."""
    part = networks.vit(VIT)
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    local = jax.random.normal(jax.random.key(1), (2, 2, 6, 3))
    params, stats = jax.jit(part.init)(jax.random.key(2), x)
    assert stats == {} and "head" not in params
    params["positions"] = jax.random.normal(jax.random.key(3), params["positions"].shape)
    headless = VIT.clone(num_classes=None)

    @jax.jit
    def run(params):
        found = [part.apply(params, {}, images, True, None)[0] for images in (x, local)]
        moved = vit.resize_positions({"params": params}, (2, 2), (1, 3), antialias=False)
        expected = [
            headless.apply({"params": params}, x),
            headless.clone(grid=(1, 3)).apply(moved, local),
        ]
        return found, expected

    found, expected = run(params)
    assert found[0].shape == found[1].shape == (2, 8)
    testing.assert_trees_close(found, expected, rtol=1e-6)


def test_features_of_fixed_positions_and_another_grid():
    for model in (
        VIT.clone(positions="fixed", pooling="average"),
        VIT.clone(grid=(1, 3)),
    ):
        part = networks.vit(model)
        own = jnp.zeros((1, 2, 6, 3))
        params, _ = jax.eval_shape(part.init, jax.random.key(0), own)
        run = lambda params, x, part=part: part.apply(params, {}, x, False, None)[0]  # noqa: E731
        for x in (own, jnp.zeros((5, 4, 4, 3))):
            assert jax.eval_shape(run, params, x).shape == (len(x), 8)


def test_features_of_a_resnet():
    """Without a head; with batch norm its statistics are the state, with groups it has none."""
    model = resnet.ResNet(7, num_blocks=(1,), width=4, small_images=True)
    x = jnp.zeros((2, *SHAPE))
    for num_groups in (None, 2):
        part = networks.resnet(model.clone(num_groups=num_groups))
        params, stats = jax.eval_shape(part.init, jax.random.key(0), x)
        assert "head" not in params and bool(stats) == (num_groups is None)
        for train in (True, False):
            run = lambda p, s, x, train=train, part=part: part.apply(p, s, x, train, None)  # noqa: E731
            features, after = jax.eval_shape(run, params, stats, x)
            assert features.shape == (2, 4)
            assert jax.tree.structure(after) == jax.tree.structure(stats)


def test_crops_of_all_sizes_are_projected_together(x64):
    """By hand: the encoder sees the views of one size at once, the projector those of all."""
    nets = tiny.parts(tiny.METHODS["simsiam"], "batch")
    state = tiny.states("batch")["simsiam"]
    params, stats = state.params, state.model_state["batch_stats"]
    views, local = tiny.VIEWS[0], tiny.LOCAL[0]

    @jax.jit
    def run(params, stats):
        z, moved = nets.project(params, stats, [views, local])
        p, moved = nets.predict(params, moved, z)
        flat = lambda x: x.reshape(-1, *x.shape[2:])  # noqa: E731
        encode = lambda x, stats: nets.encoder.apply(  # noqa: E731
            params["encoder"], stats, flat(x), True, None
        )
        first, after = encode(views, stats["encoder"])
        second, after = encode(local, after)
        both = jnp.concatenate([first.reshape(8, 2, -1), second.reshape(8, 2, -1)], 1)
        by_hand, last = nets.projector.apply(
            params["projector"], stats["projector"], flat(both), True, None
        )
        guess, end = nets.predictor.apply(
            params["predictor"], stats["predictor"], by_hand, True, None
        )
        expected = (by_hand.reshape(8, 4, -1), guess.reshape(8, 4, -1))
        return (z, p, moved), (*expected, {"encoder": after, "projector": last, "predictor": end})

    testing.assert_trees_close(*run(params, stats), rtol=1e-12)


def test_without_a_predictor_a_prediction_is_the_projection():
    nets = networks.Networks(
        networks.vit(VIT), networks.of_module(heads.Perceptron((5, 3), norm=None))
    )
    params, stats = jax.eval_shape(lambda rng: nets.init(rng, SHAPE), jax.random.key(0))
    assert set(params) == set(stats) == {"encoder", "projector"}
    assert params["projector"]["dense0"]["kernel"].shape == (8, 5)
    z = np.ones((2, 2, 3))
    assert nets.predict(params, stats, z)[0] is z
