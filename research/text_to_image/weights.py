"""Diffusers folders in and out: networks, tokenisers and schedule of Stable Diffusion 1, 2 and XL.

    model, params = weights.load("folder")
    weights.save("folder", model, params)

Tensors come from safetensors files alone, whole or sharded; a pickle is refused, since reading one
can run code. Safety checkers and image processors are left where they are.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from library.storage import files
from library.types import Params
from research.text_to_image import (
    checks,
    names,
    network_fields,
    schedules,
    text_encoder,
    tokens,
    unet,
)
from research.text_to_image.model import Model
from research.transformers.huggingface import weights as tensors
from research.vae.networks import autoencoder

INDEX = "model_index.json"
NETWORKS = ("text_encoder", "text_encoder_2", "unet", "vae")
_STEMS = {
    "text_encoder": "model",
    "text_encoder_2": "model",
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
}
_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
_CLASSES = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel", "CLIPTextModelWithProjection"),
    "text_encoder_2": ("CLIPTextModelWithProjection",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "tokenizer_2": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "scheduler": tuple(schedules.SOLVERS),
}
_LEFT_OUT = ("feature_extractor", "image_encoder", "safety_checker")
# A pipeline's own settings that are followed, or say nothing here; of the last, one value is done.
_SETTINGS = {"force_zeros_for_empty_prompt", "requires_safety_checker"}
_ONLY = {"requires_aesthetics_score": False}


def load(
    folder: str | os.PathLike, *, dtype: Any = None, variant: str | None = None
) -> tuple[Model, Params]:
    """The model of a diffusers folder and its parameters.

    Args:
        folder: with `model_index.json`.
        dtype: of the parameters; None keeps the file's.
        variant: of the tensor files, e.g. "fp16"; None takes the plain ones, or fp16 where only
            these are there.
    Returns:
        The model; and {"text_encoder", "unet", "vae"} (and "text_encoder_2"), each {"params": ...},
        host arrays.
    Raises:
        ValueError: naming the file and what does not fit: a component of another kind, a field
            that is unknown or not supported, tensors that are missing, unknown or misshapen, a
            pickle in place of safetensors.
        FileNotFoundError: for a folder without its index, a network without tensors, or a shard
            that is not there.
    """
    folder = files.local(folder, "folder")
    dtype = None if dtype is None else checks.dtype(dtype)
    model, params = read_model(folder), {}
    for name, net in _networks(model).items():
        paths = _tensor_files(folder / name, name, variant)
        with _naming(folder / name), _typed("config.json"), _opened(paths) as readers:
            params[name] = from_tensors(net, _Lazy(readers), dtype)
    return model, params


def read_model(folder: str | os.PathLike) -> Model:
    """The model of a diffusers folder, without its parameters; raises as `load`."""
    folder = files.local(folder, "folder")
    classes, settings = _read_index(folder)
    xl = "text_encoder_2" in classes

    def read(reader: Callable, name: str, file: str = "config.json", **options: Any) -> Any:
        with _typed(folder / name / file):
            return reader(files.read_object(folder / name / file), **options)

    def encoder(name: str) -> text_encoder.TextEncoder:
        projects = classes[name] == "CLIPTextModelWithProjection"
        return read(network_fields.read_text_encoder, name, projects=projects, skip_last=xl)

    def tokenizer(name: str) -> tokens.Tokenizer:
        with _typed(folder / name):
            return tokens.read(folder / name)

    net, sample_size = read(network_fields.read_unet, "unet")
    vae, scale, shift = read(network_fields.read_vae, "vae")
    second = {}
    if xl:
        second = {
            "text_encoder_2": encoder("text_encoder_2"),
            "tokenizer_2": tokenizer("tokenizer_2"),
            "zero_negative": settings.get("force_zeros_for_empty_prompt", True),
        }
    with _typed(folder):
        return Model(
            unet=net,
            vae=vae,
            text_encoder=encoder("text_encoder"),
            tokenizer=tokenizer("tokenizer"),
            schedule=read(schedules.read, "scheduler", "scheduler_config.json"),
            scale=scale,
            shift=shift,
            sample_size=sample_size,
            **second,
        )


def save(folder: str | os.PathLike, model: Model, params: Params) -> None:
    """Writes a folder that `load`, and diffusers, make the same model of.

    The index is written last, so that a folder whose writing was cut short is not taken for whole.

    Raises:
        ValueError: before anything is written, for a model that such a folder cannot hold, or
            parameters that do not fit it.
    """
    folder = files.local(folder, "folder")
    networks, configs = _networks(model), _configs(model)
    missing, unknown = networks.keys() - params.keys(), params.keys() - networks.keys()
    if missing or unknown:
        raise ValueError(f"params: missing {sorted(missing)}; unknown {sorted(unknown)}")
    for name, net in networks.items():
        with _naming(name):
            tensors.checked(_shapes(net), params[name])
    (folder / INDEX).unlink(missing_ok=True)
    for name, content in configs.items():
        files.write_json(folder / name, content, sort_keys=True)
    tokens.write(folder / "tokenizer", model.tokenizer)
    if model.tokenizer_2 is not None:
        tokens.write(folder / "tokenizer_2", model.tokenizer_2)
    for name, net in networks.items():
        _replace(folder / name, _STEMS[name], to_tensors(net, params[name]))
    files.write_json(folder / INDEX, _index(model), sort_keys=True)


def from_tensors(net: nn.Module, source: Mapping[str, Any], dtype: Any = None) -> Params:
    """Parameters of one network from the tensors of its file, by name, in any of the spellings.

    Args:
        net: a `UNet`, an `Autoencoder` or a `TextEncoder`.
        source: the tensors.
        dtype: of the result; None keeps theirs.
    Returns:
        {"params": ...} as `net.init` makes it.
    Raises:
        ValueError: naming tensors that are missing, unknown or misshapen.
    """
    wanted = tensor_shapes(net)
    spelled = {names.spelled(name, net): name for name in source}
    readers = {
        name: _flattened(functools.partial(source.__getitem__, theirs), wanted.get(name, ()))
        for name, theirs in spelled.items()
    }
    return tensors.read(names.of(net), _shapes(net), _Lazy(readers), dtype)


def to_tensors(net: nn.Module, params: Params) -> dict[str, np.ndarray]:
    """The tensors of one network's file by name, the inverse of `from_tensors`.

    Raises:
        ValueError: naming parameters that are missing, unknown or misshapen.
    """
    return tensors.write(names.of(net), _shapes(net), params)


def tensor_shapes(net: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of one network's file, without making one."""
    return tensors.shapes_of(names.of(net), _shapes(net))


def _networks(model: Model) -> dict[str, nn.Module]:
    networks = {name: getattr(model, name) for name in NETWORKS}
    return {name: net for name, net in networks.items() if net is not None}


def _configs(model: Model) -> dict[str, Any]:
    """{file: content} of all settings but the index and the tokenisers'."""
    if not isinstance(model.unet, unet.UNet):
        raise ValueError(f"a network of type {type(model.unet).__name__}: folders hold a UNet")
    xl = model.text_encoder_2 is not None
    configs = {
        "unet/config.json": network_fields.write_unet(model.unet, model.sample_size),
        "vae/config.json": network_fields.write_vae(model.vae, model.scale, model.shift),
        "scheduler/scheduler_config.json": schedules.write(model.schedule),
    }
    for end in ("", "_2")[: 1 + xl]:
        name, tokenizer = f"text_encoder{end}", getattr(model, f"tokenizer{end}")
        encoder = getattr(model, name)
        if encoder.skip_last != xl:
            raise ValueError(
                f"{name} with skip_last={encoder.skip_last}: folders of this kind mean {xl}"
            )
        numbers = tokenizer.ids[tokenizer.start], tokenizer.ids[tokenizer.pad]
        configs[f"{name}/config.json"] = {
            **network_fields.write_text_encoder(encoder),
            "bos_token_id": numbers[0],
            "pad_token_id": numbers[1],
        }
    return configs


def _index(model: Model) -> dict[str, Any]:
    """The content of model_index.json."""
    xl = model.text_encoder_2 is not None
    kind = f"StableDiffusion{'XL' * xl}{'Inpaint' * model.inpaints}Pipeline"
    index = {"_class_name": kind, "_diffusers_version": network_fields.VERSION}
    index |= {
        "scheduler": ["diffusers", model.schedule.solver],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
    }
    for end in ("", "_2")[: 1 + xl]:
        projects = getattr(model, f"text_encoder{end}").projection_dim is not None
        network = "CLIPTextModelWithProjection" if projects else "CLIPTextModel"
        index[f"text_encoder{end}"] = ["transformers", network]
        index[f"tokenizer{end}"] = ["transformers", "CLIPTokenizer"]
    if xl:
        return index | {"force_zeros_for_empty_prompt": model.zero_negative}
    return index | {"safety_checker": [None, None], "requires_safety_checker": False}


def _read_index(folder: pathlib.Path) -> tuple[dict[str, str], dict[str, Any]]:
    """The class of each component, and the pipeline's own settings."""
    if not (folder / INDEX).is_file():
        raise FileNotFoundError(f"{folder} has no {INDEX}: expected a diffusers folder")
    index = files.read_object(folder / INDEX)
    for name, entry in index.items():
        if isinstance(entry, list) and len(entry) != 2:
            raise ValueError(f"{folder / INDEX}: {name}={entry}: expected a library and a class")
    components = {name: entry[1] for name, entry in index.items() if isinstance(entry, list)}
    components = {name: kind for name, kind in components.items() if kind is not None}
    settings = {name: value for name, value in index.items() if not isinstance(value, list)}
    xl = "text_encoder_2" in components
    for name in ("scheduler", "text_encoder", "tokenizer", "tokenizer_2", "unet", "vae"):
        if name not in components and (xl or name != "tokenizer_2"):
            raise ValueError(f"{folder / INDEX} names no {name}: expected a text-to-image folder")
    for name, kind in components.items():
        if name not in _LEFT_OUT and kind not in _CLASSES.get(name, ()):
            expected = " or ".join(_CLASSES.get(name, ["none"]))
            raise ValueError(f"{folder / INDEX}: {name} of class {kind}: expected {expected}")
    for name, value in settings.items():
        if name in _ONLY and value != _ONLY[name]:
            raise ValueError(f"{folder / INDEX}: {name}={value}: expected {_ONLY[name]}")
        if name not in _SETTINGS | _ONLY.keys() and not name.startswith("_"):
            raise ValueError(f"{folder / INDEX}: unknown setting {name}={value}")
    return components, settings


class _Lazy(Mapping):
    """Tensors by name, each read when it is asked for."""

    def __init__(self, readers: dict[str, Callable[[], np.ndarray]]) -> None:
        self.readers = readers

    def __getitem__(self, name: str) -> np.ndarray:
        return self.readers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self.readers)

    def __len__(self) -> int:
        return len(self.readers)


def _flattened(get: Callable[[], np.ndarray], wanted: tuple[int, ...]) -> Callable:
    """The tensor, a matrix where old files have a 1x1 convolution, and the other way round."""

    def read() -> np.ndarray:
        tensor = get()
        point = {tensor.shape, wanted} == {tensor.shape[:2], (*tensor.shape[:2], 1, 1)}
        return tensor.reshape(wanted) if point and math.prod(wanted) == tensor.size else tensor

    return read


@contextlib.contextmanager
def _opened(paths: list[pathlib.Path]) -> Iterator[dict[str, Callable[[], np.ndarray]]]:
    """A reader for every tensor of some safetensors files."""
    import safetensors  # late: networks without files need nothing

    with contextlib.ExitStack() as stack:
        readers = {}
        for path in paths:
            try:
                file = stack.enter_context(safetensors.safe_open(path, "numpy"))
            except safetensors.SafetensorError as error:
                raise ValueError(f"{path} is no safetensors file: {error}") from None
            for name in file.keys():  # noqa: SIM118  it is no mapping
                readers[name] = lambda file=file, name=name: file.get_tensor(name)
        yield readers


def _tensor_files(folder: pathlib.Path, component: str, variant: str | None) -> list[pathlib.Path]:
    """The safetensors files of a network: one, or the shards of an index."""
    stem = _STEMS[component]
    for end in [f".{variant}"] if variant else ["", ".fp16"]:
        whole = folder / f"{stem}{end}.safetensors"
        index = folder / f"{stem}.safetensors.index{end}.json"
        if whole.is_file():
            return [whole]
        if index.is_file():
            with _typed(index):
                shards = set(files.read_object(index).get("weight_map", {}).values())
            paths = [folder / shard for shard in sorted(shards)]
            for path in paths:
                if not path.is_file():
                    raise FileNotFoundError(f"{path} is not there: {index.name} names it")
            return paths
    pickles = [p.name for p in sorted(folder.glob("*")) if p.suffix in _PICKLES]
    if pickles:
        raise ValueError(
            f"{folder / pickles[0]} is a pickle, which can run code when it is read: "
            f"expected {stem}.safetensors"
        )
    what = f"{stem}.{variant}.safetensors" if variant else f"{stem}.safetensors"
    raise FileNotFoundError(f"{folder} has no {what}")


def _replace(folder: pathlib.Path, stem: str, content: dict[str, np.ndarray]) -> None:
    """Writes a network's tensors beside what is there, then in its place."""
    temporary = folder / f"{files.TEMPORARY}{stem}-{os.getpid()}"
    try:
        tensors.save_tensors(temporary, content)
        os.replace(temporary, folder / f"{stem}.safetensors")
    finally:
        temporary.unlink(missing_ok=True)
    for old in (*folder.glob(f"{stem}.*"), *folder.glob(f"{stem}-*.safetensors")):
        if ".safetensors" in old.name and old.name != f"{stem}.safetensors":
            old.unlink()  # another variant, or shards, of what was there before


@functools.lru_cache(maxsize=16)
def _shapes(net: nn.Module) -> tensors.Shapes:
    """Our parameters' shapes by path; tracing a published network takes a second."""
    if isinstance(net, text_encoder.TextEncoder):
        args = (jnp.zeros((1, 1), jnp.int32),)
    elif isinstance(net, autoencoder.Autoencoder):
        size = 2 ** (len(net.channels) - 1)
        args = (jnp.zeros((1, size, size, net.image_channels)),)
    else:
        latents = jnp.zeros((1, net.factor, net.factor, net.in_channels))
        args = (latents, jnp.zeros(1), jnp.zeros((1, 1, net.context_dim)))
    return tensors.parameter_shapes(net.init, *args)


@contextlib.contextmanager
def _naming(place: Any) -> Iterator[None]:
    """ValueErrors from inside name the place too."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None


@contextlib.contextmanager
def _typed(place: Any) -> Iterator[None]:
    """Errors that a value of another type leads to become ValueErrors that name its file."""
    try:
        yield
    except (TypeError, AttributeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{place} holds a value of another type than expected: {reason}") from None
