"""A question starts where JAX has not started yet."""

import os
import pathlib
import subprocess
import sys
import textwrap

HOUSE = pathlib.Path(__file__).parents[2]


def test_importing_a_question_leaves_its_cores_to_be_made_devices():
    """JAX takes a number of devices only before it starts."""
    code = """
        import importlib.util, jax
        from experiments import catalogue
        from library import environment
        files = {q.module: importlib.util.find_spec(q.module).origin for q in catalogue.questions()}
        named = [name for name, file in files.items() if "CORES_AS_DEVICES" in open(file).read()]
        assert all(importlib.import_module(name).CORES_AS_DEVICES for name in named) and named
        environment.cores_as_devices()
        print(jax.local_device_count("cpu") == environment.num_cores())
    """
    hidden = ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=HOUSE,
        env={key: value for key, value in os.environ.items() if key not in hidden},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "True\n", done.stderr
