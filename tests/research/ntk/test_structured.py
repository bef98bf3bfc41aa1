"""Every rule of the structured method, and every way around it, against full Jacobians."""

import jax
import jax.numpy as jnp

from tests.research.ntk import networks
from tests.research.ntk.agreement import agree, normal


def test_tied_weights_in_every_combination():
    def apply(params, x):  # embedding, transposed use, one-hot use, dense use of one table
        table = params["table"]
        y = table[x]  # [N, S, D]
        y = jnp.tanh(y + jax.nn.one_hot(x, 5, dtype=y.dtype) @ table)
        logits = jnp.tanh(y @ table.T)  # [N, S, V]
        return jnp.tanh(logits @ table).mean(1)

    agree(apply, {"table": normal(5, 4)}, networks.tokens(1, 4) % 5, {"table": "factors of dot_"})


def test_what_has_no_rule_falls_back_for_that_parameter_alone():
    @jax.custom_vjp
    def scaled(w, x):
        return x @ w

    # A rule that is not the true derivative: the kernel must be that of the rule.
    scaled.defvjp(lambda w, x: (x @ w, (w, x)), lambda r, g: (3 * r[1].T @ g, g @ r[0].T))

    def apply(params, x):
        unit = params["norm"] / jnp.linalg.norm(params["norm"])
        h = jnp.tanh(x @ unit + scaled(params["custom"], x))
        h = jax.lax.cond(h.sum() > 0, lambda h: h @ params["branch"], jnp.sin, h)
        both = params["shared"][:2, :3] + params["shared"][1:, 1:]  # overlapping parts
        constant = jax.lax.stop_gradient(params["dense"])
        return jnp.tanh(h @ params["dense"] + h @ constant) @ both.T

    names = ("norm", "custom", "branch", "dense")
    params = {name: normal(3, 3, seed=i) for i, name in enumerate(names)}
    params["shared"] = normal(3, 4, seed=9)
    how = {name: "plain" for name in ("norm", "custom", "branch", "shared")} | {"dense": "factors"}
    agree(apply, params, normal(3, 3, seed=8), how)


def test_custom_slope_of_relu_at_zero_is_kept():
    apply = lambda p, x: jax.nn.relu(x @ p["w"]) @ p["v"]
    params = {"w": normal(3, 4) * [0, 1, 1, 1], "v": normal(4, 2)}  # unit 0 sits at 0
    agree(apply, params, normal(3, 3, seed=1), {"w": "factors"})
