"""The chain's parts: sizes, scales, principal components, what is asked and shown."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments.text_to_image import _chain, _scenes, generate, train
from experiments.text_to_image.parity import ours, question
from library import training
from library.data import shapes
from research.text_to_image import training as diffusing

MADE = _chain.build(_chain.SMALLEST, 8, _scenes.sentences(50), _scenes.MAX_LENGTH)
IMAGES = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def vae():
    return jax.jit(lambda rng: diffusing.init(MADE, rng, ["vae"])["vae"])(jax.random.key(0))


def test_build_follows_the_sizes():
    sizes = _chain.Sizes(channels=(4, 8, 8), latent_dim=3, width=16, depth=2, text_width=32)
    made = _chain.build(sizes, 32, ["a red circle"], 6)
    assert (made.factor, made.sample_size) == (4, (8, 8))
    assert made.unet.channels == (16, 32) and made.unet.in_channels == made.vae.latent_dim == 3
    assert made.text_encoder.stack.width == made.unet.context_dim == 32
    assert made.text_encoder.stack.depth == 2 and made.tokenizer.max_length == 6
    assert (made.schedule.kind, made.schedule.to_zero, made.scale) == ("v", True, 1.0)
    with pytest.raises(ValueError, match="size=12: expected a multiple of 8 pixels"):
        _chain.build(sizes, 12, ["a"], 6)


def test_latents_are_scaled_to_unit_variance(vae):
    """In any blocks: latents drawn from the posteriors have variance 1, but for the draw."""
    made, z = _chain.to_latents(MADE, vae, IMAGES, block=16)
    whole, again = _chain.to_latents(MADE, vae, IMAGES)
    np.testing.assert_allclose(z, again, atol=1e-5)
    assert made.scale == pytest.approx(whole.scale, rel=1e-6)
    encode = jax.jit(lambda images: MADE.encode({"vae": vae}, images))
    mean, log_var = encode(_chain.to_range(IMAGES))
    spread = np.var(np.asarray(mean, np.float64)) + np.exp(log_var).mean()
    assert made.scale == pytest.approx(spread**-0.5, rel=1e-5)
    noise = ((z / made.scale + made.shift) - mean) / np.exp(log_var / 2)
    assert abs(noise.mean()) < 0.05 and noise.std() == pytest.approx(1, abs=0.03)
    first = _chain.judge_first_stage(made, vae, IMAGES, IMAGES)
    assert first.variance == pytest.approx(1, abs=0.1)
    stage = diffusing.first_stage(made, {"vae": vae})
    x = np.asarray(_chain.to_range(IMAGES))
    back = jax.jit(lambda x: stage.to_image(stage.to_latent(x)))
    error = np.mean((np.asarray(back(x)) - x) ** 2)
    assert first.decibels == pytest.approx(10 * np.log10(4 / error), abs=1e-3)
    # 64 floats of as many latents, but no more components than images can tell: exact then
    assert first.pca > 60


def test_the_finest_of_several_resolutions_does_not_attend():
    for depth, attends in ((1, (1,)), (2, (0, 1)), (3, (0, 1, 1))):
        network = _chain._network(_chain.Sizes(width=16, depth=depth))
        assert network.depths == attends
        assert network.channels == (16, 32, 64)[:depth]


def test_diffusion_is_trained_by_orthogonal_updates_of_the_rate_asked_for():
    params = {
        "kernel": np.eye(3, dtype=np.float32) + np.arange(9.0, dtype=np.float32).reshape(3, 3)
    }
    optimizer = _chain.orthogonal(0.5, 3)  # two updates of warm-up, one of the fall
    state, rates = optimizer.init(params), []
    for _ in range(4):
        update, state = optimizer.update(params, state, params)
        sizes = np.linalg.svd(update["kernel"], compute_uv=False) / (0.2 * np.sqrt(3))
        rates.append(sizes.mean())
    np.testing.assert_allclose(rates, [0, 0.25, 0.5, 0], atol=0.15)


def test_scenes_in_blocks_are_the_scenes():
    found = _scenes.many(5, 32, seed=2)
    for index in range(5):
        number = 2 if index == 2 else 1  # every third has two objects
        image, words, _ = shapes.example(index, num_objects=number, seed=2)
        np.testing.assert_array_equal(found["image"][index], image)
        assert found["caption"][index] == words
    step = _scenes.batch_at(4, 32, seed=2)(3)
    np.testing.assert_array_equal(step["image"], shapes.batch(np.arange(12, 16), seed=2)["image"])
    words = {word for text in _scenes.sentences() for word in text.replace(",", "").split()}
    assert set(shapes.SHAPES) | set(shapes.COLOURS) | set(shapes.SIZES) <= words
    longest = max(len(text.replace(",", " ,").split()) for text in _scenes.sentences())
    assert longest + 2 <= _scenes.MAX_LENGTH


def test_pictures():
    rows = {"a": (IMAGES[:3], ["one", "two", "three"]), "b": (IMAGES[:2], ["", ""])}
    figure = _scenes.captioned(rows)
    assert len(figure.axes) == 6 and figure.axes[0].get_title(loc="left") == "a"
    share = {name: 0.5 for name in ("all", "shape", "colour", "size", "relation")}
    figure = _scenes.curves({w: {kind: share for kind in _scenes.KINDS} for w in (1.0, 2.0)})
    assert [len(axes.lines) for axes in figure.axes] == [3, 4]
    np.testing.assert_array_equal(
        _scenes.bytes_of(np.array([-1.2, -1, 0, 1, 3])), [0, 0, 128, 255, 255]
    )


def test_settings_beside_an_image(tmp_path):
    config = generate.Config(prompt="a star", first_index=3)
    generate._write(tmp_path, config, 5, np.zeros((2, 2, 3)))
    from library.storage import files

    settings = files.read_json(tmp_path / "00005.json")
    assert (settings["first_index"], settings["seed"], settings["prompt"]) == (5, 0, "a star")
    from PIL import Image

    assert np.asarray(Image.open(tmp_path / "00005.png")).tolist() == [[[128] * 3] * 2] * 2


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"spacing": "even"}, "spacing=even: expected some of leading, trailing, linspace"),
        ({"dtype": "float12"}, "dtype=float12: expected one of float16, bfloat16, float32"),
        ({"first_index": 2**31}, "first_index=2147483648 of 8 images: expected indices below"),
        (
            {"run": training.RunOptions(seed=2**32)},
            "--run.seed=4294967296: expected a whole",
        ),
    ],
)
def test_refused_before_a_model_is_read_or_trained(changed, message):
    with pytest.raises(ValueError, match=message):
        generate.run(generate.Config(model="nowhere", **changed), None)


def test_own_images_and_captions(tmp_path):
    from PIL import Image

    for name in ("a.png", "b.png"):
        Image.fromarray(IMAGES[0]).save(tmp_path / name)
    (tmp_path / "captions.csv").write_text("file,caption\nb.png,two, \na.png,one\n")
    config = train.Config(images=str(tmp_path), captions=str(tmp_path / "captions.csv"))
    data = train.read(config)
    assert data["caption"].tolist() == ["two", "one"]
    np.testing.assert_array_equal(data["image"][0], IMAGES[0])
    own = train.read(train.Config())
    assert own["image"].shape == (1797, 8, 8, 3) and own["image"].max() == 255
    assert own["caption"][0].startswith("a handwritten ")
    for half in ({"images": "x"}, {"captions": "x"}):
        with pytest.raises(ValueError, match="expected both or none"):
            train.read(train.Config(**half))
    with pytest.raises(ValueError, match="3 images: expected at least 4"):
        train._split({name: leaf[:3] for name, leaf in own.items()}, 0)
    parts = train._split(own, 0)
    assert [len(part["caption"]) for part in parts] == [1618, 179]
    assert train._longest(["a b", "one, two"]) == 2 + 3 + 4


def test_parity_names_what_is_wrong_with_the_peer(tmp_path):
    with pytest.raises(ValueError, match="peer=/no/python cannot be run: No such file"):
        question._peer("/no/python", "make", tmp_path)
    import sys

    with pytest.raises(ValueError, match=f"peer={sys.executable} failed: "):
        question._peer(sys.executable, "nothing")
    result = question._own_folder(tmp_path / "own", 0)
    assert result.claims[0].measured == 0
    assert ours.gap(np.array([1.0, 2.5]), np.array([1.0, 2.0])) == 0.25
    assert dataclasses.asdict(question.PRESETS["default"])["num_texts"] == 2000
