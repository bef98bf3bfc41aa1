"""Losses of language models as `library.types.LossFn`: the mean over tokens, in nats."""

from __future__ import annotations

from collections.abc import Callable

import chex
import flax.struct
import jax
import jax.numpy as jnp

from library.types import Array, Aux, Batch, Key, LossFn, Params, at_least_float32
from research.attention import masks
from research.attention import positions as places
from research.transformers import checks

Apply = Callable[..., Array]


def cross_entropy(logits: Array, targets: Array) -> Array:
    """-log softmax(logits)[target] per token, in float32 or wider.

    Args:
        logits: [..., V] float.
        targets: [...] int in [0, V). No number marks tokens to ignore (as -100 does elsewhere):
            leave them out by a mask.
    Returns:
        [...] float, nats; under jit nan for a target outside [0, V).
    Raises:
        ValueError: for a concrete target outside [0, V).
    """
    checks.in_range("targets", targets, logits.shape[-1])
    return _cross_entropy(logits, targets)


def _cross_entropy(logits: Array, targets: Array) -> Array:
    """The same for targets that may be anything where they do not count: nan there."""
    chex.assert_shape(logits, (*targets.shape, None))
    wide = logits.astype(at_least_float32(logits.dtype))
    # A comparison and a sum fuse into the loops around them, and so does their derivative; picking
    # by index costs a serial scatter on a CPU.
    symbols = jnp.arange(logits.shape[-1]).reshape((1,) * targets.ndim + (-1,))
    chosen = jnp.where(symbols == targets[..., None], wide, 0.0).sum(-1)
    known = (targets >= 0) & (targets < logits.shape[-1])
    return jnp.where(known, jax.nn.logsumexp(wide, axis=-1) - chosen, jnp.nan)


def next_token(apply: Apply, dropout: bool = False) -> LossFn:
    """The loss of a language model on windows of text.

    Batch: tokens [B, T + 1] int, inputs and, one on, targets; optionally mask [B, T] or [B], which
    targets count (true, or a weight >= 0), and documents [B, T + 1] int, the packed document of
    each token: a token sees its own document only, positions start again with each, and a target of
    another document than its input does not count. A target outside the vocabulary that counts
    makes the loss nan.

    Args:
        apply: (params, tokens [B, T], rng=) -> logits [B, T, V], e.g. `Decoder.apply`; with
            documents also called with mask= and positions=.
        dropout: whether the model gets the step's key.
    """

    def loss_fn(params: Params, model_state, rng: Key, batch: Batch) -> tuple[Array, Aux]:
        tokens, documents = batch["tokens"], batch.get("documents")
        weights = jnp.ones(tokens[:, 1:].shape, bool)
        options = {"rng": rng} if dropout else {}
        if documents is not None:
            options["mask"] = masks.Documents(documents[:, :-1])
            options["positions"] = places.in_documents(documents[:, :-1])
            weights = documents[:, :-1] == documents[:, 1:]
        if "mask" in batch:
            mask = batch["mask"]
            mask = mask.reshape(mask.shape[0], -1)
            weights = jnp.where(weights, mask, jnp.zeros((), mask.dtype))
        logits = apply(params, tokens[:, :-1], **options)
        return _mean(_cross_entropy(logits, tokens[:, 1:]), weights, {})

    return loss_fn


@flax.struct.dataclass
class Masking:
    """How BERT hides tokens: 15 % are to be predicted; of those 80 % become [MASK], 10 % random.

    Devlin et al. 2018, arXiv:1810.04805, section 3.1; the remaining 10 % stay as they are. Random
    tokens are drawn from `first_token` ... `vocab_size` - 1; [MASK] may be a token beyond those.
    """

    mask_token: int = flax.struct.field(pytree_node=False)
    vocab_size: int = flax.struct.field(pytree_node=False)
    rate: float = flax.struct.field(pytree_node=False, default=0.15)
    first_token: int = flax.struct.field(pytree_node=False, default=0)  # those below stay

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise ValueError(f"rate={self.rate}: expected 0 to 1")
        if not 0 <= self.first_token < self.vocab_size:
            raise ValueError(f"first_token={self.first_token}: expected 0 to {self.vocab_size - 1}")
        if self.mask_token < 0:
            raise ValueError(f"mask_token={self.mask_token}: expected at least 0")

    def __call__(self, rng: Key, tokens: Array) -> tuple[Array, Array]:
        """Tokens [B, T] -> what the model reads [B, T], and which are to be predicted, bool."""
        chosen_rng, kind_rng, random_rng = jax.random.split(rng, 3)
        chosen = jax.random.bernoulli(chosen_rng, self.rate, tokens.shape)
        chosen = chosen & (tokens >= self.first_token)
        kind = jax.random.uniform(kind_rng, tokens.shape)
        random = jax.random.randint(
            random_rng, tokens.shape, self.first_token, self.vocab_size, tokens.dtype
        )
        masked = jnp.where(kind < 0.8, self.mask_token, jnp.where(kind < 0.9, random, tokens))
        return jnp.where(chosen, masked, tokens), chosen


def masked_tokens(apply: Apply, masking: Masking) -> LossFn:
    """BERT's loss: the mean over chosen tokens only.

    Batch: tokens [B, T] int; optionally lengths [B]: tokens from there on are padding, which is
    neither read nor predicted. Metric `accuracy`, over the same tokens.

    Args:
        apply: (params, tokens) -> {"logits": [B, T, V]}, e.g. `Encoder.apply`; with lengths also
            called with mask=.
        masking: which tokens are hidden, and how; a new draw at every step.
    """

    def loss_fn(params: Params, model_state, rng: Key, batch: Batch) -> tuple[Array, Aux]:
        tokens, chosen = masking(rng, batch["tokens"])
        options = {}
        if "lengths" in batch:
            lengths = batch["lengths"]
            options["mask"] = masks.Padding(lengths)
            chosen = chosen & (jnp.arange(tokens.shape[1])[None] < lengths[:, None])
        logits = apply(params, tokens, **options)["logits"]
        right = (logits.argmax(-1) == batch["tokens"]).astype(jnp.float32)
        losses = _cross_entropy(logits, batch["tokens"])
        return _mean(losses, chosen, {"accuracy": right})

    return loss_fn


def sequence_to_sequence(apply: Apply, dropout: bool = False) -> LossFn:
    """The loss of an encoder-decoder that reads a source and writes a target.

    Batch: source [B, S], target [B, T + 1] int (starts with the start token), mask [B, T]: which of
    target[:, 1:] count (true, or a weight >= 0); optionally source_lengths [B].

    Args:
        apply: (params, source, target, source_mask=, rng=) -> logits, e.g. `EncoderDecoder.apply`.
        dropout: whether the model gets the step's key.
    """

    def loss_fn(params: Params, model_state, rng: Key, batch: Batch) -> tuple[Array, Aux]:
        options = {"rng": rng} if dropout else {}
        if "source_lengths" in batch:
            options["source_mask"] = masks.Padding(batch["source_lengths"])
        target = batch["target"]
        logits = apply(params, batch["source"], target[:, :-1], **options)
        right = (logits.argmax(-1) == target[:, 1:]).astype(jnp.float32)
        losses = _cross_entropy(logits, target[:, 1:])
        return _mean(losses, batch["mask"], {"accuracy": right})

    return loss_fn


def _mean(losses: Array, weights: Array, values: dict[str, Array]) -> tuple[Array, Aux]:
    """Mean of the losses [B, T] by weights [B, T], bool or >= 0, and of the values."""
    chex.assert_equal_shape([losses, weights, *values.values()])  # a mask [B] would broadcast to T
    weights = weights.astype(losses.dtype)  # float32 at least
    weight = weights.sum()

    def mean(x: Array) -> Array:  # a loss that does not count may be nan
        total = jnp.where(weights == 0, 0.0, weights * x).sum()
        return total / jnp.where(weight == 0, 1.0, weight)

    return mean(losses), Aux(weight, {name: mean(value) for name, value in values.items()})
