"""A first stage at one KL weight, what diffusion reaches in its latents, a critic, and tiles."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.latent_diffusion import _images
from library import figure_style, fit, plots, report, training
from library.storage import files
from library.types import Array, Params, TrainState
from research.diffusion import latent, losses, mlp, predictions, processes, samplers
from research.gan import patches
from research.gan import training as rounds
from research.sample_quality import frechet
from research.text_to_image import first_stage, first_stage_game
from research.vae import gaussians, likelihoods


@dataclasses.dataclass(frozen=True)
class Trained:
    """What an autoencoder does to held-out images.

    Attributes:
        rate: nats an image, KL of the posterior from N(0, I).
        decibels: peak signal over noise of the reconstruction at the posterior's mean.
        decibels_sampled: the same at a draw of it.
        variance: of scaled latents drawn from the posteriors of all training images.
        reconstructed: feature distance of reconstructions to held-out images.
        diffused: that of decoded samples of a latent diffusion model.
        noise: that of decoded N(0, I), in the scaled space.
    """

    rate: float
    decibels: float
    decibels_sampled: float
    variance: float
    reconstructed: float
    diffused: float
    noise: float


def optimizer(peak: float, num_steps: int) -> optax.GradientTransformation:
    """Adam that climbs for a twentieth and falls by half a cosine."""
    return training.warmup_cosine(peak, num_steps, num_steps // 20)


@functools.cache
def programs(networks: _images.Networks) -> tuple[Callable, Callable]:
    """Encoder and decoder, compiled once for the parameters of all weights.

    Returns:
        (params, images) -> means and log variances; (params, latents) -> images in [-1, 1].
    """
    objective = networks.objective()
    encode = lambda params, x: objective.encode(params["autoencoder"], x)
    decode = lambda params, z: jnp.clip(objective.decode(params["autoencoder"], z), -1, 1)
    return jax.jit(encode), jax.jit(decode)


def scaled(
    encode: Callable, params: Params, images: np.ndarray, folder, block: int
) -> tuple[latent.Scaling, np.ndarray]:
    """The scale of all images' sampled latents, and their moments, cached in a folder.

    Moments [N, 4, 4, 2 L] are means and log variances.
    """
    made_by = latent.fingerprint(params, "patches of 4 x 4")
    block = min(block, len(images))
    cache = latent.cached(functools.partial(encode, params), images, folder, made_by, block)
    scaling = latent.measure(lambda block: block, cache.blocks())
    return scaling, np.concatenate(cache.load(), -1)


def of_moments(scale: Array | float, shift: Array | float) -> latent.FirstStage:
    """What encodes moments [B, 4, 4, 2 L], to draws of their posteriors."""
    split = lambda moments: tuple(jnp.split(moments, 2, axis=-1))
    return latent.FirstStage(split, lambda z: z, scale, shift)


def diffuse(
    moments: np.ndarray,
    scaling: latent.Scaling,
    num: int,
    *,
    width: int,
    num_steps: int,
    seed: int,
) -> np.ndarray:
    """Scaled samples [num, 4, 4, L] of a perceptron trained on draws of all posteriors.

    Noise prediction under `processes.vp`, batches of 256, Adam at 1e-3; 20 steps of DPM-Solver++.
    """
    process, net = processes.vp(t_min=1e-3), mlp.MLP(width)
    shape = (*moments.shape[1:-1], moments.shape[-1] // 2)
    apply = lambda params, x, t, *_: net.apply(params, x.reshape(len(x), -1), t).reshape(x.shape)
    params = training.quick(
        latent.on_latents(losses.denoising_score_matching(process, apply),
                          lambda state: of_moments(state["scale"], state["shift"])),
        optax.adam(optax.cosine_decay_schedule(1e-3, num_steps)),
        lambda rng: net.init(rng, jnp.zeros((1, int(np.prod(shape)))), jnp.zeros(1)),
        training.batches({"image": moments}, min(256, len(moments)), seed),
        num_steps=num_steps, rng=jax.random.key(seed), rng_per_example=True,
        steps_per_call=min(100, num_steps),
        model_state={"scale": np.float32(scaling.scale), "shift": np.float32(scaling.shift)},
    )  # fmt: skip

    @jax.jit
    def draw(params, rng: Array) -> Array:
        score = predictions.to_score(process, functools.partial(apply, params), kind="noise")
        z, _ = samplers.sample(
            score, process, rng, (num, *shape), solver=samplers.dpm_solver_pp(2),
            grid=samplers.log_snr_grid(20),
        )  # fmt: skip
        return z

    return np.asarray(draw(params, jax.random.key(seed)))


def judged(
    networks: _images.Networks,
    params: Params,
    train: np.ndarray,
    test: np.ndarray,
    judge: _images.Judge,
    folder,
    *,
    width: int,
    num_steps: int,
    seed: int,
) -> tuple[Trained, dict[str, np.ndarray]]:
    """All numbers of one trained autoencoder, and images by name."""
    encode, decode = programs(networks)
    scaling, moments = scaled(encode, params, train, folder, block=len(test))
    stage, rng = of_moments(scaling.scale, scaling.shift), jax.random.key(seed)
    mean, log_var = encode(params, test)
    latents = {
        "reconstructed": stage.scaled(mean),
        "drawn": stage.to_latent(np.concatenate([mean, log_var], -1), rng),
        "diffused": diffuse(moments, scaling, len(test), width=width, num_steps=num_steps,
                            seed=seed),
        "N(0, I)": jax.random.normal(rng, mean.shape),
    }  # fmt: skip
    shown = {name: np.asarray(decode(params, stage.unscaled(z))) for name, z in latents.items()}
    target = judge.features(test)
    away = {name: frechet.distance(judge.features(x), target) for name, x in shown.items()}
    error = lambda images: _images.decibels(float(np.square(images - test).mean()))
    draws = np.asarray(jax.jit(stage.to_latent)(moments, rng), np.float64)
    numbers = Trained(
        rate=float(likelihoods.sum_pixels(gaussians.kl(mean, log_var)).mean()),
        decibels=error(shown["reconstructed"]), decibels_sampled=error(shown.pop("drawn")),
        variance=float(draws.var()), reconstructed=away["reconstructed"],
        diffused=away["diffused"], noise=away["N(0, I)"],
    )  # fmt: skip
    return numbers, shown


@dataclasses.dataclass(frozen=True)
class Played:
    """What a critic did.

    Attributes:
        before: relative change of its parameters before its start.
        after: from its start to the end.
        weight: of its part in the autoencoder's last loss.
        decibels: of reconstructions at the posterior's mean.
        reconstructed: their feature distance to held-out images.
    """

    before: float
    after: float
    weight: float
    decibels: float
    reconstructed: float


def play(
    networks: _images.Networks,
    objective: first_stage.Objective,
    params: Params,
    train: np.ndarray,
    test: np.ndarray,
    judge: _images.Judge,
    out: report.RunDir,
    *,
    num_rounds: int,
    batch_size: int,
    width: int,
    run: training.RunOptions,
) -> Played:
    """Goes on with an autoencoder beside a critic of patches, which starts halfway."""
    critic = patches.Discriminator(width, depth=1, batch_norm=False)
    start = num_rounds // 2
    game = first_stage_game.Round(
        objective, patches.discriminate(critic), last=first_stage.LAST, start=start
    )
    init = lambda rng: critic.init(rng, jnp.zeros((1, 16, 16, 1)))["params"]
    both = lambda rng: {"generator": params, "discriminator": init(rng)}
    own = optax.adam(2e-4, b1=0.5)
    at_start = out.path / "critic_at_start.npz"  # a resumed run finds it here

    def keep(step: int, state: TrainState) -> None:
        if step == start:
            file = io.BytesIO()
            np.savez(file, *jax.device_get(jax.tree.leaves(state.params["discriminator"])))
            files.write_atomic(at_start, file.getvalue())

    state = training.train(
        game, rounds.Optimizers(own, own), both,
        training.batches({"images": train}, batch_size, run.seed), num_steps=num_rounds, run=run,
        out=out, hooks=[fit.OnState((start,), keep)], make_step=first_stage_game.make_step,
    )  # fmt: skip
    end = jax.device_get(state.params)
    first = jax.jit(init)(jax.random.split(jax.random.key(run.seed))[0])  # as `train` makes it
    leaves = [
        jax.tree.leaves(first),
        list(np.load(at_start).values()),
        jax.tree.leaves(end["discriminator"]),
    ]
    gap = lambda a, b: optax.tree.norm(jax.tree.map(np.subtract, a, b))
    moved = lambda a, b: float(gap(a, b) / optax.tree.norm(a))
    encode, decode = programs(networks)
    own, (mean, _) = end["generator"], encode(end["generator"], test)
    images = np.asarray(decode(own, mean))
    lines = (out.path / "metrics.jsonl").read_text().splitlines()
    weights = [line["critic_weight"] for line in map(json.loads, lines) if "critic_weight" in line]
    return Played(
        before=moved(*leaves[:2]),
        after=moved(*leaves[1:]),
        weight=float(weights[-1]),
        decibels=_images.decibels(float(np.square(images - test).mean())),
        reconstructed=frechet.distance(judge.features(images), judge.features(test)),
    )


def tiles(
    objective: first_stage.Objective, params: Params, images: np.ndarray
) -> tuple[float, float]:
    """Of latents side by side in a square, decoded in tiles of 16 cells that overlap by 8.

    Returns:
        The error where tiles overlap over that where they do not; and the power of the number of
        cells that temporary memory grows by, from 32 to 128 cells a side.
    """
    decode = lambda z: objective.decode(params["autoencoder"], z)
    tiled = lambda z: latent.tiled_decode(decode, z, 16, 8)
    z = np.asarray(objective.encode(params["autoencoder"], images[:64])[0])
    side = int(min(8, len(z) ** 0.5))
    rows = [np.concatenate(list(z[i * side : (i + 1) * side]), 1) for i in range(side)]
    mosaic = np.tile(np.concatenate(rows, 0), (-(-32 // (4 * side)),) * 2 + (1,))[None, :32, :32]
    small, large = (
        jax.jit(tiled).lower(jax.ShapeDtypeStruct((1, n, n, z.shape[-1]), np.float32)).compile()
        for n in (32, 128)
    )
    at_seams, inside = latent.seam_errors(small(mosaic), jax.jit(decode)(mosaic), 16, 8, factor=4)
    bytes_of = lambda compiled: compiled.memory_analysis().temp_size_in_bytes
    power = np.log(bytes_of(large) / bytes_of(small)) / np.log(16)
    return float(at_seams / inside), float(power)


def curves(found: dict[float, Trained], pca: float):
    """Errors and distances by rate, beside PCA."""
    figure, (left, right) = figure_style.row(2, width=1.56 * figure_style.WIDTH)
    rates = [each.rate for each in found.values()]
    for axes, name, colour, label in (
        (left, "decibels", 0, "posterior's mean"), (left, "decibels_sampled", 1, "a draw of it"),
        (right, "reconstructed", 0, "reconstructions"), (right, "diffused", 1, "diffusion"),
        (right, "noise", 2, "decoded N(0, I)"),
    ):  # fmt: skip
        values = [getattr(each, name) for each in found.values()]
        axes.plot(rates, values, "o-", color=figure_style.PALETTE[colour], label=label)
    left.axhline(pca, color=figure_style.FAINT, label="PCA of as many floats")
    right.set(yscale="log")
    for axes, title in ((left, "Reconstruction, dB"), (right, "Feature distance to held-out")):
        figure_style.legend(axes)
        figure_style.style(axes, title, "rate, nats an image", "")
    return figure


def picture(rows: dict[str, np.ndarray]):
    """Ten images of each row, under its name."""
    images = np.concatenate([each[:10] for each in rows.values()])
    return plots.image_grid(
        images, len(rows), 10, value_range=(-1, 1), title="Digits by KL weight",
        row_labels=tuple(rows),
    )  # fmt: skip
