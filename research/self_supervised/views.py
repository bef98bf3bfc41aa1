"""Random views of images on device: the recipes of the papers, one key per image.

A recipe is a function (rngs [B], images [B, H, W, 3] float in [0, 1]) -> views [V, B, h, w, 3], or
of one key and one image, without B; it belongs inside the jitted training step. Each image has its
own key: its views depend neither on the rest of the batch nor on its place in it.

    views.simclr(32, blur=False)(jax.random.split(rng, len(images)), images)  # [2, B, 32, 32, 3]

Windows are resized bilinearly, as in torchvision on tensors, where some papers' codes are bicubic.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from library import checks
from library.types import Array, Key, at_least_float32
from research.vision import augmentation
from research.vision.augmentation import Augment

Views = Callable[[Key, Array], Array]  # (rngs [B], images [B, H, W, C]) -> [V, B, h, w, C]
Crops = Callable[[Key, Array], dict[str, Array]]  # [2, B, h, w, C] and [N, B, l, l, C], by name


def simclr(
    size: int,
    scale: tuple[float, float] = (0.08, 1.0),
    strength: float = 1.0,
    blur: bool = True,
    num_views: int = 2,
) -> Views:
    """Chen et al. 2020, arXiv:2002.05709, appendix A: window, mirror, jitter, grey, blur.

    Args:
        size: side of a view, pixels.
        scale: share of the area of a window.
        strength: s of the jitter (0.8 s, 0.8 s, 0.8 s, 0.2 s); 0.5 on CIFAR-10.
        blur: whether half of the views are blurred; small images are better off without.
        num_views: V, at least 2.
    Raises:
        ValueError: for one view, or values out of range.
    """
    jitter = (0.8 * strength, 0.8 * strength, 0.8 * strength, 0.2 * strength)
    return repeat(_recipe(size, scale, jitter, blur=0.5 * blur), num_views)


def moco(
    size: int, scale: tuple[float, float] = (0.2, 1.0), blur: bool = True, num_views: int = 2
) -> Views:
    """MoCo v2, Chen et al. 2020, arXiv:2003.04297: jitter of half the strength, larger windows.

    Args and errors as `simclr`.
    """
    return repeat(_recipe(size, scale, (0.4, 0.4, 0.4, 0.1), blur=0.5 * blur), num_views)


def small_images(size: int, scale: tuple[float, float] = (0.2, 1.0), num_views: int = 2) -> Views:
    """MoCo v2's without blur, for images of some 32 pixels; args and errors as `simclr`."""
    return moco(size, scale, blur=False, num_views=num_views)


def byol(size: int, scale: tuple[float, float] = (0.08, 1.0), blur: bool = True) -> Views:
    """Grill et al. 2020, arXiv:2006.07733, appendix B: two views that differ in law.

    The first is always blurred, never solarised; the second is blurred one time in ten and
    solarised one in five. Barlow Twins and VICReg have the same.

    Args and errors as `simclr`.
    """
    jitter = (0.4, 0.4, 0.2, 0.1)
    return apart(
        _recipe(size, scale, jitter, blur=1.0 * blur),
        _recipe(size, scale, jitter, blur=0.1 * blur, solarise=0.2),
    )


def dino(
    size: int,
    local_size: int,
    num_local: int = 8,
    scale: tuple[float, float] = (0.4, 1.0),
    local_scale: tuple[float, float] = (0.05, 0.4),
    blur: bool = True,
) -> Crops:
    """Multi-crop, Caron et al. 2021, arXiv:2104.14294: two large views and several small ones.

    The large ones have BYOL's laws; half of the small ones are blurred.

    Args:
        size, local_size: sides of the large and small views, pixels (224 and 96).
        num_local: N, small views, at least 1.
        scale, local_scale: shares of the area of their windows.
        blur: as `simclr`.
    Returns:
        A function to {"global": [2, B, h, w, 3], "local": [N, B, l, l, 3]}: the views that teacher
        and student see, and those of the student alone.
    Raises:
        ValueError: for values out of range.
    """
    checks.count("num_local", num_local)
    large = byol(size, scale, blur)
    small = _repeated(
        _recipe(local_size, local_scale, (0.4, 0.4, 0.2, 0.1), blur=0.5 * blur), num_local, first=2
    )
    return lambda rngs, images: {"global": large(rngs, images), "local": small(rngs, images)}


def uncoloured(
    size: int,
    scale: tuple[float, float] = (0.3, 1.0),
    strength: float = 0.4,
    flip: bool = False,
    num_views: int = 2,
) -> Views:
    """For images of one channel, as digits: window, brightness and contrast, perhaps a mirror.

    Args:
        size, scale, num_views: as `simclr`.
        strength: of brightness and contrast, for 8 of 10 views.
        flip: whether half of the views are mirrored, which makes no digit.
    Raises:
        ValueError: as `simclr`.
    """
    augments = [augmentation.random_resized_crop(size, scale)]
    augments += [augmentation.flip()] if flip else []
    augments += [augmentation.colour_jitter(strength, strength, probability=0.8)]
    return repeat(augmentation.chain(*augments), num_views)


def repeat(augment: Augment, num_views: int = 2) -> Views:
    """Views [V, B, ...] of one law.

    Raises:
        ValueError: for fewer than two.
    """
    _check_views(checks.count("num_views", num_views))
    return _repeated(augment, num_views)


def apart(*augments: Augment) -> Views:
    """Views [V, B, ...], each of a law of its own; all must have one shape.

    Raises:
        ValueError: for fewer than two.
    """
    _check_views(len(augments))

    def views(rngs: Key, images: Array) -> Array:
        made = [_each(augment, rngs, images, v) for v, augment in enumerate(augments)]
        return jnp.stack(made)  # [V, B, h, w, C]

    return views


def _repeated(augment: Augment, num_views: int, first: int = 0) -> Views:
    def views(rngs: Key, images: Array) -> Array:
        numbers = jnp.arange(first, first + num_views)
        return jax.vmap(lambda v: _each(augment, rngs, images, v))(numbers)

    return views


def _each(augment: Augment, rngs: Key, images: Array, view: Array | int) -> Array:
    """View number `view` of each image, computed in float32 or wider from end to end."""
    images = wide = jnp.asarray(images)
    if jnp.issubdtype(images.dtype, jnp.floating):  # else the augmentation says what is wrong
        wide = images.astype(at_least_float32(images.dtype))
    own = lambda rng, image: augment(jax.random.fold_in(rng, view), image)
    alone = rngs.ndim == 0 and wide.ndim == 3
    views = own(rngs, wide) if alone else augmentation.each(own, rngs, wide)
    return views.astype(images.dtype)


def _recipe(
    size: int,
    scale: tuple[float, float],
    jitter: tuple[float, float, float, float],
    blur: float = 0.0,
    solarise: float = 0.0,
) -> Augment:
    """Window, mirror, jitter at 0.8, grey at 0.2, blur and solarise with their probabilities."""
    checks.count("size", size, of="pixels")
    augments = [
        augmentation.random_resized_crop(size, scale),
        augmentation.flip(),
        augmentation.colour_jitter(*jitter, probability=0.8),
        augmentation.random_grey(0.2),
    ]
    if blur:
        kernel = max(3, size // 10 | 1)  # a tenth of the side, odd
        augments.append(augmentation.gaussian_blur(kernel, (0.1, 2.0), blur))
    if solarise:
        augments.append(augmentation.random_solarise(solarise))
    return augmentation.chain(*augments)


def _check_views(count: int) -> None:
    if count < 2:
        raise ValueError(f"num_views={count}: expected at least 2, a loss compares views")
