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
Sample = Callable[[np.ndarray, np.ndarray, int], np.ndarray]  # z [N, Z], labels [N], seed


def to_range(images: np.ndarray, max_value: int = 255) -> np.ndarray:
    """Whole levels 0 .. max_value as float32 in [-1, 1]."""
    return images.astype(np.float32) * np.float32(2 / max_value) - 1


def shrunk(images: np.ndarray, size: int) -> np.ndarray:
    """Square images [N, R, R, C] halved to [N, size, size, C] by means of 2 x 2 pixels.

    Raises:
        ValueError: if halving does not lead to the size, or it is below 8.
    """
    first = images.shape[1]
    while images.shape[1] > max(size, 8):
        num, side, _, colours = images.shape
        images = images.reshape(num, side // 2, 2, side // 2, 2, colours).mean((2, 4))
    if images.shape[1] != size:
        raise ValueError(f"size={size}: expected {first} halved to no less than 8")
    return images


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
    name: str,
    players: _networks.Players,
    variables: _networks.Variables,
    num: int,
    seed: int,
    num_classes: int = 1,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Samples [num, R, R, C], and rows of ten images by their names for `picture`.

    Networks with classes get the labels 0, 1, 2, ... in turn. Rows are of samples and of what the
    network can do beside. Without classes it goes from one latent to another; StyleGAN2 in its
    styles, of which truncation and mixing have rows too. With classes there is one column a class,
    and each row has one latent.
    """
    sample = sampler(players, variables, min(500, num))
    z = np.asarray(jax.random.normal(jax.random.key(seed), (num, players.latent_dim)))
    samples = sample(z, np.arange(num) % num_classes, seed)
    rows = {name: samples, f"{name}, more": samples[COLUMNS:]}
    if _networks.classes_of(players.generator) is not None:
        columns = np.tile(np.arange(COLUMNS) % num_classes, 3)
        each = np.split(sample(np.repeat(z[:3], COLUMNS, 0), columns, seed), 3)
        return samples, rows | {f"{name}, latent {i + 1}": images for i, images in enumerate(each)}
    if not isinstance(players.generator, stylegan2.Generator):
        angles = np.linspace(0, np.pi / 2, COLUMNS, dtype=np.float32)[:, None]
        path = np.cos(angles) * z[:1] + np.sin(angles) * z[1:2]
        return samples, rows | {f"{name}, between": sample(path, np.zeros(COLUMNS, int), seed)}
    styled = jax.jit(lambda variables: _styles(players, variables, z[:COLUMNS]))
    found = {f"{name}, {what}": np.asarray(x) for what, x in styled(variables).items()}
    return samples, rows | found


def sampler(players: _networks.Players, variables: _networks.Variables, size: int) -> Sample:
    """The generator as one compiled function of `size` images at a time, the last block filled."""
    one = jax.jit(players.draw)

    def sample(z: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
        rows = np.arange(-(-len(z) // size) * size) % len(z)
        rng = lambda index: jax.random.fold_in(jax.random.key(seed), index)
        images = [
            np.asarray(one(variables, z[block], labels[block], rng(index)))
            for index, block in enumerate(rows.reshape(-1, size))
        ]
        return np.concatenate(images)[: len(z)]

    return sample


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

    Its likelihood is a Gaussian of standard deviation 0.5; trained by Adam at 1e-3, falling by
    half a cosine.
    """
    model = Convolutional(images.shape[1:], latent_dim, (16, 32), 128, heads.gaussian(0.5))
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


def _styles(
    players: _networks.Players, variables: _networks.Variables, z: jax.Array
) -> dict[str, jax.Array]:
    """Images of styles between two, of one truncated, and of two mixed; 10 of each."""
    generator = players.generator
    ws = generator.apply(variables, z, method="styles")  # [10, L, W]
    share = jnp.linspace(0, 1, COLUMNS)[:, None, None]
    mean = variables["batch_stats"]["mapping"]["mean"]
    first = jnp.broadcast_to(ws[:1], ws.shape)
    coarse = jnp.arange(generator.num_layers)[None, :, None] < generator.num_layers // 2
    rows = {
        "between": ws[:1] + share * (ws[1:2] - ws[:1]),
        "psi from 0 to 1": mean[None, None] + share * (first - mean[None, None]),
        "coarse layers alike": jnp.where(coarse, first, ws),
    }
    images = generator.apply(variables, jnp.concatenate(list(rows.values())), method="images")
    return dict(zip(rows, jnp.split(players.ended(images), len(rows)), strict=True))


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
