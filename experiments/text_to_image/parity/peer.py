"""The peer's side: `PYTHON peer.py make FOLDER TEXTS.json` and `PYTHON peer.py run FOLDER OUT.npz`.

Needs torch, diffusers, transformers and safetensors, and nothing of this repository.

`make` writes tiny random pipelines in float64 (Stable Diffusion 1, 2 and XL; 1 and XL once more in
the tensor names of old files), and the tokens of many texts. `run` writes what a pipeline gives:
hidden states, predictions, latents, images, and ten DDIM steps under guidance.
"""

from __future__ import annotations

import json
import pathlib
import shutil
import sys

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

PROMPTS = ["a red circle", "Two blue squares, it's 12 o'clock! " + "word " * 90]
STEPS, GUIDANCE = 10, 7.5
TABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
DOWN, UP = ("DownBlock2D", "CrossAttnDownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")


def make(folder: pathlib.Path, texts: list[str]) -> None:
    """The pipelines, and "tokens.npz" of the texts, padded by the end token and by "!"."""
    torch.set_default_dtype(torch.float64)
    ends, marks = (CLIPTokenizer.from_pretrained(folder / name) for name in ("end", "mark"))
    rows = {
        name: tokenizer(texts, padding="max_length", truncation=True, max_length=77).input_ids
        for name, tokenizer in (("end", ends), ("mark", marks))
    }
    np.savez(folder / "tokens.npz", **{name: np.array(row) for name, row in rows.items()})
    plain = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    StableDiffusionPipeline(
        vae=_vae(0.18215),
        text_encoder=_text("quick_gelu"),
        tokenizer=ends,
        unet=_unet((8, 16, 16), (1, 1, 0), 2, cross_attention_dim=32, attention_head_dim=4),
        scheduler=PNDMScheduler(skip_prk_steps=True, steps_offset=1, **TABLE),
        **plain,
    ).save_pretrained(folder / "sd1")
    StableDiffusionPipeline(
        vae=_vae(0.18215),
        text_encoder=_text("gelu"),
        tokenizer=marks,
        unet=_unet(
            (8, 16), (1, 0), 1, cross_attention_dim=32, attention_head_dim=(2, 4),
            use_linear_projection=True,
        ),
        scheduler=_ddim("leading", "v_prediction"),
        **plain,
    ).save_pretrained(folder / "sd2")  # fmt: skip
    StableDiffusionXLPipeline(
        vae=_vae(0.13025),
        text_encoder=_text("quick_gelu"),
        text_encoder_2=_text("gelu", CLIPTextModelWithProjection, 16),
        tokenizer=ends,
        tokenizer_2=marks,
        unet=_unet(
            (8, 16), (0, 1), 2, cross_attention_dim=48, attention_head_dim=(2, 4),
            use_linear_projection=True, transformer_layers_per_block=(1, 2),
            addition_embed_type="text_time", addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=24 + 48,
        ),
        scheduler=EulerDiscreteScheduler(steps_offset=1, timestep_spacing="leading", **TABLE),
    ).save_pretrained(folder / "xl")  # fmt: skip
    for name in ("sd1", "xl"):
        _respell(folder / name, folder / f"{name}_old")


def run(folder: str, file: str) -> None:
    """What the pipeline of a folder gives, channels last, float64."""
    pipe = DiffusionPipeline.from_pretrained(
        folder, torch_dtype=torch.float64, use_safetensors=True
    )
    pipe.set_progress_bar_config(disable=True)
    is_xl = hasattr(pipe, "text_encoder_2")
    out, rng = {}, np.random.default_rng(5)
    last = lambda x: x.detach().permute(0, 2, 3, 1).numpy()
    first = lambda x: torch.tensor(x).permute(0, 3, 1, 2)
    if is_xl:
        context, _, pooled, _ = pipe.encode_prompt(PROMPTS, do_classifier_free_guidance=False)
        out["pooled"] = pooled.numpy()
        out["sizes"] = np.array([[512.0, 512, 0, 0, 512, 512], [300, 200, 10, 20, 1024, 768]])
        added = {"text_embeds": pooled, "time_ids": torch.tensor(out["sizes"])}
    else:
        context, _ = pipe.encode_prompt(PROMPTS, "cpu", 1, False)
        added = None
    out["context"] = context.numpy()
    out["latents"] = rng.normal(size=(2, 16, 8, 4))
    out["t"] = np.array([981, 999])
    predicted = pipe.unet(
        first(out["latents"]), torch.tensor(out["t"]), context, added_cond_kwargs=added
    )
    out["predict"] = last(predicted.sample)
    out["images"] = rng.uniform(-1, 1, size=(2, 16, 32, 3))
    posterior = pipe.vae.encode(first(out["images"])).latent_dist
    out["mean"], out["log_var"] = last(posterior.mean), last(posterior.logvar)
    out["z"] = rng.normal(size=(2, 8, 4, 4))
    out["decode"] = last(pipe.vae.decode(first(out["z"])).sample)
    size = pipe.unet.config.sample_size
    out["noise"] = rng.normal(size=(2, size, size, 4))
    kind = pipe.scheduler.config.prediction_type
    for spacing in ("leading", "trailing"):
        pipe.scheduler = _ddim(spacing, kind)
        ended = pipe(
            PROMPTS, num_inference_steps=STEPS, guidance_scale=GUIDANCE,
            latents=first(out["noise"]), output_type="latent",
        ).images  # fmt: skip
        out[f"ddim_{spacing}"] = last(ended)
    np.savez(file, **out)


def _ddim(spacing: str, kind: str) -> DDIMScheduler:
    return DDIMScheduler(
        clip_sample=False, set_alpha_to_one=False, steps_offset=1, timestep_spacing=spacing,
        prediction_type=kind, **TABLE,
    )  # fmt: skip


def _randomised(module: torch.nn.Module) -> torch.nn.Module:
    rng = torch.Generator().manual_seed(7)
    for leaf in module.parameters():
        leaf.add_(0.05 * torch.randn(leaf.shape, generator=rng, dtype=leaf.dtype))
    return module.eval()


def _text(activation: str, kind: type = CLIPTextModel, width: int = 32) -> torch.nn.Module:
    config = CLIPTextConfig(
        vocab_size=49408, hidden_size=width, intermediate_size=37, projection_dim=24,
        num_hidden_layers=3, num_attention_heads=4, hidden_act=activation, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(1)
    return _randomised(kind(config))


def _vae(scale: float) -> torch.nn.Module:
    torch.manual_seed(2)
    return _randomised(
        AutoencoderKL(
            block_out_channels=(8, 16), layers_per_block=2, norm_num_groups=4, latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
            scaling_factor=scale, sample_size=32,
        )
    )  # fmt: skip


def _unet(channels: tuple, attends: tuple, num_blocks: int, **options) -> torch.nn.Module:
    torch.manual_seed(3)
    return _randomised(
        UNet2DConditionModel(
            sample_size=16, norm_num_groups=4, block_out_channels=channels,
            layers_per_block=num_blocks, down_block_types=tuple(DOWN[i] for i in attends),
            up_block_types=tuple(UP[i] for i in reversed(attends)), **options,
        )
    )  # fmt: skip


def _respell(source: pathlib.Path, target: pathlib.Path) -> None:
    """The same folder in old names: a prefix in the text encoders, the autoencoder's attention."""
    shutil.copytree(source, target)
    for file in target.glob("text_encoder*/model.safetensors"):
        old = {
            name if name.startswith("text_") else f"text_model.{name}": tensor
            for name, tensor in load_file(file).items()
        }
        old["text_model.embeddings.position_ids"] = torch.arange(77)[None]
        save_file(old, file, metadata={"format": "pt"})
    file = target / "vae" / "diffusion_pytorch_model.safetensors"
    words = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = {}
    for name, tensor in load_file(file).items():
        for new, former in words.items():
            if f"attentions.0.{new}" in name:
                name = name.replace(new, former)
                tensor = tensor[:, :, None, None].contiguous() if tensor.ndim == 2 else tensor
        old[name] = tensor
    save_file(old, file, metadata={"format": "pt"})


if __name__ == "__main__":
    with torch.no_grad():
        if sys.argv[1] == "make":
            make(pathlib.Path(sys.argv[2]), json.loads(pathlib.Path(sys.argv[3]).read_text()))
        else:
            run(*sys.argv[2:])
