"""Images of scenes as codes, a decoder of text and codes, and a scorer: DALL-E's route."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from experiments.text_to_image import _chain, _judge, _scenes
from library import report, training
from library.data import shapes
from library.types import Aux, Batch, Params
from research.text_to_image import autoregressive, scorer, text_encoder, tokens, vocabularies
from research.text_to_image.autoregressive import Vectors
from research.transformers import layers, models
from research.vae import quantize
from research.vae.networks import autoencoder

_BLOCK = 250  # images at a time


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The networks of the route.

    Attributes:
        channels: of the autoencoder, finest first; each but the last halves the image.
        code_dim: numbers of a code.
        num_codes: of the codebook.
        width, depth: of the decoder.
        score_width: of the scorer: channels of its first convolution, a quarter of its text's.
    """

    channels: tuple[int, ...]
    code_dim: int
    num_codes: int
    width: int
    depth: int
    score_width: int


def build(sizes: Sizes, size: int) -> autoregressive.Model:
    """The model of images of `size` pixels."""
    tokenizer = vocabularies.learn(_scenes.sentences(), _scenes.MAX_LENGTH)
    vae = autoencoder.Autoencoder(
        sizes.channels, 1, sizes.code_dim, gaussian=False, num_groups=min(4, sizes.channels[0])
    )
    side = size // 2 ** (len(sizes.channels) - 1)
    stack = layers.Stack(
        depth=sizes.depth, width=sizes.width, num_heads=max(1, sizes.width // 32),
        hidden_dim=4 * sizes.width,
    )  # fmt: skip
    config = models.DecoderConfig(
        len(tokenizer) + sizes.num_codes, stack, _scenes.MAX_LENGTH + side**2 - 1, tied=False
    )
    return autoregressive.Model(config, tokenizer, Vectors(vae), sizes.num_codes, (side, side))


def train_codes(
    model: autoregressive.Model,
    size: int,
    batch_at: Callable[[int], Batch],
    out: report.RunDir,
    *,
    num_steps: int,
    learning_rate: float,
    run: training.RunOptions,
) -> Params:
    """{"autoencoder", "codebook"}: squared distances, codes by moving averages, dead ones moved.

    Args:
        model: the model.
        size: pixels.
        batch_at: {"image": [B, size, size, 3] uint8}.
        out, num_steps, learning_rate, run: as `_chain.train_first_stage`.
    """
    vae = model.codes.vae
    book = quantize.init(jax.random.key(run.seed), model.num_codes, vae.latent_dim)

    def loss_fn(params, book, rng, batch):
        images = _chain.to_range(batch["image"])
        vectors = vae.apply(params, images, method="encode")
        indices = quantize.nearest(book.codebook, vectors)
        codes = book.codebook[indices]
        decoded = vae.apply(params, quantize.straight_through(vectors, codes), method="decode")
        distance = jnp.square(images - decoded).mean()
        commitment = quantize.commitment(vectors, codes).mean() / vae.latent_dim
        book = quantize.ema_update(book, vectors, indices, 0.98)
        book = quantize.restart(rng, book, vectors, 0.2)
        used = quantize.perplexity(indices, model.num_codes)
        metrics = {"distance": distance, "perplexity": used}
        return distance + 0.25 * commitment, Aux(float(len(images)), metrics, book)

    state = training.train(
        loss_fn, _chain.optimizer(learning_rate, num_steps),
        lambda rng: vae.init(rng, jnp.zeros((1, size, size, 3))), batch_at,
        num_steps=num_steps, run=run, out=out, model_state=book,
    )  # fmt: skip
    return {
        "autoencoder": jax.device_get(state.params["params"]),
        "codebook": jax.device_get(state.model_state.codebook),
    }


def to_codes(model: autoregressive.Model, first_stage: Params, images: np.ndarray) -> np.ndarray:
    """Codes [N, h, w] of images [N, H, W, 3] uint8."""
    encode = jax.jit(lambda x: model.codes.encode(first_stage, _chain.to_range(x)))
    return _in_blocks(encode, images)


def to_images(model: autoregressive.Model, first_stage: Params, codes: np.ndarray) -> np.ndarray:
    """Images [N, H, W, 3] in about [-1, 1] of codes [N, h, w]."""
    return _in_blocks(jax.jit(lambda x: model.codes.decode(first_stage, x)), codes)


def train_decoder(
    model: autoregressive.Model,
    data: Batch,
    out: report.RunDir,
    *,
    num_steps: int,
    batch_size: int,
    learning_rate: float,
    run: training.RunOptions,
) -> Params:
    """The decoder's averaged parameters, from {"label": tokens [N, T], "codes": [N, h, w]}."""
    state = training.train(
        autoregressive.loss(model), _chain.orthogonal(learning_rate, num_steps),
        lambda rng: {"decoder": autoregressive.init(model, rng)},
        training.batches(data, batch_size, run.seed),
        num_steps=num_steps, run=run, out=out, rng_per_example=True,
        ema_decay=training.ema_warmup(0.999),
    )  # fmt: skip
    return jax.device_get(state.ema["decoder"])


@dataclasses.dataclass(frozen=True)
class Scorer:
    """A trained scorer with its tokeniser."""

    model: scorer.Model
    params: Params
    tokenizer: tokens.Tokenizer

    def best(self, texts: list[str], images: np.ndarray) -> np.ndarray:
        """The best of the images [N, k, H, W, 3] of each text."""
        labels = self.tokenizer.encode(texts)
        rank = jax.jit(lambda label, x: scorer.rank(self.model, self.params, label, x)[:, 0])
        block = max(1, _BLOCK // images.shape[1])
        starts = range(0, len(images), block)
        first = np.concatenate([rank(labels[i : i + block], images[i : i + block]) for i in starts])
        return images[np.arange(len(images)), first]


def train_scorer(
    tokenizer: tokens.Tokenizer,
    data: Batch,
    width: int,
    *,
    num_steps: int,
    batch_size: int,
    seed: int,
) -> Scorer:
    """A scorer of {"image": [N, H, W, 3] uint8, "label": tokens [N, T]}."""
    model = scorer.Model(
        text_encoder.clip(
            2, 4 * width, max(1, width // 8), vocab_size=len(tokenizer), projection_dim=4 * width,
            max_length=tokenizer.max_length,
        ),
        scorer.ImageEncoder(width, 4 * width),
    )  # fmt: skip
    of_floats = scorer.loss(model)

    def loss_fn(params, model_state, rng, batch):
        batch = {**batch, "image": _chain.to_range(batch["image"])}
        return of_floats(params, model_state, rng, batch)

    row = jnp.zeros((1, tokenizer.max_length), jnp.int32)
    pixels = jnp.zeros((1, *data["image"].shape[1:]))
    params = training.quick(
        loss_fn, _chain.optimizer(2e-3, num_steps),
        lambda rng: scorer.init(model, rng, row, pixels),
        training.batches(data, batch_size, seed), num_steps=num_steps, rng=jax.random.key(seed),
    )  # fmt: skip
    return Scorer(model, params, tokenizer)


@dataclasses.dataclass(frozen=True)
class Asked:
    """A model and its judge; like `_scenes.Asked`, but its images may be the best of several."""

    model: autoregressive.Model
    params: Params
    judge: _judge.Judge
    scorer: Scorer
    size: int
    num: int

    def images(
        self, kind: str, guidance: float, num: int | None = None, best_of: int = 1
    ) -> tuple[np.ndarray, Batch]:
        """Samples [N, H, W, 3] of captions of one of `_scenes.KINDS`, and the scenes asked for."""
        num = self.num if num is None else num
        scenes = shapes.batch(_scenes.ASKED + np.arange(num), self.size, **_scenes.KINDS[kind])
        texts = scenes["caption"].tolist()
        many = [text for text in texts for _ in range(best_of)]
        block = min(self.num, _BLOCK)  # of all calls, so that one program draws them all
        blocks = [
            autoregressive.generate(
                self.model, self.params, (many[start:] + [""] * block)[:block], jax.random.key(0),
                guidance=guidance, first_index=start,
            )[0]
            for start in range(0, len(many), block)
        ]  # fmt: skip
        images = np.concatenate([np.asarray(each) for each in blocks])[: len(many)]
        if best_of > 1:
            images = self.scorer.best(texts, images.reshape(num, best_of, *images.shape[1:]))
        return images, scenes

    def all(self, guidance: float, best_of: int = 1) -> dict[str, dict[str, float]]:
        """How often each attribute is right, for each kind of question."""
        return {
            kind: {
                name: float(right.mean())
                for name, right in self.judge.right(
                    *self.images(kind, guidance, best_of=best_of)
                ).items()
            }
            for kind in _scenes.KINDS
        }


def _in_blocks(function: Callable, x: np.ndarray) -> np.ndarray:
    starts = range(0, len(x), _BLOCK)
    return np.concatenate([np.asarray(function(x[i : i + _BLOCK])) for i in starts])
