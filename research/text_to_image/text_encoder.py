"""CLIP's text encoder: a causal transformer whose hidden states condition the image network.

Radford et al. 2021, arXiv:2103.00020. Stable Diffusion 1 and 2 read the last layer after the final
norm (version 2's files leave out the layer that it does not use), version XL the input of the last
layer as it is, and from its second encoder a projection of the end token too.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from library.types import Array
from research.attention import masks
from research.transformers import checks, layers


def quick_gelu(x: Array) -> Array:
    """x sigmoid(1.702 x), the activation of OpenAI's CLIP."""
    return x * jax.nn.sigmoid(1.702 * x)


class TextEncoder(nn.Module):
    """`apply(params, tokens)` -> the hidden state of every token, and the pooled text.

    Attributes:
        vocab_size, max_length: rows of the tables of tokens and of positions.
        stack: its layers, causal, with no more than the positions of the table.
        skip_last: whether the hidden states are those that the last layer reads, without the
            final norm; False gives those after both.
        projection_dim: P of the pooled text; None has none.
        end_token: whose first place is pooled; None is the token of the highest number, as in
            files from before a vocabulary could grow (their `eos_token_id` is 2).
    """

    vocab_size: int
    stack: layers.Stack
    max_length: int = 77
    skip_last: bool = False
    projection_dim: int | None = None
    end_token: int | None = None

    @nn.compact
    def __call__(self, tokens: Array) -> tuple[Array, Array | None]:
        """Hidden states and pooled text.

        Args:
            tokens: [B, T] int in [0, vocab_size), T <= max_length.
        Returns:
            [B, T, D]; and [B, P], None without a projection.
        Raises:
            ValueError: for tokens of another shape or type, or concrete ones beyond the vocabulary.
        """
        stack = self.stack
        checks.tokens("tokens", tokens, self.vocab_size, self.max_length)
        init = nn.initializers.normal(stack.init_std)
        embedding = self.param("embedding", init, (self.vocab_size, stack.width))
        positions = self.param("positions", init, (self.max_length, stack.width))
        x = jnp.take(embedding, tokens, axis=0, mode="clip")  # [B, T, D]
        x = x + positions[None, : tokens.shape[1]]
        scanned = nn.scan(
            _Remembering,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=stack.depth,
        )
        last, inputs = scanned(stack, name="layers")(x, None)  # [B, T, D], [L, B, T, D]
        normed = stack.norm("final_norm")(last)
        pooled = None
        if self.projection_dim is not None:
            dense = nn.Dense(
                self.projection_dim, use_bias=False, kernel_init=init, name="projection"
            )
            pooled = dense(normed[jnp.arange(len(tokens)), self._end(tokens)])
        return inputs[-1] if self.skip_last else normed, pooled

    def _end(self, tokens: Array) -> Array:
        """[B], the first place of the end token; 0 where there is none."""
        marks = tokens if self.end_token is None else tokens == self.end_token
        return jnp.argmax(marks, axis=1)


class _Remembering(nn.Module):
    """A layer that also gives what it read, in the form that `nn.scan` wants."""

    stack: layers.Stack

    @nn.compact
    def __call__(self, x: Array, _: None) -> tuple[Array, Array]:
        layer = layers.Layer(self.stack, name="layer")
        return layer(x, None, None, masks.Causal(), None, None, None, None, None)[0], x


def clip(
    depth: int,
    width: int,
    num_heads: int,
    *,
    hidden_dim: int | None = None,
    activation=quick_gelu,
    epsilon: float = 1e-5,
    vocab_size: int = 49_408,
    **options,
) -> TextEncoder:
    """A CLIP text encoder by its sizes.

    Args:
        depth, width, num_heads: L, D, H.
        hidden_dim: of the perceptrons; None is 4 D.
        activation: `quick_gelu`, or `layers.gelu_exact` in OpenCLIP.
        epsilon: of the norms.
        vocab_size: V.
        options: further fields of `TextEncoder`.
    """
    stack = layers.Stack(
        depth=depth,
        width=width,
        num_heads=num_heads,
        hidden_dim=hidden_dim or 4 * width,
        norm=layers.Norm(epsilon=epsilon),
        activation=activation,
    )
    return TextEncoder(vocab_size, stack, **options)


def with_row(encoder: TextEncoder, params: dict, row: Array) -> tuple[TextEncoder, dict]:
    """The encoder with one more token, whose number is its old `vocab_size`.

    Args:
        encoder, params: {"params": ...} of `encoder.init`.
        row: [D], the embedding that the new token starts from.
    Returns:
        Both with vocab_size + 1 rows; the other leaves are the same arrays. The end token of an
        encoder without one is then the last of the old vocabulary, as in CLIP's.
    Raises:
        ValueError: for a row of another width.
    """
    table = params["params"]["embedding"]
    if row.shape != table.shape[1:]:
        raise ValueError(f"row {list(row.shape)}: expected {list(table.shape[1:])}")
    table = jnp.concatenate([jnp.asarray(table), jnp.asarray(row, table.dtype)[None]])
    end = encoder.vocab_size - 1 if encoder.end_token is None else encoder.end_token
    grown = encoder.clone(vocab_size=encoder.vocab_size + 1, end_token=end)
    return grown, {**params, "params": {**params["params"], "embedding": table}}
