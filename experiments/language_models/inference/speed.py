"""Tokens a second of every way to decode, and whether they all write the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from experiments.language_models.inference import decoding
from library import claims, plots

SAME = claims.baseline("the full pass without a cache, same weights")
ALONE = claims.baseline("the same row decoded alone")
ONE_ROW = claims.baseline("one row at a time, same model")


def measured(
    bench: decoding.Bench,
    test: np.ndarray,
    batch_sizes: Sequence[int],
    prompt_length: int,
    rounds: int,
) -> claims.Result:
    """Rates of all methods at every number of rows, the full pass at the first only.

    Args:
        bench: the models and how much they write.
        test: characters that prompts are taken from.
        batch_sizes: numbers of rows.
        prompt_length: characters of a prompt.
        rounds: alternations of the timed methods.
    """
    written, metrics = {}, {}
    for batch in batch_sizes:
        prompts = decoding.prompts(test, batch, length=prompt_length)
        methods = bench.methods(prompts, full=batch == batch_sizes[0])
        texts, rates, extra = bench.measure(methods, rounds)
        written |= {(name, batch): tokens for name, tokens in texts.items()}
        metrics |= {f"tokens/s, {name}, batch {batch}": rate for name, rate in rates.items()}
        metrics |= {f"{name}, batch {batch}": value for name, value in extra.items()}
    first, last = batch_sizes[0], batch_sizes[-1]
    equal = _same_text(written, bench.caches, first, last)
    cache, full, many = (
        metrics[f"tokens/s, {name}, batch {batch}"]
        for name, batch in (("cache", first), ("full pass", first), ("cache", last))
    )
    faster = [
        claims.above("tokens/s, cache / full pass", cache / full, 1.0, SAME),
        claims.above(f"tokens/s, batch {last} / batch {first}", many / cache, 1.0, ONE_ROW),
    ]
    return claims.Result(metrics, [*equal, *faster])


def _same_text(
    written: Mapping[tuple[str, int], np.ndarray], caches: Sequence[str], first: int, last: int
) -> list[claims.Claim]:
    """No token differs by method, but for caches of bytes, nor by the number of rows."""
    exact = [name for name in caches if name != "int8 cache"]
    stated = []
    for name in ("cache", *exact, "speculation"):
        differ = (written[name, first] != written["full pass", first]).sum()
        stated.append(claims.exactly(f"tokens that differ, {name}", differ, 0, SAME))
    differ = (written["cache", last][:first] != written["cache", first]).sum()
    return [*stated, claims.exactly(f"tokens that differ, batch {last}", differ, 0, ALONE)]


def figure(
    metrics: Mapping[str, float], batch_sizes: Sequence[int], caches: Sequence[str]
) -> Figure:
    """Tokens a second against rows, a line for each method."""
    names = ("cache", *caches, "speculation")
    records = [
        {"rows": batch} | {name: metrics[f"tokens/s, {name}, batch {batch}"] for name in names}
        for batch in batch_sizes
    ]
    return plots.curves(
        records,
        names,
        x="rows",
        log_x=True,
        log_y=True,
        title="Decoding speed",
        x_label="rows in a batch",
        y_label="tokens a second",
    )
