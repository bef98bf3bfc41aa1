"""Generation against the recursion by hand in NumPy; images alone, in batches, on devices."""

import jax
import jax.numpy as jnp
import numpy as np

from library import sharding
from research.diffusion import samplers
from research.text_to_image import pipeline, schedules
from tests.research.text_to_image import cases

PROMPTS, NEGATIVE = ["a red square", "sun"], ["gold", "blue"]
RNG = jax.random.key(3)


def _network(name):
    """The network of a kind on concrete latents, compiled once."""
    model, params = cases.MODELS[name], cases.filled(name)
    compiled = jax.jit(lambda x, t, c, p, s: model.predict(params, x, t, c, p, s))
    read = jax.jit(
        lambda tokens: (
            model.encode_text(params, tokens),
            model.pooled_text(params, tokens) if model.unet.pooled_dim else None,
        )
    )

    def predict(x, step, texts, zeros=False, further=None):
        context, pooled = jax.device_get(read(model.tokens(texts)))
        sizes = None
        if pooled is not None:
            side = [model.factor * size for size in x.shape[1:3]]
            sizes = np.tile(np.array([*side, 0, 0, *side], float), (len(x), 1))
        if zeros:
            context, pooled = 0 * context, None if pooled is None else 0 * pooled
        x = x if further is None else np.concatenate([x, further], -1)
        return np.array(compiled(x, np.full(len(x), step), context, pooled, sizes))

    return predict


def _by_hand(name, x, steps, asks, weight=1.0, amount=0.0, interval=(0, 999), hook=None):
    """DDIM from `x` along `steps`, each to the next of the list, the last to step 0's noise.

    `asks`: functions (x, step) -> prediction, the prompt's and the negative one.
    """
    schedule = cases.MODELS[name].schedule
    bars = np.append(schedule.alpha_bar[steps], schedule.alpha_bar[0])
    for i, step in enumerate(steps):
        out, away = (ask(x, step) for ask in asks)
        mixed = away + weight * (out - away) if interval[0] <= step <= interval[1] else out
        std = lambda y: y.std((1, 2, 3), keepdims=True)  # noqa: E731
        out = amount * mixed * std(out) / std(mixed) + (1 - amount) * mixed
        a, s = bars[i] ** 0.5, (1 - bars[i]) ** 0.5
        if schedule.kind == "v":
            data, noise = a * x - s * out, s * x + a * out
        else:
            data, noise = (x - s * out) / a, out
        x = bars[i + 1] ** 0.5 * data + (1 - bars[i + 1]) ** 0.5 * noise
        x = x if hook is None else hook(x, bars[i + 1])
    return x


def _decoded(name, z):
    model, params = cases.MODELS[name], cases.filled(name)
    decode = jax.jit(lambda z: model.decode(params, z))
    return np.clip(decode(z / model.scale + model.shift), -1, 1)


def _encoded(name, images):
    """Scaled means of images."""
    model, params = cases.MODELS[name], cases.filled(name)
    encode = jax.jit(lambda images: model.encode(params, images)[0])
    return model.scale * (np.array(encode(images)) - model.shift)


def test_guided_rescaled_inside_an_interval(x64):
    model, params, network = cases.SD1, cases.filled("sd1"), _network("sd1")
    noise = cases.wave(2, 4, 8, 4)
    options = dict(num_steps=4, spacing="trailing", latents=noise, rescale=0.7, interval=(249, 800))
    images, info = pipeline.generate(
        model, params, PROMPTS, RNG, guidance=3.0, negative=NEGATIVE, **options
    )
    steps = [999, 749, 499, 249]
    asks = [lambda x, t, p=p: network(x, t, p) for p in (PROMPTS, NEGATIVE)]
    expected = _by_hand("sd1", noise, steps, asks, 3.0, 0.7, (249, 800))
    np.testing.assert_allclose(info.latents, expected, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(images, _decoded("sd1", expected), rtol=1e-8, atol=1e-10)
    assert info.steps == tuple(steps) and images.shape == (2, 8, 16, 3)
    np.testing.assert_array_equal(info.noise, noise)

    num = pipeline._program._cache_size()
    other, _ = pipeline.generate(
        model, params, ["dune", "tub"], jax.random.key(9), guidance=9.0, negative="a",
        first_index=5, **options,
    )  # fmt: skip
    assert pipeline._program._cache_size() == num  # nothing was compiled
    assert np.abs(np.asarray(other) - images).max() > 1e-3


def test_two_encoders_and_a_negative_prompt_of_zeros(x64):
    model, params, network = cases.XL, cases.filled("xl"), _network("xl")
    noise = cases.wave(1, 4, 4, 4)
    images, info = pipeline.generate(
        model, params, "a red square", RNG, num_steps=2, latents=noise, size=8
    )
    texts = PROMPTS[:1]
    asks = [lambda x, t, z=z: network(x, t, texts, z) for z in (False, True)]
    expected = _by_hand("xl", noise, [501, 1], asks, 7.5)
    np.testing.assert_allclose(info.latents, expected, rtol=1e-8, atol=1e-9)
    assert images.shape == (1, 8, 8, 3)
    request = lambda negative: pipeline._request(  # noqa: E731
        model, params, texts, noise.shape, negative=negative
    )[0]
    assert request(None).zero_negative and not request("").zero_negative


def test_without_terminal_signal_and_without_guidance(x64):
    """From noise alone the first step is exact; image to image at strength 1 is the same thing."""
    model, params, network = cases.SD2, cases.filled("sd2"), _network("sd2")
    images, info = pipeline.generate(model, params, PROMPTS, RNG, num_steps=3, guidance=1.0)
    noise, steps = np.array(info.noise), [999, 666, 332]
    asks = [lambda x, t: network(x, t, PROMPTS)] * 2
    expected = _by_hand("sd2", noise, steps, asks)
    np.testing.assert_allclose(info.latents, expected, rtol=1e-8, atol=1e-10)
    given = 0.9 * cases.wave(2, 16, 16, 3)
    same, edit = pipeline.image_to_image(
        model, params, PROMPTS, RNG, given, 1.0, num_steps=3, guidance=1.0
    )
    np.testing.assert_allclose(same, images, rtol=1e-9, atol=1e-11)
    np.testing.assert_array_equal(edit.noise, info.noise)


def test_image_i_is_the_same_alone_in_a_batch_and_on_devices():
    model, params = cases.SD1, jax.tree.map(np.float32, cases.filled("sd1"))
    options = dict(num_steps=2, guidance=2.0, size=16)
    both, info = pipeline.generate(model, params, PROMPTS, RNG, first_index=4, **options)
    alone, own = pipeline.generate(model, params, PROMPTS[1:], RNG, first_index=5, **options)
    np.testing.assert_array_equal(own.noise[0], info.noise[1])
    np.testing.assert_allclose(alone[0], both[1], atol=1e-5)
    spread, on_two = pipeline.generate(
        model, params, PROMPTS, RNG, first_index=4, mesh=sharding.make_mesh({"data": 2}), **options
    )
    assert len(spread.sharding.device_set) == 2
    np.testing.assert_array_equal(on_two.noise, info.noise)
    np.testing.assert_allclose(spread, both, atol=1e-5)
    assert both.dtype == jnp.float32
    again, _ = pipeline.generate(model, params, PROMPTS, RNG, latents=info.noise, **options)
    np.testing.assert_array_equal(again, both)
    half, _ = pipeline.generate(
        model, params, PROMPTS, RNG, first_index=4, dtype=jnp.bfloat16, **options
    )
    assert half.dtype == jnp.float32 and 0 < np.abs(half - both).mean() < 0.02


def test_edits_by_strength(x64):
    model, params, network = cases.SD1, cases.filled("sd1"), _network("sd1")
    images = 0.9 * cases.wave(2, 8, 16, 3)
    z = _encoded("sd1", images)
    same, info = pipeline.image_to_image(model, params, PROMPTS, RNG, images, 0.0)
    np.testing.assert_allclose(same, _decoded("sd1", z), rtol=1e-9, atol=1e-11)
    assert info.steps == ()
    # half of four steps: 499 and 249, from the image noised to the first
    noise = cases.wave(2, 4, 8, 4, rate=0.7)
    _, info = pipeline.image_to_image(
        model, params, PROMPTS, RNG, images, 0.5, num_steps=4, spacing="trailing", latents=noise,
        guidance=1.0, solver=samplers.ddim(),
    )  # fmt: skip
    bar = model.schedule.alpha_bar[499]
    asks = [lambda x, t: network(x, t, PROMPTS)] * 2
    expected = _by_hand("sd1", bar**0.5 * z + (1 - bar) ** 0.5 * noise, [499, 249], asks)
    assert info.steps == (499, 249)
    np.testing.assert_allclose(info.latents, expected, rtol=1e-8, atol=1e-10)


def test_a_first_stage_that_leaves_the_range_of_float16():
    """Its images are those of float32, not nan: the numbers in the middle are about 1e6."""
    model, params = cases.SD1, jax.tree.map(np.float32, cases.filled("sd1"))
    vae = jax.tree_util.tree_map_with_path(
        lambda path, leaf: 1e6 * leaf if "stem" in jax.tree_util.keystr(path) else leaf,
        params["vae"],
    )
    images = 0.9 * cases.wave(1, 4, 4, 3).astype(np.float32)
    edit = lambda dtype: pipeline.image_to_image(  # noqa: E731
        model, {**params, "vae": vae}, "sun", RNG, images, 0.0, dtype=dtype
    )[0]
    half, full = edit(jnp.float16), edit(jnp.float32)
    assert 0.01 < np.std(full) < 1
    np.testing.assert_allclose(half, full, atol=1e-6)


def test_painting_by_replacement(x64):
    """Known latents stay; the drawn ones follow the recursion in which the known are put back."""
    model, params, network = cases.SD1, cases.filled("sd1"), _network("sd1")
    images, noise = 0.9 * cases.wave(2, 8, 16, 3), cases.wave(2, 4, 8, 4, rate=0.7)
    mask = np.zeros((8, 16), bool)
    mask[2:5, 3:9] = True
    cells = np.zeros((4, 8, 1), bool)
    cells[1:3, 1:5] = True
    z = _encoded("sd1", images)
    put_back = lambda x, bar: np.where(  # noqa: E731
        cells, x, bar**0.5 * z + (1 - bar) ** 0.5 * noise
    )
    painted, info = pipeline.inpaint(
        model, params, PROMPTS, RNG, images, mask, num_steps=2, latents=noise, guidance=1.0,
        spacing="trailing",
    )  # fmt: skip
    asks = [lambda x, t: network(x, t, PROMPTS)] * 2
    start = put_back(noise, model.schedule.alpha_bar[999])
    expected = _by_hand("sd1", start, [999, 499], asks, hook=put_back)
    expected = np.where(cells, expected, z)
    np.testing.assert_allclose(info.latents, expected, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(painted, _decoded("sd1", expected), rtol=1e-8, atol=1e-10)
    outside = np.broadcast_to(~cells, z.shape)
    np.testing.assert_allclose(np.array(info.latents)[outside], z[outside], atol=1e-12)


def test_painting_with_nine_channels(x64):
    name, network = "inpainting", _network("inpainting")
    model, params = cases.MODELS[name], cases.filled(name)
    images, noise = 0.9 * cases.wave(1, 8, 8, 3), cases.wave(1, 4, 4, 4, rate=0.7)
    mask = np.zeros((1, 8, 8))
    mask[0, :4] = 1
    cells = np.zeros((1, 4, 4, 1))
    cells[:, :2] = 1
    z = _encoded(name, images)
    further = np.concatenate([cells, _encoded(name, images * (1 - mask[..., None]))], -1)
    asks = [lambda x, t: network(x, t, PROMPTS[:1], further=further)] * 2
    _, info = pipeline.inpaint(
        model, params, PROMPTS[0], RNG, images, mask, 0.5, num_steps=4, latents=noise, guidance=1.0
    )
    bar = model.schedule.alpha_bar[251]
    start = bar**0.5 * z + (1 - bar) ** 0.5 * noise
    expected = np.where(cells, _by_hand(name, start, [251, 1], asks), z)
    np.testing.assert_allclose(info.latents, expected, rtol=1e-8, atol=1e-10)


def test_the_schedules_own_solver_and_defaults():
    model = cases.SD1
    request, ask = pipeline._request(model, cases.filled("sd1"), PROMPTS, (2, 4, 8, 4))
    assert request.plan.steps == tuple(schedules.timesteps(model.schedule, 30))
    assert request.plan.solver == schedules.solver(model.schedule)
    assert float(ask.guidance.weight) == 7.5 and request.plan.guided
    np.testing.assert_array_equal(ask.negative, model.tokens(["", ""]))
    assert ask.noise is None and int(ask.first_index) == 0 and request.dtype == jnp.float32
