"""Latents on disk: resumed after an interrupt, and refused where they are something else's."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from library.storage import sealed_folders
from research.diffusion import latent

IMAGES = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
PARAMS = {"weights": np.ones((3, 2), np.float32)}
MADE_BY = latent.fingerprint(PARAMS, "Linear()")


class Encoder:
    """Mean and log variance; counts its calls and stops before a given one."""

    def __init__(self, stop=None, vectors=False):
        self.calls, self.stop, self.vectors = 0, stop, vectors

    def __call__(self, x):
        if self.calls == self.stop:
            raise KeyboardInterrupt
        assert x.shape == (4, 3)  # one size is compiled
        self.calls += 1
        mean = jnp.asarray(x) * 2
        return mean if self.vectors else (mean, mean.astype(jnp.bfloat16))


def fill(encode, folder, images=IMAGES, made_by=MADE_BY, block=4):
    return latent.cached(encode, images, folder, made_by, block)


def test_an_interrupted_cache_goes_on_and_is_that_of_one_run(tmp_path):
    first = Encoder(stop=1)
    with pytest.raises(KeyboardInterrupt):
        fill(first, tmp_path)
    (tmp_path / "1.saving-7").mkdir()  # what a killed writer leaves
    second = Encoder()
    cache = fill(second, tmp_path)
    assert (first.calls, second.calls) == (1, 2) and len(cache) == 10
    mean, log_var = cache.load()
    np.testing.assert_array_equal(mean, IMAGES * 2)
    np.testing.assert_array_equal(log_var, (IMAGES * 2).astype(jnp.bfloat16).astype(np.float32))
    assert log_var.dtype == np.float32
    assert [len(block[0]) for block in cache.blocks()] == [4, 4, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2"]
    scaling = latent.measure(lambda block: block, cache.blocks(), sampled=False)
    np.testing.assert_allclose(scaling.scale, 1 / (IMAGES * 2.0).std(), rtol=1e-6)
    idle = Encoder()
    fill(idle, tmp_path)
    assert idle.calls == 0


def test_vectors_and_a_damaged_block(tmp_path):
    fill(Encoder(vectors=True), tmp_path)
    (tmp_path / "1" / "vectors.npy").write_bytes(b"half")
    again = Encoder(vectors=True)
    cache = fill(again, tmp_path)
    assert again.calls == 1 and (tmp_path / "1.damaged").exists()
    np.testing.assert_array_equal(cache.load(), IMAGES * 2)


def test_the_default_block_is_256(tmp_path):
    images = np.zeros((300, 1), np.float32)
    cache = latent.cached(lambda x: x + len(x), images, tmp_path, MADE_BY)
    assert [len(block) for block in cache.blocks()] == [256, 44]
    np.testing.assert_array_equal(cache.load(), 256)


def test_a_fingerprint_tells_values_names_and_settings():
    prints = {
        MADE_BY,
        latent.fingerprint({"weights": PARAMS["weights"] * (1 + 1e-6)}, "Linear()"),
        latent.fingerprint({"kernel": PARAMS["weights"]}, "Linear()"),
        latent.fingerprint(PARAMS, "Other()"),
        latent.fingerprint(PARAMS, "Linear()", 3),
        latent.fingerprint({"weights": PARAMS["weights"].astype(np.float64)}, "Linear()"),
    }
    assert len(prints) == 6
    assert latent.fingerprint({"weights": jnp.ones((3, 2))}, "Linear()") == MADE_BY


BAD = {
    "another first stage": ({"made_by": "0123"}, "latents made by another first stage: made_by"),
    "other images": ({"images": IMAGES + 1}, "holds latents of other images: images"),
    "other blocks": ({"block": 5}, "holds latents in other blocks: examples"),
    "fewer images": ({"images": IMAGES[:4]}, "holds latents in other blocks: examples"),
    "no images": ({"images": IMAGES[:0]}, "images=0: expected a positive whole number"),
    "block": ({"block": 0}, "block=0: expected a positive whole number"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_writes_nothing(name, tmp_path):
    fill(Encoder(), tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    options, match = BAD[name]
    with pytest.raises(ValueError, match=match):
        fill(Encoder(), tmp_path, **options)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


def test_latents_that_are_not_finite(tmp_path):
    with pytest.raises(ValueError, match="block 0 of images: vectors of its latents is not finite"):
        fill(lambda x: x * np.nan, tmp_path)
    assert sealed_folders.numbers(tmp_path) == []


def test_a_note_says_what_a_block_is_of(tmp_path):
    fill(Encoder(), tmp_path)
    note = json.loads((tmp_path / "2" / sealed_folders.MANIFEST).read_text())["body"]["note"]
    assert note["made_by"] == MADE_BY and note["examples"] == [8, 10, 10]
