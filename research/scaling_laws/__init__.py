"""Scaling laws: laws as values, runs with a checked schema, robust fits, plans with intervals.

>>> import numpy as np
>>> from research import scaling_laws
>>> size, tokens = np.meshgrid(np.logspace(7, 10, 8), np.logspace(9, 12, 8))
>>> size, tokens = size.ravel(), tokens.ravel()
>>> loss = 1.7 + 400 * size**-0.34 + 410 * tokens**-0.28
>>> runs = scaling_laws.Runs(parameters=size, tokens=tokens, loss=loss)
>>> fit = scaling_laws.fit(scaling_laws.laws.chinchilla, runs)
>>> {name: round(fit.parameters[name], 3) for name in ("E", "alpha", "beta")}
{'E': 1.7, 'alpha': 0.34, 'beta': 0.28}

    laws.py         the laws, each with formula, source and units
    runs.py         runs as columns, every value checked
    run_files.py    CSV files as people have them, in and out
    fits/           fitting (fit, bootstrap), profiles, identifiability; the engine: lanes,
                    newton_steps, centring
    planning.py     what to train next for a budget, with intervals
    forecasts.py    the loss of runs not yet made, with intervals that past predictions calibrate
    frontiers.py    approaches 1 and 2 of Hoffmann et al.
    published.py    the published runs, from the folder that ANSATZ_DATA names
    counting.py     conventions for parameters and FLOPs
    noise_scale.py  the batch size at which noise and signal are equal
    solvable.py     models whose exponents are known
"""

from research.scaling_laws import (
    counting,
    forecasts,
    frontiers,
    laws,
    noise_scale,
    planning,
    published,
    run_files,
    runs,
    solvable,
)
from research.scaling_laws.fits import fitting, identifiability, profiles
from research.scaling_laws.fits.fitting import bootstrap, fit
from research.scaling_laws.planning import plan
from research.scaling_laws.runs import Runs

PARENTS = ()

__all__ = [
    "Runs",
    "bootstrap",
    "counting",
    "fit",
    "fitting",
    "forecasts",
    "frontiers",
    "identifiability",
    "laws",
    "noise_scale",
    "plan",
    "planning",
    "profiles",
    "published",
    "run_files",
    "runs",
    "solvable",
]
