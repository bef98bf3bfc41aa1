"""Masked autoencoders in small: training, worth of the encoder, hidden patches and pictures."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.self_supervised import _labels
from library import train_step, training
from library.types import Array, Key, ModelState, Params
from research.self_supervised import finetune, mae, masking, networks, probes
from research.vision import patches


def part(model: mae.MAE) -> networks.Part:
    """The encoder, nothing hidden, as the mean over its patches; its table is its only state."""

    def init(rng: Key, x: Array) -> tuple[Params, ModelState]:
        keys = jax.random.split(rng, len(x))
        variables = model.init(rng, jnp.zeros((len(x), *model.image_size, model.channels)), keys)
        return of(variables)

    def apply(
        params: Params, stats: ModelState, x: Array, train: bool, axis_name: str | None
    ) -> tuple[Array, ModelState]:
        del train, axis_name  # neither dropout nor batch statistics
        variables = {"params": {"encoder": params}, "tables": {"encoder": stats["table"]}}
        return model.features(variables, x)[:, 1:].mean(1), stats

    return networks.Part(init, apply)


def of(variables: Params) -> tuple[Params, ModelState]:
    """Of all variables, those of the encoder as `part` takes them."""
    return variables["params"]["encoder"], {"table": variables["tables"]["encoder"]}


def fresh(model: mae.MAE, seed: int) -> Params:
    """All variables, at random."""
    rng = jax.random.key(seed)
    images = jnp.zeros((1, *model.image_size, model.channels))
    return jax.jit(model.init)(rng, images, jax.random.split(rng, 1))


def pretrained(
    model: mae.MAE,
    start: Params,
    images: np.ndarray,
    num_steps: int,
    batch_size: int,
    rate: float,
    seed: int,
) -> Params:
    """All variables after training on [N, H, W, C] floats; MAE's AdamW, warm-up and half cosine."""
    optimizer = training.warmup_cosine(
        rate, num_steps, num_steps // 10,
        optimizer=functools.partial(optax.adamw, b2=0.95, weight_decay=0.05),
    )  # fmt: skip
    params = training.quick(
        mae.loss(model, start["tables"]), optimizer, lambda _: start["params"],
        training.batches({"images": images}, batch_size, seed), num_steps=num_steps,
        rng=jax.random.key(seed), rng_per_example=True,
    )  # fmt: skip
    return {**start, "params": params}


@dataclasses.dataclass(frozen=True)
class Judge:
    """What encoders of one shape are worth; all of them share its compiled programs.

    Attributes:
        part: the encoder.
        train, test: (images [N, H, W, C] float, labels [N]).
        seeds: of the draws of labels.
        per_class: labels of each class.
        num_steps, rate, batch_size: of fine-tuning, as `_labels.finetuned`.
    """

    part: networks.Part
    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    seeds: range
    per_class: int
    num_steps: int
    rate: float
    batch_size: int = 50

    def __call__(self, encoder: tuple[Params, ModelState]) -> dict[str, float | np.ndarray]:
        """Shares that are right: by probes, and fine-tuned, by draw, on test and other images.

        The others, "rest", are as many training images as there are for testing, less the labelled.
        Raises RuntimeError if a probe has moved the encoder.
        """
        before = probes.fingerprint(encoder)
        embed = functools.partial(self._embed, encoder)
        (x, y), (test_x, test_y) = self.train, self.test
        sets = by_block(embed, x), y, by_block(embed, test_x), test_y
        found = {"linear": probes.linear(*sets, l2=1e-4).accuracy,
                 "knn": probes.knn(*sets, k=20).accuracy}  # fmt: skip
        if probes.fingerprint(encoder) != before:
            raise RuntimeError("the probes moved the encoder")
        rows = [_labels.few(y, self.per_class, seed) for seed in self.seeds]
        tuned = self._tune(
            encoder, jax.tree.map(lambda *x: np.stack(x), *map(self._batches, rows, self.seeds))
        )
        predict = lambda images: self._predict(tuned, images)  # [B, S]
        right = by_block(predict, x[: len(test_x)]) == y[: len(test_x), None]
        rest = np.stack([np.delete(right[:, i], each[each < len(right)]).mean()
                         for i, each in enumerate(rows)])  # fmt: skip
        right = by_block(predict, test_x) == test_y[:, None]
        return {**found, "rest": rest, "tuned": right.mean(0)}

    def _batches(self, rows: np.ndarray, seed: int) -> dict[str, np.ndarray]:
        """Of all updates, [T, B, ...]."""
        held = {"image": self.train[0][rows], "label": self.train[1][rows]}
        batch_at = training.batches(held, min(self.batch_size, len(rows)), seed)
        return jax.tree.map(lambda *x: np.stack(x), *map(batch_at, range(self.num_steps)))

    @functools.cached_property
    def _task(self) -> finetune.Task:
        return finetune.Task(self.part, int(self.train[1].max()) + 1)

    @functools.cached_property
    def _embed(self) -> Callable:
        return jax.jit(lambda encoder, x: self.part.apply(*encoder, x, False, None)[0])

    @functools.cached_property
    def _tune(self) -> Callable:
        """An encoder and batches [S, T, B, ...] -> parameters and model states [S, ...]."""
        optimizer = optax.chain(
            training.warmup_cosine(
                self.rate, self.num_steps, self.num_steps // 10, optimizer=optax.adamw
            ),
            finetune.head_first(self.num_steps // 5),
        )
        step = train_step.scan_steps(
            train_step.make_train_step(finetune.loss(self._task), optimizer)
        )
        rng = jax.random.key(0)  # of a head that starts at 0, and of a loss without chance

        def one(encoder, batches):
            params, state = finetune.init(self._task, rng, *encoder, batches["image"][0, :1])
            end, _ = step(train_step.init_state(params, optimizer, rng, state), batches)
            return end.params, end.model_state

        return jax.jit(jax.vmap(one, (None, 0)))

    @functools.cached_property
    def _predict(self) -> Callable:
        """What `_tune` returns, and images [B, ...] -> labels [B, S]."""
        one = lambda tuned, images: finetune.logits(self._task, *tuned, images).argmax(-1)
        return jax.jit(jax.vmap(one, (0, None), 1))


def by_block(apply: Callable[[Array], Array], images: np.ndarray, size: int = 250) -> np.ndarray:
    """What images [N, ...] are mapped to, `size` at a time, the last block filled up."""
    size, found = min(size, len(images)), []
    for start in range(0, len(images), size):
        part = images[start : start + size]
        full = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
        found.append(np.asarray(apply(full))[: len(part)])
    return np.concatenate(found)


@dataclasses.dataclass(frozen=True)
class Rebuilt:
    """Hidden patches of held-out images.

    Attributes:
        error: mean squared error, of the targets that the model was trained on.
        mean_error: the same of the mean patch of the training images at that place.
        masked: [N, H, W, C], the images, their hidden patches grey.
        pictures: [N, H, W, C], the prediction in their place.
    """

    error: float
    mean_error: float
    masked: np.ndarray
    pictures: np.ndarray


def rebuilt(model: mae.MAE, variables: Params, train: Array, test: Array, seed: int) -> Rebuilt:
    """What a model makes of images [N, H, W, C] of which it sees a part, beside the mean patch.

    Of a model of normalised patches the pictures have each true patch's own mean and deviation put
    back, hidden ones included, which leaks them.
    """
    keys = jax.random.split(jax.random.key(seed), len(test))
    found = jax.jit(model.reconstruct)(variables, test, keys)
    pixels = patches.to_patches(test, model.patch)
    mean = targets(model, train).mean(0, keepdims=True)
    mean_error = masking.reconstruction_loss(
        jnp.broadcast_to(mean, pixels.shape), targets(model, test), found.mask, normalise=False
    )
    prediction = found.prediction
    if model.normalise:
        prediction = masking.with_own_scale(prediction, pixels)
    hidden = found.mask[:, :, None] == 1
    back = lambda x: np.asarray(patches.from_patches(x, test.shape[1:], model.patch))
    return Rebuilt(
        float(found.loss), float(mean_error),
        back(jnp.where(hidden, 0.5, pixels)), back(jnp.where(hidden, prediction, pixels)),
    )  # fmt: skip


def targets(model: mae.MAE, images: Array) -> Array:
    """[N, P, p p C]: the pixels that the model predicts, normalised by their patch if it does."""
    pixels = patches.to_patches(jnp.asarray(images), model.patch)
    if not model.normalise:
        return pixels
    centred = pixels - pixels.mean(-1, keepdims=True)
    return centred / jnp.sqrt(pixels.var(-1, ddof=1, keepdims=True) + 1e-6)
