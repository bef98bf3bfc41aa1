"""Where a transformer's parameters lie on a mesh: rules for `library.sharding`, by path.

Tensor parallelism as in Megatron-LM (Shoeybi et al. 2019, arXiv:1909.08053): heads and hidden
features are split, so that each branch needs one sum over devices, after its last matrix.
"""

from __future__ import annotations

from jax.sharding import Mesh, PartitionSpec

from library import sharding


def tensor_parallel(axis: str = "model") -> sharding.Rules:
    """Rules that split heads, hidden features and the vocabulary over a mesh axis.

    What the axis does not divide (the single key head of multi-query attention, a vocabulary of 65)
    stays whole.

    Args:
        axis: mesh axis.
    """

    def split(dim: int) -> sharding.Spec:
        """Splits an axis counted from the end, since the layers come first or not."""

        def spec(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
            if len(shape) < -dim or shape[dim] % mesh.shape[axis]:
                return PartitionSpec()
            names = [None] * len(shape)
            names[dim] = axis
            return PartitionSpec(*names)

        return spec

    return (
        (
            r"(attention|cross)/(query|key|value)/(kernel|bias)",
            split(-2),
        ),  # [.., D, H, K], [.., H, K]
        (r"(attention|cross)/out/kernel", split(-3)),  # [.., H, K, D]
        (r"mlp/(up|gate)/(kernel|bias)", split(-1)),  # [.., D, F], [.., F]
        (r"mlp/down/kernel", split(-2)),  # [.., F, D]
        (r"params/embedding$", split(-2)),  # [V, D]
    )
