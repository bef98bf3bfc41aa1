"""The study of a folder of weights: its images, features, pictures, and folders that are none."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from experiments import __main__ as command_line
from experiments.self_supervised import _folders, pretrained
from library.data.sets import digits
from research.self_supervised import weights
from research.vision import patches

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def tiny():
    return _folders.tiny(0)


def test_digits_are_enlarged_by_their_nearest_pixel():
    found = _folders.read("", 32, 3, 10_000, 0)
    raw = np.concatenate([digits.arrays(split)["image"] for split in ("train", "test")])
    assert found.pixels.shape == (1797, 32, 32, 3) and found.pixels.dtype == np.uint8
    expected = np.round(raw * (255 / 16))
    np.testing.assert_array_equal(found.pixels[:, ::4, 3::4], expected.repeat(3, -1))
    assert _folders.enlarged(raw[:1].astype(np.uint8), 28, 1).shape == (1, 28, 28, 1)
    few = _folders.read("", 8, 1, 20, 1)
    assert len(few.pixels) == len(few.labels) == 20


def test_sub_folders_are_classes_in_order(tmp_path):
    for label, name in enumerate(("b", "a")):
        (tmp_path / name).mkdir()
        for index in range(2 + label):
            colour = (10 * index, 100 * label, 7)
            Image.new("RGB", (4, 4), colour).save(tmp_path / name / f"{index}.png")
    found = _folders.read(str(tmp_path), 4, 3, 100, 0)
    np.testing.assert_array_equal(found.labels, [0, 0, 0, 1, 1])
    np.testing.assert_array_equal(found.pixels[:, 0, 0, 1], [100, 100, 100, 0, 0])
    flat = _folders.read(str(tmp_path / "a"), 4, 1, 100, 0)
    assert flat.labels is None and flat.pixels.shape == (3, 4, 4, 1)


def test_one_in_five_of_each_class_is_held_out():
    labels = np.repeat([0, 1, 2], [10, 7, 4])
    held = _folders.held_out(labels, 0)
    np.testing.assert_array_equal(np.bincount(labels[held], minlength=3), [2, 1, 0])
    assert (held != _folders.held_out(labels, 1)).any()


def test_images_are_normalised_by_imagenet():
    found = _folders.normalised(np.full((1, 2, 2, 3), 255, np.uint8))
    expected = [0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225]
    np.testing.assert_allclose(found[0, 0, 0], expected, rtol=1e-6)
    grey = _folders.normalised(np.zeros((1, 2, 2, 1), np.uint8))
    np.testing.assert_allclose(grey, np.full((1, 2, 2, 1), -0.456 / 0.224), rtol=1e-6)


@pytest.mark.parametrize("name", ["dinov2", "vit_mae", "resnet"])
def test_features_and_pictures_are_the_model_s(tiny, name):
    """Batches of 2, the last of 1; where it looks or what it rebuilds, in true units."""
    model, params = tiny[name]
    found = _folders.features(model, params, PIXELS, 2)
    images = _folders.normalised(PIXELS)
    tokens = np.asarray(jax.jit(model.features)(params, images))
    expected = tokens[:, 1:].mean(1) if name == "vit_mae" else tokens[:, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    rows, names, title = _folders.pictures(model, params, PIXELS, 4)
    rows = rows.reshape(len(names), *PIXELS.shape)
    np.testing.assert_allclose(rows[0], PIXELS / 255, rtol=1e-6)
    if name == "dinov2":
        seen = np.asarray(jax.jit(model.attention_maps)(params, images))[:, :, 0, 1:]
        for head in range(3):
            grid = seen[:, head].reshape(5, 8, 8) / seen[:, head].max(1)[:, None, None]
            np.testing.assert_allclose(rows[1 + head, :, ::4, 3::4, 1], grid, rtol=1e-5)
        assert names == ["image", "head 1", "head 2", "head 3"]
    elif name == "vit_mae":
        assert "leak" in title and "75 %" in title
        made = jax.jit(model.reconstruct)(params, images, jax.random.split(jax.random.key(4), 5))
        hidden = np.asarray(made.mask)[..., None] == 1
        true = patches.to_patches(images.astype(np.float64), 4)
        spread = np.sqrt(true.var(-1, ddof=1, keepdims=True) + 1e-6)
        guess = np.asarray(made.prediction) * spread + true.mean(-1, keepdims=True)
        whole = patches.from_patches(np.where(hidden, guess, true), (32, 32, 3), 4)
        whole = whole * np.array(_folders.DEVIATION) + np.array(_folders.MEAN)
        np.testing.assert_allclose(rows[2], np.clip(whole, 0, 1), atol=1e-5)
        masked = np.where(hidden, 0.5, patches.to_patches(PIXELS / 255, 4))
        np.testing.assert_allclose(rows[1], patches.from_patches(masked, (32, 32, 3), 4))
    else:
        assert names == ["image", "length"] and rows[1].max() == 1


def test_a_folder_of_weights_and_one_of_images(tiny, tmp_path, capsys):
    """Its claims, and features.npz by name; images without classes have no probes."""
    weights.save(tmp_path / "model", *tiny["resnet"])
    np.savez(tmp_path / "mine.npz", images=PIXELS)
    words = ["self_supervised.pretrained", "--preset", "smoke", "--size", "32"]
    words += ["--model", str(tmp_path / "model"), "--workdir", str(tmp_path / "run")]
    assert command_line.main([*words, "--images", str(tmp_path / "mine.npz")]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert sorted(result["metrics"]) == ["alone", "moved"] and len(result["claims"]) == 2
    with np.load(tmp_path / "run" / "features.npz") as kept:
        assert kept.files == ["features"] and kept["features"].shape == (5, 16)
    assert _folders.side(tiny["dinov2"][0]) == 32 and _folders.side(tiny["resnet"][0]) == 224
    capsys.readouterr()


def test_a_vote_is_held_against_pixels():
    found = {"alone": 0.0, "moved": 0.0, "knn": 0.9, "pixels_knn": 0.8}
    claim = pretrained._stated([found], own=True)[-1]
    assert (claim.measured, claim.expected, claim.relation) == (90.0, 80.0, ">")
    assert len(pretrained._stated([found])) == 2


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "config.json is not there: expected a config.json"),
        ('{"model_type": "bert"}', "model_type='bert': expected one of dinov2, vit_mae, resnet"),
        ("{", "is no JSON"),
    ],
)
def test_what_is_no_such_folder_is_one_line(content, message, tmp_path, capsys):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    words = ["self_supervised.pretrained", "--model", str(tmp_path), "--workdir"]
    assert command_line.main([*words, str(tmp_path / "run")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and message in lines[0]
