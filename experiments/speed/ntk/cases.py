"""Networks and arrays of `speed.ntk`, operations counted by hand, and the peer process."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import pathlib
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from library.types import Array, Params
from research import ntk
from research.ntk import layers

NUM_OUTPUTS = 10


def apply(weights: Sequence[Array], x: Array) -> Array:
    """Layers of ReLU in NTK parameterisation; weights [K, K, I, O] convolve, [I, O] multiply.

    Positions that are left before a dense layer are averaged.
    """
    for i, w in enumerate(weights):
        scale = math.sqrt(2 / math.prod(w.shape[:-1]))
        if w.ndim == 4:
            numbers = ("NHWC", "HWIO", "NHWC")
            x = jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=numbers)
        else:
            x = (x.mean((1, 2)) if x.ndim == 4 else x) @ w
        x = x * scale
        if i < len(weights) - 1:
            x = jax.nn.relu(x)
    return x


class Transformer(nn.Module):
    """Classifier of token sequences: pre-norm blocks, mean over positions."""

    width: int
    vocabulary: int
    depth: int

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        x = nn.Embed(self.vocabulary, self.width)(tokens)  # [B, T, D]
        x = x + self.param("positions", nn.initializers.normal(), (1, *x.shape[1:]))
        for _ in range(self.depth):
            x = x + nn.MultiHeadDotProductAttention(4)(nn.LayerNorm()(x))
            hidden = nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(x)))
            x = x + nn.Dense(self.width)(hidden)
        return nn.Dense(NUM_OUTPUTS)(nn.LayerNorm()(x).mean(1))


@dataclasses.dataclass(frozen=True)
class Case:
    """One comparison: arrays for both sides, our compiled call, and the least arithmetic of it.

    Attributes:
        arrays: x1, x2 and weights.0, weights.1, ...; without weights the depth of an infinite one.
        run: our kernel of these arrays.
        flops: multiplications and additions counted by hand, 0 if not counted.
    """

    arrays: dict[str, np.ndarray]
    run: Callable[[], Array]
    flops: float = 0.0


def mlp(num: int, width: int) -> Case:
    """784-width-width-10 on `num` x `num` examples."""
    sizes = (784, width, width, NUM_OUTPUTS)
    products = [a * b for a, b in zip(sizes, sizes[1:])]
    forward = 2 * num * sum(products)
    backward = 2 * num * NUM_OUTPUTS * products[1]  # the last layer's cotangents are its weights
    pairs = sum(sizes[:-1]) + NUM_OUTPUTS * 2 * width  # inner products of what was seen and passed
    return _finite((num, 784), zip(sizes, sizes[1:]), 2 * (forward + backward + num**2 * pairs))


def cnn(num: int, channels: int, size: int, depth: int) -> Case:
    """`depth` convolutions 3 x 3, average over positions, 10 outputs."""
    widths = (3,) + (channels,) * depth
    shapes = [(3, 3, a, b) for a, b in zip(widths, widths[1:])] + [(channels, NUM_OUTPUTS)]
    entries = [math.prod(shape) for shape in shapes[:-1]]
    products = [2 * num * size**2 * entry for entry in entries]
    forward = sum(products)
    backward = NUM_OUTPUTS * sum(products[1:])
    # The cotangents at the last convolution are one mask times a vector per output: its Jacobian
    # takes one product, those below one per output.
    jacobians = products[-1] + NUM_OUTPUTS * sum(products[:-1])
    pairs = 2 * num**2 * (NUM_OUTPUTS * sum(entries[:-1]) + channels * 9 * channels)
    return _finite((num, size, size, 3), shapes, 2 * (forward + backward + jacobians) + pairs)


def _finite(x_shape: tuple, shapes: Iterator, flops: float) -> Case:
    rng = np.random.default_rng(0)
    normal = lambda shape: rng.normal(size=shape).astype(np.float32)
    arrays = {"x1": normal(x_shape), "x2": normal(x_shape)}
    weights = [normal(tuple(shape)) for shape in shapes]
    arrays |= {f"weights.{i}": w for i, w in enumerate(weights)}
    kernel = jax.jit(
        lambda weights, x1, x2: ntk.empirical(
            apply, weights, x1, x2, outputs="trace", method="structured"
        )
    )
    on_device = jax.tree.map(jnp.asarray, (weights, arrays["x1"], arrays["x2"]))
    return Case(arrays, lambda: kernel(*on_device), flops)


def infinite_fc(num: int, depth: int) -> Case:
    """Hidden layers of ReLU on 784 inputs, `num` x `num`."""
    std = math.sqrt(2)
    hidden = (layers.dense(1, weight_std=std), layers.relu()) * depth
    return _infinite(layers.serial(*hidden, layers.dense(1, weight_std=std)), (num, 784), depth)


def infinite_cnn(num: int, size: int, depth: int) -> Case:
    """Convolutions 3 x 3 of ReLU and the average over positions, `num` x `num` images."""
    std = math.sqrt(2)
    conv = layers.conv(1, (3, 3), padding="SAME", weight_std=std)
    hidden = (conv, layers.relu()) * depth
    net = layers.serial(*hidden, layers.global_average_pool(), layers.dense(1, weight_std=std))
    return _infinite(net, (num, size, size, 3), depth)


def _infinite(net: layers.Layer, shape: tuple, depth: int) -> Case:
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name in ("x1", "x2")}
    x1, x2 = (jnp.asarray(arrays[name]) for name in ("x1", "x2"))
    kernel = jax.jit(lambda x1, x2: net.kernel(x1, x2, get="ntk"))
    return Case(arrays | {"depth": np.array(depth)}, lambda: kernel(x1, x2))


def transformer(
    num: int, width: int, depth: int, vocabulary: int, length: int
) -> tuple[Callable[[str], Callable], Params, Array]:
    """method -> compiled kernel (params, tokens) -> [N, N]; parameters and tokens [N, length]."""
    model = Transformer(width, vocabulary, depth)
    tokens = jax.random.randint(jax.random.key(1), (num, length), 0, vocabulary)
    params = jax.jit(model.init)(jax.random.key(0), tokens)

    def kernel(method: str) -> Callable:
        return jax.jit(
            lambda params, tokens: ntk.empirical(
                model.apply, params, tokens, outputs="trace", method=method
            )
        )

    return kernel, params, tokens


class Peer:
    """The reference package in a process of its own."""

    def __init__(self, process: subprocess.Popen, folder: pathlib.Path):
        self.process, self.folder = process, folder
        self.versions = self._line()

    def seconds(self, name: str) -> float:
        """The time of one call of a case; the first call compiles it too."""
        self.process.stdin.write(f"{name}\n")
        self.process.stdin.flush()
        return float(self._line())

    def value(self, name: str) -> np.ndarray:
        """The result of the last call of a case."""
        return np.load(self.folder / f"{name}.npy")

    def _line(self) -> str:
        line = self.process.stdout.readline().strip()
        if not line:
            lines = self.process.stderr.read().splitlines()
            errors = [text for text in lines if re.match(r"[\w.]+(Error|Exception)\b", text)]
            raise ValueError(f"the peer's interpreter stopped: {(errors or ['no message'])[-1]}")
        return line


@contextlib.contextmanager
def peer(interpreter: str, cases: dict[str, Case], folder: pathlib.Path) -> Iterator[Peer | None]:
    """A `Peer` that holds the arrays of all cases; None without an interpreter."""
    if not interpreter:
        yield None
        return
    arrays = {
        f"{name}.{key}": array for name, case in cases.items() for key, array in case.arrays.items()
    }
    np.savez(folder / "arrays.npz", **arrays)
    script = pathlib.Path(__file__).with_name("peer.py")
    command = [interpreter, str(script), str(folder / "arrays.npz"), str(folder)]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, text=True, **pipes) as process:
        try:
            yield Peer(process, folder)
        finally:
            process.stdin.close()
