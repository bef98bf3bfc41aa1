"""Images of one's own: what is read, held out, written and refused."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from experiments.self_supervised import _images, _own, images
from library import report
from research.self_supervised import views


def fill(place, counts):
    """Grey images, `counts` by folder ("" is the place itself), each of its own brightness."""
    value = 0
    for folder, count in counts.items():
        (place / folder).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            Image.new("L", (6, 4), value).save(place / folder / f"{i:02}.png")
            value += 3
    return str(place)


def test_folders_are_classes_and_a_fifth_of_each_is_held_out(tmp_path):
    own = _own.folder(fill(tmp_path, {"cat/a": 9, "cat/b": 1, "dog": 12}), 4, 1, seed=0)
    assert own.images.shape == (22, 4, 4, 1)
    assert own.images[:, 0, 0, 0].tolist() == list(range(0, 66, 3))
    assert own.names[[0, 9, 21]].tolist() == ["cat/a/00.png", "cat/b/00.png", "dog/11.png"]
    assert own.classes == ("cat", "dog")
    assert own.labels.tolist() == [0] * 10 + [1] * 12
    assert [own.held_out[:10].sum(), own.held_out[10:].sum()] == [2, 2]


def test_without_folders_there_are_no_labels_and_nothing_is_held_out(tmp_path):
    own = _own.folder(fill(tmp_path, {"": 20}), 4, 3, seed=0)
    assert own.images.shape == (20, 4, 4, 3)
    assert own.labels is None and own.classes == () and not own.held_out.any()


def test_what_is_held_out_depends_on_the_seed_and_leaves_some_of_small_classes():
    labels = np.repeat([0, 1], [50, 2])
    first, again, other = (_own.held_out(labels, seed) for seed in (0, 0, 1))
    assert (first == again).all() and (first != other).any()
    assert [first[labels == 0].sum(), first[labels == 1].sum()] == [10, 1]


def test_the_digits_are_bytes_with_their_own_split():
    own = _own.embedded()
    assert (len(own.images), own.held_out.sum(), own.images.max()) == (1797, 300, 255)
    assert own.names[0] == "train/0" and own.held_out[-300:].all()


@pytest.mark.parametrize(
    "counts, message",
    [
        ({"a": 0}, "holds no image"),
        ({"": 19}, "holds 19 images: expected 20 or more"),
        ({"cat": 20}, "holds one class, cat: expected two folders or none"),
        ({"cat": 20, "": 1}, "holds images beside folders: expected all in folders, or none"),
        ({"cat": 20, "dog": 1}, "dog holds 1 image: expected 2 or more of each class"),
    ],
)
def test_folders_that_are_refused(tmp_path, counts, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        _own.folder(fill(tmp_path, counts), 4, 1, 0)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere not found: expected a folder of images"):
        _own.folder(str(tmp_path / "nowhere"), 4, 1, 0)


def test_another_method_is_refused_before_anything_is_read(tmp_path):
    config = images.Config(method="simclrr", images=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="--method simclrr: expected one of simclr, moco, "):
        images.run(config, report.RunDir(tmp_path / "run"))


def test_features_are_written_with_names_and_labels(tmp_path):
    own = _own.folder(fill(tmp_path / "own", {"cat": 10, "dog": 10}), 4, 1, 0)
    features = np.arange(40, dtype=np.float32).reshape(20, 2)
    _own.write(report.RunDir(tmp_path), own, features)
    with np.load(tmp_path / "features.npz") as held:
        assert sorted(held) == ["classes", "features", "files", "held_out", "labels"]
        np.testing.assert_array_equal(held["features"], features)
        assert held["classes"][held["labels"][12]] == "dog" and held["files"][12] == "dog/02.png"
    _own.write(report.RunDir(tmp_path), dataclasses.replace(own, labels=None), features)
    with np.load(tmp_path / "features.npz") as held:
        assert sorted(held) == ["features", "files", "held_out"]


def test_a_batch_is_no_more_than_half_of_the_images_and_divides_the_queue(tmp_path):
    own = _own.folder(fill(tmp_path, {"": 21}), 4, 3, 0)
    sizes = images._sizes(images.Config(), own)
    assert images._batch_size(images.Config(), 21) == 10
    assert (sizes.queue_size, sizes.image_shape) == (80, (4, 4, 3))


def test_views_are_grey_or_coloured_and_mirrored_as_asked(monkeypatch):
    monkeypatch.setattr(views, "uncoloured", lambda *args, **options: ("grey", args, options))
    monkeypatch.setattr(views, "small_images", lambda *args, **options: ("colours", args, options))
    grey = _own.embedded()
    coloured = dataclasses.replace(grey, images=np.zeros((1, 4, 4, 3), np.uint8))
    config = images.Config(scale=0.4, flip=True)
    assert images._views(config, grey) == ("grey", (8, (0.4, 1.0)), {"flip": True})
    assert images._views(config, coloured) == ("colours", (4, (0.4, 1.0)), {})


def test_the_table_of_probes_and_the_claim_on_neighbours(tmp_path, monkeypatch):
    own = _own.folder(fill(tmp_path / "own", {"cat": 10, "dog": 10}), 4, 1, 0)
    worths = iter([(0.5, 0.4, "aa"), (0.9, 0.8, "bb")])
    monkeypatch.setattr(_images, "worth", lambda *_: images._pretrain.Worth(*next(worths)))
    found = images.judged(report.RunDir(tmp_path), own, "trained", "start")
    rows = (tmp_path / "probes.csv").read_text().split()
    assert rows[:3] == ["features,linear,neighbours,encoder", "random,0.5,0.4,aa",
                        "trained,0.9,0.8,bb"]  # fmt: skip
    assert rows[3].startswith("pixels,")
    (claim,) = found.claims
    assert (claim.measured, claim.expected, claim.holds) == (0.8, 0.4, True)
