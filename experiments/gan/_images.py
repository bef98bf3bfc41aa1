"""Image games from training to samples, baselines, numbers that judge them, and their pictures."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn import decomposition, mixture

from experiments.gan import _networks
from library import plots, report, sharding, training
from library.types import Aux, Batch
from research.gan import stylegan2
from research.gan import training as rounds
from research.sample_quality import distances, frechet, manifolds
from research.vae import bounds
from research.vae.networks import Convolutional, heads, single

COLUMNS = 10  # of a picture


def to_range(images: np.ndarray, max_value: int = 255) -> np.ndarray:
    """Whole levels 0 .. max_value as float32 in [-1, 1]."""
    return images.astype(np.float32) * np.float32(2 / max_value) - 1


def halved(images: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 pixels: [N, H, W, C] -> [N, H/2, W/2, C]."""
    num, height, width, colours = images.shape
    return images.reshape(num, height // 2, 2, width // 2, 2, colours).mean((2, 4))


def split(images: np.ndarray, seed: int, share: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """Training images and a random share, at least one, that is held out."""
    order = np.random.default_rng(seed).permutation(len(images))
    num = max(round(share * len(images)), 1)
    return images[order[num:]], images[order[:num]]


def play(
    players: _networks.Players,
    data: Batch,
    out: report.RunDir,
    *,
    num_steps: int,
    batch_size: int,
    learning_rate: float,
    ema_decay: float,
    run: training.RunOptions,
    end: float = 0.1,
) -> _networks.Variables:
    """The averaged generator's collections after as many rounds of Adam, on one device.

    Rates fall by half a cosine; betas are 0 and 0.99.

    Args:
        players: the game.
        data: {"images": [N, R, R, C]}, with "labels" [N] for networks that have classes.
        out: the run's folder.
        num_steps: rounds.
        batch_size: images of a round.
        learning_rate: of the generator, at the start.
        ema_decay: of the average, at last.
        run: the shared options.
        end: the last rate over the first.
    """

    def adam(rate: float) -> optax.GradientTransformation:
        return optax.adam(optax.cosine_decay_schedule(rate, num_steps, end), b1=0.0, b2=0.99)

    optimizers = rounds.Optimizers(adam(learning_rate), adam(learning_rate * players.critic_rate))
    state = training.train(
        players.game, optimizers, players.params, training.batches(data, batch_size, run.seed),
        num_steps=num_steps, run=run, out=out, ema_decay=training.ema_warmup(ema_decay),
        model_state=players.model_state(jax.random.key(run.seed)), make_step=rounds.make_step,
    )  # fmt: skip
    own = sharding.on_one_device(
        {"params": state.ema["generator"], **state.model_state.get("generator", {})}
    )
    return players.settled(own, jax.random.key(run.seed + 1))


def draw(
    players: _networks.Players,
    variables: _networks.Variables,
    num: int,
    seed: int,
    num_classes: int = 1,
    block: int = 500,
) -> np.ndarray:
    """[num, R, R, C] samples; those of networks with classes have the labels 0, 1, 2, ... in turn.

    Samples are the same whatever their number, from one block on.
    """
    one = jax.jit(players.draw)
    parts = []
    for start in range(0, num, block):
        rows = np.arange(start, min(start + block, num))
        z_rng, noise_rng = jax.random.split(jax.random.fold_in(jax.random.key(seed), start))
        z = jax.random.normal(z_rng, (len(rows), players.latent_dim))
        parts.append(np.asarray(one(variables, z, jnp.asarray(rows % num_classes), noise_rng)))
    return np.concatenate(parts)


def gaussian_mixture(
    images: np.ndarray, num: int, *, num_components: int, num_dims: int, seed: int
) -> np.ndarray:
    """[num, R, R, C] samples of a mixture of Gaussians, each of full covariance, in PCA space."""
    flat = images.reshape(len(images), -1).astype(np.float64)
    pca = decomposition.PCA(min(num_dims, *flat.shape), random_state=0)
    inside = pca.fit_transform(flat)
    fitted = mixture.GaussianMixture(num_components, random_state=seed, reg_covar=1e-4).fit(inside)
    samples = pca.inverse_transform(fitted.sample(num)[0])
    return np.clip(samples, -1, 1).astype(np.float32).reshape(num, *images.shape[1:])


def autoencoder(
    images: np.ndarray, num: int, *, num_steps: int, batch_size: int, latent_dim: int, seed: int
) -> np.ndarray:
    """[num, R, R, C] samples of a small convolutional VAE: means of its decoder, without noise.

    Its likelihood is a Gaussian of standard deviation 0.25; trained by Adam at 1e-3, falling by
    half a cosine.
    """
    model = Convolutional(images.shape[1:], latent_dim, (16, 32), 128, heads.gaussian(0.25))
    apply = lambda params, x, method: model.apply({"params": params}, x, method=method)

    def loss(params, model_state, rng, batch):
        encode = lambda x: apply(params, x, "encode")
        decode = lambda z: apply(params, z, "decode")
        terms = single.terms(encode, decode, batch["images"], rng)
        return -bounds.average(terms.elbo[0]), Aux(len(batch["images"]))

    params = training.quick(
        loss, optax.adam(optax.cosine_decay_schedule(1e-3, num_steps)),
        lambda rng: model.init(rng, jnp.asarray(images[:1]))["params"],
        training.batches({"images": images}, batch_size, seed), num_steps=num_steps,
        rng=jax.random.key(seed), rng_per_example=True,
    )  # fmt: skip
    z = jax.random.normal(jax.random.key(seed + 1), (num, latent_dim))
    return np.clip(jax.jit(lambda z: apply(params, z, "decode").mean)(z), -1, 1)


def components(images: np.ndarray, num_dims: int) -> Callable[[np.ndarray], np.ndarray]:
    """The projection of images on the principal components of given ones, [N, num_dims] float32."""
    flat = images.reshape(len(images), -1)
    pca = decomposition.PCA(min(num_dims, *flat.shape), random_state=0).fit(flat)
    return lambda images: pca.transform(images.reshape(len(images), -1)).astype(np.float32)


def nearest(images: np.ndarray, train: np.ndarray) -> np.ndarray:
    """The training image [N, R, R, C] nearest to each image, by pixels."""
    return train[np.asarray(distances.nearest_neighbours(images, train)[1])]


def feature_fids(
    features, held_out: np.ndarray, samples: dict[str, np.ndarray]
) -> dict[str, float]:
    """Frechet distance of each kind of samples to held-out images, in given features."""
    target = features(held_out)
    return {name: frechet.distance(features(images), target) for name, images in samples.items()}


def precision_recall(features, held_out: np.ndarray, samples: np.ndarray) -> tuple[float, float]:
    """Shares of samples and of held-out images in the other's manifold, by features.

    Kynkaanniemi et al. 2019, arXiv:1904.06991, k = 3.
    """
    found = manifolds.precision_recall(features(held_out), features(samples), k=3)
    return float(found.precision), float(found.recall)


def shares(labels: np.ndarray, num_classes: int = 10) -> np.ndarray:
    """Share of each class [num_classes] among labels [N]."""
    return np.bincount(labels, minlength=num_classes) / len(labels)


def rows_of(
    name: str,
    players: _networks.Players,
    variables: _networks.Variables,
    samples: np.ndarray,
    seed: int,
) -> dict[str, np.ndarray]:
    """Rows of ten images by their names: samples, and what the network can do beside.

    Without classes from one latent to another; StyleGAN2 in its styles, of which truncation and
    mixing have rows too. With classes there is one column a class, and each row has one latent.
    """
    rows = {name: samples, f"{name}, more": samples[COLUMNS:]}
    shape = (COLUMNS, players.latent_dim)
    z = jax.random.normal(jax.random.key(seed), shape)
    labels, rng = jnp.arange(COLUMNS), jax.random.key(seed)
    one = jax.jit(players.draw)
    if players.generator.num_classes is not None:
        labels = labels % players.generator.num_classes
        each = lambda row: np.asarray(one(variables, jnp.broadcast_to(row, shape), labels, rng))
        return rows | {f"{name}, latent {i + 1}": each(row) for i, row in enumerate(z[:3])}
    if not isinstance(players.generator, stylegan2.Generator):
        angles = jnp.linspace(0, jnp.pi / 2, COLUMNS)[:, None]
        path = jnp.cos(angles) * z[:1] + jnp.sin(angles) * z[1:2]
        return rows | {f"{name}, between": np.asarray(one(variables, path, labels, rng))}
    found = _styles(players.generator, variables, z)
    return rows | {f"{name}, {what}": images for what, images in found.items()}


def _styles(
    generator: stylegan2.Generator, variables: _networks.Variables, z: jax.Array
) -> dict[str, np.ndarray]:
    """Rows of one latent truncated, of two mixed, and of styles between two."""
    ws = generator.apply(variables, z, method="styles")  # [10, L, W]
    share = jnp.linspace(0, 1, COLUMNS)[:, None, None]
    mean = variables["batch_stats"]["mapping"]["mean"]
    first = jnp.broadcast_to(ws[:1], ws.shape)
    layers = jnp.arange(generator.num_layers)[None, :, None]
    images = lambda ws: np.clip(np.asarray(generator.apply(variables, ws, method="images")), -1, 1)
    return {
        "between": images(ws[:1] + share * (ws[1:2] - ws[:1])),
        "psi from 0 to 1": images(mean + share * (first - mean)),
        "coarse layers alike": images(jnp.where(layers < generator.num_layers // 2, first, ws)),
    }


def one_of_each(data: Batch, num_classes: int = 10) -> np.ndarray:
    """The first image of each class that there is, [num_classes, R, R, C]."""
    rows = [np.flatnonzero(data["labels"] == label)[:1] for label in range(num_classes)]
    return data["images"][np.concatenate(rows)]


def picture(rows: dict[str, np.ndarray], title: str):
    """Rows of ten images, each with its name beside it."""
    images = np.concatenate([_filled(row) for row in rows.values()])
    return plots.image_grid(
        images, len(rows), COLUMNS, value_range=(-1, 1), title=title, row_labels=tuple(rows)
    )


def _filled(row: np.ndarray) -> np.ndarray:
    """The first ten images, white ones where there are fewer."""
    missing = np.ones((max(COLUMNS - len(row), 0), *row.shape[1:]), row.dtype)
    return np.concatenate([row[:COLUMNS], missing])
