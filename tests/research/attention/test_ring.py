"""Ring attention on several devices against plain attention on one."""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from library import sharding
from research.attention import dot_product, masks, positions, ring

CASES = {
    "documents": masks.every(masks.Causal(), masks.Documents(jnp.arange(24).reshape(2, 12) // 5)),
    "padding": masks.Padding(jnp.array([5, 0])),
}


def difference(mask, num_devices, dtype=jnp.float64, scale=None, **options):
    """Largest difference of output and gradients between the ring and one device."""
    plain_scale = options.get("plain_scale", scale)
    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(rng.normal(size=(2, 12, heads, 4)), dtype) for heads in (4, 2, 2)]
    bias = positions.Buckets(jnp.asarray(rng.normal(size=(8, 4)), dtype))
    mesh = sharding.make_mesh({"sequence": num_devices})

    def with_gradients(attend):
        def loss(query, key, value, bias):
            out = attend(query, key, value, mask, bias)
            return (jnp.sin(out) * out).sum(), out

        return jax.jit(jax.grad(loss, (0, 1, 2, 3), has_aux=True))(*arrays, bias)

    ours = with_gradients(
        lambda *args: ring.attend(*args, mesh=mesh, axis="sequence", block=(4, 3), scale=scale)
    )
    plain = with_gradients(
        lambda *args: dot_product.attend(*args, implementation="plain", scale=plain_scale)
    )
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(plain))
    return max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in pairs)


@pytest.mark.parametrize("name", CASES)
def test_two_devices_equal_one(name, x64):
    assert difference(CASES[name], 2) < 1e-12


def test_four_devices_equal_one_in_float32():
    """In a process of its own, which has four virtual devices."""
    code = (
        "import jax.numpy as jnp\n"
        "from tests.research.attention import test_ring as t\n"
        "both = t.masks.every(*t.CASES.values())\n"
        "print(t.difference(both, 4, jnp.float32))"
    )
    environment = dict(os.environ, XLA_FLAGS="--xla_force_host_platform_device_count=4")
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e-5


def test_batch_and_heads_may_lie_on_other_axes(x64):
    rng = np.random.default_rng(1)
    query, key, value = (jnp.asarray(rng.normal(size=(2, 6, h, 4))) for h in (4, 2, 2))
    mask = masks.Padding(jnp.array([5, 2]))
    plain = dot_product.attend(query, key, value, mask, scale=0.3)
    mesh = sharding.make_mesh({"sequence": 1, "other": 2})
    for name in ("batch_axis", "head_axis"):
        options = {"mesh": mesh, "axis": "sequence", "scale": 0.3, name: "other"}
        out = jax.jit(functools.partial(ring.attend, **options))(query, key, value, mask)
        np.testing.assert_allclose(out, plain, rtol=1e-10, atol=1e-13)


def test_the_scale_of_the_logits_and_its_gradient(x64):
    """Where no query is alone with a key, so that the scale decides."""
    assert difference(CASES["padding"], 2, scale=1.3) < 1e-12
    assert difference(CASES["padding"], 2, scale=1.3, plain_scale=None) > 1e-3


def test_bad_input_is_named():
    mesh, x = sharding.make_mesh({"sequence": 2}), jnp.zeros((1, 5, 2, 4))
    with pytest.raises(ValueError, match="length 5 is not a multiple of sequence=2"):
        ring.attend(x, x, x, mesh=mesh, axis="sequence")
    with pytest.raises(ValueError, match="axis 'time'"):
        ring.attend(x, x, x, mesh=mesh, axis="time")
    x, bias = x[:, :4], positions.Alibi(jnp.ones(2))
    with pytest.raises(ValueError, match=r"ids \(1, 5\): expected \(1, 4\)"):
        mask = masks.Documents(jnp.zeros((1, 5), int))
        ring.attend(x, x, x, mask, mesh=mesh, axis="sequence")
    with pytest.raises(ValueError, match="leave head_axis None"):
        ring.attend(x, x, x, None, bias, mesh=mesh, axis="sequence", head_axis="sequence")
