"""Evaluation batches have one shape: the last one is padded, and a mask says what counts."""

import numpy as np
import pytest

from library.data import padded_batches, transforms

NUM = 23  # shares no factor with the batch sizes
IMAGE = np.arange(NUM * 4.0).reshape(NUM, 2, 2)
ARRAYS = {"id": np.arange(NUM, dtype=np.int32), "image": IMAGE}


@pytest.mark.parametrize("source", [ARRAYS, [{"id": i, "image": IMAGE[i]} for i in range(NUM)]])
def test_finite_batches_have_one_shape_and_a_mask(source):
    batches = list(padded_batches.FiniteBatches(source, 8))
    assert [batch["image"].shape for batch in batches] == [(8, 2, 2)] * 3
    masks = np.concatenate([batch["mask"] for batch in batches])
    assert masks.dtype == np.float32 and masks.sum() == NUM
    seen = np.concatenate([batch["id"] for batch in batches])
    np.testing.assert_array_equal(seen[masks == 1], np.arange(NUM))
    np.testing.assert_array_equal(seen[masks == 0], NUM - 1)  # padding repeats the last example


def test_a_masked_mean_over_finite_batches_is_the_mean():
    for batch_size in (1, 5, 8, 23, 64):
        batches = padded_batches.FiniteBatches(ARRAYS, batch_size)
        assert len(batches) == len(list(batches)) == -(-NUM // batch_size)
        total = sum(np.sum(batch["mask"] * batch["id"]) for batch in batches)
        assert total == ARRAYS["id"].sum()


def test_finite_shards_make_up_the_whole_batch():
    whole = list(padded_batches.FiniteBatches(ARRAYS, 8))
    parts = [list(padded_batches.FiniteBatches(ARRAYS, 8, shard=(index, 4))) for index in range(4)]
    for step, batch in enumerate(whole):
        for name in ("id", "mask"):
            joined = np.concatenate([part[step][name] for part in parts])
            np.testing.assert_array_equal(joined, batch[name])


def test_finite_transform_and_errors():
    batches = padded_batches.FiniteBatches(ARRAYS, 8, transform=transforms.to_unit_range(46, "id"))
    assert batches[0]["id"].dtype == np.float32 and batches[2]["mask"].sum() == 7
    with pytest.raises(IndexError, match="batch 3 of 3"):
        batches[3]
    with pytest.raises(ValueError, match="leaf 'mask' of its own"):
        padded_batches.FiniteBatches({"mask": np.ones(3)}, 2)[0]
    with pytest.raises(ValueError, match="batch size 6 is not a positive multiple of 4"):
        padded_batches.FiniteBatches(ARRAYS, 6, shard=(0, 4))
