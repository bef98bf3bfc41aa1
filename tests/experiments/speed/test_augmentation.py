"""Views a second: what is timed, what is compared, and peers that cannot be run."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.speed.augmentation import ours, question
from research.self_supervised import views


def test_our_views_are_simclr_s_with_a_key_an_image(monkeypatch):
    """With a recipe that shows its keys: a batch on both devices, and the same one by one."""
    asked = []

    def recipe(size, strength, blur):
        asked.append((size, strength, blur))
        one = lambda rng, image: jnp.stack([image, image + jax.random.uniform(rng)])
        many = lambda rngs, images: jnp.swapaxes(jax.vmap(one)(rngs, images), 0, 1)
        return lambda rngs, images: (many if rngs.ndim else one)(rngs, images)

    monkeypatch.setattr(views, "simclr", recipe)
    found = ours.maker(6, 4, True)()
    assert found.shape == (2, 4, 6, 6, 3) and len(found.sharding.device_set) == 2
    alone = np.stack(ours.one_at_a_time(6, 4)(), 1)
    np.testing.assert_allclose(alone, found, rtol=1e-6)
    assert asked == [(6, 0.5, True), (6, 0.5, False)]
    assert len(np.unique(np.asarray(found[1] - found[0]).mean((1, 2, 3)).round(4))) == 4


def test_rates_are_compared_round_by_round():
    rates = {"ours": np.array([2.0, 8.0, 3.0]), "uint8": np.array([1.0, 1.0, 2.0])}
    found = question.compared("large", rates)
    assert found.metrics == {"large_ours": 3.0, "large_uint8": 1.0}
    (claim,) = found.claims
    assert (claim.name, claim.measured) == ("large: views a second / torchvision's of bytes", 2.0)
    assert (claim.relation, claim.expected) == (">=", 1.0)


def test_a_peer_has_a_process_a_core_that_is_asked_once_a_round(tmp_path):
    """With one that writes down what it is asked."""
    fake = tmp_path / "python"
    lines = [f"#!{sys.executable}", "import pathlib, sys", "for line in sys.stdin:",
             f"    with open('{tmp_path}/' + sys.argv[2], 'a') as file:",
             "        file.write(' '.join(sys.argv[2:]) + ' ' + line)",
             "    print('done', flush=True)"]  # fmt: skip
    fake.write_text("\n".join(lines))
    fake.chmod(0o755)
    with question.workers(str(fake), 24, True, 5) as sides:
        for side in sides.values():
            side()
    for core in question.cores():
        asked = pathlib.Path(tmp_path / str(core)).read_text().splitlines()
        assert asked == [f"{core} 24 1 5 float32", f"{core} 24 1 5 uint8"]


def test_without_a_peer_there_are_no_sides():
    with question.workers("", 24, True, 5) as sides:
        assert sides == {}


def test_a_peer_that_cannot_be_run():
    with pytest.raises(ValueError, match="peer=/no/python cannot be run: No such file"):
        with question.workers("/no/python", 24, True, 5):
            pass
    with pytest.raises(ValueError, match="ended early"):
        with question.workers("/bin/false", 24, True, 5) as sides:
            sides["uint8"]()
