"""Pairs of networks and their games: DCGAN, R3GAN, StyleGAN2, BigGAN; small, or as in papers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from library.types import Array, Batch, Key, ModelState, Params, PyTree
from research.gan import augment, biggan, dcgan, games, losses, penalties, r3gan, stylegan2
from research.vision.augmentation import Augment

Variables = dict[str, PyTree]  # Flax's collections: "params" and those of the model state
End = Callable[[Array], Array]  # images of the generator -> images of the game


def as_they_are(images: Array) -> Array:
    """The end of a generator without a bound, as R3GAN's and StyleGAN2's papers have it."""
    return images


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What a critic sees data and samples through.

    Attributes:
        change: p -> augmentation of one image; None for none.
        controller: moves p; None leaves it at 1.
    """

    change: Callable[[Array | float], Augment] | None = None
    controller: augment.Controller | None = None


PLAIN = Augmentation()


def augmentation(kind: str, batch_size: int, num_images: int) -> Augmentation:
    """By name: "none", "diffaugment", or "ada", whose p can reach 1 within `num_images` images.

    Raises:
        ValueError: for another name.
    """
    if kind == "none":
        return PLAIN
    if kind == "diffaugment":
        return Augmentation(lambda p: augment.diff_augment(p=p))
    if kind == "ada":
        return Augmentation(augment.adaptive, augment.Controller(batch_size, num_images=num_images))
    raise ValueError(f"augment={kind!r}: expected none, diffaugment or ada")


@dataclasses.dataclass(frozen=True)
class Players:
    """Two networks and their game.

    Attributes:
        generator, critic: the modules; those with classes take labels beside images or z.
        game: what `research.gan.training` plays.
        image_shape: (R, R, C).
        latent_dim: Z.
        augmented: what the critic sees through.
        critic_rate: the critic's learning rate over the generator's.
        end: what the generator's images go through, before the critic and in samples.
    """

    generator: nn.Module
    critic: nn.Module
    game: games.Game
    image_shape: tuple[int, int, int]
    latent_dim: int
    augmented: Augmentation = PLAIN
    critic_rate: float = 1.0
    end: End = as_they_are

    def params(self, rng: Key) -> Params:
        """The parameters of both at the start; may be traced."""
        return {player: each["params"] for player, each in self._start(rng).items()}

    def model_state(self, rng: Key) -> ModelState:
        """What else the players carry at the start."""
        rest = lambda rng: {name: _without_params(each) for name, each in self._start(rng).items()}
        state = jax.eval_shape(rest, rng)
        if jax.tree.leaves(state):
            state = jax.jit(rest)(rng)
        if self.augmented.controller is not None:
            state["discriminator"]["control"] = self.augmented.controller.init()
        return {player: each for player, each in state.items() if each}

    def draw(self, variables: Variables, z: Array, labels: Array, rng: Key) -> Array:
        """Images [N, R, R, C] of the generator in [-1, 1], of latents [N, Z] and labels [N]."""
        options = {}
        if isinstance(self.generator, stylegan2.Generator):
            options["rng"] = penalties.each_key(rng, len(z))
        images = self.generator.apply(variables, z, *given(self.generator, labels), **options)
        return self.ended(images)

    def ended(self, images: Array) -> Array:
        """Samples in [-1, 1] of what the generator gives."""
        return jnp.clip(self.end(images), -1, 1)

    def settled(self, variables: Variables, rng: Key, num: int = 16, size: int = 100) -> Variables:
        """The generator's collections to sample with; BigGAN's statistics are of fresh batches."""
        if not isinstance(self.generator, biggan.Generator):
            return variables
        z_rng, label_rng = jax.random.split(rng)
        z = jax.random.normal(z_rng, (num, size, self.latent_dim))
        labels = jax.random.randint(label_rng, (num, size), 0, self.generator.num_classes)
        settle = lambda variables: biggan.standing_statistics(self.generator, variables, z, labels)
        return jax.jit(settle)(variables)

    def _start(self, rng: Key) -> dict[str, Variables]:
        g_rng, d_rng = jax.random.split(rng)
        labels = jnp.zeros(2, jnp.int32)
        z, images = jnp.zeros((2, self.latent_dim)), jnp.zeros((2, *self.image_shape))
        return {
            "generator": self.generator.init(g_rng, z, *given(self.generator, labels)),
            "discriminator": self.critic.init(d_rng, images, *given(self.critic, labels)),
        }


def convolutional(
    image_shape: tuple[int, int, int],
    *,
    width: int,
    gamma: float,
    latent_dim: int = 64,
    augmented: Augmentation = PLAIN,
) -> Players:
    """DCGAN (arXiv:1511.06434), its critic with R1 in place of batch norm (arXiv:1801.04406).

    Args:
        image_shape, latent_dim, augmented: as `residual`.
        width: channels before the generator's last layer and after the critic's first.
        gamma: weight of R1.
    """
    generator = dcgan.Generator(image_shape[0], width, image_shape[2])
    critic = dcgan.Discriminator(image_shape[0], width, batch_norm=False)
    game = games.Game(
        losses.non_saturating, _generate(generator, latent_dim), _discriminate(critic, augmented),
        r1=gamma,
    )  # fmt: skip
    return Players(generator, critic, game, image_shape, latent_dim, augmented)


def residual(
    image_shape: tuple[int, int, int],
    *,
    widths: tuple[int, ...],
    gamma: float,
    groups: int = 1,
    num_blocks: int = 1,
    latent_dim: int = 64,
    num_classes: int | None = None,
    augmented: Augmentation = PLAIN,
    end: End = as_they_are,
) -> Players:
    """R3GAN (arXiv:2501.05441): relativistic pairing, R1 and R2 of one gamma at every turn.

    Args:
        image_shape: (R, R, C).
        widths: channels of each stage, 4x4 first; the stages reach R.
        gamma: weight of either penalty.
        groups: of every 3x3 convolution.
        num_blocks: of every stage.
        latent_dim: numbers of z.
        num_classes: labels that both networks see; None for none.
        augmented: what the critic sees through.
        end: what images go through, e.g. `jnp.tanh` where most pixels of the data are -1 or 1: the
            critic tells those apart from every image that is not bounded.
    Raises:
        ValueError: if the stages do not reach the size.
    """
    num, reached = len(widths), 4 * 2 ** (len(widths) - 1)
    if reached != image_shape[0]:
        raise ValueError(f"widths={widths} reach {reached} pixels: expected {image_shape[0]}")
    stages = (widths, (groups,) * num, (num_blocks,) * num)
    generator = r3gan.Generator(*stages, image_channels=image_shape[2], num_classes=num_classes)
    critic = r3gan.Discriminator(*stages, num_classes=num_classes, embed_dim=widths[0])
    game = games.Game(
        losses.relativistic, _generate(generator, latent_dim, end),
        _discriminate(critic, augmented), r1=gamma, r2=gamma,
    )  # fmt: skip
    return Players(generator, critic, game, image_shape, latent_dim, augmented, end=end)


def styled(
    image_shape: tuple[int, int, int],
    *,
    width: int,
    gamma: float,
    latent_dim: int = 64,
    num_mapping_layers: int = 2,
    mixing: float = 0.9,
    augmented: Augmentation = PLAIN,
    end: End = as_they_are,
) -> Players:
    """StyleGAN2 (arXiv:1912.04958): non-saturating loss, R1 at every turn, mixed styles.

    Without the paper's penalty of path lengths.

    Args:
        image_shape, latent_dim, augmented, end: as `residual`.
        width: channels at the finest resolution; doubled with each coarser one, 4 times at most.
        gamma: weight of R1.
        num_mapping_layers: dense layers from latent to style; 8 in the paper.
        mixing: probability of an image to be of two styles.
    """
    size, colours = image_shape[0], image_shape[2]
    channels = (width * size, 4 * width)
    generator = stylegan2.Generator(size, *channels, colours, latent_dim, num_mapping_layers)
    critic = stylegan2.Discriminator(size, *channels)

    def generate(params, model_state, rng, batch):
        variables, num = {"params": params, **model_state}, len(games.images_of(batch))
        keys = jax.vmap(lambda key: jax.random.split(key, 4))(penalties.each_key(rng, num))
        z, other = (games.latents(keys[:, index], num, latent_dim) for index in range(2))
        ws, new = generator.apply(
            variables, z, train=True, method="styles", mutable=list(model_state)
        )
        others = generator.apply(variables, other, method="styles")
        ws = stylegan2.mix(ws, others, keys[:, 2], mixing)
        return end(generator.apply(variables, ws, keys[:, 3], method="images")), new

    game = games.Game(
        losses.non_saturating, generate, _discriminate(critic, augmented), r1=gamma,
        mixes=True,  # by the deviation of the minibatch, as in the authors' code
    )  # fmt: skip
    return Players(generator, critic, game, image_shape, latent_dim, augmented, end=end)


def conditional(
    image_shape: tuple[int, int, int],
    *,
    width: int,
    num_classes: int,
    latent_dim: int = 64,
    augmented: Augmentation = PLAIN,
) -> Players:
    """BigGAN (arXiv:1809.11096): hinge loss under spectral normalisation, images of a label.

    Args:
        image_shape, augmented: as `residual`.
        width: channels of the generator's last block, a multiple of 4.
        num_classes: labels.
        latent_dim: numbers of z, at most; each block has an equal share.
    Raises:
        ValueError: if the width is no multiple of 4.
    """
    size, colours = image_shape[0], image_shape[2]
    if width % 4:
        raise ValueError(f"width={width}: expected a multiple of 4")
    latent_dim -= latent_dim % int(math.log2(size) - 1)
    generator = biggan.Generator(size, width // 4, num_classes, 32, (), colours)
    critic = biggan.Discriminator(size, width // 4, num_classes, ())
    game = games.Game(
        losses.hinge, _generate(generator, latent_dim), _discriminate(critic, augmented)
    )
    return Players(generator, critic, game, image_shape, latent_dim, augmented, critic_rate=4.0)


def pyramid(size: int, width: int) -> tuple[int, ...]:
    """Channels of each stage from 4x4 to `size`: `width` at last, doubled before, 4 times at most.

    Raises:
        ValueError: for a size that is not 4 * 2^n.
    """
    stages = size.bit_length() - 2
    if stages < 1 or size != 4 * 2 ** (stages - 1):
        raise ValueError(f"size={size}: expected 4 * 2^n pixels")
    return tuple(width * min(4, 2 ** (stages - 1 - stage)) for stage in range(stages))


def classes_of(module: nn.Module) -> int | None:
    """Labels of a module, None for one that takes none."""
    return getattr(module, "num_classes", None)


def given(module: nn.Module, labels: Array) -> tuple[Array, ...]:
    """The labels as further arguments of a module, if it has classes."""
    return () if classes_of(module) is None else (labels,)


def _generate(generator: nn.Module, latent_dim: int, end: End = as_they_are) -> games.Generate:
    def generate(params, model_state, rng, batch):
        z = games.latents(rng, len(games.images_of(batch)), latent_dim)
        images, new = _call(generator, params, model_state, z, batch)
        return end(images), new

    return generate


def _discriminate(critic: nn.Module, augmented: Augmentation) -> games.Discriminate:
    def discriminate(params, model_state, rng, images, batch):
        own = {name: tree for name, tree in model_state.items() if name != "control"}
        if augmented.controller is None:
            p = 1.0
        else:
            control = augmented.controller.advance(model_state["control"])
            p = control.p
        if augmented.change is not None:
            images = augment.each(augmented.change(p), rng, images)
        logits, new = _call(critic, params, own, images, batch)
        if augmented.controller is not None:
            new = {**new, "control": augmented.controller.observe(control, logits)}
        return logits, new

    return discriminate


def _call(module: nn.Module, params: Params, state: ModelState, x: Array, batch: Batch):
    """What a module gives in training, and its collections as the call leaves them."""
    labels = given(module, batch["labels"]) if "labels" in batch else ()
    if not state:
        return module.apply({"params": params}, x, *labels), state
    return module.apply({"params": params, **state}, x, *labels, train=True, mutable=list(state))


def _without_params(variables: Variables) -> Variables:
    return {name: tree for name, tree in variables.items() if name != "params"}
