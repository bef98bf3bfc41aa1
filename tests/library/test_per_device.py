"""The step under pmap beside the compiled one; its other placements are in test_sharding."""

import jax
import numpy as np
import pytest

from library import per_device, sharding, testing
from tests.library import updates


def test_two_updates_in_one_call_are_two_calls(x64):
    step = per_device.pmap_step(updates.make_step, axis_name="rows")
    batches = [updates.batch_at(index) for index in range(2)]
    one = step.place_state(updates.make_state())
    for batch in batches:
        one, metrics = step(one, batch)
        jax.block_until_ready(metrics)
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *batches)
    two, both = step.many(step.place_state(updates.make_state()), step.place_batch(stacked, True))
    testing.assert_trees_close(two.params, one.params, rtol=1e-12)
    np.testing.assert_allclose(both["loss"][1], metrics["loss"], rtol=1e-12)


def test_one_device_is_the_plain_step(x64):
    step = per_device.pmap_step(updates.make_step, devices=jax.local_devices()[:1])
    mapped, _ = step(step.place_state(updates.make_state()), updates.batch_at(0))
    mesh = sharding.make_mesh({"data": 1})
    state = updates.make_state()
    plain = sharding.compile_step(updates.make_step(), state, mesh)
    expected, _ = plain(plain.place_state(state), updates.batch_at(0))
    testing.assert_trees_close(mapped.params, expected.params, rtol=1e-12)


def test_a_batch_that_the_devices_do_not_divide_is_named():
    step = per_device.pmap_step(updates.make_step)
    with pytest.raises(ValueError, match="7"):
        step.place_batch(updates.batch_at(0, batch_size=7), False)


def test_no_device_at_all_is_refused():
    with pytest.raises(ValueError, match=r"devices=\[\]: expected one or more"):
        per_device.pmap_step(updates.make_step, devices=[])
