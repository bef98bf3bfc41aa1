"""Losses of images in half precision, beside float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.text_to_image import autoregressive, first_stage, scorer
from tests import half_precision

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)
IMAGES = RNG.normal(size=(3, 8, 8, 4))
CODES = RNG.normal(size=(5, 4))


def autoencoder(encode):
    """What is rounded is the data alone: networks compute in float32."""
    objective = first_stage.Objective(
        encode, lambda _, z: 0.9 * z, features=lambda x: [jnp.float32(x)], kl_weight=0.1
    )

    def terms(images, codes):
        params = {"autoencoder": {}, "codebook": codes.astype(jnp.float32)}
        found = objective.terms(params, KEY, images)
        return found, objective.reconstruction(found), objective.regulariser(found)

    return lambda: (terms, (IMAGES, CODES))


CASES = {
    "first_stage.Objective, posterior": autoencoder(lambda _, x: (jnp.float32(x), -jnp.float32(x))),
    "first_stage.Objective, codes": autoencoder(lambda _, x: jnp.float32(x)),
    "first_stage.feature_distance": lambda: (
        lambda x: first_stage.feature_distance(lambda x: [x], x, x[:, ::-1]), (IMAGES,)
    ),
    "autoregressive.guided": lambda: (
        lambda logits: autoregressive.guided(logits, 3.0, 2), (RNG.normal(size=(4, 7)),)
    ),
    "scorer.info_nce": lambda: (scorer.info_nce, (5 * RNG.normal(size=(300, 300)),)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_half_precision(name):
    half_precision.check(CASES[name])
