"""What attention and positions compute where a keyword is left out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from library import sharding
from research.attention import blocked, cache, dot_product, multihead, positions, ring
from tests import defaults

KEY = jax.random.key(0)
LONG = jax.ShapeDtypeStruct((1, 1200, 1, 4), jnp.float32)
X = jax.ShapeDtypeStruct((1, 3, 8), jnp.float32)
PLACES = np.arange(400, dtype=np.int32)[None]


def in_blocks(**options):
    return defaults.program(dot_product.attend, *[LONG] * 3, implementation="blocked", **options)


def context(**options):
    run = lambda *args: blocked.attend(*args, blocked.Context(*[PLACES[:, :3]] * 4, **options))
    short = jax.ShapeDtypeStruct((1, 3, 1, 4), jnp.float32)
    return defaults.program(run, *[short] * 3)


def around(**options):
    mesh = sharding.make_mesh({"sequence": 2})
    attend = functools.partial(ring.attend, mesh=mesh, axis="sequence")
    longer = jax.ShapeDtypeStruct((1, 2400, 1, 4), jnp.float32)
    return defaults.program(attend, *[longer] * 3, **options)


def layer(**options):
    model = multihead.MultiHead(2, **options)
    params = jax.eval_shape(model.init, KEY, X)
    return defaults.program(lambda params, x: model.apply(params, x)[0], params, X)


def frequencies(factor=None, **options):
    """All of Llama 3's scaling, where its factor says so."""
    rope = positions.Rope(llama3_factor=8.0, **options) if factor else positions.Rope(**options)
    return rope.frequencies(128)


def bias(**options):
    table = np.arange(32.0, dtype=np.float32)[:, None]
    return positions.Buckets(table, **options)(PLACES[:, :1, None], PLACES[:, None])


BLOCKS = {"block": ((512, 512), (600, 512), (512, 600))}
CASES = {
    "attend": (in_blocks, BLOCKS | {"scale": (0.5, 0.4)}),
    "Context": (context, {"scale": (1.0, 1.1), "block": ((512, 512), (2, 512), (512, 2))}),
    "ring": (around, BLOCKS | {"scale": (0.5, 0.4)}),
    "MultiHead": (
        layer,
        {
            "head_dim": (4, 3),
            "num_kv_heads": (2, 1),
            "use_bias": (True, False),
            "scale": (0.5, 0.4),
            "implementation": ("auto", "blocked"),
        },
    ),
    "contiguous": (
        functools.partial(cache.contiguous, 1, 2, 1, 1, 3),
        {"dtype": (jnp.float32, jnp.bfloat16)},
    ),
    "sinusoidal": (
        functools.partial(positions.sinusoidal, PLACES[0], 4),
        {"max_period": (10_000.0, 10_001.0)},
    ),
    "inverse_frequencies": (
        functools.partial(positions.inverse_frequencies, 4),
        {"base": (10_000.0, 10_001.0)},
    ),
    "Rope": (
        frequencies,
        {
            "base": (10_000.0, 10_001.0),
            "linear_factor": (1.0, 1.1),
            "ntk_factor": (1.0, 1.1),
            "llama3_factor": (1.0, 1.1),
        },
    ),
    "Rope of Llama 3": (
        functools.partial(frequencies, factor=8.0),
        {"original_length": (8192, 8191), "low": (1.0, 1.1), "high": (4.0, 4.1)},
    ),
    "Buckets": (bias, {"bidirectional": (True, False), "max_distance": (128, 130)}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_keywords_left_out_have_their_documented_values(case):
    defaults.check(*case)
