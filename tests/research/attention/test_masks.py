"""Masks against their definition in words, at any positions, alone and composed."""

import jax.numpy as jnp
import numpy as np
import pytest

from research.attention import masks
from tests.research.attention import cases


@pytest.mark.parametrize("name", cases.MASKS)
def test_every_mask_is_what_it_says(name):
    """All pairs of eleven positions of both examples, and queries and keys in other orders."""
    order = np.random.default_rng(0).permutation(11)
    for i, j in ((np.arange(11), np.arange(11)), (order[:4], order[::-1])):
        seen = masks.visible(cases.MASKS[name], jnp.asarray(i)[None], jnp.asarray(j)[None])
        seen = np.broadcast_to(seen, (2, len(i), len(j)))
        expected = [[[cases.SEES[name](b, a, c) for c in j] for a in i] for b in range(2)]
        np.testing.assert_array_equal(seen, expected)


def test_rows_of_a_batch_may_stand_at_places_of_their_own():
    i = jnp.array([[0, 1], [5, 6]])
    seen = masks.visible(masks.Causal(), i, jnp.arange(8)[None])
    np.testing.assert_array_equal(seen.sum(-1), i + 1)


def test_no_key_is_seen_at_a_negative_position():
    j = jnp.array([[-1, 0, -3, 2]])
    for mask in (None, masks.Causal(), masks.Padding(jnp.array([9]))):
        seen = masks.visible(mask, jnp.full((1, 3), 7), j)
        np.testing.assert_array_equal(seen, np.tile([False, True, False, True], (1, 3, 1)))


def test_every_leaves_none_out_and_one_alone():
    window = masks.Window(2)
    assert masks.every() is None and masks.every(None, None) is None
    assert masks.every(None, window) is window
    assert masks.every(window, None, masks.Causal()) == masks.Every((window, masks.Causal()))
    assert masks.Every(())(jnp.zeros((1, 2, 1), int), jnp.zeros((1, 1, 3), int)).all()
    with pytest.raises(AssertionError, match="rank"):
        masks.visible(window, jnp.arange(3), jnp.arange(3))
    with pytest.raises(ValueError, match="width=0"):
        masks.Window(0)


def test_documents_go_by_slot_and_may_be_of_two_rows():
    """Eager and traced; queries of one row of documents, keys of another."""
    ids, restarting, slots = jnp.array([[0, 0, 1, 1]]), jnp.array([[0, 1, 0, 1]]), jnp.arange(4)
    same = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]], bool)
    np.testing.assert_array_equal(
        masks.visible(masks.Documents(ids), slots[None], slots[None])[0], same
    )
    with pytest.raises(ValueError, match="slot 0 comes twice in a row of keys"):
        masks.visible(masks.Documents(ids), restarting, restarting)
    across = masks.Documents(ids, jnp.array([[1, 0, 2]]))
    seen = masks.visible(across, jnp.array([[3, 0]]), jnp.array([[0, 1, 2]]))
    np.testing.assert_array_equal(seen, [[[True, False, False], [False, True, False]]])
    unknown = masks.visible(masks.Documents(ids), slots[None], jnp.array([[2, -1, -1, 3]]))
    np.testing.assert_array_equal(
        unknown[0], same[:, 2:] @ np.array([[1, 0, 0, 0], [0, 0, 0, 1]]) > 0
    )


def test_kinds_are_found_in_what_is_composed():
    causal, documents = masks.Causal(), masks.Documents(cases.IDS)
    assert masks.holds(documents, masks.Documents)
    assert masks.holds(masks.every(causal, masks.Every((documents, causal))), masks.Documents)
    assert not masks.holds(masks.every(causal, masks.Window(2)), masks.Documents)
    assert not masks.holds(None, masks.Documents)


@pytest.mark.parametrize(
    "mask, message",
    [
        (masks.Padding(jnp.zeros((2, 1), int)), r"Padding: lengths \(2, 1\): expected \(2,\)"),
        (masks.Prefix(jnp.zeros(3, int)), r"Prefix: lengths \(3,\)"),
        (
            masks.every(masks.Causal(), masks.Documents(jnp.zeros((2, 4), int))),
            r"ids \(2, 4\): .* 3\)",
        ),
        (masks.Documents(jnp.zeros(3, int)), r"ids \(3,\): expected \(2, 3\)"),
        (
            masks.Documents(jnp.zeros((2, 3), int), jnp.zeros((2, 3), int)),
            r"key_ids \(2, 3\): expected \(2, 5\)",
        ),
    ],
)
def test_shapes_that_do_not_fit_are_named(mask, message):
    with pytest.raises(ValueError, match=message):
        masks.check(mask, 2, 3, 5)
    masks.check(None, 2, 3, 5)
    fits = masks.Documents(jnp.zeros((2, 3), int), jnp.zeros((1, 5), int))
    masks.check(masks.every(fits, masks.Padding(jnp.zeros(1, int))), 2, 3, 5)
    masks.check(masks.Documents(jnp.zeros((2, 9), int)), 2, None, None)
