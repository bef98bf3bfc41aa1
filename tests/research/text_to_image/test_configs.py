"""The published networks by their counts of parameters, exactly."""

import jax
import jax.numpy as jnp
import pytest

from research.text_to_image import configs, text_encoder
from research.transformers import layers

KEY = jax.random.key(0)
# torch 2.13.0, diffusers 0.42.1, transformers 5.24.0: parameters of models made from the published
# config.json files.
COUNTS = {
    "STABLE_DIFFUSION_1_5": (859_520_964, 123_060_480),
    "STABLE_DIFFUSION_1_5_INPAINTING": (859_535_364, 123_060_480),
    "STABLE_DIFFUSION_2_1": (865_910_724, 340_387_840),
    "STABLE_DIFFUSION_XL": (2_567_463_684, 123_060_480, 694_659_840),
}


def count(module, *args):
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(module.init, KEY, *args)))


@pytest.mark.parametrize("name", COUNTS)
def test_counts(name):
    networks = getattr(configs, name)
    net, expected = networks.unet, COUNTS[name]
    latents = jnp.zeros((1, net.factor, net.factor, net.in_channels))
    context = jnp.zeros((1, 77, net.context_dim))
    assert count(net, latents, jnp.zeros(1, int), context) == expected[0]
    encoders = [e for e in (networks.text_encoder, networks.text_encoder_2) if e is not None]
    assert [count(encoder, jnp.zeros((1, 77), int)) for encoder in encoders] == [*expected[1:]]
    assert sum(encoder.stack.width for encoder in encoders) == net.context_dim


def test_counts_of_the_autoencoder():
    vae = configs.STABLE_DIFFUSION_1_5.vae
    shapes = jax.eval_shape(vae.init, KEY, jnp.zeros((1, 8, 8, 3)))["params"]
    sizes = {k: sum(x.size for x in jax.tree.leaves(tree)) for k, tree in shapes.items()}
    assert sum(sizes.values()) == 83_653_863
    assert (sizes["encoder"], sizes["decoder"]) == (34_163_592, 49_490_179)


def test_what_differs_beside_the_counts():
    first, second, xl = (
        getattr(configs, name)
        for name in ("STABLE_DIFFUSION_1_5", "STABLE_DIFFUSION_2_1", "STABLE_DIFFUSION_XL")
    )
    assert (first.scale, second.scale, xl.scale) == (0.18215, 0.18215, 0.13025)
    assert (first.sample_size, second.sample_size, xl.sample_size) == (64, 96, 128)
    assert [n.text_encoder.skip_last for n in (first, second, xl)] == [False, False, True]
    assert xl.text_encoder_2.skip_last and first.text_encoder_2 is None
    assert first.text_encoder.stack.activation is text_encoder.quick_gelu
    assert second.text_encoder.stack.activation is layers.gelu_exact
    assert xl.text_encoder_2.stack.activation is layers.gelu_exact
    assert [n.unet.linear for n in (first, second, xl)] == [False, True, True]


def test_they_serve_as_static_arguments():
    compiled = jax.jit(lambda x, networks: x * networks.scale, static_argnums=1)
    values = [getattr(configs, name) for name in COUNTS]
    assert len({hash(value) for value in values}) == 4
    assert float(compiled(1.0, configs.STABLE_DIFFUSION_XL)) == pytest.approx(0.13025)
