"""What a critic and a generator minimise, as values: `hinge.discriminator(real, fake)`, [] float.

Logits [B] are the critic's outputs D(x) on data and D(g) on samples, larger for data. Every loss is
minimised by whom it names, is a mean over the batch and is computed in float32 at least. f(t) =
softplus(-t) = -log sigmoid(t) is finite for logits of any size.

    minimax         f(D(x)) + f(-D(g))            generator: -f(-D(g))
    non_saturating  the same                                  f(D(g))
    hinge           (1 - D(x))+ + (1 + D(g))+                 -D(g)
    wasserstein     D(g) - D(x)                               -D(g)
    least_squares   ((D(x) - 1)^2 + D(g)^2) / 2               (D(g) - 1)^2 / 2
    relativistic    f(D(x_i) - D(g_i))                        f(D(g_i) - D(x_i))
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp

from library.types import Array, at_least_float32

Elementwise = Callable[[Array], Array]


class Loss(Protocol):
    """A game between a critic and a generator.

    Attributes:
        undecided: what the critic says of an example that is as likely real as not.
    """

    undecided: float

    def discriminator(self, real: Array, fake: Array) -> Array:
        """Logits [B] of data and of samples -> [], the loss of the critic."""

    def generator(self, real: Array, fake: Array) -> Array:
        """Logits [B] of data and of samples -> [], the loss of the generator."""


@dataclasses.dataclass(frozen=True)
class Separate:
    """A loss of three terms, each a mean of one function over one batch of logits.

    Attributes:
        on_real, on_fake: the critic's terms.
        on_generated: the generator's term, of the logits of samples.
        undecided: see `Loss`.
    """

    on_real: Elementwise
    on_fake: Elementwise
    on_generated: Elementwise
    undecided: float = 0.0

    def discriminator(self, real: Array, fake: Array) -> Array:
        """See `Loss`. Raises ValueError if the logits are no two batches [B] of one size."""
        real, fake = _checked(real, fake)
        return self.on_real(real).mean() + self.on_fake(fake).mean()

    def generator(self, real: Array, fake: Array) -> Array:
        """See `Loss`; the logits of data count for their shape only. Raises as `discriminator`."""
        _, fake = _checked(real, fake)
        return self.on_generated(fake).mean()


@dataclasses.dataclass(frozen=True)
class Paired:
    """A loss of how much more real the example i of the data seems than the sample i.

    Attributes:
        on_margin: function of D(x_i) - D(g_i), for the generator of the opposite.
        undecided: see `Loss`; here any value would do.
    """

    on_margin: Elementwise
    undecided: float = 0.0

    def discriminator(self, real: Array, fake: Array) -> Array:
        """See `Loss`. Raises ValueError if the logits are no two batches [B] of one size."""
        real, fake = _checked(real, fake)
        return self.on_margin(real - fake).mean()

    def generator(self, real: Array, fake: Array) -> Array:
        """See `Loss`: the same pairs reversed. Raises as `discriminator`."""
        return self.discriminator(fake, real)


def _logistic(logits: Array) -> Array:
    """-log sigmoid."""
    return jax.nn.softplus(-logits)


# Goodfellow et al. 2014, arXiv:1406.2661, eq. (1); the critic's least loss is log 4 - 2 JS.
minimax = Separate(_logistic, jax.nn.softplus, lambda fake: -jax.nn.softplus(fake))

# The same paper, sec. 3: the generator has a gradient where the critic is sure.
non_saturating = Separate(_logistic, jax.nn.softplus, _logistic)

# Lim and Ye 2017, arXiv:1705.02894; the critic's least loss is 2 (1 - total variation).
hinge = Separate(
    lambda real: jax.nn.relu(1 - real), lambda fake: jax.nn.relu(1 + fake), jnp.negative
)

# Arjovsky et al. 2017, arXiv:1701.07875, eq. (2); the critic has to be held Lipschitz elsewhere.
wasserstein = Separate(jnp.negative, jnp.positive, jnp.negative)

# Mao et al. 2017, arXiv:1611.04076, eq. (9): labels 1 and 0, so that undecided is 1/2.
least_squares = Separate(
    lambda real: jnp.square(real - 1) / 2,
    lambda fake: jnp.square(fake) / 2,
    lambda fake: jnp.square(fake - 1) / 2,
    undecided=0.5,
)

# Jolicoeur-Martineau 2018, arXiv:1807.00734, as paired by Huang et al. 2024, arXiv:2501.05441.
relativistic = Paired(_logistic)


def _checked(real: Array, fake: Array) -> tuple[Array, Array]:
    """Both logits in float32 at least, if they are [B] and of one size."""
    shapes = jnp.shape(real), jnp.shape(fake)
    if shapes[0] != shapes[1] or len(shapes[0]) != 1 or not shapes[0][0]:
        raise ValueError(f"logits real {shapes[0]}, fake {shapes[1]}: expected [B] each, one size")
    dtype = at_least_float32(real, fake)
    return jnp.asarray(real, dtype), jnp.asarray(fake, dtype)
