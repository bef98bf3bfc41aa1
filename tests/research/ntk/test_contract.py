"""From factored Jacobians to kernels: routes, their costs, slices."""

import functools

import jax
import numpy as np
import pytest

from research.ntk.jacobians import contract, structured
from research.ntk.jacobians.structured import Block, Term
from tests.research.ntk.agreement import normal


def test_many_positions_take_the_jacobian_route_and_few_the_factors():
    def block(positions):
        return structured.Block(
            terms=(structured.Term(normal(2, positions, 1, 3), normal(2, 4, positions, 1, 5)),)
        )

    few, many = block(1), block(64)
    assert contract.flops(few, few, "trace")[0] == "factors"
    assert contract.flops(many, many, "trace")[0] == "jacobian"


@pytest.mark.parametrize("outputs", ["full", "diagonal", "trace"])
def test_jacobians_formed_in_slices(x64, monkeypatch, outputs):
    """Blocks of two terms between 2 and 3 examples, and of one set with itself; 31 = 3 8 + 7."""
    monkeypatch.setattr(contract, "_SLICE", 3 * 2 * 2 * 20 * 8)
    rng = np.random.default_rng(0)

    def block(num):
        term = lambda: Term(rng.normal(size=(num, 8, 2, 31)), rng.normal(size=(num, 2, 8, 2, 20)))
        return Block(terms=(term(), term()))

    def dense(block):  # [N, C, P]
        each = [np.einsum("nsgi,ncsgo->ncgio", term.left, term.right) for term in block.terms]
        return sum(each).reshape(len(each[0]), 2, -1)

    one, two = block(2), block(3)
    spec = {"full": "ncp,mdp->nmcd", "diagonal": "ncp,mcp->nmc", "trace": "ncp,mcp->nm"}[outputs]
    for a, b in ((one, two), (two, two)):
        num, pairs = (3, 9) if a is b else (5, 6)
        entries = 2 * 31 * 20
        forming = 2 * 2 * num * 2 * 8 * entries
        inner = 2 * pairs * entries * (4 if outputs == "full" else 2)
        assert contract.flops(a, b, outputs) == ("jacobian", forming + inner)
        kernel = functools.partial(contract.block_kernel, a, b, outputs)
        assert "scan" in str(jax.make_jaxpr(kernel)())
        expected = np.einsum(spec, dense(a), dense(b))
        np.testing.assert_allclose(jax.jit(kernel)(), expected, rtol=1e-10)
