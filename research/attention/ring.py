"""Attention over a sequence that is spread over devices: keys and values travel round a ring.

Every device keeps its queries and, in as many rounds as there are devices, sees the keys and values
of each other device once, which pass from neighbour to neighbour (Liu et al. 2023,
arXiv:2310.01889). Each round is one `blocked` attention; the log-denominators merge the rounds
exactly. In the backward pass the cotangents of keys and values travel with them and are home after
the last round, so that no device ever holds more than its share.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from library.types import Array, PyTree, at_least_float32
from research.attention import blocked, dot_product, masks


@dataclasses.dataclass(frozen=True)
class _Ring:
    """The mesh, and its axes that sequence, batch and heads lie on."""

    mesh: Mesh
    axis: str
    batch_axis: str | None
    head_axis: str | None

    def run(self, function, in_specs: PyTree, out_specs: PyTree):
        # Its derivative is written by hand below, so nothing is gained by tracking replication.
        return jax.shard_map(
            function, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
        )

    @property
    def array(self) -> PartitionSpec:
        """Of [B, T, H, K]."""
        return PartitionSpec(self.batch_axis, self.axis, self.head_axis)

    def context(self, context: blocked.Context, batch: int) -> PyTree:
        """A mask's leaves [B, ...] follow the batch; the rest is on every device."""
        split = PartitionSpec(self.batch_axis)
        mask = jax.tree.map(
            lambda leaf: split if leaf.shape[:1] == (batch,) else PartitionSpec(), context.mask
        )
        whole = jax.tree.map(lambda leaf: PartitionSpec(), context)
        return whole.replace(mask=mask)

    def positions(self, round: Array, length: int, context: blocked.Context) -> blocked.Context:
        """The context of this device's queries and of the keys that it holds in a round.

        Slots also stand for positions: biases see their differences only.
        """
        size, here = self.mesh.shape[self.axis], jax.lax.axis_index(self.axis)
        steps = jnp.arange(length)[None]
        source = (here - round) % size
        i, j = here * length + steps, source * length + steps
        return context.replace(query_slots=i, key_slots=j, query_positions=i, key_positions=j)

    def pass_on(self, tree: PyTree) -> PyTree:
        size = self.mesh.shape[self.axis]
        pairs = [(device, (device + 1) % size) for device in range(size)]
        return jax.tree.map(lambda leaf: jax.lax.ppermute(leaf, self.axis, pairs), tree)

    def sum(self, tree: PyTree) -> PyTree:
        names = tuple(name for name in (self.axis, self.batch_axis) if name)
        return jax.tree.map(lambda leaf: jax.lax.psum(leaf, names), tree)


def attend(
    query: Array,
    key: Array,
    value: Array,
    mask: masks.Mask | None = None,
    bias: blocked.Bias | None = None,
    *,
    mesh: Mesh,
    axis: str,
    batch_axis: str | None = None,
    head_axis: str | None = None,
    scale: float | None = None,
    block: tuple[int, int] = (512, 512),
) -> Array:
    """`dot_product.attend` of one sequence that is split over a mesh axis.

    Args:
        query, key, value, mask, bias, scale, block: as there, with T = S, whole arrays whose axis T
            is (or will be) split over `axis`.
        mesh: from `library.sharding.make_mesh`.
        axis: the mesh axis that the sequence lies on; its size divides T.
        batch_axis, head_axis: mesh axes that B and the heads lie on; None keeps them whole. A
            mask's leaves whose first axis has length B follow the batch. Mask and bias are called
            with slots 0 ... T - 1, so that packed documents are right with every bias of offsets;
            rotate queries and keys by any positions before.
    Returns:
        [B, T, H, V], placed like the query.
    Raises:
        ValueError: for axes that the mesh lacks or that do not divide, or a bias over split heads.
    """
    i = jnp.arange(query.shape[1])[None]
    dot_product.check(query, key, value, i, i, None, None, "blocked", block)
    masks.check(mask, *query.shape[:2], key.shape[1])
    for name, length, what in (
        (axis, query.shape[1], "length"),
        (batch_axis, query.shape[0], "batch size"),
        (head_axis, key.shape[2], "number of key heads"),
    ):
        if name is not None and name not in mesh.shape:
            raise ValueError(f"axis {name!r}: the mesh has {tuple(mesh.shape)}")
        if name is not None and length % mesh.shape[name]:
            raise ValueError(f"{what} {length} is not a multiple of {name}={mesh.shape[name]}")
    if bias is not None and head_axis is not None:
        raise ValueError("a bias holds all heads: leave head_axis None")
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    empty = jnp.zeros((1, 0), jnp.int32)  # positions are made on each device
    context = blocked.Context(*(empty,) * 4, mask, bias, scale, block)
    return _attend(_Ring(mesh, axis, batch_axis, head_axis), query, key, value, context)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(ring: _Ring, query: Array, key: Array, value: Array, context) -> Array:
    return _forward(ring, query, key, value, context)[0]


def _forward(ring: _Ring, query: Array, key: Array, value: Array, context) -> tuple:
    def local(query: Array, key: Array, value: Array, context) -> tuple[Array, Array]:
        def one_round(carry: tuple, round: Array) -> tuple[tuple, None]:
            out, log_total, keys = carry
            here = blocked.forward(
                query, *keys, ring.positions(round, query.shape[1], context)
            )  # [B, t, H, V], [B, t, H]
            return (*_merge((out, log_total), here), ring.pass_on(keys)), None

        wide = at_least_float32(query.dtype)
        shape = query.shape[:3]
        out = jnp.zeros((*shape, value.shape[-1]), wide)
        start = (out, jnp.full(shape, -jnp.inf, wide), (key, value))
        rounds = jnp.arange(ring.mesh.shape[ring.axis])
        (out, log_total, _), _ = jax.lax.scan(one_round, start, rounds)
        return out.astype(value.dtype), log_total

    specs = (ring.array,) * 3 + (ring.context(context, query.shape[0]),)
    out, log_total = ring.run(local, specs, (ring.array, ring.array))(query, key, value, context)
    return out, (query, key, value, context, out, log_total)


def _backward(ring: _Ring, saved: tuple, d_out: Array) -> tuple:
    def local(query, key, value, context, out, log_total, d_out) -> tuple:
        def one_round(carry: tuple, round: Array) -> tuple[tuple, None]:
            d_query, d_bias, keys, d_keys = carry
            here = ring.positions(round, query.shape[1], context)
            d_q, *d_here, d_b = blocked.backward(query, *keys, here, out, log_total, d_out)
            d_keys = jax.tree.map(jnp.add, d_keys, tuple(d_here))
            d_bias = jax.tree.map(jnp.add, d_bias, d_b)
            return (d_query + d_q, d_bias, *ring.pass_on((keys, d_keys))), None

        wide = at_least_float32(query.dtype)
        d_query, *d_keys = (jnp.zeros(x.shape, wide) for x in (query, key, value))
        d_bias = [jnp.zeros_like(leaf) for leaf in blocked.float_leaves(context.bias)]
        start = (d_query, d_bias, (key, value), tuple(d_keys))
        rounds = jnp.arange(ring.mesh.shape[ring.axis])
        (d_query, d_bias, _, d_keys), _ = jax.lax.scan(one_round, start, rounds)
        return d_query, *d_keys, ring.sum(d_bias)

    query, key, value, context, _, _ = saved
    num_free = len(blocked.float_leaves(context.bias))
    specs = (ring.array,) * 3 + (ring.context(context, query.shape[0]),) + (ring.array,) * 3
    out_specs = (ring.array,) * 3 + ([PartitionSpec()] * num_free,)
    *d_inputs, d_bias = ring.run(local, specs, out_specs)(*saved, d_out)
    d_inputs = [d.astype(x.dtype) for d, x in zip(d_inputs, (query, key, value))]
    return (*d_inputs, blocked.context_cotangent(context, d_bias))


_attend.defvjp(_forward, _backward)


def _merge(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
    """Softmax over two sets of keys from that over each, with their log-denominators."""
    log_total = jnp.logaddexp(a[1], b[1])  # [B, T, H]
    safe = jnp.where(log_total == -jnp.inf, 0.0, log_total)
    shares = (jnp.exp(a[1] - safe)[..., None], jnp.exp(b[1] - safe)[..., None])
    return a[0] * shares[0] + b[0].astype(a[0].dtype) * shares[1], log_total
