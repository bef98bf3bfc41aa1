"""Augmentations against NumPy and SciPy with the same draws; p = 0; the controller by a loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from research.gan import augment, mixing, penalties
from research.vision import augmentation

RNG = np.random.default_rng(0)
IMAGE = RNG.uniform(-1, 1, size=(8, 6, 3))
GREY = IMAGE[..., :1]
KEY = jax.random.key(0)
KEYS = jax.random.split(KEY, 400)
uniform = lambda key, low=0.0, high=1.0: float(jax.random.uniform(key, (), float, low, high))


def test_colours_of_diff_augment(x64):
    x = IMAGE
    for seed in range(3):
        key = jax.random.key(seed)
        found = augment.brightness(key, x)
        np.testing.assert_allclose(found, x + uniform(key, -0.5, 0.5), rtol=1e-12)
        mean, factor = x.mean(2, keepdims=True), uniform(key, 0, 2)
        found = augment.saturation(key, x)
        np.testing.assert_allclose(found, mean + factor * (x - mean), rtol=1e-10)
        found = augment.contrast(key, x)
        factor = uniform(key, 0.5, 1.5)
        np.testing.assert_allclose(found, x.mean() + factor * (x - x.mean()), rtol=1e-10)


@pytest.mark.parametrize("ratio", [0.125, 0.4])
def test_translations_are_windows_equally_likely(ratio):
    options = {} if ratio == 0.125 else {"ratio": ratio}
    image = np.float32(IMAGE)
    found = np.asarray(jax.jit(jax.vmap(augment.translate(**options), (0, None)))(KEYS, image))
    rows, columns = int(8 * ratio + 0.5), int(6 * ratio + 0.5)
    padded = np.pad(image, ((rows, rows), (columns, columns), (0, 0)))
    windows = [
        padded[i : i + 8, j : j + 6].tobytes()
        for i in range(2 * rows + 1)
        for j in range(2 * columns + 1)
    ]
    counts = np.array([sum(x.tobytes() == window for x in found) for window in windows])
    assert counts.sum() == 400
    mean = 400 / len(counts)  # 4.5 standard deviations in up to 35 windows: false alarms < 1e-3
    assert (np.abs(counts - mean) < 4.5 * mean**0.5).all()


@pytest.mark.parametrize("ratio", [0.5, 0.4])
def test_holes_are_those_of_the_authors(ratio):
    """Rows and columns of the hole by their code: an offset, a grid, clamped at the border."""
    options = {} if ratio == 0.5 else {"ratio": ratio}
    image = np.float32(IMAGE + 3)
    found = np.asarray(jax.jit(jax.vmap(augment.cut_out(**options), (0, None)))(KEYS, image))
    holes = {}
    sizes = [int(side * ratio + 0.5) for side in (8, 6)]
    for i in range(8 + 1 - sizes[0] % 2):
        for j in range(6 + 1 - sizes[1] % 2):
            masked = image.copy()
            rows = np.clip(i + np.arange(sizes[0]) - sizes[0] // 2, 0, 7)
            columns = np.clip(j + np.arange(sizes[1]) - sizes[1] // 2, 0, 5)
            masked[np.ix_(rows, columns)] = 0
            holes[masked.tobytes()] = 0
    for x in found:
        holes[x.tobytes()] += 1
    counts = np.array(list(holes.values()))
    mean = 400 / len(counts)  # every place is seen; false alarms below 1e-2 of 63 places
    assert counts.min() > 0 and (counts < mean + 5 * mean**0.5).all()


def test_policies_and_their_probability():
    image = np.float32(IMAGE)
    run = lambda change: np.asarray(jax.jit(jax.vmap(change, (0, None)))(KEYS[:50], image))
    np.testing.assert_array_equal(
        run(augment.diff_augment(False, 0.0, 0.0)), np.broadcast_to(image, (50, *image.shape))
    )
    np.testing.assert_array_equal(
        run(augment.diff_augment(p=0.0)), np.broadcast_to(image, (50, *image.shape))
    )
    only = {"colour": False, "translation": 0.0, "cutout": 0.0}

    @jax.jit
    def pairs(key):
        last = lambda index: jax.random.split(jax.random.fold_in(key, index))[1]
        bright = augment.brightness(last(0), image)
        coloured = augment.contrast(last(2), augment.saturation(last(1), bright))
        moved = augment.translate(0.125)(last(3), coloured)
        expected = [
            augment.cut_out(0.3)(last(0), image),
            augment.translate(0.3)(last(0), image),
            coloured,
            augment.cut_out(0.5)(last(4), moved),
        ]
        policies = [
            augment.diff_augment(**{**only, "cutout": 0.3}),
            augment.diff_augment(**{**only, "translation": 0.3}),
            augment.diff_augment(True, 0.0, 0.0),
            augment.diff_augment(),
        ]
        return [policy(key, image) for policy in policies], expected

    for found, expected in zip(*pairs(KEYS[0])):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    change = augment.sometimes(lambda rng, x: x + 1, 0.3)
    share = (np.asarray(jax.jit(jax.vmap(change, (0, None)))(KEYS, image)) != image).mean()
    assert abs(share - 0.3) < 4 * (0.21 / 400) ** 0.5  # false alarms below 1e-4


def rotation(angle):
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def forward(draws, normals, p, blits, geometry):
    """The map of old places to new ones about the centre, change by change: [3, 3]."""
    total, draws, normals = np.eye(3), iter(draws), iter(normals)

    def apply(p, change):
        nonlocal total
        happens, step = next(draws) < p, np.eye(3)
        change = np.asarray(change())
        step[:2, :2] = np.eye(2) if change.ndim == 1 else change
        step[:2, 2] = 0 if change.ndim == 2 else change
        total = step @ total if happens else total

    if blits:
        apply(p, lambda: np.diag([1, 1 if next(draws) < 0.5 else -1]))
        apply(p, lambda: rotation(-np.pi / 2 * np.floor(4 * next(draws))))
        apply(p, lambda: [np.round((2 * next(draws) - 1) * side / 8) for side in (8, 6)])
    else:
        draws = iter(list(draws)[7:])
    if geometry:
        once = 1 - np.sqrt(1 - p)
        apply(p, lambda: np.eye(2) * 2 ** (0.2 * next(normals)))
        apply(once, lambda: rotation(-np.pi * (2 * next(draws) - 1)))
        apply(p, lambda: np.diag(2 ** (0.2 * next(normals) * np.array([-1, 1]))))
        apply(once, lambda: rotation(-np.pi * (2 * next(draws) - 1)))
        apply(p, lambda: [-next(normals) * 8 / 8, -next(normals) * 6 / 8])
    return total


def drawn(rng, num_uniform, num_normal):
    u_rng, n_rng = jax.random.split(rng)
    u = np.asarray(jax.random.uniform(u_rng, (num_uniform,), float))
    return u, np.asarray(jax.random.normal(n_rng, (num_normal,), float))


@functools.cache
def pipeline(blits, geometry):
    """(key, p) -> whether moved, matrix, shift, the image; p is traced."""

    def run(rng, p):
        place = augment.placement(jax.random.split(rng)[0], IMAGE, p, blits, geometry)
        change = augment.adaptive(p, blits, geometry, colour=False)
        return *place, change(rng, jnp.asarray(IMAGE))

    return jax.jit(run)


@pytest.mark.parametrize("blits, geometry", [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("p", [1.0, 0.6])
def test_the_geometry_of_the_pipeline(x64, blits, geometry, p):
    """The same draws in NumPy, resampled by SciPy; the inverse is taken of the whole."""
    for seed in range(4):
        rng = jax.random.key(seed)
        place_rng, _ = jax.random.split(rng)
        moved, matrix, shift, image = pipeline(blits, geometry)(rng, p)
        total = forward(*drawn(place_rng, 14, 4), p, blits, geometry)
        inverse = np.linalg.inv(total)
        np.testing.assert_allclose(matrix, inverse[:2, :2], atol=1e-12)
        np.testing.assert_allclose(shift, inverse[:2, 2], atol=1e-11)
        assert moved or (total == np.eye(3)).all()
        centre = np.array([3.5, 2.5])
        offset = centre + inverse[:2, 2] - inverse[:2, :2] @ centre
        expected = np.stack(
            [
                ndimage.affine_transform(
                    channel, inverse[:2, :2], offset, order=1, mode="mirror"
                )
                for channel in np.moveaxis(IMAGE, 2, 0)
            ],
            2,
        )  # fmt: skip
        np.testing.assert_allclose(image, expected, atol=1e-3 if geometry else 1e-10)


@functools.cache
def recoloured():
    return jax.jit(lambda rng, p: augment.adaptive(p, False, False)(rng, jnp.asarray(IMAGE)))


@pytest.mark.parametrize("p", [1.0, 0.5])
def test_the_colours_of_the_pipeline(x64, p):
    """Changes of one colour vector after another, without matrices."""
    axis = np.ones(3) / np.sqrt(3)
    change = recoloured()
    for seed in range(4):
        rng = jax.random.key(seed)
        (angle, flip, *happens), normals = drawn(jax.random.split(rng)[1], 7, 3)
        angle, (bright, contrast, saturate) = np.pi * (2 * angle - 1), normals
        x = IMAGE.copy()
        if happens[0] < p:
            x = x + 0.2 * bright
        if happens[1] < p:
            x = x * 2 ** (0.5 * contrast)
        if happens[2] < p and flip >= 0.5:
            x = x - 2 * (x @ axis)[..., None] * axis
        if happens[3] < p:
            along = (x @ axis)[..., None] * axis
            turned = np.cos(angle) * (x - along) + np.sin(angle) * np.cross(axis, x)
            x = along + turned
        if happens[4] < p:
            along = (x @ axis)[..., None] * axis
            x = along + 2**saturate * (x - along)
        np.testing.assert_allclose(change(rng, p), x, rtol=1e-10, atol=1e-12)


def test_grey_images_take_the_mean_of_the_colours(x64):
    matrix = jnp.asarray(RNG.normal(size=(4, 4)))
    three = augment.recolour(jnp.asarray(np.repeat(GREY, 3, 2)), matrix).mean(2, keepdims=True)
    np.testing.assert_allclose(augment.recolour(jnp.asarray(GREY), matrix), three, rtol=1e-10)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_nothing_happens_at_probability_zero(dtype):
    images = jnp.asarray(np.broadcast_to(IMAGE, (20, *IMAGE.shape)), dtype)
    run = jax.jit(lambda p: augment.each(augment.adaptive(p), KEY, images))
    np.testing.assert_array_equal(run(0.0), images)
    assert (run(1.0) != images).any((1, 2, 3)).all() and run(1.0).dtype == dtype
    moved = (run(0.1) != images).any((1, 2, 3))
    assert 0 < moved.sum() < 20


def test_what_happens_to_an_image_depends_on_its_key_alone():
    images = jnp.asarray(RNG.uniform(-1, 1, size=(4, 8, 8, 3)), jnp.float32)
    keys = penalties.each_key(KEY, 4)
    change = jax.jit(lambda rng, x: augment.each(augment.adaptive(0.8), rng, x))
    whole = change(KEY, images)
    np.testing.assert_array_equal(change(keys, images), whole)
    np.testing.assert_allclose(change(keys[2:], images[2:]), whole[2:], atol=1e-5)
    for policy in (augment.adaptive(0.8), augment.diff_augment()):
        assert mixing.find(lambda x, policy=policy: augment.each(policy, KEY, x), images) is None


def test_the_image_has_a_gradient(x64):
    """Every change is affine in the image, so its slope tells any difference."""
    weights, step = RNG.normal(size=(2, *IMAGE.shape))
    change = augmentation.chain(augment.adaptive(0.9), augment.diff_augment())
    loss = lambda x: jnp.sum(change(jax.random.key(5), x) * weights)
    run = jax.jit(jax.value_and_grad(loss))
    (before, grad), (after, _) = run(jnp.asarray(IMAGE)), run(jnp.asarray(IMAGE + step))
    np.testing.assert_allclose(after - before, np.sum(grad * step), rtol=1e-10)
    assert abs(after - before) > 1e-3


@pytest.mark.parametrize(
    "options", [{}, {"target": -0.2, "every": 3, "num_images": 400}], ids=["defaults", "others"]
)
def test_the_controller_by_a_loop(x64, options):
    batch_size, p, seen = 32, 0.003 if not options else 0.5, []
    controller = augment.Controller(batch_size, **options)
    target, every = options.get("target", 0.6), options.get("every", 4)
    control = controller.init(p)
    step = jax.jit(lambda c, x: controller.observe(controller.advance(c), x))
    for t in range(20):
        logits = RNG.normal(size=batch_size) + (3 if t < 8 else -3)
        if t and t % every == 0:
            rise = every * batch_size / options.get("num_images", 500_000)
            p = np.clip(p + np.sign(np.mean(seen) - target) * rise, 0, 1)
            seen = []
        control = step(control, jnp.asarray(logits))
        seen.append(np.sign(logits).mean())
        np.testing.assert_allclose(control.p, p, rtol=1e-5, atol=1e-8)
    assert controller.init().p == 0 and control.count == len(seen)


def test_the_controller_stays_within_probabilities():
    controller = augment.Controller(10, every=1, num_images=15)
    step = jax.jit(lambda c, x: controller.observe(controller.advance(c), x))
    up, down = controller.init(), controller.init(1.0)
    for _ in range(4):
        up, down = step(up, jnp.ones(10)), step(down, -jnp.ones(10))
    assert up.p == 1 and down.p == 0


def test_parts_of_a_batch_give_the_state_of_the_whole():
    """The mean of where two halves lead, which is what a split step keeps."""
    controller = augment.Controller(8)
    control = controller.observe(controller.init(0.5), jnp.ones(8)).replace(count=jnp.int32(4))
    logits = jnp.array([1.0, 1, 1, -1, 1, -1, -1, -1])
    move = lambda x: controller.observe(controller.advance(control), x)
    parts, whole = [move(logits[:4]), move(logits[4:])], move(logits)
    for name in ("p", "total"):
        mean = (getattr(parts[0], name) + getattr(parts[1], name)) / 2
        np.testing.assert_allclose(mean, getattr(whole, name), rtol=1e-6)
    assert whole.count == 1


FLOAT = jnp.asarray(IMAGE, jnp.float32)
WRONG = {
    "translation=1.5: expected a number in": lambda: augment.diff_augment(translation=1.5),
    "cutout=-1": lambda: augment.diff_augment(cutout=-1),
    "p=2.0: expected a number in": lambda: augment.diff_augment(p=2),
    "ratio=2": lambda: augment.translate(2),
    "ratio=nan": lambda: augment.cut_out(float("nan")),
    "p=-0.5": lambda: augment.adaptive(-0.5),
    "image uint8": lambda: augment.brightness(KEY, np.zeros((4, 4, 3), np.uint8)),
    r"image float32\[4, 4\]": lambda: augment.contrast(KEY, jnp.zeros((4, 4))),
    "image of 2 channels: expected 1 or 3": lambda: augment.adaptive(0.5)(KEY, FLOAT[..., :2]),
    "images have shape": lambda: augment.each(augment.brightness, KEY, FLOAT),
    r"rng has shape \(3,\)": lambda: augment.each(augment.brightness, KEYS[:3], FLOAT[None]),
    "batch_size=0": lambda: augment.Controller(0),
    "every=0": lambda: augment.Controller(8, every=0),
    "num_images=1.5": lambda: augment.Controller(8, num_images=1.5),
    "target=2: expected a mean sign": lambda: augment.Controller(8, target=2),
    "p=1.5": lambda: augment.Controller(8).init(1.5),
}


@pytest.mark.parametrize("message", WRONG)
def test_bad_input(message):
    with pytest.raises(ValueError, match=message):
        WRONG[message]()
