"""Processes of their own for tests: two that form one run, one with four devices, one that dies.

    python -m tests.library.workers MODE FOLDER

`start` launches them with a time limit; what they found comes back as JSON files in FOLDER.
"""

import contextlib
import functools
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings

ROOT = pathlib.Path(__file__).parents[2]
TIMEOUT_SECONDS = 180


def start(mode, folder, num_devices=1, num_processes=1, **environment):
    """Runs the processes to their end or kills them after the limit; `.output` is all they said."""
    base = {
        **{name: value for name, value in os.environ.items() if not name.startswith("JAX_")},
        "JAX_COMPILATION_CACHE_DIR": os.environ.get("JAX_COMPILATION_CACHE_DIR", ""),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={num_devices}",
        **environment,
    }
    if num_processes > 1:
        base["JAX_COORDINATOR_ADDRESS"] = f"127.0.0.1:{free_port()}"
        base["JAX_NUM_PROCESSES"] = str(num_processes)
    command = [sys.executable, "-W", "error", "-m", "tests.library.workers", mode, str(folder)]
    with contextlib.ExitStack() as stack:
        processes = []
        for process_id in range(num_processes):
            own = {"JAX_PROCESS_ID": str(process_id)} if num_processes > 1 else {}
            log = stack.enter_context(tempfile.TemporaryFile("w+"))
            process = subprocess.Popen(
                command, env=base | own, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT
            )
            stack.callback(process.kill)
            processes.append((process, log))
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while time.monotonic() < deadline and None in [p.poll() for p, _ in processes]:
            if any(process.returncode for process, _ in processes):
                deadline = min(deadline, time.monotonic() + 10)  # the others wait in vain
            time.sleep(0.05)
        for process, log in processes:
            log.seek(0)
            process.output = log.read()
    return [process for process, _ in processes]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@functools.cache
def pair():
    """Folder with the findings of two processes x two devices, run once for all tests."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="ansatz-pair-"))
    processes = start("pair", folder, num_devices=2, num_processes=2, JAX_ENABLE_X64="1")
    assert [process.returncode for process in processes] == [0, 0], [p.output for p in processes]
    return folder


def read(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def _write(folder, name, found):
    (folder / f"{name}.json").write_text(json.dumps(found))


def _run_pair(folder):
    """One of two processes: agreements, raw gradients, a sharded save, damage, the fallback."""
    import jax

    from library import multihost

    multihost.initialize()
    multihost.initialize()  # the second call does nothing
    found = {"count": jax.process_count(), "devices": jax.device_count()}
    found |= _agreements()
    _save_gradient(folder)
    found |= _save_and_damage(folder)
    _write(folder, f"pair-{jax.process_index()}", found)


def _agreements():
    import jax
    import numpy as np

    from library import multihost, sharding

    me = jax.process_index()
    halves = jax.sharding.NamedSharding(sharding.make_mesh(), jax.sharding.PartitionSpec("data"))
    mesh = sharding.make_mesh({"data": 1, "model": 4})
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    rows = np.arange(8.0).reshape(8, 1)[me * 4 : me * 4 + 4]
    batch = multihost.global_batch({"x": rows}, halves)
    same = multihost.global_batch({"x": np.arange(3.0)}, whole)
    try:
        multihost.global_batch({"x": rows[:3]}, halves)
        error = ""
    except ValueError as raised:
        error = str(raised)
    multihost.barrier("agreements")
    return {
        "main": multihost.is_main_process(),
        "maximum": multihost.agreed_maximum(3 + me),
        "from_main": multihost.from_main_process(5 + me),
        "rows": multihost.local_rows(8),
        "rows_halves": multihost.local_rows(8, halves),
        "rows_whole": multihost.local_rows(8, whole),
        "batch": multihost.to_host(batch)["x"].ravel().tolist(),
        "same": multihost.to_host(same)["x"].tolist(),
        "indivisible": error,
    }


def _save_gradient(folder):
    """The raw gradient of one step on two processes x one device."""
    import jax
    import numpy as np
    import optax

    from library import multihost, sharding
    from tests.library import updates

    devices = [next(d for d in jax.devices() if d.process_index == index) for index in range(2)]
    mesh = sharding.make_mesh(devices=devices)
    raw = optax.trace(decay=0.0)  # its state is the last gradient
    state = jax.jit(lambda: updates.make_state(raw))()
    step = sharding.compile_step(updates.make_step(optimizer=raw), state, mesh)
    state = multihost.global_tree(state, sharding.shardings(state, mesh))
    state, _ = step(state, _local_batch(0))
    grads = multihost.to_host(jax.tree.leaves(state.opt_state))
    if multihost.is_main_process():
        np.savez(folder / "gradient.npz", *grads)


def _save_and_damage(folder):
    """Steps 1 and 2 saved under FSDP on 2 x 2; step 2 damaged, passed over, and saved again."""
    import jax
    import numpy as np

    from library import checkpoint, multihost, sharding
    from tests.library import updates

    mesh = sharding.make_mesh()
    rules = ((".*", sharding.fsdp()),)
    state = jax.jit(updates.make_state)()
    step = sharding.compile_step(updates.make_step(), state, mesh, rules)
    with checkpoint.Checkpoints(folder / "checkpoints", every=1) as checkpoints:
        state = multihost.global_tree(state, sharding.shardings(state, mesh, rules))
        state, _ = step(state, _local_batch(0))
        checkpoints.save(1, state)
        one = raw_leaves(state)
        split = any(not leaf.is_fully_replicated for leaf in jax.tree.leaves(state.params))
        state, _ = step(state, _local_batch(1))
        checkpoints.save(2, state)
        latest = checkpoints.latest()
    if multihost.is_main_process():
        np.savez(folder / "step1.npz", *one)
        flip(largest_file(folder / "checkpoints" / "2"))
    multihost.barrier("damaged")
    with checkpoint.Checkpoints(folder / "checkpoints", every=1) as checkpoints:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            restored = checkpoints.restore(state)
        equal = all(np.array_equal(a, b) for a, b in zip(raw_leaves(restored), one))
        again, _ = step(restored, _local_batch(1))
        repeated = all(np.array_equal(a, b) for a, b in zip(raw_leaves(again), raw_leaves(state)))
        checkpoints.save(2, again)
    return {
        "split": split,
        "latest": latest,
        "warnings": [str(warning.message) for warning in caught],
        "equal": equal,
        "repeated": repeated,
    }


def _local_batch(step):
    """This process's rows of the batch of update `step`."""
    import jax

    from library import multihost
    from tests.library import updates

    batch = jax.device_get(jax.jit(updates.batch_at)(step))
    start, size = multihost.local_rows(8)
    return jax.tree.map(lambda leaf: leaf[start : start + size], batch)


def raw_leaves(tree):
    """Leaves as whole host arrays, keys as their data."""
    import jax

    from library import multihost

    leaves = [
        jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        for x in jax.tree.leaves(tree)
    ]
    return multihost.to_host(leaves)


def largest_file(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    return max(files, key=lambda path: path.stat().st_size)


def flip(path, position=None):
    """Changes one bit of one byte, in the middle if no position is given."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if position is None else position] ^= 1
    path.write_bytes(data)


def _run_four(folder):
    """One process with four devices: what the pair saved, on one device and on four."""
    import jax
    import numpy as np

    from library import checkpoint, sharding
    from tests.library import updates

    expected = list(np.load(folder / "step1.npz").values())
    found = {"devices": jax.device_count()}
    like = jax.eval_shape(updates.make_state)
    for count in (1, 4):
        mesh = sharding.make_mesh({"data": count})
        places = sharding.shardings(like, mesh, ((".*", sharding.fsdp()),))
        target = jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            like,
            places,
        )
        with checkpoint.Checkpoints(folder / "checkpoints", every=1) as checkpoints:
            restored = checkpoints.restore(target, step=1)
        found[f"equal{count}"] = all(
            np.array_equal(a, b) for a, b in zip(raw_leaves(restored), expected, strict=True)
        )
        on_place = jax.tree.map(lambda leaf, place: leaf.sharding == place, restored, places)
        found[f"placed{count}"] = all(jax.tree.leaves(on_place))
    _write(folder, "four", found)


def numbered_state(number):
    """A few megabytes whose every entry is `number`."""
    import jax
    import jax.numpy as jnp
    import optax

    from library.train_step import init_state

    params = {f"w{index}": jnp.full((1 << 17,), number, jnp.float32) for index in range(4)}
    state = init_state(params, optax.sgd(0.1), jax.random.key(0))
    return state.replace(step=jnp.asarray(number, jnp.int32))


def _save_for_ever(directory):
    """Resumes as a run would and saves as fast as it can."""
    import numpy as np

    from library import checkpoint

    checkpoints = checkpoint.Checkpoints(directory, every=1, keep=2)
    state = checkpoints.restore(numbered_state(0))
    number = 0 if state is None else int(state.step)
    assert state is None or all((np.asarray(w) == number).all() for w in state.params.values())
    while True:
        number += 1
        checkpoints.save(number, numbered_state(number))


def _run_killed(folder, num_kills=6):
    """Kills a saving process again and again; each next one resumes from what is left."""
    import orbax.checkpoint  # noqa: F401  (imported once, before the forks)

    from library.storage import sealed_folders

    warnings.simplefilter("ignore")  # JAX warns of any fork; here no device was touched
    delays, found, newest = random.Random(0), {"unfinished": 0, "statuses": []}, 0
    (folder / "checkpoints").mkdir()
    for _ in range(num_kills):
        child = os.fork()
        if child == 0:
            try:
                warnings.simplefilter("error")
                _save_for_ever(folder / "checkpoints")
            finally:
                os._exit(1)
        before = newest
        while newest == before and os.waitpid(child, os.WNOHANG)[0] == 0:
            time.sleep(0.01)  # until it has got on by a step, however slow the machine is
            newest = max(sealed_folders.numbers(folder / "checkpoints"), default=0)
        time.sleep(delays.uniform(0.0, 0.3))
        os.kill(child, signal.SIGKILL)
        found["statuses"].append(os.waitpid(child, 0)[1])
        left = [path.name for path in (folder / "checkpoints").iterdir()]
        found["unfinished"] += any("saving" in name for name in left)
    _write(folder, "killed", found)


def _run_lonely(folder):
    """Process 0 of a run to which no other process comes."""
    from library import multihost

    multihost.initialize(f"127.0.0.1:{free_port()}", 2, 0, timeout_seconds=1)


if __name__ == "__main__":
    modes = {"pair": _run_pair, "four": _run_four, "killed": _run_killed, "lonely": _run_lonely}
    modes[sys.argv[1]](pathlib.Path(sys.argv[2]))
