"""muP, the maximal update parametrisation: one learning rate for every width of a decoder.

Yang et al. 2022, arXiv:2203.03466, table 8 (the form with tied embeddings), for Adam, with
m = width / base width; at the base width nothing changes:

    parameters                                    init variance   learning rate   factor
    embedding, positions, biases, norms, output   1               1               1
    logits                                                                        1 / m
    matrices of attention and perceptron          1 / m           1 / m           1
    attention logits                                                              K_0^1/2 / K

With K features a head, K_0 at the base width: 1 / K, where the usual factor is K^-1/2, because a
trained query and key are correlated and their product grows with K. Sizes of all inner dimensions
(F, H K) must grow with the width, which `widened` checks.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import optax

from library.types import Array, Params
from research.transformers import models


def widened(config: models.DecoderConfig, base: models.DecoderConfig) -> models.DecoderConfig:
    """The config with muP's factors on its logits and in its attention.

    Args:
        config: of the wide model.
        base: of the model at whose width learning rate and initialisation were tuned.
    Raises:
        ValueError: if the two differ in more than width, or an inner dimension does not grow as
            the width does.
    """
    stack, root = config.stack, base.stack
    m = multiplier(config, base)
    if stack.hidden_dim * root.width != root.hidden_dim * stack.width:
        raise ValueError(
            f"hidden_dim {root.hidden_dim} -> {stack.hidden_dim}: expected to grow as the width, "
            f"{root.width} -> {stack.width}"
        )
    wide, narrow = stack.kv_shape, root.kv_shape
    if wide[0] * wide[1] * root.width != narrow[0] * narrow[1] * stack.width:
        raise ValueError(
            f"{narrow[0]} heads of {narrow[1]} -> {wide[0]} of {wide[1]}: expected their product "
            f"to grow as the width, {root.width} -> {stack.width}"
        )
    scale = narrow[1] ** -0.5 if root.scale is None else root.scale
    return dataclasses.replace(
        config,
        stack=dataclasses.replace(stack, scale=scale * narrow[1] / wide[1]),
        logit_scale=base.logit_scale / m,
    )


def multiplier(config: models.DecoderConfig, base: models.DecoderConfig) -> float:
    """m = width / base width.

    Raises:
        ValueError: if depth or vocabulary differ: muP is about width only.
    """
    for name, wide, narrow in (
        ("depth", config.stack.depth, base.stack.depth),
        ("vocab_size", config.vocab_size, base.vocab_size),
    ):
        if wide != narrow:
            raise ValueError(f"{name}={wide}, base {narrow}: muP changes the width only")
    return config.stack.width / base.stack.width


def rescale(params: Params, m: float) -> Params:
    """Fresh parameters with muP's variance: matrices of the stack times m^-1/2.

    Raises:
        ValueError: if m is not positive.
    """
    _check(m)
    return jax.tree.map(
        lambda leaf, inner: leaf * m**-0.5 if inner else leaf, params, inner(params)
    )


def scale_updates(m: float) -> optax.GradientTransformation:
    """Divides the updates of the stack's matrices by m: chain it after Adam.

    `optax.chain(optax.adam(learning_rate), mup.scale_updates(m))`. Decoupled weight decay before it
    is divided too.

    Raises:
        ValueError: if m is not positive.
    """
    _check(m)

    def update(updates, state, params=None):
        scaled = jax.tree.map(lambda u, is_inner: u / m if is_inner else u, updates, inner(updates))
        return scaled, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def features(config: models.DecoderConfig, params: Params, tokens: Array) -> dict[str, Array]:
    """What the coordinate check compares before and after some updates, appendix D.1.

    Args:
        tokens: [B, T] int.
    Returns:
        "attention" and "mlp", what each branch adds to the sum [L, B, T, D], and "logits"
        [B, T, V]. Under muP the change of a coordinate does not depend on the width.
    """
    logits, captured = models.Decoder(config).apply(
        params,
        tokens,
        capture_intermediates=lambda module, method: (
            method == "__call__" and module.name in ("attention", "mlp")
        ),
        mutable=["intermediates"],
    )
    found = {"logits": logits}
    for path, leaf in jax.tree_util.tree_leaves_with_path(captured):
        names = [part.key for part in path if hasattr(part, "key")]
        found[names[-2]] = leaf
    return found


def inner(params: Params) -> Params:
    """True for the matrices whose both sides grow with the width."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: path[-1].key == "kernel" and path[-2].key != "output", params
    )


def _check(m: float) -> None:
    if not 0 < m < math.inf:
        raise ValueError(f"m={m}: expected a positive ratio of widths, see `multiplier`")
