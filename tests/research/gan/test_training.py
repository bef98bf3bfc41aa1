"""Rounds against rounds by hand; split, placed, averaged and resumed ones against whole ones."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import library.training
from library import per_device, report, sharding, testing
from research.gan import losses, penalties, training
from tests.research.gan import rounds

RATES = {"rate_g": 0.05, "rate_d": 0.2}
SGD = (optax.sgd(0.05), optax.sgd(0.2))
make_round = functools.partial(
    training.make_round, generate=rounds.generate, discriminate=rounds.discriminate
)


def make_state(optimizers=SGD, ema=False, dtype=None):
    pair = training.Optimizers(*optimizers)
    model_state = rounds.model_state(dtype)
    return training.init_state(rounds.params(dtype), pair, jax.random.key(2), model_state, ema)


def play(loss, optimizers=SGD, **options):
    g_optimizer, d_optimizer = optimizers
    options = {"rng_per_example": True, **options}
    return make_round(loss, g_optimizer=g_optimizer, d_optimizer=d_optimizer, **options)


CASES = {
    "relativistic": (losses.relativistic, {"r1": 0.3, "r2": 0.2}),
    "hinge": (losses.hinge, {"discriminator_steps": 2}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_round_by_hand(x64, name):
    """The critic's turns, then the generator's against the critic that came out of them."""
    loss, options = CASES[name]
    state, batch = make_state(), rounds.batch_at(0)
    new, metrics = jax.jit(play(loss, **options))(state, batch)
    steps = options.pop("discriminator_steps", 1)
    reference = functools.partial(rounds.by_hand, loss, steps=steps, **RATES, **options)
    expected = jax.jit(reference)(state, batch)
    testing.assert_trees_close((new.params, new.model_state), expected, rtol=1e-10, atol=1e-13)
    assert new.step == 1 and new.ema is None
    assert metrics["weight"] == 8 // steps and np.isfinite(metrics["loss"])
    total = metrics["discriminator_loss"] + metrics["generator_loss"]
    np.testing.assert_allclose(metrics["loss"], total, rtol=1e-12)
    for player, rate in zip(training.PLAYERS, (0.05, 0.2)):
        if steps == 1:
            moved = jax.tree.map(jnp.subtract, new.params[player], state.params[player])
            norm = metrics[f"{player}_grad_norm"]
            np.testing.assert_allclose(norm, optax.tree.norm(moved) / rate, rtol=1e-9)
    assert ("penalty" in metrics) == ("r1" in options)


def test_a_further_penalty_of_the_critic(x64):
    extra = lambda critic, real, fake, rng: 10 * penalties.gradient_penalty(critic, real, fake, rng)
    state, batch = make_state(), rounds.batch_at(0)
    new, metrics = jax.jit(play(losses.wasserstein, critic_penalty=extra))(state, batch)
    reference = functools.partial(rounds.by_hand, losses.wasserstein, extra=extra, **RATES)
    testing.assert_trees_close(
        (new.params, new.model_state), jax.jit(reference)(state, batch), rtol=1e-10, atol=1e-13
    )
    assert metrics["penalty"] > 0
    real, fake = metrics["real_logit"], metrics["fake_logit"]
    expected = fake - real + metrics["penalty"]
    np.testing.assert_allclose(metrics["discriminator_loss"], expected, rtol=1e-12)


ALL = {
    "r1": 0.3,
    "r2": 0.2,
    "penalty_every": 2,
    "generator_penalty": rounds.generator_penalty,
    "generator_penalty_every": 3,
    "discriminator_steps": 2,
    "ema_decay": 0.9,
}
BATCH = 16  # two shares for two devices with two microbatches of two


def run(step, state, num_steps=3):
    for t in range(num_steps):
        state, metrics = step(state, rounds.batch_at(t, BATCH))
    return state, metrics


@functools.cache
def whole():
    return run(jax.jit(play(losses.relativistic, **ALL)), make_state(ema=True))


def test_accumulated_is_whole(x64):
    """With every option of a round, spectral vectors and a running mean among them."""
    step = jax.jit(play(losses.relativistic, accumulate=4, **ALL))
    testing.assert_trees_close(run(step, make_state(ema=True)), whole(), rtol=1e-10, atol=1e-13)


def test_two_devices_are_one_under_jit_and_pmap(x64):
    expected, state = whole(), make_state(ema=True)
    mesh = sharding.make_mesh({"data": 2})
    rules = [(r"(map|in|out)$", sharding.fsdp(min_size=8))]
    step = sharding.compile_step(play(losses.relativistic, **ALL), state, mesh, rules)
    found = run(step, step.place_state(state))
    leaf = found[0].params["discriminator"]["in"]
    assert not leaf.sharding.is_fully_replicated
    testing.assert_trees_close(found, expected, rtol=1e-10, atol=1e-13)
    mapped = per_device.pmap_step(lambda axis: play(losses.relativistic, axis_name=axis, **ALL))
    found = run(mapped, mapped.place_state(make_state(ema=True)))
    testing.assert_trees_close(found, expected, rtol=1e-10, atol=1e-13)


def test_lazy_penalties_have_a_turn_of_their_own(x64):
    """In rounds 0, 2, .. times 2; a generator's penalty in 0, 3, ..; no state moves twice."""
    state = make_state()
    plain = jax.jit(play(losses.hinge))
    lazy = jax.jit(play(losses.hinge, r1=0.4, penalty_every=2))
    batch = rounds.batch_at(0)
    once, metrics = lazy(state, batch)
    assert "penalty" not in metrics
    assert (once.model_state["discriminator"]["u"] == plain(state, batch)[0].model_state[
        "discriminator"]["u"]).all()  # fmt: skip
    # By hand: the critic's turn, its penalty, then the generator's turn against both.
    after = plain(state, batch)[0]
    root = jax.random.fold_in(jax.random.fold_in(state.rng, 1), 0)
    slots = jax.vmap(jax.random.fold_in, (None, 0))(root, jnp.arange(8))
    second = jax.vmap(jax.random.fold_in, (0, None))(slots, 1)

    def penalty(params):
        look = lambda x: rounds.discriminate(
            params, after.model_state["discriminator"], second, x, batch
        )[0]
        return 2 * 0.4 / 2 * penalties.r1(look, jnp.asarray(batch["images"])).mean()

    critic = after.params["discriminator"]
    grads = jax.jit(jax.grad(penalty))(critic)
    expected = jax.tree.map(lambda a, b: a - 0.2 * b, critic, grads)
    testing.assert_trees_close(once.params["discriminator"], expected, rtol=1e-10, atol=1e-13)
    late = state.replace(step=jnp.ones((), jnp.int32))
    testing.assert_trees_close(lazy(late, batch)[0], plain(late, batch)[0], rtol=1e-12)


@pytest.mark.parametrize("every", [1, 3])
def test_penalties_of_the_generator(x64, every):
    options = {"generator_penalty": rounds.generator_penalty, "generator_penalty_every": every}
    state, batch = make_state(), rounds.batch_at(0)
    new, _ = jax.jit(play(losses.hinge, **options))(state, batch)
    plain, _ = jax.jit(play(losses.hinge))(state, batch)
    turn = 2 if every == 1 else 3
    root = jax.random.fold_in(jax.random.fold_in(state.rng, turn), 0)
    slots = jax.vmap(jax.random.fold_in, (None, 0))(root, jnp.arange(8))
    third = jax.vmap(jax.random.fold_in, (0, None))(slots, 2)
    at = state.params["generator"] if every == 1 else plain.params["generator"]
    own = state.model_state["generator"]
    loss = lambda params: every * rounds.generator_penalty(params, own, third, batch)[0].mean()
    grads = jax.jit(jax.grad(loss))(at)
    expected = jax.tree.map(lambda a, b: a - 0.05 * b, plain.params["generator"], grads)
    testing.assert_trees_close(new.params["generator"], expected, rtol=1e-10, atol=1e-13)
    assert new.model_state["generator"]["count"] == 11  # its own move and the penalty's
    assert (new.model_state["generator"]["mean"] == plain.model_state["generator"]["mean"]).all()


def test_the_average_is_the_generator_s(x64):
    step = jax.jit(play(losses.hinge, ema_decay=lambda step: 0.5 + 0.25 * step))
    state = make_state(ema=True)
    assert set(state.ema) == {"generator"}
    expected = state.ema["generator"]
    for t in range(2):
        state, _ = step(state, rounds.batch_at(t))
        keep = 0.5 + 0.25 * t
        mix = lambda old, new, keep=keep: keep * old + (1 - keep) * new
        expected = jax.tree.map(mix, expected, state.params["generator"])
    testing.assert_trees_close(state.ema["generator"], expected, rtol=1e-12)


def test_resumed_is_uninterrupted_to_the_bit(tmp_path):
    """By `library.training.train`, with its checkpoints, average and microbatches."""
    optimizers = training.Optimizers(training.lazy_adam(1e-2, 3), training.lazy_adam(1e-2, 2))
    game = training.Game(
        losses.relativistic, rounds.generate, rounds.discriminate, r1=0.3, penalty_every=2
    )

    def go(folder, num_steps):
        return library.training.train(
            game,
            optimizers,
            lambda _: rounds.params(jnp.float32),
            rounds.batch_at,
            num_steps=num_steps,
            run=library.training.RunOptions(accumulate=2, checkpoint_every=2),
            out=report.RunDir(tmp_path / folder),
            model_state=rounds.model_state(jnp.float32),
            ema_decay=0.9,
            rng_per_example=True,
            make_step=training.make_step,
        )

    expected = go("whole", 4)
    go("parts", 2)
    testing.assert_trees_equal(go("parts", 4), expected)


def test_mixed_precision_computes_low_and_keeps_high():
    seen = []

    def generate(params, *rest):
        seen.append(params["map"].dtype)
        return rounds.generate(params, *rest)

    def discriminate(params, model_state, rng, images, batch):
        seen.extend([params["in"].dtype, images.dtype])
        return rounds.discriminate(params, model_state, rng, images, batch)

    step = training.make_round(
        losses.hinge, generate, discriminate, *SGD, compute_dtype=jnp.bfloat16
    )
    state = make_state(dtype=jnp.float32)
    shapes, _ = jax.eval_shape(step, state, rounds.batch_at(0))
    assert set(seen) == {jnp.dtype(jnp.bfloat16)}
    dtypes = lambda tree: jax.tree.map(lambda leaf: leaf.dtype, tree)
    assert dtypes(shapes.params) == dtypes(state.params)


@pytest.mark.parametrize("every, c", [(1, 1.0), (4, 0.8), (16, 16 / 17)])
def test_lazy_adam(x64, every, c):
    grads = [jnp.array([1.0, -2.0]), jnp.array([0.5, 3.0])]

    def updates(optimizer):
        state, out = optimizer.init(grads[0]), []
        for grad in grads:
            update, state = optimizer.update(grad, state)
            out.append(update)
        return out

    plain = updates(optax.adam(0.02 * c, 0.9**c, 0.999**c))
    testing.assert_trees_close(updates(training.lazy_adam(0.02, every)), plain, rtol=1e-12)
    other = updates(optax.adam(0.02 * c, 0.5**c, 0.9**c, eps=1e-3))
    schedule = lambda count: 0.02 + 0 * count
    found = updates(training.lazy_adam(schedule, every, b1=0.5, b2=0.9, eps=1e-3))
    testing.assert_trees_close(found, other, rtol=1e-12)


def test_accumulation_is_free_for_a_batch_without_labels_or_states():
    """Unconditional networks without a model state, on images alone."""
    generate = lambda params, _, rng, x: (
        training.latents(rng, len(x), 4) @ params["w"], {},
    )  # fmt: skip
    discriminate = lambda params, _, rng, x, batch: (jnp.einsum("bi,i->b", x, params["w"]), {})
    params = {"generator": {"w": jnp.ones((4, 3))}, "discriminator": {"w": jnp.ones(3)}}
    state = training.init_state(params, training.Optimizers(*SGD), jax.random.key(0))
    images = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    step = lambda **kw: jax.jit(
        training.make_round(losses.hinge, generate, discriminate, *SGD, **kw)
    )
    one, _ = step(rng_per_example=True)(state, images)
    split, _ = step(rng_per_example=True, accumulate=3)(state, images)
    testing.assert_trees_close(split, one, rtol=1e-5, atol=1e-6)
    jax.eval_shape(step(accumulate=3), state, images)  # one key for all: other noise, no refusal


def of_batch(function):
    """The network with its output centred over the batch."""

    def mixed(*args):
        out, state = function(*args)
        return out - out.mean(0, keepdims=True), state

    return mixed


def average_pairs(real, fake):
    return jnp.mean(jax.nn.softplus(-(real - fake.mean())))


trace = lambda step, state=None, batch=None: jax.eval_shape(
    step, state or make_state(), rounds.batch_at(0) if batch is None else batch
)
AVERAGE = types.SimpleNamespace(discriminator=average_pairs, generator=average_pairs)
changed = lambda function, change: lambda *args: (
    lambda out, state: (out, change(state))
)(*function(*args))  # fmt: skip
small = lambda *args: (lambda out, state: (out[:, 1:], state))(*rounds.generate(*args))
mixed_penalty = lambda *args: (
    lambda out, state: (jnp.square(out - out.mean()), state)
)(*rounds.generator_penalty(*args))  # fmt: skip

WRONG = {
    "discriminator_steps=0: expected a positive whole number": lambda: play(
        losses.hinge, discriminator_steps=0
    ),
    "penalty_every=1.5": lambda: play(losses.hinge, penalty_every=1.5),
    "generator_penalty_every=0": lambda: play(losses.hinge, generator_penalty_every=0),
    "r1=-1: expected a finite number >= 0": lambda: play(losses.hinge, r1=-1),
    "r2=nan": lambda: play(losses.hinge, r2=float("nan")),
    "accumulate=0": lambda: play(losses.hinge, accumulate=0),
    "ema_decay=2": lambda: play(losses.hinge, ema_decay=2.0),
    "ema_decay is set but the state has no average": lambda: trace(
        play(losses.hinge, ema_decay=0.9)
    ),
    "every=0: expected a positive whole number of rounds": lambda: training.lazy_adam(0.1, 0),
    "batch size 8 is not a multiple of discriminator_steps=3": lambda: trace(
        play(losses.hinge, discriminator_steps=3)
    ),
    "batch size 4 is not a multiple of accumulate=3": lambda: trace(
        play(losses.hinge, discriminator_steps=2, accumulate=3)
    ),
    r"generate gives \(8, 3, 4, 1\) beside data \(8, 4, 4, 1\)": lambda: trace(
        play(losses.hinge, generate=small)
    ),
    "params are .*: expected a dict of": lambda: training.Optimizers(*SGD).init([1.0]),
    "generate gives the model state .* which the state has": lambda: trace(
        play(losses.hinge, generate=changed(rounds.generate, lambda state: {}))
    ),
    "discriminate gives the model state": lambda: trace(
        play(losses.hinge, discriminate=changed(rounds.discriminate, lambda state: [state]))
    ),
    r"discriminate mixes the examples .* \(by reduce_sum\): accumulate=2 needs": lambda: trace(
        play(losses.hinge, accumulate=2, discriminate=of_batch(rounds.discriminate))
    ),
    "generate mixes the examples": lambda: trace(
        play(losses.hinge, accumulate=2, generate=of_batch(rounds.generate))
    ),
    "generate mixes the examples of": lambda: trace(
        play(losses.hinge, accumulate=2, generate=of_batch(rounds.generate), rng_per_example=False)
    ),
    "generator_penalty mixes the examples": lambda: trace(
        play(losses.hinge, accumulate=2, generator_penalty=mixed_penalty)
    ),
    "the loss mixes pairs of examples: .* accumulate=2": lambda: play(AVERAGE, accumulate=2),
    "critic mixes the examples .* R1 needs": lambda: trace(
        play(losses.hinge, r1=1.0, discriminate=of_batch(rounds.discriminate))
    ),
}


@pytest.mark.parametrize("message", WRONG)
def test_bad_input(message):
    with pytest.raises(ValueError, match=message):
        WRONG[message]()


def test_a_critic_that_mixes_may_be_penalised_by_name():
    options = {"r1": 1.0, "r2": 1.0, "discriminate": of_batch(rounds.discriminate)}
    trace(play(losses.hinge, mixes=True, **options))
