"""config.json files: those that are published, back again, and each field that is refused."""

import pytest

from research.text_to_image import configs, network_fields, text_encoder
from research.transformers import layers
from tests.research.text_to_image import cases

CROSS, PLAIN = "CrossAttn{}Block2D", "{}Block2D"


def unet_fields(*types, **fields):
    """A published file, without the fields whose values are diffusers' defaults."""
    return {
        "_class_name": "UNet2DConditionModel", "_diffusers_version": "0.6.0", "in_channels": 4,
        "out_channels": 4, "act_fn": "silu", "norm_eps": 1e-05, "norm_num_groups": 32,
        "layers_per_block": 2, "mid_block_scale_factor": 1, "downsample_padding": 1,
        "flip_sin_to_cos": True, "freq_shift": 0, "center_input_sample": False,
        "down_block_types": [kind.format("Down") for kind in types],
        "up_block_types": [kind.format("Up") for kind in reversed(types)], **fields,
    }  # fmt: skip


FOUR = {"block_out_channels": [320, 640, 1280, 1280], "cross_attention_dim": 768}
UNETS = {
    "STABLE_DIFFUSION_1_5": unet_fields(
        CROSS, CROSS, CROSS, PLAIN, attention_head_dim=8, sample_size=64, **FOUR
    ),
    "STABLE_DIFFUSION_1_5_INPAINTING": unet_fields(
        CROSS, CROSS, CROSS, PLAIN, sample_size=64, **FOUR
    ) | {"in_channels": 9},
    "STABLE_DIFFUSION_2_1": unet_fields(
        CROSS, CROSS, CROSS, PLAIN, attention_head_dim=[5, 10, 20, 20], sample_size=96,
        use_linear_projection=True, upcast_attention=True, dual_cross_attention=False,
        num_class_embeds=None, only_cross_attention=False, **FOUR | {"cross_attention_dim": 1024},
    ),
    "STABLE_DIFFUSION_XL": unet_fields(
        PLAIN, CROSS, CROSS, attention_head_dim=[5, 10, 20], sample_size=128,
        use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816, transformer_layers_per_block=[1, 2, 10],
        block_out_channels=[320, 640, 1280], cross_attention_dim=2048, num_attention_heads=None,
        mid_block_only_cross_attention=None, addition_embed_type_num_heads=64,
    ),
}  # fmt: skip
VAE = {
    "_class_name": "AutoencoderKL", "act_fn": "silu", "in_channels": 3, "out_channels": 3,
    "block_out_channels": [128, 256, 512, 512], "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4, "latent_channels": 4, "layers_per_block": 2,
    "norm_num_groups": 32, "sample_size": 512,
}  # fmt: skip
TEXT = {
    "architectures": ["CLIPTextModel"], "model_type": "clip_text_model", "vocab_size": 49408,
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "dropout": 0.0,
    "num_attention_heads": 12, "max_position_embeddings": 77, "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-05, "projection_dim": 768, "bos_token_id": 0, "eos_token_id": 2,
    "pad_token_id": 1, "torch_dtype": "float32", "transformers_version": "4.22.0.dev0",
}  # fmt: skip
LARGE = {
    "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "hidden_act": "gelu",
    "num_attention_heads": 20, "projection_dim": 1280,
}  # fmt: skip


@pytest.mark.parametrize("name", UNETS)
def test_published_unets(name):
    published = getattr(configs, name)
    net, size = network_fields.read_unet(UNETS[name])
    assert net == published.unet and size == (published.sample_size,) * 2
    written = network_fields.write_unet(net, size)
    assert network_fields.read_unet(written) == (net, size)
    same = ("block_out_channels", "down_block_types", "up_block_types", "sample_size")
    assert {key: written[key] for key in same} == {key: UNETS[name][key] for key in same}


def test_published_autoencoders_and_text_encoders():
    read = network_fields.read_vae
    assert read(VAE) == (configs.STABLE_DIFFUSION_1_5.vae, 0.18215, 0.0)
    xl = {**VAE, "scaling_factor": 0.13025, "force_upcast": True, "shift_factor": None}
    assert read(xl) == (configs.STABLE_DIFFUSION_XL.vae, 0.13025, 0.0)
    read = network_fields.read_text_encoder
    assert read(TEXT) == configs.STABLE_DIFFUSION_1_5.text_encoder
    assert read(TEXT, skip_last=True) == configs.STABLE_DIFFUSION_XL.text_encoder
    second = read({**TEXT, **LARGE}, projects=True, skip_last=True)
    assert second == configs.STABLE_DIFFUSION_XL.text_encoder_2


@pytest.mark.parametrize("name", cases.MODELS)
def test_tiny_networks_come_back(name):
    model = cases.MODELS[name]
    written = network_fields.write_unet(model.unet, model.sample_size)
    assert network_fields.read_unet(written) == (model.unet, model.sample_size)
    written = network_fields.write_vae(model.vae, model.scale, model.shift)
    assert network_fields.read_vae(written) == (model.vae, model.scale, model.shift)
    for encoder in (model.text_encoder, model.text_encoder_2):
        if encoder is not None:
            written = network_fields.write_text_encoder(encoder)
            options = {"projects": encoder.projection_dim is not None}
            options["skip_last"] = encoder.skip_last
            assert network_fields.read_text_encoder(written, **options) == encoder


def test_missing_fields_are_diffusers_defaults():
    least = {
        key: value
        for key, value in UNETS["STABLE_DIFFUSION_1_5"].items()
        if key in ("in_channels", "out_channels", "block_out_channels", "down_block_types",
                   "up_block_types", "cross_attention_dim")
    }  # fmt: skip
    assert network_fields.read_unet(least) == (configs.STABLE_DIFFUSION_1_5.unet, (64, 64))
    least = {k: v for k, v in VAE.items() if k not in ("layers_per_block", "norm_num_groups")}
    assert network_fields.read_vae(least)[0].num_blocks == 1
    free = ("eos_token_id", "hidden_act", "layer_norm_eps", "max_position_embeddings")
    short = {k: v for k, v in TEXT.items() if k not in free}
    read = network_fields.read_text_encoder(short)
    assert read == configs.STABLE_DIFFUSION_1_5.text_encoder.clone(end_token=49_407)


def read_with(kind, **changed):
    base = {"unet": UNETS["STABLE_DIFFUSION_XL"], "vae": VAE, "text_encoder": TEXT}[kind]
    fields = {key: value for key, value in {**base, **changed}.items() if value != "absent"}
    return getattr(network_fields, f"read_{kind}")(fields)


@pytest.mark.parametrize(
    ("kind", "changed", "message"),
    [
        ("unet", {"surprise": 1}, "unet: unknown field surprise=1 in config.json"),
        ("vae", {"surprise": 1}, "vae: unknown field surprise=1"),
        ("text_encoder", {"surprise": 1}, "text_encoder: unknown field surprise=1"),
        ("unet", {"_class_name": "UNet2DModel"}, "_class_name='UNet2DModel' is not supported"),
        ("unet", {"freq_shift": 1}, "unet: freq_shift=1 is not supported: expected 0"),
        ("unet", {"flip_sin_to_cos": False}, "flip_sin_to_cos=False is not supported"),
        ("unet", {"encoder_hid_dim": 8}, "encoder_hid_dim=8 is not supported: expected None"),
        ("unet", {"in_channels": "absent"}, "unet: config.json lacks 'in_channels'"),
        ("unet", {"down_block_types": ["DownBlock2D"]}, "expected 3 of CrossAttnDownBlock2D"),
        ("unet", {"up_block_types": ["UpBlock2D"] * 3}, "the same upwards in reverse"),
        ("unet", {"cross_attention_dim": [1, 2, 3]}, r"cross_attention_dim=\[1, 2, 3\]: expected"),
        ("unet", {"layers_per_block": [1, 2, 2]}, r"layers_per_block=\[1, 2, 2\]: expected the"),
        ("unet", {"addition_embed_type": "text"}, "addition_embed_type='text': expected"),
        ("unet", {"projection_class_embeddings_input_dim": 1536}, "input_dim=1536: expected more"),
        ("vae", {"down_block_types": ["AttnDownEncoderBlock2D"] * 4}, "vae: down_block_types="),
        ("vae", {"up_block_types": ["UpDecoderBlock2D"] * 3}, "expected 4 UpDecoderBlock2D"),
        ("vae", {"use_quant_conv": False}, "expected the same before and after"),
        ("vae", {"out_channels": 4}, r"out_channels \[3, 4\]"),
        ("vae", {"latents_mean": [0.0]}, r"latents_mean=\[0.0\] is not supported"),
        ("text_encoder", {"model_type": "bert"}, "model_type='bert' is not supported"),
        ("text_encoder", {"hidden_act": "relu"}, "hidden_act='relu': expected one of quick_gelu"),
        ("text_encoder", {"hidden_size": "absent"}, "text_encoder: config.json lacks"),
    ],
)  # fmt: skip
def test_bad_fields(kind, changed, message):
    with pytest.raises(ValueError, match=message):
        read_with(kind, **changed)


def test_what_no_file_can_say():
    with pytest.raises(ValueError, match="middle_depth=3 below depths"):
        network_fields.write_unet(cases.XL.unet.clone(middle_depth=3), (8, 8))
    with pytest.raises(ValueError, match="gaussian=False"):
        network_fields.write_vae(cases.VAE.clone(gaussian=False), 1.0, 0.0)
    for activation in (layers.gelu_tanh, text_encoder.quick_gelu):
        encoder = cases.encoder(activation=activation)
        stack = encoder.stack.__class__(**{**vars(encoder.stack), "use_bias": activation is None})
        with pytest.raises(ValueError, match="expected the stack of text_encoder.clip"):
            network_fields.write_text_encoder(encoder.clone(stack=stack))
