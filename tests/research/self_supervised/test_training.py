"""All methods on the shared step: one device, two, chunks; teachers, queues and centres by hand."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import library.training
from library import report, sharding, testing, train_step
from research.self_supervised import heads, losses, methods, networks, training
from research.vision import resnet
from tests.research.self_supervised import oracles, tiny

NAMES = list(tiny.METHODS)


@functools.cache
def whole(norm):
    """Two updates on one device."""
    return tiny.run(jax.jit(tiny.step_of(norm)), norm)


@functools.cache
def on_a_mesh():
    mesh = sharding.make_mesh({"data": 2})
    place = lambda *spec: jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))  # noqa: E731
    step = jax.jit(
        tiny.step_of("batch"), in_shardings=(place(), place("data")), out_shardings=place()
    )
    return tiny.run(step, "batch")


@functools.cache
def pmapped():
    step = jax.pmap(
        tiny.step_of("batch", "i"), "i", in_axes=(None, 0), out_axes=None,
        devices=jax.devices()[:2],
    )  # fmt: skip
    return tiny.run(step, "batch", lambda x: x.reshape(2, -1, *x.shape[1:]))


@functools.cache
def in_chunks():
    return tiny.run(jax.jit(tiny.step_of("layer", num_chunks=4)), "layer")


close = functools.partial(testing.assert_trees_close, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_two_devices_are_one(x64, name):
    """Raw gradients of two updates, model state, metrics; with batch norm, on a mesh and pmap."""
    close(on_a_mesh()[name], whole("batch")[name])
    close(pmapped()[name], whole("batch")[name])


@pytest.mark.parametrize("name", NAMES)
def test_chunks_are_the_whole_batch(x64, name):
    close(in_chunks()[name], whole("layer")[name])


@functools.cache
def by_hand(name):
    """(params, teacher) of both steps -> losses, gradients, student's and teacher's projections."""
    nets = tiny.parts(tiny.METHODS[name], "layer")
    stats = tiny.states("layer")[name].model_state["batch_stats"]

    def run(params, teacher, crops, queue, centre, temperature):
        by_view = lambda z: jnp.swapaxes(z, 0, 1)  # noqa: E731
        t = by_view(nets.project(teacher, stats, crops[:1])[0])

        def loss(params):
            z, _ = nets.project(params, stats, crops)
            p = by_view(nets.predict(params, stats, z)[0])
            if name == "moco_v2":
                return losses.info_nce(p[0], t[1], queue)
            if name == "teacher":
                byol = losses.byol(p[0], t[1]) + losses.byol(p[1], t[0])
                return byol + losses.moco_v3(p, t)
            balanced = losses.sinkhorn(t.reshape(16, 4), 0.04).reshape(2, 8, 4)
            dino = losses.dino(p, t, centre, teacher_temperature=temperature)
            return dino + losses.view_cross_entropy(p, balanced)

        return *jax.value_and_grad(loss)(params), t

    return jax.jit(run)


@pytest.mark.parametrize("name, momenta", [
    ("teacher", [0.6]), ("moco_v2", [0.7]), ("dino", [0.6])
])  # fmt: skip
def test_two_updates_by_hand(x64, name, momenta):
    """The teacher starts as the student, and follows after each update with that update's number.

    After the second update the state has the teacher that this update used.
    """
    state = tiny.states("layer")[name]
    followed = lambda params: {k: v for k, v in params.items() if k != "predictor"}  # noqa: E731
    params, teacher, model_state = state.params, followed(state.params), state.model_state
    queue = model_state["queue"].keys if name == "moco_v2" else np.ones((1, 4))
    centre, ring = model_state.get("centre", np.zeros(4)), np.array(queue)
    grads, model_state, metrics = whole("layer")[name][:2], *whole("layer")[name][2:]
    for step in (0, 1):
        batch = tiny.batch(name, step)
        crops = [batch["views"], *([batch["local"]] if "local" in batch else [])]
        temperature = 0.1 + 0.1 * step / 3  # tiny.WARMUP
        value, grad, t = by_hand(name)(params, teacher, crops, ring, centre, temperature)
        close(grads[step], grad)
        params = jax.tree.map(lambda x, g: x - tiny.RATE * g, params, grad)
        used = teacher
        keep = momenta[0]  # of update 0
        mix = lambda old, new, keep=keep: keep * old + (1 - keep) * new  # noqa: E731
        teacher = jax.tree.map(mix, teacher, followed(params))
        if name == "moco_v2":
            ring[8 * step : 8 * step + 8] = oracles.unit(np.asarray(t)[1])
        for _ in range(2):  # two methods share it
            centre = 0.9 * np.asarray(centre) + 0.1 * np.asarray(t).mean((0, 1))
    close(model_state["teacher"]["params"], used)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-10)
    assert model_state["step"] == 2
    if name == "moco_v2":
        np.testing.assert_allclose(model_state["queue"].keys, ring, rtol=1e-9)
        assert model_state["queue"].position == 0
    if name == "dino":
        np.testing.assert_allclose(model_state["centre"], centre, rtol=1e-9)


def test_spread(x64):
    """1 where mean directions cancel, 0 where all are one."""
    z = np.random.default_rng(0).normal(size=(3, 2, 4))
    apart = np.concatenate([z, -z])
    np.testing.assert_allclose(training._spread(jnp.asarray(apart), None), 1, rtol=1e-12)
    same = np.broadcast_to(z[:1, :1], (3, 2, 4)) * np.arange(1.0, 4)[:, None, None]
    np.testing.assert_allclose(training._spread(jnp.asarray(same), None), 0, atol=1e-7)
    mean = oracles.unit(z).mean((0, 1))
    expected = np.sqrt(1 - mean @ mean)
    np.testing.assert_allclose(training._spread(jnp.asarray(z), None), expected, rtol=1e-10)


def noisy(rngs, images):
    """Two views of each image, and a local crop, view by view."""
    draw = lambda index, shape: jax.vmap(  # noqa: E731
        lambda rng: jax.random.normal(jax.random.fold_in(rng, index), shape)
    )(rngs)
    views = images[:, None] + draw(0, (2, *images.shape[1:]))
    local = images[:, None, :2, :2] * draw(1, (1, 1, 1, 3))
    return {"global": jnp.swapaxes(views, 0, 1), "local": jnp.swapaxes(local, 0, 1)}


class OfTheTeacher:
    """A method of a user's own that forgets to stop the gradient of its targets."""

    needs = methods.Needs(targets="teacher")
    momentum = 0.5

    def init(self, rng, dim):
        return {}

    def loss(self, student, state, given):
        return given.targets.sum() + 0 * student.sum(), state, {}


def test_a_teacher_has_no_gradient_whatever_the_method(x64):
    """Not even at the first step, where it is the student."""
    pre = training.Pretraining(OfTheTeacher(), tiny.parts(SIMCLR, "layer"), tiny.SHAPE)
    state = tiny.states("layer")["moco_v2"]
    batch = {"views": tiny.VIEWS[0]}
    loss = lambda params: pre.loss_fn(params, state.model_state, None, batch)[0]  # noqa: E731
    value, grad = jax.jit(jax.value_and_grad(loss))(state.params)
    assert value != 0 and not any(leaf.any() for leaf in jax.tree.leaves(grad))


def test_views_are_drawn_on_the_device_with_a_key_an_example(x64):
    images = np.random.default_rng(0).normal(size=(8, *tiny.SHAPE))
    method = methods.DINO(num_local=1)
    nets = tiny.parts(method, "layer")
    drawn = training.Pretraining(method, nets, tiny.SHAPE, views=noisy)
    given = dataclasses.replace(drawn, views=None)
    pair = dataclasses.replace(given, method=methods.DINO())  # without local crops
    alone = dataclasses.replace(pair, views=lambda *args: noisy(*args)["global"])
    state = tiny.states("layer")["dino"]
    rng = jax.random.key(7)

    @jax.jit
    def run():
        rngs = jax.vmap(jax.random.fold_in, (None, 0))(rng, jnp.arange(8))
        made = noisy(rngs, images)
        by_example = lambda name: jnp.swapaxes(made[name], 0, 1)  # noqa: E731
        batch = {"views": by_example("global"), "local": by_example("local")}
        take = lambda loss_fn, rng, batch: loss_fn(  # noqa: E731
            state.params, state.model_state, rng, batch
        )[0]
        return [
            take(drawn.loss_fn, rng, {"images": images}),
            take(drawn.loss_fn, rngs, {"images": images}),
            take(given.loss_fn, rng, batch),
            take(alone.loss_fn, rng, {"images": images}),
            take(pair.loss_fn, rng, {"views": batch["views"]}),
        ]

    found = run()
    np.testing.assert_allclose(found[:3], [found[2]] * 3, rtol=1e-12)
    np.testing.assert_allclose(found[3], found[4], rtol=1e-12)
    assert abs(found[3] - found[2]) > 1e-3


def test_in_half_precision_the_state_stays_as_it_is():
    """Teachers, queues, centres and statistics in float32: in bfloat16 they would stand still."""
    for name in NAMES:
        pre = tiny.pretraining(name)
        make = lambda rng, pre=pre: train_step.init_state(  # noqa: E731
            pre.init_params(rng), tiny.SGD, rng, pre.init_state(rng)
        )
        state = jax.eval_shape(make, jax.random.key(0))
        step = train_step.make_train_step(pre.loss_fn, tiny.SGD, compute_dtype=jnp.bfloat16)
        batch = jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), tiny.batch(name, 0))
        new, metrics = jax.eval_shape(step, state, batch)
        assert jax.tree.map(lambda x: (x.shape, x.dtype), new) == jax.tree.map(
            lambda x: (x.shape, x.dtype), state
        )
        assert metrics["loss"].dtype == jnp.float32


def test_resumed_is_uninterrupted_to_the_bit(tmp_path):
    """By `library.training`: teacher, queue and step go through checkpoints."""
    method = methods.MoCoV2(16, momentum=0.5)
    encoder = networks.of_module(tiny.Encoder("layer"))
    nets = networks.Networks(encoder, networks.of_module(heads.Perceptron((4,), None)))
    pre = training.Pretraining(method, nets, tiny.SHAPE)
    model_state = jax.jit(pre.init_state)(jax.random.key(1))
    options = {"batch_at": lambda step: {"views": tiny.VIEWS[step].astype(np.float32)}}
    options |= {"model_state": model_state}
    args = (pre.loss_fn, optax.sgd(0.1), pre.init_params)
    rng = jax.random.key(0)
    expected = library.training.quick_state(*args, num_steps=2, rng=rng, **options)
    run, out = library.training.RunOptions(mesh="data=1"), report.RunDir(tmp_path)
    for num_steps in (1, 2):
        found = library.training.train(*args, num_steps=num_steps, run=run, out=out, **options)
    testing.assert_trees_equal(found, expected)
    assert found.model_state["step"] == 2


SIMCLR = tiny.METHODS["stateless"].methods[0]
VIEWS = np.zeros((8, 2, *tiny.SHAPE), np.float32)


def refused(batch, method=SIMCLR, norm="layer", **options):
    """Traces the loss."""
    pre = training.Pretraining(method, tiny.parts(method, norm), tiny.SHAPE, **options)
    make = lambda rng: (pre.init_params(rng), pre.init_state(rng))  # noqa: E731
    params, state = jax.eval_shape(make, jax.random.key(0))
    jax.eval_shape(pre.loss_fn, params, state, jax.random.key(0), batch)


DINO = methods.DINO(num_local=2)
LOCAL = np.zeros((8, 6, 2, 2, 3), np.float32)


@pytest.mark.parametrize("message, batch, options", [
    ("1 global views an example: SimCLR expects 2", {"views": VIEWS[:, :1]}, {}),
    ("3 global views an example: SimCLR expects 2", {"views": VIEWS[:, [0, 1, 1]]}, {}),
    ("1 global views an example: SupCon expects two or more",
     {"views": VIEWS[:, :1], "labels": tiny.LABELS}, {"method": methods.SupCon()}),
    ("expected .B, V, H, W, C. of one batch B", {"views": VIEWS, "local": LOCAL[:4]},
     {"method": DINO}),
    ("expected .B, V, H, W, C. of one batch B", {"views": VIEWS[:, 0]}, {}),
    ("6 local crops an example: DINO expects 2", {"views": VIEWS, "local": LOCAL},
     {"method": DINO}),
    ("6 local crops an example: SimCLR expects 0", {"views": VIEWS, "local": LOCAL}, {}),
    ("0 local crops an example: DINO expects 2", {"views": VIEWS}, {"method": DINO}),
    ("the batch has ..images..: 'views' is missing", {"images": VIEWS[:, 0]}, {}),
    ("the batch has ..views..: 'images' is missing", {"views": VIEWS}, {"views": noisy}),
    ("the batch has ..views..: 'labels' is missing", {"views": VIEWS},
     {"method": methods.SupCon()}),
    ("a batch of 1 in all", {"views": VIEWS[:1]}, {"method": methods.VICReg()}),
    ("temperature=0: expected", {"views": VIEWS}, {"method": methods.SimCLR(0)}),
    ("a queue of 12 keys is no multiple of the batch of 8", {"views": VIEWS},
     {"method": methods.MoCoV2(12)}),
    ("momentum=1.5: expected a number in .0, 1.", {"views": VIEWS},
     {"method": methods.BYOL(1.5)}),
    ("num_chunks=2 with batch norm", {"views": VIEWS}, {"norm": "batch", "num_chunks": 2}),
    ("batch size 8 is not a multiple of num_chunks=3", {"views": VIEWS}, {"num_chunks": 3}),
    ("num_chunks=0: expected a positive", {"views": VIEWS}, {"num_chunks": 0}),
])  # fmt: skip
def test_bad_input(message, batch, options):
    with pytest.raises(ValueError, match=message):
        refused(batch, **options)


@pytest.mark.parametrize("message, method, like", [
    ("BYOL needs a predictor", methods.BYOL(), SIMCLR),
    ("SimCLR has no predictor", SIMCLR, methods.BYOL()),
])  # fmt: skip
def test_predictors_where_they_belong(message, method, like):
    with pytest.raises(ValueError, match=message):
        training.Pretraining(method, tiny.parts(like, None), tiny.SHAPE)


def test_the_plain_accumulate_is_refused():
    pre = tiny.pretraining("simsiam", "layer")
    with pytest.raises(ValueError, match="accumulate=2 for a loss over the batch"):
        train_step.make_train_step(pre.loss_fn, tiny.SGD, accumulate=2)


def test_a_residual_network_of_the_real_size():
    """ResNet-18 for small images: its 11,168,832 parameters without a head, and a teacher's."""
    method = methods.MoCoV2(queue_size=4096)
    encoder = networks.resnet(resnet.resnet18(None, small_images=True, num_groups=32))
    head = networks.of_module(heads.Perceptron((512, 128), None))
    pre = training.Pretraining(method, networks.Networks(encoder, head), (32, 32, 3))
    params, state = jax.eval_shape(
        lambda rng: (pre.init_params(rng), pre.init_state(rng)), jax.random.key(0)
    )
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))  # noqa: E731
    # torchvision's 11,689,512 less the head of 513,000 and 7x7 - 3x3 weights of 3 x 64 in the stem.
    assert count(params["encoder"]) == 11_689_512 - 513_000 - 40 * 3 * 64 == 11_168_832
    assert count(state["teacher"]["params"]) == count(params)
    assert state["queue"].keys.shape == (4096, 128)
