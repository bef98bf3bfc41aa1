"""Names of tensors: those of the published networks to the letter, and the old spellings."""

import zlib

import flax.linen as nn
import pytest

from research.text_to_image import configs, names, weights
from tests.research.text_to_image import cases

FIRST, SECOND, XL = (
    configs.STABLE_DIFFUSION_1_5, configs.STABLE_DIFFUSION_2_1, configs.STABLE_DIFFUSION_XL,
)  # fmt: skip
# Number of tensors, and CRC-32 of the sorted lines "name [shape]", from the state dictionaries of
# models that diffusers 0.42.1 and transformers 5.24.0 make of the published config.json files.
PUBLISHED = {
    "unet 1.5": (FIRST.unet, 686, 1237089903),
    "unet 2.1": (SECOND.unet, 686, 3251707876),
    "unet xl": (XL.unet, 1680, 2029812119),
    "vae": (FIRST.vae, 248, 1590533769),
    "text 1.5": (FIRST.text_encoder, 196, 1124858010),
    "text 2.1": (SECOND.text_encoder, 372, 1923996307),
    "text xl 2": (XL.text_encoder_2, 517, 4019909872),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_and_shapes_of_the_published_files(name):
    net, count, checksum = PUBLISHED[name]
    shapes = weights.tensor_shapes(net)
    lines = "\n".join(f"{name} {list(shapes[name])}" for name in sorted(shapes))
    assert (len(shapes), zlib.crc32(lines.encode())) == (count, checksum)


@pytest.mark.parametrize(
    ("net", "spelling", "ours"),
    [
        (cases.VAE, "encoder.mid_block.attentions.0.query.weight",
         "encoder.mid_block.attentions.0.to_q.weight"),
        (cases.VAE, "decoder.mid_block.attentions.0.proj_attn.bias",
         "decoder.mid_block.attentions.0.to_out.0.bias"),
        (cases.VAE, "decoder.mid_block.attentions.0.to_k.bias", None),
        (cases.VAE, "quant_conv.weight", None),
        (cases.encoder(), "embeddings.token_embedding.weight",
         "text_model.embeddings.token_embedding.weight"),
        (cases.encoder(), "text_model.final_layer_norm.bias", None),
        (cases.encoder(), "text_projection.weight", None),
        (cases.UNET, "mid_block.attentions.0.norm.weight", None),
    ],
)  # fmt: skip
def test_spellings(net, spelling, ours):
    assert names.spelled(spelling, net) == (ours or spelling)


def test_another_network_has_no_names():
    with pytest.raises(ValueError, match="a network of type Dense: folders hold none"):
        names.of(nn.Dense(3))
