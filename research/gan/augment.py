"""Augmentations that a critic sees data and samples through, differentiable in the image.

DiffAugment (Zhao et al. 2020, arXiv:2006.10738) changes every image; adaptive augmentation (Karras
et al. 2020, arXiv:2006.06676) makes each change with a probability p, which a controller moves
until the critic is right about a given share of the data. An augmentation is a function of a key
and one image [H, W, C] in [-1, 1], see `research.vision.augmentation`; `each` maps it over a batch:

    def discriminate(params, model_state, rng, images, batch):
        control = controller.advance(model_state["control"])
        changed = augment.each(augment.adaptive(control.p), rng, images)
        logits = critic.apply(params, changed)
        return logits, {"control": controller.observe(control, logits)}
"""

from __future__ import annotations

import dataclasses
import math

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from library import checks
from library.types import Array, Key, at_least_float32
from research.gan.penalties import each_key
from research.vision import augmentation
from research.vision.augmentation import Augment


def each(augment: Augment, rng: Key, images: Array) -> Array:
    """Images [B, H, W, C], each with a key of its own: a child of one key, or one of [B]."""
    if images.ndim != 4:
        raise ValueError(f"images have shape {images.shape}: expected [B, H, W, C]")
    return augmentation.each(augment, each_key(rng, len(images)), images)


def sometimes(augment: Augment, p: Array | float) -> Augment:
    """The change with probability p, which may be traced; the image itself otherwise."""

    def augmented(rng: Key, image: Array) -> Array:
        whether, rng = jax.random.split(rng)
        return jnp.where(_happens(whether, p, image), augment(rng, image), image)

    return augmented


def diff_augment(
    colour: bool = True, translation: float = 0.125, cutout: float = 0.5, p: Array | float = 1.0
) -> Augment:
    """Brightness, saturation and contrast; a translation; a hole: DiffAugment's three policies.

    Args:
        colour: whether colours change.
        translation: largest shift in parts of the side, 0 for none.
        cutout: side of the hole in parts of the image's, 0 for none.
        p: probability of each of the five changes; may be traced.
    Raises:
        ValueError: for parts or a known probability outside [0, 1].
    """
    checks.share("translation", translation)
    checks.share("cutout", cutout)
    changes = [brightness, saturation, contrast] if colour else []
    changes += [translate(translation)] if translation else []
    changes += [cut_out(cutout)] if cutout else []
    return augmentation.chain(*(sometimes(change, _known_share(p)) for change in changes))


def brightness(rng: Key, image: Array) -> Array:
    """One number from U(-1/2, 1/2) added to all values."""
    return _wide(lambda x: x + _uniform(rng, x, -0.5, 0.5), image)


def saturation(rng: Key, image: Array) -> Array:
    """Distances from the mean colour of each pixel times a number from U(0, 2)."""
    return _about(lambda x: x.mean(-1, keepdims=True), rng, image, 0.0, 2.0)


def contrast(rng: Key, image: Array) -> Array:
    """Distances from the mean of the image times a number from U(1/2, 3/2)."""
    return _about(lambda x: x.mean(keepdims=True), rng, image, 0.5, 1.5)


def translate(ratio: float = 0.125) -> Augment:
    """The image moved by whole pixels, up to this part of each side, zero outside."""
    checks.share("ratio", ratio)

    def augment(rng: Key, image: Array) -> Array:
        most = [math.floor(side * ratio + 0.5) for side in image.shape[:2]]
        padded = jnp.pad(image, [(size, size) for size in most] + [(0, 0)])
        keys = jax.random.split(rng)
        start = [jax.random.randint(key, (), 0, 2 * size + 1) for key, size in zip(keys, most)]
        return jax.lax.dynamic_slice(padded, (*start, 0), image.shape)

    return augment


def cut_out(ratio: float = 0.5) -> Augment:
    """A rectangle of zeros, of this part of each side; its centre is uniform, it may stick out."""
    checks.share("ratio", ratio)

    def augment(rng: Key, image: Array) -> Array:
        inside = jnp.ones((), bool)
        for axis, key in enumerate(jax.random.split(rng)):
            side = image.shape[axis]
            size = math.floor(side * ratio + 0.5)
            first = jax.random.randint(key, (), 0, side + 1 - size % 2) - size // 2
            place = jnp.expand_dims(jnp.arange(side), 1 - axis)
            inside = inside & (place >= first) & (place < first + size)
        return jnp.where(inside[..., None], 0, image)

    return augment


def adaptive(
    p: Array | float, blits: bool = True, geometry: bool = True, colour: bool = True
) -> Augment:
    """The pipeline of adaptive augmentation; each change with probability p, all maps made at once.

    In order, as in app. B of the paper: pixel blits (flip, rotation by 90 degrees, translation by
    whole pixels up to 1/8 of a side); geometry (scale 2^N(0, 0.2^2), rotation, scales s and 1/s,
    rotation, translation by N(0, 1/8^2) sides; either rotation happens with probability p); colour
    (brightness N(0, 0.2^2), contrast 2^N(0, 0.5^2), luma flip, hue rotation, saturation 2^N(0, 1)).
    Places are interpolated bilinearly, without the paper's wavelet filters, and the image is
    mirrored at its borders.

    Args:
        p: in [0, 1]; may be traced. 0 is the identity to the bit.
        blits, geometry, colour: which groups.
    Raises:
        ValueError: for a known p outside [0, 1]; where colours are changed, at a call, for images
            of neither one nor three channels.
    """
    p = _known_share(p)

    def augment(rng: Key, image: Array) -> Array:
        if colour:
            _check_colours(image)
        place_rng, colour_rng = jax.random.split(rng)
        if blits or geometry:
            moved, matrix, shift = placement(place_rng, image, p, blits, geometry)
            changed = augmentation.affine(image, matrix, shift, mode="mirror")
            image = jnp.where(moved, changed, image)
        if colour:
            changes, matrix = colours(colour_rng, image, p)
            image = jnp.where(changes, recolour(image, matrix), image)
        return image

    return augment


def placement(
    rng: Key, image: Array, p: Array | float, blits: bool = True, geometry: bool = True
) -> tuple[Array, Array, Array]:
    """Whether an image is moved [], and from where: matrix [2, 2] and shift [2] of `affine`.

    Of row and column about the centre, new place to old.
    """
    dtype = at_least_float32(image)
    sides = jnp.asarray(image.shape[:2], dtype)
    u, n = _draws(rng, 14, 4, dtype)
    unit = jnp.eye(2, dtype=dtype)
    # Of each change its probability, its draw, and its inverse as a linear map or a shift.
    changes = []
    if blits:
        flip = jnp.where(u[1] < 0.5, 1, -1).astype(dtype)
        changes += [
            (p, u[0], unit.at[1, 1].set(flip)),
            (p, u[2], _turns(dtype)[jnp.floor(4 * u[3]).astype(int)]),
            (p, u[4], -jnp.round((2 * u[5:7] - 1) * sides / 8)),
        ]
    if geometry:
        once = 1 - jnp.sqrt(1 - jnp.asarray(p, dtype))  # two chances of p in all
        stretch = 0.2 * n[1] * jnp.array([1, -1], dtype)
        changes += [
            (p, u[7], unit * 2 ** (-0.2 * n[0])),
            (once, u[8], _rotation(jnp.pi * (2 * u[9] - 1))),
            (p, u[10], jnp.diag(2**stretch)),
            (once, u[11], _rotation(jnp.pi * (2 * u[12] - 1))),
            (p, u[13], n[2:] / 8 * sides),
        ]
    moved, matrix, shift = jnp.zeros((), bool), unit, jnp.zeros(2, dtype)
    for probability, draw, inverse in changes:
        happens = draw < probability
        moved |= happens
        if inverse.ndim == 2:
            matrix = jnp.where(happens, jnp.einsum("ij,jk->ik", matrix, inverse), matrix)
        else:
            shift = jnp.where(happens, shift + jnp.einsum("ij,j->i", matrix, inverse), shift)
    return moved, matrix, shift


def colours(rng: Key, image: Array, p: Array | float) -> tuple[Array, Array]:
    """Whether colours change [], and the affine map of (r, g, b, 1) that does it [4, 4]."""
    dtype = at_least_float32(image)
    u, n = _draws(rng, 7, 3, dtype)
    identity, grey = jnp.eye(4, dtype=dtype), jnp.asarray(_GREY, dtype)
    luma = jnp.outer(grey, grey)
    space = jnp.diag(jnp.array([1, 1, 1, 0], dtype))
    angle = jnp.pi * (2 * u[0] - 1)
    across = jnp.asarray(_CROSS, dtype)  # of v: the cross product of the grey axis with it
    changes = [
        identity + jnp.zeros((4, 4), dtype).at[:3, 3].set(0.2 * n[0]),
        identity + (2 ** (0.5 * n[1]) - 1) * space,
        identity - 2 * luma * jnp.floor(2 * u[1]),
        identity + jnp.sin(angle) * across + (1 - jnp.cos(angle)) * (luma - space),
        identity + (2 ** n[2] - 1) * (space - luma),
    ]
    changed, total = jnp.zeros((), bool), identity
    for draw, change in zip(u[2:], changes):
        happens = draw < p
        changed |= happens
        total = jnp.where(happens, jnp.einsum("ij,jk->ik", change, total), total)
    return changed, total


def recolour(image: Array, matrix: Array) -> Array:
    """The affine map [4, 4] on the colours of [H, W, 3]; on grey [H, W, 1] that of the mean."""
    channels = image.shape[-1]
    if channels not in (1, 3):
        raise ValueError(f"image of {channels} channels: expected 1 or 3 where colours change")
    rows = matrix[:3] if channels == 3 else matrix[:3].mean(0, keepdims=True)
    linear = rows[:, :3] if channels == 3 else rows[:, :3].sum(1, keepdims=True)
    new = lambda x: (
        jnp.einsum("dc,hwc->hwd", linear.astype(x.dtype), x)
        + rows[:, 3].astype(x.dtype).reshape(1, 1, -1)
    )
    return _wide(new, image)


@flax.struct.dataclass
class Control:
    """What a controller carries.

    Attributes:
        p: [] probability of each change.
        total: [] sum of the mean signs seen since the last adjustment.
        count: [] int32, of how many batches.
    """

    p: Array
    total: Array
    count: Array


@dataclasses.dataclass(frozen=True)
class Controller:
    """Moves p so that the critic's logits on data have a mean sign of `target`.

    Karras et al. 2020, arXiv:2006.06676, sec. 3.1: every n batches p rises where the mean of
    sign D(real) over them is above the target, and falls where it is below, by n B / num_images.

    Attributes:
        batch_size: B, of a whole step, whatever part of it a call sees.
        target: wanted mean sign.
        every: n, batches between adjustments.
        num_images: data after which p can have gone from 0 to 1.
    Raises:
        ValueError: for counts that are not positive, or a target outside [-1, 1].
    """

    batch_size: int
    target: float = 0.6
    every: int = 4
    num_images: int = 500_000

    def __post_init__(self) -> None:
        for name in ("batch_size", "every", "num_images"):
            checks.count(name, getattr(self, name))
        if not -1 <= self.target <= 1:
            raise ValueError(f"target={self.target}: expected a mean sign, in [-1, 1]")

    def init(self, p: float = 0.0) -> Control:
        """The start, by default without augmentation."""
        number = jnp.asarray(_known_share(p), jnp.float32)
        return Control(number, jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32))

    def advance(self, control: Control) -> Control:
        """Adjusts p if that is due: before a batch, since all parts of it must see the same p."""
        due = control.count == self.every
        step = self.every * self.batch_size / self.num_images
        p = control.p + step * jnp.sign(control.total / self.every - self.target)
        return Control(
            p=jnp.where(due, jnp.clip(p, 0, 1), control.p),
            total=jnp.where(due, 0, control.total),
            count=jnp.where(due, 0, control.count),
        )

    def observe(self, control: Control, logits: Array) -> Control:
        """Adds the mean sign of the critic's logits [B] on data."""
        signs = jax.lax.stop_gradient(jnp.sign(logits)).mean(dtype=control.total.dtype)
        return control.replace(total=control.total + signs, count=control.count + 1)


_GREY = np.array([1, 1, 1, 0]) / 3**0.5
_CROSS = np.pad(np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / 3**0.5, (0, 1))


def _turns(dtype) -> Array:
    """Rotations by 0, 90, 180 and 270 degrees, [4, 2, 2], without rounding."""
    quarter = np.array([[0, -1], [1, 0]])
    return jnp.asarray([np.linalg.matrix_power(quarter, k) for k in range(4)], dtype)


def _rotation(angle: Array) -> Array:
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.array([[cos, -sin], [sin, cos]])


def _draws(rng: Key, num_uniform: int, num_normal: int, dtype) -> tuple[Array, Array]:
    u_rng, n_rng = jax.random.split(rng)
    normal = jax.random.normal(n_rng, (num_normal,), dtype)
    return jax.random.uniform(u_rng, (num_uniform,), dtype), normal


def _check_colours(image: Array) -> None:
    if image.shape[-1] not in (1, 3):
        channels = image.shape[-1]
        raise ValueError(f"image of {channels} channels: expected 1 or 3 where colours change")


def _uniform(rng: Key, x: Array, low: float, high: float) -> Array:
    return jax.random.uniform(rng, (), x.dtype, low, high)


def _about(centre, rng: Key, image: Array, low: float, high: float) -> Array:
    """Distances from a centre times one random factor."""
    new = lambda x: centre(x) + _uniform(rng, x, low, high) * (x - centre(x))
    return _wide(new, image)


def _wide(function, image: Array) -> Array:
    """Computed in float32 at least, back in the image's dtype."""
    if image.ndim != 3 or not jnp.issubdtype(image.dtype, jnp.floating):
        raise ValueError(f"image {image.dtype}{list(image.shape)}: expected float [H, W, C]")
    return function(image.astype(at_least_float32(image))).astype(image.dtype)


def _happens(rng: Key, p: Array | float, image: Array) -> Array:
    return jax.random.uniform(rng, (), at_least_float32(image)) < p


def _known_share(p: Array | float) -> Array | float:
    """A probability, checked where its value is known."""
    if not isinstance(p, jax.core.Tracer):
        checks.share("p", float(p))
    return p
