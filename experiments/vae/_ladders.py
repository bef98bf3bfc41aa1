"""Ladders of 1, 4 and 10 stochastic blocks for 8x8 digits, of about as many parameters each."""

from __future__ import annotations

from research.vae.networks import Ladder, heads

# Name: sizes of the images inside, blocks of the encoder and stochastic blocks at each, width.
SHAPES = {
    "1 level": ((8,), (6,), (1,), 84),
    "4 levels": ((4, 8), (3, 3), (2, 2), 60),
    "10 levels": ((2, 4, 8), (2, 3, 3), (2, 4, 4), 45),
}


def network(name: str, width: float, depth: float, latent_dim: int, components: int) -> Ladder:
    """The ladder of that name, for digits of 17 levels.

    Args:
        name: one of `SHAPES`.
        width, depth: factors of its width, which is at least 4, and of its blocks, at least 1.
        latent_dim: channels of a latent image.
        components: logistics of a pixel.
    """
    sizes, *counts, channels = SHAPES[name]
    blocks, latents = (tuple(max(1, round(depth * each)) for each in group) for group in counts)
    return Ladder(
        (8, 8, 1), sizes, blocks, latents, width=max(4, round(width * channels)),
        latent_dim=latent_dim, head=heads.logistics(components, num_levels=17),
    )  # fmt: skip
