"""From logits to a token: greedy, temperature, top-k, top-p, min-p, and the exact law of each.

Every filter maps logits [..., V] to logits [..., V] and sets what it rules out to -inf, so filters
compose by application and the law of any composition is a log-softmax.
"""

from __future__ import annotations

import dataclasses
import numbers

import jax
import jax.numpy as jnp
import numpy as np

from library.types import Array, Key, at_least_float32


def top_k(logits: Array, k: int) -> Array:
    """Keeps the k largest logits, and what equals the smallest of them (Fan et al. 2018).

    Args:
        logits: [..., V] float.
        k: int >= 1; V or more keeps all.
    Raises:
        ValueError: if k is no integer, or below 1.
    """
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise ValueError(f"top_k={k}: expected an integer of at least 1")
    if k >= logits.shape[-1]:
        return logits
    least = jax.lax.top_k(logits, k)[0][..., -1:]  # [..., 1]
    return jnp.where(logits >= least, logits, -jnp.inf)


def top_p(logits: Array, p: float) -> Array:
    """Keeps the smallest set of most probable tokens that holds the mass p.

    Holtzman et al. 2020, arXiv:1904.09751. A token is kept if those before it (more probable, or
    equal and of lower number) hold less than p; the first one always is.

    Args:
        logits: [..., V] float.
        p: in (0, 1].
    Raises:
        ValueError: if p is outside (0, 1].
    """
    if not 0 < p <= 1:
        raise ValueError(f"top_p={p}: expected 0 < p <= 1")
    order = jnp.argsort(logits, axis=-1, descending=True, stable=True)  # [..., V]
    ordered = jnp.take_along_axis(logits, order, axis=-1).astype(at_least_float32(logits.dtype))
    probs = jax.nn.softmax(ordered, axis=-1)
    before = jnp.cumsum(probs, axis=-1) - probs
    # At p = 1 rounding of the sum must not drop a token.
    kept = (before < p) | (p == 1.0)
    kept = jnp.take_along_axis(kept, jnp.argsort(order, axis=-1), axis=-1)
    return jnp.where(kept, logits, -jnp.inf)


def min_p(logits: Array, p: float) -> Array:
    """Keeps tokens of at least p times the largest probability, arXiv:2407.01082.

    Args:
        logits: [..., V] float.
        p: in [0, 1].
    Raises:
        ValueError: if p is outside [0, 1].
    """
    if not 0 <= p <= 1:
        raise ValueError(f"min_p={p}: expected 0 <= p <= 1")
    if p == 0:
        return logits
    wide = logits.astype(at_least_float32(logits.dtype))
    best = jnp.max(wide, axis=-1, keepdims=True)
    return jnp.where(wide >= best + jnp.log(p).astype(wide.dtype), logits, -jnp.inf)


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Temperature, then top-k, top-p and min-p; equal samplers share their compiled code.

    Attributes:
        temperature: >= 0; 0 takes the most probable token, of equals the lowest.
        top_k, top_p, min_p: of the filters of that name; None for none.
    Raises:
        ValueError: for a value out of its range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None

    def __post_init__(self) -> None:
        for name in ("temperature", "top_p", "min_p"):
            value = getattr(self, name)
            if name != "temperature" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, numbers.Real):
                raise ValueError(f"{name}={value!r}: expected a Python number")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature={self.temperature}: expected a number >= 0")
        jax.eval_shape(self.log_probs, jax.ShapeDtypeStruct((2,), jnp.float32))

    def log_probs(self, logits: Array) -> Array:
        """The law of the token, [..., V] float32 (or wider), nats; -inf for what never comes.

        A row with a nan among its logits, or of nothing but -inf, has no law: nan, at any
        temperature. A logit of +inf takes all the mass, equal ones share it.
        """
        logits = logits.astype(at_least_float32(logits.dtype))
        largest = jax.lax.stop_gradient(logits.max(-1, keepdims=True))  # nan if one is
        if self.temperature == 0:
            best = jnp.argmax(logits, axis=-1)
            one_hot = jax.nn.one_hot(best, logits.shape[-1], dtype=bool)
            law = jnp.where(one_hot, jnp.zeros_like(logits), -jnp.inf)
            return jnp.where(jnp.isnan(largest) | (largest == -jnp.inf), jnp.nan, law)
        # Relative to the largest: 30 / 1e-38 is infinite, and 0 / 1e-38 is 0 / 0 where float32
        # flushes such a temperature to zero.
        below = jnp.where((logits == largest) & (largest == jnp.inf), 0.0, logits - largest)
        logits = jnp.where(below == 0, 0.0, below / self.temperature)
        if self.top_k is not None:
            logits = top_k(logits, self.top_k)
        if self.top_p is not None:
            logits = top_p(logits, self.top_p)
        if self.min_p is not None:
            logits = min_p(logits, self.min_p)
        return jax.nn.log_softmax(logits, axis=-1)

    def __call__(self, rng: Key, logits: Array) -> Array:
        """Tokens [...] int32 drawn from `log_probs` of logits [..., V]; any token for a nan law."""
        if self.temperature == 0:
            return jnp.argmax(logits, axis=-1).astype(jnp.int32)
        return jax.random.categorical(rng, self.log_probs(logits)).astype(jnp.int32)


GREEDY = Sampler(temperature=0.0)
