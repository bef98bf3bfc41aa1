"""Defaults beside the values that are documented: what a call without the keywords computes.

A topic's `test_defaults.py` lists `(call, {keyword: (documented, other, ...)})`, where
`call(**options)` gives a tree of arrays, or the program that computes them. With all keywords left
out it must be what it is with all documented values, and with each other value it must not be. A
keyword whose effect is tested elsewhere needs no other value.
"""

import re
from collections.abc import Callable, Mapping

import jax
import numpy as np


def program(function: Callable, *args, **options) -> str:
    """What `function` computes, as text; nothing is compiled. Arguments may be shapes.

    For networks, sizes of blocks, numbers of steps and constants. Values that NumPy computed while
    the function was traced are not in it.
    """
    text = str(jax.make_jaxpr(lambda *args: function(*args, **options))(*args))
    return re.sub(r"0x[0-9a-f]+", "", text)  # where functions lie in memory


def equal(left, right) -> bool:
    """Whether two results are the same to the bit, in structure, dtypes, shapes and values."""
    if jax.tree.structure(left) != jax.tree.structure(right):
        return False
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        floats = np.issubdtype(a.dtype, np.inexact)
        if a.dtype != b.dtype or not np.array_equal(a, b, equal_nan=floats):
            return False
    return True


def check(call: Callable, values: Mapping[str, tuple]) -> None:
    """Without keywords `call` gives what it gives at the documented values, and at no other one."""
    left, documented = call(), {keyword: pair[0] for keyword, pair in values.items()}
    assert equal(left, call(**documented)), f"one of {documented} is not the default"
    for keyword, (_, *others) in values.items():
        for other in others:
            assert not equal(left, call(**{keyword: other})), f"{keyword}={other} changes nothing"
