"""Several processes as one run: agreements, rows, global arrays, and gradients equal to one."""

import pathlib

import jax
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from library import multihost, sharding
from tests.library import updates, workers


@pytest.fixture
def halves():
    return NamedSharding(sharding.make_mesh(), PartitionSpec("data"))


@pytest.fixture(scope="module")
def found():
    """What each of two processes x two devices found."""
    return [workers.read(workers.pair(), f"pair-{index}") for index in range(2)]


def test_one_process_needs_no_start_up(monkeypatch):
    for variable in (*multihost.COUNT_VARIABLES, "JAX_NUM_PROCESSES", "JAX_COORDINATOR_ADDRESS"):
        monkeypatch.delenv(variable, raising=False)
    jax.devices()
    multihost.initialize()
    multihost.initialize("127.0.0.1:1", num_processes=1, process_id=0)
    assert not jax.distributed.is_initialized()
    assert multihost.is_main_process()
    multihost.barrier("nobody else")
    assert multihost.agreed_maximum(-3) == multihost.from_main_process(-3) == -3


@pytest.mark.parametrize("launcher", multihost.COUNT_VARIABLES)
def test_a_start_up_that_comes_too_late_says_so(monkeypatch, launcher):
    jax.devices()
    with pytest.raises(
        RuntimeError, match=r"failed: it must come before anything touches a device$"
    ):
        multihost.initialize("127.0.0.1:1", num_processes=2, process_id=0)
    monkeypatch.setenv(launcher, "2")
    with pytest.raises(RuntimeError, match="must come before"):
        multihost.initialize()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("host", 2, 0), "coordinator_address='host': expected host:port"),
        (("host:1", 0, 0), "num_processes=0: expected a positive number"),
        (("host:1", 2, 2), "process_id=2: expected a number from 0 to num_processes - 1"),
    ],
)
def test_values_that_fit_no_run_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        multihost.initialize(*arguments)


def test_the_environment_is_checked_too(monkeypatch):
    monkeypatch.setenv("JAX_NUM_PROCESSES", "two")
    with pytest.raises(ValueError, match="JAX_NUM_PROCESSES='two': expected a whole number"):
        multihost.initialize()


def test_when_the_others_do_not_come_the_process_ends_with_one_line(tmp_path: pathlib.Path):
    (process,) = workers.start("lonely", tmp_path)
    assert process.returncode == 1
    (line,) = process.output.splitlines()
    assert line.startswith("process 0 of 2 gave up after 1 s: not all processes of the run came to")


def test_what_a_process_joins_with(monkeypatch):
    """JAX's own limit is the later one: ours ends the process with one line."""
    joined = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a, **k: joined.append((a, k)))
    multihost.initialize("host:1", 3, 2, timeout_seconds=7)
    assert joined == [(("host:1", 3, 2), {"initialization_timeout": 67})]


def test_one_process_has_all_rows_and_places_its_whole_batch(halves):
    assert multihost.local_rows(6) == multihost.local_rows(6, halves) == (0, 6)
    batch = {"x": np.arange(12.0).reshape(6, 2), "y": np.arange(6)}
    placed = multihost.global_batch(batch, halves)
    assert all(leaf.sharding == halves for leaf in placed.values())
    jax.tree.map(np.testing.assert_array_equal, placed, batch)
    on_one = jax.sharding.SingleDeviceSharding(jax.devices()[1])
    np.testing.assert_array_equal(multihost.global_batch(batch, on_one)["x"], batch["x"])


def test_stacked_batches_are_split_along_their_second_axis():
    stacked = NamedSharding(sharding.make_mesh(), PartitionSpec(None, "data"))
    placed = multihost.global_batch(np.zeros((3, 4, 2)), stacked)
    assert placed.shape == (3, 4, 2)
    assert placed.addressable_shards[0].data.shape == (3, 2, 2)


def test_a_batch_that_does_not_divide_is_named(halves):
    with pytest.raises(ValueError, match=r"leaf 'x' has shape \(3, 2\).* of its 2 devices"):
        multihost.global_batch({"x": np.zeros((3, 2))}, halves)
    with pytest.raises(ValueError, match=r"leaf 'y' has shape \(\) on this process"):
        multihost.global_batch({"y": np.zeros(())}, halves)
    with pytest.raises(ValueError, match="batch size 3 does not divide over 2 devices"):
        multihost.local_rows(3, halves)


def test_global_trees_are_copies_and_keep_keys():
    mesh = sharding.make_mesh()
    tree = {"w": jax.numpy.arange(4.0), "key": jax.random.key(1)}
    specs = {"w": PartitionSpec("data"), "key": PartitionSpec()}
    places = {name: NamedSharding(mesh, spec) for name, spec in specs.items()}
    placed = multihost.global_tree(tree, places)
    assert placed["w"].sharding == places["w"] and placed["key"].sharding == places["key"]
    np.testing.assert_array_equal(placed["w"], tree["w"])
    assert jax.random.key_impl(placed["key"]) == jax.random.key_impl(tree["key"])
    assert (jax.random.key_data(placed["key"]) == jax.random.key_data(tree["key"])).all()
    placed["w"].delete()
    np.testing.assert_array_equal(tree["w"], np.arange(4.0))


def test_two_processes_find_each_other_and_agree(found):
    for index, one in enumerate(found):
        assert (one["count"], one["devices"]) == (2, 4)
        assert one["main"] is (index == 0)
        assert one["maximum"] == 4
        assert one["from_main"] == 5


def test_two_processes_share_a_batch(found):
    for index, one in enumerate(found):
        assert one["rows"] == one["rows_halves"] == [4 * index, 4]
        assert one["rows_whole"] == [0, 8]  # not split over processes: each needs every row
        assert one["batch"] == list(range(8))
        assert one["same"] == [0, 1, 2]
        assert "has shape (3, 1) on this process" in one["indivisible"]


def test_raw_gradients_of_two_processes_equal_those_of_one_device(x64):
    """One device in this process against two processes x one device."""
    raw = optax.trace(decay=0.0)
    step = jax.jit(updates.make_step(optimizer=raw))
    state = jax.jit(lambda: updates.make_state(raw))()
    state, _ = step(state, jax.jit(updates.batch_at)(0))
    actual = np.load(workers.pair() / "gradient.npz").values()
    for ours, theirs in zip(jax.tree.leaves(state.opt_state), actual, strict=True):
        assert theirs.dtype == np.float64
        np.testing.assert_allclose(theirs, ours, rtol=1e-10)


def test_rows_that_do_not_divide_over_processes_are_named(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    with pytest.raises(ValueError, match="batch size 8 is not a multiple of the 3 processes"):
        multihost.local_rows(8)


def test_typed_keys_become_a_global_array_of_keys(halves):
    keys = jax.random.split(jax.random.key(1), 4)
    batch = multihost.global_batch({"key": keys, "x": np.arange(4.0)}, halves)
    assert batch["key"].sharding.is_equivalent_to(halves, 1) and batch["key"].dtype == keys.dtype
    np.testing.assert_array_equal(*map(jax.random.key_data, (batch["key"], keys)))
