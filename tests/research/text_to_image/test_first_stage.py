"""What an autoencoder minimises, against NumPy; a codebook's gradients; the frozen value."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from library import testing
from research.diffusion import draws
from research.gan import penalties
from research.text_to_image import first_stage
from research.vae.networks import autoencoder

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(3, 4, 4, 2))
KEY = jax.random.key(0)
OWN = {"in": RNG.normal(size=(2, 6)) / 2, "out": RNG.normal(size=(3, 2)), "bend": np.array(0.3)}
PARAMS = {"autoencoder": OWN, "codebook": RNG.normal(size=(5, 6))}
FILTERS = [RNG.normal(size=(2, 3)), RNG.normal(size=(3, 2))]


def encode(params, x):
    """Mean and log variance [B, 4, 4, 3]."""
    h = jnp.einsum("bhwc,cd->bhwd", x, params["in"])
    return h[..., :3], h[..., 3:]


def vectors(params, x):
    return jnp.einsum("bhwc,cd->bhwd", x, params["in"])


def decode(params, z):
    image = jnp.einsum("bhwd,dc->bhwc", z[..., :3], params["out"])
    return image + params["bend"] * jnp.square(image)


def features(x):
    first = jax.nn.relu(jnp.einsum("bhwc,cd->bhwd", x, jnp.asarray(FILTERS[0], x.dtype)))
    return [first, jnp.einsum("bhwc,cd->bhwd", first, jnp.asarray(FILTERS[1], x.dtype))]


def features_by_hand(x, y):
    total = 0
    maps = []
    for image in (x, y):
        first = np.maximum(image @ FILTERS[0], 0)
        maps.append([first, first @ FILTERS[1]])
    unit = lambda h: h / np.sqrt((h**2).sum(-1, keepdims=True) + 1e-10)
    for of_x, of_y in zip(*maps, strict=True):
        total = total + ((unit(of_x) - unit(of_y)) ** 2).sum(-1).mean((1, 2))
    return total


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"distance": jnp.square, "features": features, "feature_weight": 0.7, "kl_weight": 0.3},
        {"features": features},
    ],
)
def test_a_posterior_by_hand(options, x64):
    objective = first_stage.Objective(encode, decode, **options)

    @jax.jit
    def of(params, images):
        terms = objective.terms(params, KEY, images)
        value, aux = objective.loss(params, {}, KEY, {"images": images})
        return terms, objective.reconstruction(terms), objective.regulariser(terms), value, aux

    terms, reconstruction, regulariser, value, aux = of(PARAMS, IMAGES)
    mean, log_var = encode(OWN, IMAGES)
    noise = draws.normals(penalties.each_key(KEY, 3), jnp.zeros((3, 4, 4, 3)))
    decoded = np.asarray(decode(OWN, mean + np.exp(log_var / 2) * noise))
    np.testing.assert_allclose(terms.images, decoded, rtol=1e-10)
    gap = np.square(IMAGES - decoded) if "distance" in options else np.abs(IMAGES - decoded)
    np.testing.assert_allclose(terms.distance, gap.mean((1, 2, 3)), rtol=1e-10)
    rate = 0.5 * (np.exp(log_var) + mean**2 - 1 - log_var).sum((1, 2, 3))
    np.testing.assert_allclose(terms.rate, rate, rtol=1e-10)
    seen = features_by_hand(IMAGES, decoded) if "features" in options else np.zeros(3)
    np.testing.assert_allclose(terms.features, seen, rtol=1e-10)
    expected = np.mean(gap.mean((1, 2, 3)) + options.get("feature_weight", 1.0) * seen)
    np.testing.assert_allclose(reconstruction, expected, rtol=1e-10)
    expected = options.get("kl_weight", 1e-6) * rate.mean() / 32
    np.testing.assert_allclose(regulariser, expected, rtol=1e-10)
    np.testing.assert_allclose(value, reconstruction + regulariser, rtol=1e-12)
    assert aux.weight == 3 and not np.asarray(terms.quantisation).any()
    np.testing.assert_allclose(aux.metrics["rate"], rate.mean(), rtol=1e-10)
    np.testing.assert_allclose(aux.metrics["features"], seen.mean(), rtol=1e-10)


@pytest.mark.parametrize("options", [{}, {"codebook_weight": 0.5, "commitment_weight": 2.0}])
def test_a_codebook_by_hand(options, x64):
    """Its gradient is the codebook's loss alone; the encoder's skips the codes, and nears them."""
    objective = first_stage.Objective(vectors, decode, **options)
    loss = lambda params: objective.loss(params, {}, KEY, IMAGES)[0]
    terms, value, gradient = jax.jit(
        lambda params: (objective.terms(params, KEY, IMAGES), *jax.value_and_grad(loss)(params))
    )(PARAMS)
    z, codebook = np.asarray(vectors(OWN, IMAGES)), PARAMS["codebook"]
    index = np.square(z[..., None, :] - codebook).sum(-1).argmin(-1)
    q = codebook[index]
    to_vectors = options.get("codebook_weight", 1.0)
    to_codes = options.get("commitment_weight", 0.25)
    quantisation = (to_vectors + to_codes) * np.square(z - q).mean((1, 2, 3))
    np.testing.assert_allclose(terms.quantisation, quantisation, rtol=1e-10)
    decoded = np.asarray(decode(OWN, q))
    distance = np.abs(IMAGES - decoded).mean()
    np.testing.assert_allclose(value, distance + quantisation.mean(), rtol=1e-10)
    moved = np.zeros_like(codebook)
    np.add.at(moved, index, 2 * to_vectors * (q - z) / z.size)
    np.testing.assert_allclose(gradient["codebook"], moved, rtol=1e-9, atol=1e-14)
    image = q[..., :3] @ OWN["out"]
    back = -np.sign(IMAGES - decoded) * (1 + 2 * OWN["bend"] * image) / IMAGES.size
    to_z = 2 * to_codes * (z - q) / z.size
    to_z[..., :3] += back @ OWN["out"].T
    expected = np.einsum("bhwc,bhwd->cd", IMAGES, to_z)
    np.testing.assert_allclose(gradient["autoencoder"]["in"], expected, rtol=1e-9, atol=1e-14)


def test_gradients_of_the_posterior(x64):
    objective = first_stage.Objective(encode, decode, jnp.square, features, 0.5, kl_weight=0.1)
    own = {"autoencoder": OWN}
    testing.check_gradient(
        jax.jit(lambda params: objective.loss(params, {}, KEY, IMAGES)[0]), own, rtol=1e-5
    )


def test_equal_images_have_no_feature_distance_and_a_gradient(x64):
    """Where all features are 0 the length's own gradient would be infinite."""
    value, slope = jax.jit(
        jax.value_and_grad(lambda y: first_stage.feature_distance(features, IMAGES, y).sum())
    )(IMAGES)
    assert value < 1e-20 and np.abs(slope).max() < 1e-10
    slope = jax.jit(jax.grad(lambda y: first_stage.feature_distance(features, IMAGES, y).sum()))(
        0 * IMAGES
    )
    assert np.isfinite(slope).all()


@pytest.mark.parametrize("kind", [encode, vectors])
def test_the_frozen_value(kind, x64):
    """One of vectors gives them as they are, and quantises when it decodes."""
    objective = first_stage.Objective(kind, decode)
    params = PARAMS if kind is vectors else {"autoencoder": OWN}
    stage = first_stage.frozen(objective, params, 2.0, 0.5)
    z = stage.to_latent(jnp.asarray(IMAGES))
    raw = IMAGES @ OWN["in"][:, : 6 if kind is vectors else 3]
    np.testing.assert_allclose(z, 2 * (raw - 0.5), rtol=1e-12)
    if kind is vectors:
        distances = np.square(raw[..., None, :] - PARAMS["codebook"]).sum(-1)
        raw = PARAMS["codebook"][distances.argmin(-1)]
    np.testing.assert_allclose(stage.to_image(z), decode(OWN, raw), rtol=1e-10)
    plain = first_stage.frozen(objective, params)
    assert plain.scale == 1 and plain.shift == 0


@pytest.mark.parametrize("num_codes", [None, 7])
def test_parameters_of_the_published_kind_of_network(num_codes):
    model = autoencoder.Autoencoder((2, 4), 1, latent_dim=2, gaussian=not num_codes, num_groups=2)
    x = jnp.zeros((2, 4, 4, 3))
    params = jax.eval_shape(lambda: first_stage.init(model, KEY, x, num_codes))
    leaf = params
    for key in first_stage.LAST:
        leaf = leaf[key]
    assert leaf.shape == (3, 3, 2, 3)
    shapes = {name: tree.shape for name, tree in params.items() if name != "autoencoder"}
    assert shapes == ({"codebook": (7, 2)} if num_codes else {})
    objective = first_stage.Objective(**first_stage.networks(model))
    terms = jax.eval_shape(objective.terms, params, KEY, x)
    assert terms.images.shape == x.shape and terms.rate.shape == (2,)


def test_codes_start_within_one_over_their_number_of_zero(monkeypatch):
    monkeypatch.setattr(autoencoder.Autoencoder, "init", lambda *_: {"params": {}})
    codes = first_stage.init(VECTORS, KEY, IMAGES, 50)["codebook"]
    assert codes.shape == (50, 2) and 0.9 / 50 < np.abs(codes).max() <= 1 / 50
    assert abs(np.mean(codes)) < 0.3 / 50


GAUSSIAN, VECTORS = (
    autoencoder.Autoencoder((2,), 1, latent_dim=2, gaussian=kind, num_groups=2)
    for kind in (True, False)
)
BAD = {
    "feature_weight": (
        lambda: first_stage.Objective(encode, decode, feature_weight=-1.0),
        r"feature_weight=-1.0: expected a finite number >= 0",
    ),
    "kl_weight": (lambda: first_stage.Objective(encode, decode, kl_weight=np.nan), "kl_weight=nan"),
    "no codebook": (
        lambda: first_stage.Objective(vectors, decode).loss({"autoencoder": OWN}, {}, KEY, IMAGES),
        "encode gives vectors: expected a codebook in the parameters",
    ),
    "decode": (
        lambda: first_stage.Objective(encode, lambda _, z: z).loss(PARAMS, {}, KEY, IMAGES),
        r"decode gives \(3, 4, 4, 3\): expected \(3, 4, 4, 2\), the images'",
    ),
    "codes beside a posterior": (
        lambda: first_stage.init(GAUSSIAN, KEY, IMAGES, 8),
        "num_codes=8, gaussian=True: expected one of both",
    ),
    "vectors without codes": (
        lambda: first_stage.init(VECTORS, KEY, IMAGES),
        "num_codes=None, gaussian=False: expected one of both",
    ),
    "num_codes": (
        lambda: jax.eval_shape(
            lambda x: first_stage.init(VECTORS, KEY, x, 0), np.zeros((1, 4, 4, 3), np.float32)
        ),
        "num_codes=0: expected a positive whole number",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, match = BAD[name]
    with pytest.raises(ValueError, match=match):
        call()
