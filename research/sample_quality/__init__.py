"""How good samples are: distances between two sets of examples, exact or with known bias.

>>> import jax
>>> from research import sample_quality
>>> x, y = jax.random.normal(jax.random.key(0), (2, 500, 3))  # two samples of one law
>>> near = sample_quality.energy_distance(x, y)
>>> far = sample_quality.energy_distance(x, y + 1)
>>> bool(abs(near) < 0.02), bool(far > 0.3)
(True, True)

    distances.py  energy distance, kernel mean discrepancy (of distances, and of polynomials as in
                  KID), sliced Wasserstein, nearest neighbours, what fresh samples of one law show
    frechet.py    the Frechet distance between the features of two samples, and without its bias
    manifolds.py  precision and recall, density and coverage, copying of the training set
    pairs.py      points of two samples, pair by pair, a block of rows at a time
"""

from research.sample_quality import distances, frechet, manifolds, pairs
from research.sample_quality.distances import energy_distance, sliced_wasserstein, squared_mmd

PARENTS = ()

__all__ = [
    "distances",
    "energy_distance",
    "frechet",
    "manifolds",
    "pairs",
    "sliced_wasserstein",
    "squared_mmd",
]
