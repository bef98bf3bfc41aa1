"""What has no known closed form says so and names what does."""

import pytest

from research import ntk


@pytest.mark.parametrize(
    "name, instead",
    [
        ("max_pool", "average_pool"),
        ("batch_norm", "layer_norm"),
        ("softmax", "self_attention"),
    ],
)
def test_unknown_layers_name_what_to_take_instead(name, instead):
    with pytest.raises(ValueError, match=f"{name}.* has no known closed form.*{instead}"):
        getattr(ntk.layers, name)((2, 2), strides=2)
