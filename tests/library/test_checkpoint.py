"""Checkpoints: equal to the bit, safe with donation, on any layout; misfits are named."""

import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from library import checkpoint, sharding
from library.checkpoint import CheckpointError, Checkpoints
from library.train_step import init_state
from tests.library import workers
from tests.library.states import assert_equal_bits, contents, make_state, save_two


@pytest.fixture
def state():
    return make_state(1)


@pytest.fixture
def saved(tmp_path):
    """A folder with the steps 1 and 2."""
    return save_two(tmp_path / "run")


@pytest.mark.parametrize("ema", [True, False])
@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_a_state_comes_back_to_the_bit(tmp_path, ema, impl):
    state = make_state(7, ema, impl, model_state={"statistics": {"mean": jnp.ones(3)}, "empty": {}})
    with Checkpoints(tmp_path, every=5) as checkpoints:
        assert checkpoints.latest() is None
        assert checkpoints.restore(state) is None
        checkpoints.save(7, state)
        assert checkpoints.latest() == 7
    with Checkpoints(tmp_path, every=5) as checkpoints:
        restored = checkpoints.restore(jax.tree.map(jnp.zeros_like, state))
    assert_equal_bits(restored, state)
    assert jax.random.key_impl(restored.rng) == jax.random.key_impl(state.rng)


def test_leaves_go_where_the_state_asked_for_has_them(tmp_path):
    mesh = sharding.make_mesh()
    state = init_state({"w": jnp.arange(8.0)}, optax.adam(1e-3), jax.random.key(0), ema=True)
    rules = (("w$", PartitionSpec("data")),)
    places = sharding.shardings(state, mesh, rules)
    like = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        jax.eval_shape(lambda: state),
        places,
    )
    with Checkpoints(tmp_path, every=1) as checkpoints:
        checkpoints.save(1, state)
        split = checkpoints.restore(like)
        checkpoints.save(2, split)
        back = checkpoints.restore(state)
    assert_equal_bits(split, state)
    assert_equal_bits(back, state)
    assert jax.tree.map(lambda leaf: leaf.sharding, split) == places
    assert split.params["w"].addressable_shards[1].data.shape == (4,)
    assert back.params["w"].sharding == state.params["w"].sharding


@pytest.mark.parametrize("num_devices", [1, 2])
def test_buffers_may_be_donated_or_deleted_as_soon_as_save_returns(tmp_path, num_devices):
    mesh = sharding.make_mesh({"data": num_devices})
    place = NamedSharding(mesh, PartitionSpec("data"))
    make = jax.jit(lambda n: [jnp.full((1 << 18,), n + i) for i in range(8)], out_shardings=place)
    overwrite = jax.jit(lambda leaves: [leaf * 0 - 1 for leaf in leaves], donate_argnums=0)
    like = init_state(make(0.0), optax.identity(), jax.random.key(0))
    with Checkpoints(tmp_path, every=1, keep=4) as checkpoints:
        for number in range(1, 5):
            state = like.replace(params=make(float(number)))
            checkpoints.save(number, state)
            jax.block_until_ready(overwrite(state.params))
            if number % 2:
                for leaf in state.params:  # a donation to the letter, and new owners of the memory
                    leaf.delete()
                jax.block_until_ready(make(-1.0))
        for number in range(1, 5):
            for index, leaf in enumerate(checkpoints.restore(like, number).params):
                assert (np.asarray(leaf) == number + index).all()


def test_the_newest_are_kept_and_the_period_is_counted(tmp_path, state):
    with Checkpoints(tmp_path, every=10, keep=2) as checkpoints:
        assert [step for step in range(31) if checkpoints.is_due(step)] == [0, 10, 20, 30]
        for step in (10, 20, 30, 35):
            checkpoints.save(step, state)
    assert sorted(os.listdir(tmp_path)) == ["30", "35"]
    with Checkpoints(tmp_path, every=10) as checkpoints:
        assert checkpoints.restore(state, step=30) is not None
        with pytest.raises(CheckpointError, match="step 20 in .* is not there"):
            checkpoints.restore(state, step=20)


def test_an_undamaged_checkpoint_is_never_overwritten(saved):
    before = contents(saved)
    with Checkpoints(saved, every=1) as checkpoints:
        with pytest.raises(CheckpointError, match="step 2 not saved: an undamaged one is in"):
            checkpoints.save(2, make_state(5))
    assert contents(saved) == before


def test_parameters_alone_come_from_a_run_of_any_optimizer(tmp_path):
    params = {"a": {"w": jnp.arange(4.0)}, "list": [jnp.ones(2), jnp.zeros(1)]}
    plain = init_state(params, optax.sgd(0.1), jax.random.key(0), ema=True)
    averaged = jax.tree.map(lambda leaf: leaf + 1, params)
    with Checkpoints(tmp_path, every=1) as checkpoints:
        checkpoints.save(1, init_state(params, optax.adafactor(1e-3), jax.random.key(0)))
        checkpoints.save(2, plain.replace(ema=averaged))
    assert_equal_bits(checkpoint.restore_params(tmp_path), params)
    assert_equal_bits(checkpoint.restore_params(tmp_path, step=1), params)
    assert_equal_bits(checkpoint.restore_params(tmp_path, ema=True), averaged)
    place = NamedSharding(sharding.make_mesh(), PartitionSpec())
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), params)
    restored = checkpoint.restore_params(tmp_path, like)
    assert_equal_bits(restored, params)
    assert restored["a"]["w"].sharding == place
    with pytest.raises(ValueError, match="/1 holds no moving average"):
        checkpoint.restore_params(tmp_path, step=1, ema=True)
    with pytest.raises(ValueError, match=r"params/a/w is float32\[4\] in .* and missing in"):
        checkpoint.restore_params(tmp_path, {"list": params["list"]})
    with pytest.raises(CheckpointError, match="no checkpoints: .*/nowhere is not a folder"):
        checkpoint.restore_params(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda s: s.replace(params={**s.params, "dense/kernel": jnp.zeros((3, 5))}),
            r"params/dense/kernel is float32\[3,4\] in the checkpoint and float32\[3,5\] in ",
        ),
        (
            lambda s: s.replace(step=jnp.zeros((), jnp.uint32)),
            r"step is int32\[\] in the checkpoint and uint32\[\] in the run",
        ),
        (lambda s: s.replace(ema=None), r"ema/blocks/0 is float32\[4\] .* and missing in the run"),
        (
            lambda s: s.replace(model_state={"mean": jnp.zeros(2)}),
            r"model_state/mean is missing in the checkpoint and float32\[2\] in the run",
        ),
        (
            lambda s: s.replace(rng=jax.random.key(0, impl="rbg")),
            r"rng is key<fry>\[\] in the checkpoint and key<rbg>\[\] in the run",
        ),
        (
            lambda s: make_state(optimizer=optax.sgd(0.1, momentum=0.9)),
            r"opt_state/0/trace/blocks/0 is missing in the checkpoint",
        ),
    ],
    ids=["shape", "dtype", "no-ema", "model-state", "key", "optimizer"],
)
def test_a_state_that_does_not_fit_is_refused_before_anything_is_read(
    saved, monkeypatch, change, message
):
    monkeypatch.setattr(checkpoint, "_read", lambda *_: pytest.fail("arrays were read"))
    with Checkpoints(saved, every=1) as checkpoints:
        with pytest.raises(ValueError, match=message) as error:
            checkpoints.restore(change(make_state()))
    assert "\n" not in str(error.value) and f"{saved}/2 does not fit" in str(error.value)


def test_a_folder_that_cannot_be_and_a_wrong_period_are_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="no checkpoints in .*/file: File exists"):
        Checkpoints(tmp_path / "file", every=1)
    with pytest.raises(ValueError, match="every=0: expected a positive whole number"):
        Checkpoints(tmp_path, every=0)
    with pytest.raises(ValueError, match="keep=0: expected a positive whole number"):
        Checkpoints(tmp_path, every=1, keep=0)


def test_two_processes_x_two_devices_restore_on_one_device_and_on_four():
    folder = workers.pair()
    for index in range(2):
        found = workers.read(folder, f"pair-{index}")
        assert found["split"] and found["latest"] == 2
        # step 2 was then damaged: both processes go back to step 1, and repeat step 2 to the bit
        assert found["equal"] and found["repeated"]
        assert len(found["warnings"]) == (index == 0)
    assert sorted(os.listdir(folder / "checkpoints")) == ["1", "2", "2.damaged"]
    (process,) = workers.start("four", folder, num_devices=4, JAX_ENABLE_X64="1")
    assert process.returncode == 0, process.output
    assert workers.read(folder, "four") == {
        "devices": 4,
        "equal1": True,
        "placed1": True,
        "equal4": True,
        "placed4": True,
    }


def test_this_module_does_not_make_a_run_import_orbax():
    """The training step and the loop start three seconds sooner without it."""
    source = pathlib.Path(checkpoint.__file__).read_text()
    assert "\nimport orbax" not in source and "\nfrom orbax" not in source
