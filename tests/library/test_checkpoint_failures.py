"""Checkpoints when things go wrong: damaged files, kill -9, full disks."""

import contextlib
import gc
import os
import resource
import shutil
import subprocess
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from library import checkpoint
from library.checkpoint import CheckpointError, Checkpoints, CheckpointWarning
from library.storage import sealed_folders
from library.train_step import init_state
from tests.library import workers
from tests.library.states import assert_equal_bits, contents, make_state, save_two


@pytest.fixture
def saved(tmp_path):
    """A folder with the steps 1 and 2."""
    return save_two(tmp_path / "run")


def truncate(folder):
    path = workers.largest_file(folder)
    path.write_bytes(path.read_bytes()[:-1])
    return path, "bytes, "


def flip(folder):
    path = workers.largest_file(folder)
    workers.flip(path)
    return path, "has other bytes than were written"


def lose_metadata(folder):
    (folder / "params" / "_METADATA").unlink()
    return folder / "params" / "_METADATA", "is missing"


def lose_manifest(folder):
    (folder / "manifest.json").unlink()
    return folder / "manifest.json", "is missing"


def flip_manifest(folder):
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace("float32[3,4]", "float32[3,5]"))
    return path, "has other bytes than were written"


def halve_manifest(folder):
    path = folder / "manifest.json"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path, "cannot be read (JSONDecodeError)"


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()
    return folder / "manifest.json", "is missing"


DAMAGES = [truncate, flip, lose_metadata, lose_manifest, flip_manifest, halve_manifest, empty]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_checkpoint_is_named_in_one_line_and_the_one_before_used(saved, damage):
    path, what = damage(saved / "2")
    before = contents(saved)
    with Checkpoints(saved, every=1) as checkpoints:
        with pytest.warns(CheckpointWarning) as caught:
            restored = checkpoints.restore(make_state())
        assert_equal_bits(restored, make_state(1))
        (line,) = [str(warning.message) for warning in caught]
        assert line.startswith(f"checkpoint step 2 in {saved} is damaged: ")
        assert str(path.relative_to(saved / "2")) in line and what in line and "\n" not in line
        assert line.endswith("using step 1 instead")
        assert contents(saved) == before  # nothing deleted, nothing changed
        assert checkpoints.latest() == 1
        checkpoints.save(2, make_state(2))
    with Checkpoints(saved, every=1) as checkpoints:
        assert_equal_bits(checkpoints.restore(make_state()), make_state(2))
    aside = {name.replace(f"{saved}/2/", f"{saved}/2.damaged/"): v for name, v in before.items()}
    assert aside.items() <= contents(saved).items()


def test_a_flipped_bit_shows_wherever_it_is(saved):
    folder = saved / "2"
    assert sealed_folders.damage(folder) is None
    files = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]
    assert len(files) > 20
    for path in files:
        good = path.read_bytes()
        for position in (0, len(good) // 3, len(good) - 1):
            workers.flip(path, position)
            if path.name != "manifest.json" or position:  # the manifest names itself
                assert str(path.relative_to(folder)) in sealed_folders.damage(folder)
            path.write_bytes(good)
    assert sealed_folders.damage(folder) is None


def test_the_checkpoint_asked_for_by_number_is_not_replaced_by_another(saved):
    flip(saved / "2")
    with Checkpoints(saved, every=1) as checkpoints, pytest.warns(CheckpointWarning):
        with pytest.raises(CheckpointError, match=r"step 2 in .* is damaged$"):
            checkpoints.restore(make_state(), step=2)


def test_saving_over_an_unread_damaged_checkpoint_sets_it_aside(saved):
    for again in ("2.damaged", "2.damaged-2"):
        flip(saved / "2")
        before = contents(saved / "2")
        with Checkpoints(saved, every=1) as checkpoints:
            checkpoints.save(2, make_state(2))
        assert list(contents(saved / again).values()) == list(before.values())


def test_when_all_are_damaged_one_error_says_so_and_nothing_is_touched(saved):
    flip(saved / "1"), lose_manifest(saved / "2")
    before = contents(saved)
    with Checkpoints(saved, every=1) as checkpoints:
        with pytest.warns(CheckpointWarning, match="nothing else to use") as caught:
            with pytest.raises(CheckpointError, match="every checkpoint is damaged in") as error:
                checkpoints.restore(make_state())
        assert checkpoints.latest() is None  # and no second warning
    assert len(caught) == 2 and "\n" not in str(error.value)
    with pytest.warns(CheckpointWarning), pytest.raises(CheckpointError, match="every"):
        checkpoint.restore_params(saved)
    assert contents(saved) == before


def test_half_written_and_half_deleted_folders_are_never_whole(saved):
    shutil.copytree(saved / "2", saved / "3.saving-1")
    shutil.copytree(saved / "2", saved / "4.saving-9.orbax-checkpoint-tmp")
    shutil.copytree(saved / "2", saved / "0.deleting")
    shutil.copytree(saved / "2", saved / "7.damaged")
    (saved / "notes").mkdir()
    assert_equal_bits(
        checkpoint.restore_params(saved, make_state().params), make_state(2).params
    )  # a reader deletes nothing: the writer may be at work
    assert (saved / "3.saving-1").is_dir()
    with Checkpoints(saved, every=1) as checkpoints:
        assert checkpoints.latest() == 2
    assert sorted(os.listdir(saved)) == ["1", "2", "7.damaged", "notes"]


def test_a_process_killed_while_saving_leaves_only_whole_checkpoints(tmp_path):
    """Six kill -9 at random moments; each process resumes from what the one before left."""
    (process,) = workers.start("killed", tmp_path)
    assert process.returncode == 0, process.output
    found = workers.read(tmp_path, "killed")
    assert found["statuses"] == [9] * 6, process.output  # killed, not ended by an error
    assert found["unfinished"] > 0  # at least one died in the middle of a save
    numbers = sealed_folders.numbers(tmp_path / "checkpoints")
    assert numbers[-1] >= 6
    assert [sealed_folders.damage(tmp_path / "checkpoints" / str(n)) for n in numbers] == [
        None for _ in numbers
    ]
    params = checkpoint.restore_params(tmp_path / "checkpoints")
    assert all((np.asarray(w) == numbers[-1]).all() for w in params.values())


@contextlib.contextmanager
def small_files_only(directory):
    """The system refuses files of more than 100 kB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        yield directory, "File too large"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def small_disk(directory):
    """A real file system of one megabyte, where this user may mount one."""
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(directory)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this user cannot mount a file system")
    try:
        yield directory, "No space left on device"
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


@pytest.fixture
def silence(capfd, caplog):
    """Nothing printed or logged; what a failed save drops is collected before the next test."""
    yield
    deadline = time.monotonic() + 10
    while any(t.name.startswith(("array_", "write_")) for t in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    gc.collect()
    assert capfd.readouterr() == ("", "")
    assert [*caplog.get_records("call"), *caplog.records] == []


@pytest.mark.parametrize("limit", [small_files_only, small_disk])
def test_a_full_disk_is_one_line_and_costs_no_earlier_checkpoint(tmp_path, silence, limit):
    noise = np.random.default_rng(0).standard_normal((4, 1 << 17)).astype(np.float32)
    small, big = (
        init_state([jnp.asarray(row) for row in rows], optax.identity(), jax.random.key(0))
        for rows in (noise[:, :100], noise)
    )
    with limit(tmp_path / "full") as (directory, reason):
        with Checkpoints(directory, every=1) as checkpoints:
            checkpoints.save(1, small)
            saving = lambda: checkpoints.save(3, small)  # noqa: E731
            for finish in (checkpoints.wait, saving, checkpoints.latest):
                with pytest.raises(CheckpointError) as error:
                    checkpoints.save(2, big)
                    finish()
                message = f"checkpoint of step 2 not saved in {directory}: {reason}"
                assert str(error.value) == message
            assert sum(map(len, contents(directory).values())) < 100_000  # the space is free again
            assert_equal_bits(checkpoints.restore(small), small)
            checkpoints.save(2, small)  # and the run can go on
            assert checkpoints.latest() == 2
            assert sorted(os.listdir(directory)) == ["1", "2"]
        with pytest.raises(CheckpointError, match=reason), Checkpoints(directory, every=1) as again:
            again.save(3, big)


def test_the_error_of_a_run_is_not_hidden_by_a_failed_save(tmp_path, silence):
    state = make_state()
    with pytest.raises(KeyError), pytest.warns(CheckpointWarning, match="File too large"):
        with Checkpoints(tmp_path, every=1) as checkpoints, small_files_only(tmp_path):
            big = state.replace(model_state=jax.random.normal(jax.random.key(0), (1 << 17,)))
            checkpoints.save(1, big)
            checkpoints._pending[1].exception()  # finish under the limit
            raise KeyError


def test_nothing_is_printed_when_all_is_well(saved, silence):
    with Checkpoints(saved, every=1) as checkpoints:
        checkpoints.save(3, checkpoints.restore(make_state()))
    checkpoint.restore_params(saved)


@contextlib.contextmanager
def no_file_handles():
    """As many files open as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (400, hard))
        with contextlib.suppress(OSError):
            while True:
                stack.enter_context(open(os.devnull))
        yield


def test_with_no_file_handle_left_no_checkpoint_is_called_damaged(saved):
    with Checkpoints(saved, every=1) as checkpoints:
        assert checkpoints.latest() == 2
        with no_file_handles(), pytest.raises(OSError, match="Too many open files"):
            checkpoints.restore(make_state())
        with no_file_handles(), pytest.raises(OSError, match="Too many open files"):
            sealed_folders.damage(saved / "2")
        assert_equal_bits(checkpoints.restore(make_state()), make_state(2))


@pytest.mark.parametrize(
    "error, kind",
    [
        (MemoryError(), MemoryError),
        (OSError(24, "Too many open files"), OSError),
        (ValueError("read failed [os_error_code='5']"), OSError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (ValueError("no such key"), CheckpointError),
    ],
)
def test_what_the_machine_cannot_read_goes_through_as_itself(saved, monkeypatch, error, kind):
    import orbax.checkpoint as ocp

    def failing(*_, **__):
        raise error

    with Checkpoints(saved, every=1) as checkpoints:
        monkeypatch.setattr(ocp.Checkpointer, "restore", failing)
        with pytest.raises(kind) as caught:
            checkpoints.restore(make_state())
    assert type(caught.value) is kind


def test_no_memory_while_saving_goes_through_as_itself(saved, monkeypatch):
    def failing(*_, **__):
        raise MemoryError

    with Checkpoints(saved, every=1) as checkpoints:
        monkeypatch.setattr(checkpoints._writer, "save", failing)
        with pytest.raises(MemoryError):
            checkpoints.save(3, make_state(3))
        monkeypatch.setattr(
            checkpoints._writer,
            "save",
            lambda *_, **__: [][0],  # whatever else goes wrong
        )
        with pytest.raises(CheckpointError, match="step 3 not saved in .*: list index out of"):
            checkpoints.save(3, make_state(3))
        monkeypatch.undo()
        monkeypatch.setattr(checkpoints, "_finish", failing)
        checkpoints.save(3, make_state(3))
        with pytest.raises(MemoryError):
            checkpoints.wait()
    assert sealed_folders.numbers(saved) == [1, 2]
