import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from library import train_step, training
from research import vision
from research.self_supervised import finetune, networks, probes
from research.transformers import layers, models
from research.vision import resnet

_VIT = vision.ViT(num_classes=None, patch=4, width=8, depth=3, num_heads=2)


def _squares() -> networks.Part:
    """Features a x^2, with the number of training batches as statistics."""

    def apply(params, stats, x, train, axis_name):
        return params["a"][None] * x**2, {"batches": stats["batches"] + train}

    return networks.Part(lambda rng, x: ({"a": jnp.ones(x.shape[1])}, {}), apply)


def _task(**options):
    task = finetune.Task(_squares(), 3, **options)
    encoder, stats = {"a": jnp.asarray([1.0, -2.0])}, {"batches": jnp.zeros((), jnp.int32)}
    x = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
    params, state = finetune.init(task, jax.random.key(0), encoder, stats, x[:1], scale=0.5)
    return task, params, state, {task.inputs: x, "label": np.asarray([0, 1, 2, 2, 1, 0])}


def test_the_loss_is_the_cross_entropy_of_the_head_on_features():
    task, params, state, batch = _task(inputs="points")
    value, aux = finetune.loss(task)(params, state, jax.random.key(1), batch)
    kernel, bias = (np.asarray(params["head"][name], np.float64) for name in ("kernel", "bias"))
    scores = np.asarray([1.0, -2.0]) * batch["points"].astype(np.float64) ** 2 @ kernel + bias
    chances = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    np.testing.assert_allclose(
        value, -np.log(chances[np.arange(6), batch["label"]]).mean(), rtol=1e-5
    )
    right = scores.argmax(1) == batch["label"]
    np.testing.assert_allclose(aux.metrics["accuracy"], right.mean(), rtol=1e-6)
    assert aux.weight == 6
    assert aux.model_state["stats"]["batches"] == 1
    np.testing.assert_allclose(
        finetune.logits(task, params, state, batch["points"]), scores, rtol=1e-5
    )
    found = finetune.accuracy(task, params, state, batch["points"], batch["label"], block=4)
    assert found == right.mean()


def test_a_head_starts_with_even_odds_unless_it_has_a_scale():
    task = finetune.Task(_squares(), 4)
    encoder, stats, x = {"a": jnp.ones(500)}, {"batches": 0}, np.ones((1, 500), np.float32)
    plain = finetune.init(task, jax.random.key(0), encoder, stats, x)[0]["head"]
    np.testing.assert_array_equal(plain["kernel"], np.zeros((500, 4)))
    drawn = finetune.init(task, jax.random.key(0), encoder, stats, x, scale=0.3)[0]["head"]
    assert abs(drawn["kernel"].std() / 0.3 - 1) < 0.1  # 2,000 draws: 6 standard errors
    np.testing.assert_array_equal(drawn["bias"], np.zeros(4))


def test_augmentation_has_a_key_for_each_example():
    task, params, state, batch = _task()
    add = lambda rngs, x: x + jax.vmap(lambda key: jax.random.normal(key, (2,)))(rngs)
    value, _ = finetune.loss(task, add)(params, state, jax.random.key(1), batch)
    keys = jax.random.split(jax.random.key(1), 6)
    moved = {**batch, "image": np.asarray(add(keys, batch["image"]))}
    want, _ = finetune.loss(task)(params, state, jax.random.key(2), moved)
    np.testing.assert_allclose(value, want, rtol=1e-6)


def test_a_frozen_encoder_is_evaluated_and_one_that_trains_is_not():
    """Features that are zeros in training and ones in evaluation."""

    def apply(params, stats, x, train, axis_name):
        return jnp.full((len(x), 1), 0.0 if train else 1.0), {"axis": axis_name or "none"}

    for frozen, score in ((True, 3.0), (False, 0.0)):
        task = finetune.Task(networks.Part(lambda rng, x: ({}, {}), apply), 2, frozen)
        params = {"head": {"kernel": jnp.asarray([[3.0, 0.0]]), "bias": jnp.zeros(2)}}
        state = {"stats": {}}
        (params if not frozen else state)["encoder"] = {}
        batch = {"image": np.zeros((4, 1)), "label": np.zeros(4, int)}
        value, _ = finetune.loss(task)(params, state, jax.random.key(0), batch)
        np.testing.assert_allclose(value, np.log1p(np.exp(-score)), rtol=1e-6)


def test_training_a_frozen_encoder_moves_no_byte_of_it():
    model = resnet.ResNet(None, (1,), width=4, small_images=True)
    encoder, stats = networks.resnet(model).init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))
    before = probes.fingerprint((encoder, stats))
    rng = np.random.default_rng(0)
    data = {"image": rng.normal(size=(8, 4, 4, 3)).astype(np.float32), "label": np.arange(8) % 2}
    after = {}
    for frozen in (True, False):
        task = finetune.Task(networks.resnet(model), 2, frozen=frozen)
        params, state = finetune.init(task, jax.random.key(1), encoder, stats, data["image"][:1])
        trained = training.quick_state(
            finetune.loss(task), optax.adamw(0.1, weight_decay=0.1), lambda _, p=params: p,
            lambda step: data, num_steps=3, rng=jax.random.key(2), model_state=state,
        )  # fmt: skip
        assert abs(trained.params["head"]["kernel"]).max() > 0
        both = {**trained.model_state, **trained.params}
        after[frozen] = probes.fingerprint((both["encoder"], both["stats"]))
    assert after[True] == before
    assert after[False] != before


def test_the_head_goes_first():
    optimizer = optax.chain(optax.sgd(0.5), finetune.head_first(2))
    task, params, state, batch = _task()
    start = params["encoder"]["a"]
    moved = train_step.init_state(params, optimizer, jax.random.key(0), state)
    step = jax.jit(train_step.make_train_step(finetune.loss(task), optimizer))
    for count in range(3):
        before = moved.params["head"]["kernel"]
        moved, _ = step(moved, batch)
        assert (moved.params["head"]["kernel"] != before).any()
        assert (moved.params["encoder"]["a"] == start).all() == (count < 2)


def test_layers_decay_as_powers_of_their_distance_from_the_head():
    encoder = jax.eval_shape(_VIT.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    layers, depth = finetune.vit_layers(encoder)
    assert depth == 4
    params = {"encoder": encoder, "head": {"kernel": jnp.ones((8, 2))}}
    ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), params)
    for options, decay in (({}, 0.75), ({"decay": 0.5}, 0.5), ({"decay": 1.0}, 1.0)):
        tx = finetune.layer_decay(layers, depth, **options)
        scaled = tx.update(ones, tx.init(params))[0]
        found = scaled["encoder"]
        np.testing.assert_allclose(found["class_token"], decay**4 * np.ones((1, 1, 8)))
        np.testing.assert_allclose(found["embed"]["linear"]["bias"], decay**4 * np.ones(8))
        query = found["encoder"]["layers"]["attention"]["query"]["kernel"]  # [3, 8, 2, 4]
        np.testing.assert_allclose(query[:, 0, 0, 0], [decay**3, decay**2, decay], rtol=1e-6)
        np.testing.assert_allclose(found["encoder"]["final_norm"]["scale"], decay * np.ones(8))
        np.testing.assert_allclose(scaled["head"]["kernel"], np.ones((8, 2)))


def test_features_of_text_are_means_over_its_tokens():
    stack = layers.Stack(1, 8, 2, 16, causal=False)
    model = models.Encoder(models.EncoderConfig(20, stack, max_length=6))
    part = finetune.of_text(model)
    tokens = np.asarray([[3, 4, 5, 9, 9, 9], [1, 2, 3, 4, 5, 6]])
    x = {"tokens": tokens, "lengths": np.asarray([3, 6])}
    params, stats = part.init(jax.random.key(0), x)
    assert stats == {}
    found, _ = part.apply(params, stats, x, True, None)
    for row, length in enumerate(x["lengths"]):
        hidden = model.apply({"params": params}, tokens[row : row + 1, :length])["hidden"]
        np.testing.assert_allclose(found[row], hidden[0].mean(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: finetune.head_first(-1), "num_steps=-1: expected a whole number >= 0 of updates"),
        (lambda: finetune.layer_decay({}, 1, decay=1.5), r"decay=1.5: expected a number in \[0, 1"),
        (
            lambda: finetune.init(
                finetune.Task(_squares(), 1), jax.random.key(0), {}, {}, np.ones((1, 2))
            ),
            "num_classes=1: expected a whole number >= 2",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
