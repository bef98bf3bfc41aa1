"""The published networks by their counts of parameters, exactly."""

import math

import jax
import jax.numpy as jnp
import pytest

from research.text_to_image import configs, text_encoder, weights
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


def count(module, part=""):
    """Parameters of a module, or of that part of its tensors, by tracing its `init`."""
    shapes = weights.tensor_shapes(module)
    return sum(math.prod(shape) for name, shape in shapes.items() if name.startswith(part))


@pytest.mark.parametrize("name", COUNTS)
def test_counts(name):
    networks = getattr(configs, name)
    encoders = [e for e in (networks.text_encoder, networks.text_encoder_2) if e is not None]
    assert tuple(map(count, (networks.unet, *encoders))) == COUNTS[name]
    assert count(networks.vae) == 83_653_863
    assert (count(networks.vae, "encoder."), count(networks.vae, "decoder.")) == (
        34_163_592, 49_490_179,
    )  # fmt: skip
    assert sum(encoder.stack.width for encoder in encoders) == networks.unet.context_dim


def test_init_makes_all_parameters_without_pooled_text():
    """By the arguments that a caller gives, at a size of its own."""
    net = configs.STABLE_DIFFUSION_XL.unet
    args = jnp.zeros((2, 8, 4, 4)), jnp.zeros(2, int), jnp.zeros((2, 77, 2048))
    shapes = jax.eval_shape(net.init, KEY, *args)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 2_567_463_684


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


def test_defaults_are_the_first_version():
    first = configs.STABLE_DIFFUSION_1_5
    parts = first.unet, first.vae, first.text_encoder
    assert configs.Networks(*parts) == first
    assert configs.Networks(*parts, text_encoder_2=None, scale=0.18215, sample_size=64) == first
    assert configs.Networks(*parts, sample_size=32) != first


def test_they_serve_as_static_arguments():
    compiled = jax.jit(lambda x, networks: x * networks.scale, static_argnums=1)
    values = [getattr(configs, name) for name in COUNTS]
    assert len({hash(value) for value in values}) == 4
    assert float(compiled(1.0, configs.STABLE_DIFFUSION_XL)) == pytest.approx(0.13025)
