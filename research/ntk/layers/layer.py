"""What every layer is: a frozen value with `init`, `apply` and `kernel`."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, Protocol

import flax.struct
import jax
import jax.numpy as jnp

from library.types import Array, Key, Params, PyTree, at_least_float32
from research.ntk import batching, checks
from research.ntk.layers import inputs
from research.ntk.layers.inputs import Examples
from research.ntk.layers.state import Needs, State

Shape = tuple[int, ...]  # (*S, C), or a tuple of such
KINDS = ("nngp", "ntk")
# Pairs of positions whose kernels, some ten arrays, stay in a CPU's last cache.
_TILE = 2**20


@flax.struct.dataclass
class Kernels:
    """The kernels asked for, None for the others.

    Attributes:
        nngp: [N1, N2], or [N1, N2, *S] of networks whose outputs keep positions.
        ntk: of the same shape.
    """

    nngp: Array | None = None
    ntk: Array | None = None


@flax.struct.dataclass
class Signal:
    """What travels through a finite network: `x` [N, *S, C], `mask` [N, *S], `pattern`, `rng`."""

    x: Array
    mask: Array | None = None
    pattern: Array | None = None
    rng: Key | None = None


class Layer(Protocol):
    """A layer or a network of layers, hashable and immutable.

    A new layer defines `shape`, `forward` and `propagate`; `draw` if it has parameters, `needs` if
    it reads more of its input than is read of its output.
    """

    def shape(self, shape: Shape) -> Shape:
        """The shape of one output from that of one input, both (*S, C); refuses what cannot be."""

    def draw(self, rng: Key, shape: Shape) -> Params:
        """Parameters for inputs of this shape."""
        return ()

    def forward(self, params: Params, signal: Signal) -> Signal:
        """The finite layer."""

    def propagate(self, state: State) -> State:
        """The infinitely wide layer."""

    def needs(self, needs: Needs) -> Needs:
        """What must be known of the input so that `needs` is known of the output."""
        return needs

    def init(self, rng: Key, input_shape: Sequence[int]) -> Params:
        """Parameters of one finite network.

        Args:
            rng: key.
            input_shape: (*S, C), without the batch axis.
        Returns:
            A pytree, a tuple with one entry a layer; () for a layer without parameters.
        Raises:
            ValueError: if the network does not take this shape.
        """
        shape = _as_shape(input_shape)
        self.shape(shape)
        return self.draw(rng, shape)

    def apply(
        self,
        params: Params,
        x: PyTree,
        *,
        mask: Array | None = None,
        pattern: Array | None = None,
        rng: Key | None = None,
    ) -> PyTree:
        """The finite network with these parameters.

        Args:
            params: from `init`.
            x: [N, *S, C], or a tuple of such for a network of several inputs.
            mask: [N, *S] bool, the positions that exist; None for all.
            pattern: [N, S, S], the averages that `aggregate` takes.
            rng: key of the dropped units; None drops none.
        Returns:
            [N, *S', C'].
        """
        if isinstance(x, tuple):
            rngs = [None if rng is None else jax.random.fold_in(rng, i) for i in range(len(x))]
            signal = tuple(Signal(one, mask, pattern, key) for one, key in zip(x, rngs))
        else:
            signal = Signal(x, mask, pattern, rng)
        if mask is not None:

            def hide(s):
                return s.replace(x=jnp.where(mask[..., None], s.x, 0))

            signal = jax.tree.map(hide, signal, is_leaf=lambda s: isinstance(s, Signal))
        out = self.forward(params, signal)
        return jax.tree.map(lambda s: s.x, out, is_leaf=lambda s: isinstance(s, Signal))

    def kernel(
        self,
        x1: PyTree,
        x2: PyTree | None = None,
        *,
        get: str | Sequence[str] = KINDS,
        pairs: str = "all",
        positions: str = "equal",
        mask1: Array | None = None,
        mask2: Array | None = None,
        pattern1: Array | None = None,
        pattern2: Array | None = None,
        batch_size: int | None = None,
    ) -> Kernels | Array:
        """The infinitely wide network's kernels: NNGP, its outputs' covariance, and NTK.

        Per output channel; layers count as infinitely wide whatever their number of channels,
        which enters the standard parameterisation only. Compiled once for every shape.

        Args:
            x1: [N1, *S, C] float, or a tuple of such for a network of several inputs.
            x2: [N2, *S, C]; None for x1 itself, whose diagonal is then known to be one.
            get: "nngp", "ntk" or several of them.
            pairs: "all", or "diagonal" for pairs of equal rank only (N1 = N2).
            positions: where outputs keep positions: "equal" ones only, or "all".
            mask1: [N1, *S] bool, the positions that exist; None for all.
            mask2: [N2, *S]; with x2=None it is mask1.
            pattern1: [N1, S, S], the averages that `aggregate` takes.
            pattern2: [N2, S, S]; with x2=None it is pattern1.
            batch_size: tiles of at most this many examples a side, one after the other. None: all
                at once; on CPUs, where pairs of positions count (convolutions before pooling) and
                no layer needs those of one example, tiles that stay in the cache.
        Returns:
            An array for a single name, `Kernels` for several. [N1, N2] or, for diagonal pairs,
            [N]; followed by *S of the outputs, or by (s1, t1, s2, t2, ...) for all positions.
        Raises:
            ValueError: on unknown names, shapes that do not fit, integer inputs, or a network
                without a known closed form, naming the layer.
        """
        names = (get,) if isinstance(get, str) else tuple(get)
        for name in names:
            checks.choice("get", name, KINDS)
        if not names:
            raise ValueError(f"get={get!r}: expected some of {', '.join(KINDS)}")
        checks.choice("pairs", pairs, ("all", "diagonal"))
        checks.choice("positions", positions, ("equal", "all"))
        if batch_size is not None:
            checks.count("batch_size", batch_size)
        first = _examples("1", x1, mask1, pattern1)
        second = None if x2 is None else _examples("2", x2, mask2, pattern2)
        if second is None and not (mask2 is None and pattern2 is None):
            raise ValueError("mask2 or pattern2 without x2: with x2=None those of x1 serve")
        self.shape(_check(first, second, pairs))
        out = _compiled(first, second, self, names, pairs, positions, batch_size)
        return out[names[0]] if isinstance(get, str) else Kernels(**out)


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5, 6))
def _compiled(
    first: Examples | tuple[Examples, ...],
    second: Examples | tuple[Examples, ...] | None,
    net: Layer,
    names: tuple[str, ...],
    pairs: str,
    positions: str,
    batch_size: int | None,
) -> dict[str, Array]:
    paired = pairs == "diagonal"
    needs = net.needs(Needs(cross=positions == "all"))
    batch_size = batch_size or _tile_size(needs, first, second or first, paired)

    def tile(_: Any, one: PyTree, two: PyTree) -> dict[str, Array]:
        state = _states(needs, one, two, paired=paired, ntk="ntk" in names)
        if isinstance(state, tuple) or state.space:
            return _result(net.propagate(state), names, positions)
        # Without positions all layers fuse into one pass over the pairs if it has one result: a
        # pass a kernel beats intermediate arrays shared by two. The barrier keeps them apart.
        results = {}
        for name in names:
            state = jax.lax.optimization_barrier(state)
            kept = state if name == "ntk" else state.replace(cross=state.cross.replace(ntk=None))
            results |= _result(net.propagate(kept), (name,), positions)
        return results

    if not paired:
        return batching.batched(tile, batch_size)(None, first, second or first)
    both = first, second or first
    if batch_size is None:
        return tile(None, *both)
    return batching.map_over(lambda block: tile(None, *block), both, batch_size)


def _tile_size(
    needs: Needs | tuple[Needs, ...], first: PyTree, second: PyTree, paired: bool
) -> int | None:
    """Examples a side of tiles that stay in the cache; None where that gains nothing."""
    each = (needs,) if isinstance(needs, Needs) else needs
    if jax.default_backend() != "cpu" or any(n.own for n in each) or not any(n.cross for n in each):
        return None
    positions = max(math.prod(one.x.shape[1:-1]) for one in _parts(first))
    num = max(1, _TILE // positions**2)
    size = num if paired else math.isqrt(num)
    largest = max(_parts(one)[0].x.shape[0] for one in (first, second))
    return size if size < largest else None


def _states(
    needs: Needs | tuple[Needs, ...], one: PyTree, two: PyTree, *, paired: bool, ntk: bool
) -> State | tuple[State, ...]:
    """The kernel of each input."""
    make = functools.partial(inputs.input_state, paired=paired, ntk=ntk)
    if not isinstance(one, tuple):
        return make(one, two, needs)
    each = (needs,) * len(one) if isinstance(needs, Needs) else needs
    return tuple(make(a, b, n) for a, b, n in zip(one, two, each))


def _result(state: State, names: tuple[str, ...], positions: str) -> dict[str, Array]:
    if not isinstance(state, State):
        raise ValueError("the network ends in several branches: join them before asking a kernel")
    cross = state.cross
    if cross.full and positions == "equal":
        cross = cross.at_equal_positions()
    if cross.ntk is not None and cross.ntk.ndim == 0:
        cross = cross.replace(ntk=jnp.zeros_like(cross.nngp))
    return {name: getattr(cross, name) for name in names}


def _as_shape(shape: Sequence) -> Shape:
    return tuple(_as_shape(s) if isinstance(s, Sequence) else int(s) for s in shape)


def _examples(number: str, x: PyTree, mask: Array | None, pattern: Array | None) -> PyTree:
    """Checked inputs of one set, as `Examples` or a tuple of them."""
    if isinstance(x, tuple):
        return tuple(_examples(number, one, mask, pattern) for one in x)
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"x{number} has dtype {x.dtype}: expected floats")
    if x.ndim < 2 or 0 in x.shape:
        raise ValueError(f"x{number} has shape {x.shape}: expected [N, *S, C], none of them 0")
    if mask is not None:
        mask = jnp.asarray(mask)
        if mask.shape != x.shape[:-1] or mask.dtype != bool:
            raise ValueError(
                f"mask{number} is {mask.dtype} {mask.shape}: expected bool {x.shape[:-1]}"
            )
    if pattern is not None:
        pattern = jnp.asarray(pattern)
        if x.ndim != 3 or pattern.shape != (*x.shape[:2], x.shape[1]):
            raise ValueError(
                f"pattern{number} has shape {pattern.shape}: expected [N, S, S] for x{number} "
                f"[N, S, C] of shape {x.shape}"
            )
    x = x.astype(at_least_float32(x.dtype))
    ids = jnp.arange(x.shape[0])
    return Examples(x, mask, pattern, ids if number == "1" else -1 - ids)


def _check(first: PyTree, second: PyTree | None, pairs: str) -> Shape:
    """The shape of one input, the same in both sets."""

    def leaves(e):
        return [one.x for one in _parts(e)]

    shapes = [leaf.shape[1:] for leaf in leaves(first)]
    if len({leaf.shape[0] for leaf in leaves(first)}) != 1:
        raise ValueError(f"x1 has parts of {[leaf.shape[0] for leaf in leaves(first)]} examples")
    if second is not None:
        kinds = [[(leaf.shape[1:], str(leaf.dtype)) for leaf in leaves(e)] for e in (first, second)]
        if isinstance(first, tuple) != isinstance(second, tuple) or kinds[0] != kinds[1]:
            raise ValueError(f"x1 and x2 hold different examples: {kinds[0]} and {kinds[1]}")
        sizes = [leaf.shape[0] for leaf in leaves(first)[:1] + leaves(second)]
        if pairs == "diagonal" and len(set(sizes)) != 1:
            raise ValueError(f"pairs='diagonal' of {sizes[0]} and {sizes[1]} examples")
        for field in ("mask", "pattern"):
            one, two = (_parts(e)[0] for e in (first, second))
            if (getattr(one, field) is None) != (getattr(two, field) is None):
                raise ValueError(f"{field}1 and {field}2: give both or none")
    return tuple(shapes) if isinstance(first, tuple) else shapes[0]


def _parts(examples: PyTree) -> tuple[Examples, ...]:
    return examples if isinstance(examples, tuple) else (examples,)
