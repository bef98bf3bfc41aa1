"""How good samples are: distances between two sets of examples, exact or with known bias.

>>> import jax
>>> from research import sample_quality
>>> x, y = jax.random.normal(jax.random.key(0), (2, 500, 3))  # two samples of one law
>>> near = sample_quality.energy_distance(x, y)
>>> far = sample_quality.energy_distance(x, y + 1)
>>> bool(abs(near) < 0.02), bool(far > 0.3)
(True, True)

    distances.py  energy distance, kernel mean discrepancy, sliced Wasserstein, nearest neighbours,
                  and what fresh samples of one law show
    frechet.py    the Frechet distance between the features of two samples
"""

from research.sample_quality import distances, frechet
from research.sample_quality.distances import energy_distance, sliced_wasserstein, squared_mmd

PARENTS = ()

__all__ = ["distances", "energy_distance", "frechet", "sliced_wasserstein", "squared_mmd"]
