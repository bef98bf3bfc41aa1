"""Folders: outputs frozen from diffusers, round trips, spellings, and every refusal."""

import dataclasses
import json
import os
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy

from research.text_to_image import dit, weights
from tests.research.text_to_image import cases

TOKENS = np.array([[38, 3, 4, 7, 39, 39, 0, 0, 0], [38, 17, 39, 5, 11, 12, 30, 2, 39]])
SIZES = np.array([[512.0, 512, 0, 0, 512, 512], [300, 200, 10, 20, 1024, 768]])
# Size, norm, first and last element. diffusers 0.42.1 and transformers 5.24.0 in float64, models
# from the folders that `weights.save` makes of `cases.MODELS`, their tensors filled by the formula
# of `cases.filled_tensors`.
FROZEN = {
    "sd1": {
        "text": (144, 12.464612676917158, -1.6634031508411298, 0.1588254288842835),
        "predict": (64, 6.4389081801579255, 0.2083132261796172, 0.0698400241336563),
        "mean": (64, 4.145663670540941, -0.07791661148535585, 0.17611536796423927),
        "log_var": (64, 4.196577163440605, -0.06012261821300027, -0.4119072438186765),
        "decode": (192, 16.179842742753312, -0.9756537091510677, -0.10705072482942003),
    },
    "sd2": {
        "text": (144, 12.464647982893304, -1.6634020043881454, 0.16042423535722874),
        "predict": (64, 6.433193303379279, 0.21182232069653764, 0.05290582036555409),
    },
    "xl": {
        "text": (288, 14.264587720495989, -1.8521158188539444, -0.5081161193532773),
        "pooled": (12, 2.211301898730578, 0.4420119069018378, -0.8288290451734304),
        "predict": (64, 11.838767092475415, 2.7912718745076424, -0.9695307535457774),
        "mean": (64, 14.36925230579335, 1.663069109077695, -2.7882653461117677),
        "log_var": (64, 14.31205197621923, 1.266169684257671, -1.8810928785233905),
        "decode": (192, 15.234553654305392, 0.1826052644080493, -0.015983495640391865),
    },
    "inpainting": {"predict": (64, 6.43140995526811, -0.13042936734478827, -1.0750563332437342)},
}


def outputs(model, params, wanted):
    """What FROZEN holds, in one program."""
    net, wave = model.unet, cases.wave
    added = (wave(2, 6, rate=0.9), SIZES) if net.pooled_dim else ()
    latents, context = wave(2, 4, 2, net.in_channels), wave(2, 5, net.context_dim, rate=0.7)
    calls = {
        "text": lambda params: model.encode_text(params, TOKENS),
        "pooled": lambda params: model.pooled_text(params, TOKENS),
        "predict": lambda params: model.predict(
            params, latents, np.array([981, 3]), context, *added
        ),
        "mean": lambda params: model.encode(params, wave(2, 4, 8, 3))[0],
        "log_var": lambda params: model.encode(params, wave(2, 4, 8, 3))[1],
        "decode": lambda params: model.decode(params, wave(2, 2, 4, 4)),
    }
    return jax.jit(lambda params: {name: calls[name](params) for name in wanted})(params)


@pytest.mark.parametrize("name", FROZEN)
def test_outputs_of_diffusers(x64, name):
    frozen = FROZEN[name]
    for key, got in outputs(cases.MODELS[name], cases.filled(name), frozen).items():
        numbers = np.asarray(got).ravel()
        seen = (numbers.size, np.linalg.norm(numbers), numbers[0], numbers[-1])
        # XL's sizes have float32 sines, 3e-8 apart; all else is equal to rounding.
        np.testing.assert_allclose(seen, frozen[key], rtol=1e-6 if name == "xl" else 1e-11)


@pytest.mark.parametrize("name", cases.MODELS)
def test_folders_round_trip(tmp_path, name):
    model, params = cases.MODELS[name], cases.filled(name)
    weights.save(tmp_path, model, params)
    back, same = weights.load(tmp_path)
    assert back == model and hash(back) == hash(model) == hash(weights.read_model(tmp_path))
    jax.tree.map(np.testing.assert_array_equal, same, params)
    assert {leaf.dtype for leaf in jax.tree.leaves(same)} == {np.dtype("float64")}
    index = json.loads((tmp_path / "model_index.json").read_text())
    kind = {"xl": "XLPipeline", "inpainting": "InpaintPipeline"}.get(name, "Pipeline")
    assert index["_class_name"] == f"StableDiffusion{kind}"
    assert index["scheduler"] == ["diffusers", model.schedule.solver]
    found = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.safetensors")}
    stems = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}
    assert found == {f"{part}/{stems.get(part, 'model')}.safetensors" for part in params}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder of version 1, for tests that copy it."""
    folder = tmp_path_factory.mktemp("folder") / "sd1"
    weights.save(folder, cases.SD1, cases.filled("sd1"))
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


UNET, VAE = "unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model"


def rewritten(folder, stem, change, end=""):
    """A tensor file with changed content, under another ending."""
    tensors = safetensors.numpy.load_file(folder / f"{stem}.safetensors")
    os.remove(folder / f"{stem}.safetensors")
    tensors = {name: np.ascontiguousarray(array) for name, array in change(tensors).items()}
    safetensors.numpy.save_file(tensors, folder / f"{stem}{end}.safetensors")


def check_same(folder, **options):
    model, params = weights.load(folder, **options)
    assert model == cases.SD1
    jax.tree.map(np.testing.assert_array_equal, params, cases.filled("sd1"))


def test_old_and_new_spellings(folder):
    def bare(tensors):
        return {name.removeprefix("text_model."): array for name, array in tensors.items()}

    rewritten(folder, "text_encoder/model", bare)
    check_same(folder)
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}

    def renamed(tensors, convolved):
        result = {}
        for name, array in tensors.items():
            for new, former in old.items():
                if new in name:
                    name = name.replace(new, former)
                    array = array[..., None, None] if convolved and array.ndim == 2 else array
            result[name] = array
        return result

    matrices = safetensors.numpy.load_file(folder / f"{VAE}.safetensors")
    rewritten(folder, VAE, lambda _: renamed(matrices, convolved=False))
    check_same(folder)
    rewritten(folder, VAE, lambda _: renamed(matrices, convolved=True))
    check_same(folder)
    rewritten(
        folder, UNET,
        lambda tensors: {
            name: array[..., 0, 0] if name.endswith("proj_in.weight") else array
            for name, array in tensors.items()
        },
    )  # fmt: skip
    check_same(folder)
    with_numbers = {"text_model.embeddings.position_ids": np.arange(9)[None]}
    rewritten(folder, "text_encoder/model", lambda tensors: tensors | with_numbers)
    check_same(folder)


def test_shards_and_variants(folder):
    tensors = safetensors.numpy.load_file(folder / f"{UNET}.safetensors")
    os.remove(folder / f"{UNET}.safetensors")
    names = sorted(tensors)
    shards = {"a.safetensors": names[:50], "b.safetensors": names[50:]}
    for file, part in shards.items():
        safetensors.numpy.save_file({name: tensors[name] for name in part}, folder / "unet" / file)
    where = {name: file for file, part in shards.items() for name in part}
    index = folder / f"{UNET}.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    check_same(folder)

    half = {name: array.astype(np.float16) for name, array in tensors.items()}
    safetensors.numpy.save_file(half, folder / f"{UNET}.fp16.safetensors")
    check_same(folder)  # the plain ones, where they are there
    index.unlink()
    _, params = weights.load(folder)
    kernel = params["unet"]["params"]["stem"]["kernel"]
    assert kernel.dtype == np.float16 and params["vae"]["params"]["encoder"]["stem"][
        "kernel"
    ].dtype == np.dtype("float64")
    with pytest.raises(FileNotFoundError, match=r"text_encoder has no model\.fp16\.safetensors"):
        weights.load(folder, variant="fp16")
    for stem in ("text_encoder/model", VAE):
        shutil.copy(folder / f"{stem}.safetensors", folder / f"{stem}.fp16.safetensors")
    _, params = weights.load(folder, variant="fp16", dtype=np.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}
    expected = cases.filled("sd1")["unet"]["params"]["stem"]["kernel"].astype(np.float16)
    np.testing.assert_array_equal(params["unet"]["params"]["stem"]["kernel"], expected)

    weights.save(folder, cases.SD1, cases.filled("sd1"))
    assert [file.name for file in (folder / "unet").glob("*fp16*")] == []
    check_same(folder)


def drop(name):
    return lambda tensors: {key: array for key, array in tensors.items() if key != name}


@pytest.mark.parametrize(
    ("stem", "change", "message"),
    [
        (UNET, drop("conv_in.weight"), r"unet: not a Stable Diffusion U-Net .* missing conv_in\."),
        (VAE, lambda t: t | {"extra": np.zeros(1)}, "vae: not a Stable .* unknown extra"),
        ("text_encoder/model", drop("text_model.final_layer_norm.bias"),
         r"text_encoder: not a CLIP .* missing text_model\.final_layer_norm\.bias"),
        (UNET, lambda t: t | {"conv_in.bias": np.zeros(5)},
         r"unet: tensor conv_in\.bias has shape \(5,\), the config expects \(4,\)"),
        (UNET, lambda t: t | {"conv_in.weight": np.zeros((4, 4, 1, 1))}, r"shape \(4, 4, 1, 1\)"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit(folder, stem, change, message):
    rewritten(folder, stem, change)
    with pytest.raises(ValueError, match=message):
        weights.load(folder)


def settings(file, **changed):
    def change(folder):
        content = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
        (folder / file).write_text(json.dumps(content | changed))

    return change


def written(file, text, instead=None):
    def change(folder):
        (folder / file).write_text(text)
        if instead:
            os.remove(folder / instead)

    return change


def remove(*names):
    return lambda folder: [os.remove(folder / name) for name in names]


def pickled(folder):
    os.rename(folder / f"{UNET}.safetensors", folder / f"{UNET}.bin")


def shard(folder):
    os.remove(folder / f"{UNET}.safetensors")
    content = {"weight_map": {"conv_in.weight": "gone.safetensors"}}
    (folder / f"{UNET}.safetensors.index.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (remove("model_index.json"), FileNotFoundError, "has no model_index.json: expected a"),
        (remove("unet/config.json"), ValueError, "unet/config.json does not exist"),
        (remove(f"{UNET}.safetensors"), FileNotFoundError, "unet has no diffusion_pytorch_model"),
        (pickled, ValueError, r"\.bin is a pickle, which can run code .*: expected diffusion"),
        (shard, FileNotFoundError, "gone.safetensors is not there: diffusion_pytorch_model"),
        (lambda folder: (folder / f"{VAE}.safetensors").write_bytes(b"junk"), ValueError,
         "safetensors is no safetensors file"),
        (settings("model_index.json", vae=[None, None]), ValueError, "names no vae: expected"),
        (settings("model_index.json", unet=["diffusers", "UNet2DModel"]), ValueError,
         "unet of class UNet2DModel: expected UNet2DConditionModel"),
        (settings("model_index.json", transformer=["diffusers", "SD3Transformer2DModel"]),
         ValueError, "transformer of class SD3Transformer2DModel: expected none"),
        (settings("model_index.json", text_encoder_2=["transformers",
                                                      "CLIPTextModelWithProjection"]),
         ValueError, "names no tokenizer_2"),
        (settings("model_index.json", requires_aesthetics_score=True), ValueError,
         "requires_aesthetics_score=True: expected False"),
        (settings("model_index.json", surprise=1), ValueError, "unknown setting surprise=1"),
        (settings("unet/config.json", freq_shift=1), ValueError, "unet: freq_shift=1"),
        (settings("vae/config.json", latent_channels=8), ValueError,
         "a first stage of 8 latent channels: the network makes 4"),
        (settings("unet/config.json", cross_attention_dim=16), ValueError,
         "texts of width 8: the network attends to 16"),
        (settings("scheduler/scheduler_config.json", surprise=1), ValueError, "surprise"),
        (written("model_index.json", "[]"), ValueError, "index.json holds a JSON list: expected"),
        (written("unet/config.json", "null"), ValueError, "config.json holds a JSON NoneType: exp"),
        (written("tokenizer/vocab.json", "[]"), ValueError, "vocab.json holds a JSON list: expect"),
        (settings("model_index.json", unet=["diffusers"]), ValueError,
         "expected a library and a class"),
        (settings("unet/config.json", block_out_channels=4), ValueError,
         "unet/config.json holds a value of another type than expected: 'int' object is not iter"),
        (settings("scheduler/scheduler_config.json", beta_start="x"), ValueError,
         "scheduler_config.json holds a value of another type than expected"),
        (settings("text_encoder/config.json", vocab_size=None), ValueError, "of another type"),
        (settings("text_encoder/config.json", eos_token_id=[1]), ValueError,
         "text_encoder: config.json holds a value of another type than expected: Failed to hash"),
        (settings("tokenizer/tokenizer_config.json", model_max_length="x"), ValueError,
         "tokenizer holds a value of another type than expected"),
        (written(f"{UNET}.safetensors.index.json", "{\"weight_map\": 3}", f"{UNET}.safetensors"),
         ValueError, "index.json holds a value of another type than expected"),
        (settings("vae/config.json", scaling_factor=0), ValueError, "scale=0: expected a positive"),
        (settings("vae/config.json", scaling_factor="x"), ValueError, "scale=x: expected a posit"),
        (settings("vae/config.json", shift_factor="x"), ValueError, "shift=x: expected a finite"),
        (settings("unet/config.json", sample_size="x"), ValueError, "sample_size=x: expected a"),
        (settings("unet/config.json", sample_size=[4, 8, 9]), ValueError, r"expected \(height"),
        (settings("unet/config.json", norm_num_groups=0), ValueError, "num_groups and num_heads=0"),
        (settings("vae/config.json", norm_num_groups=3), ValueError,
         "vae: channels=.4, 8.: expected multiples of num_groups=3"),
        (settings("tokenizer/added_tokens.json", **{"<cat>": cases.VOCAB_SIZE}), ValueError,
         f"a tokeniser of {cases.VOCAB_SIZE + 1} tokens, 9 in a row: the text encoder has "),
        (remove("tokenizer/tokenizer_config.json"), ValueError, "77 in a row: the text encoder"),
    ],
)  # fmt: skip
def test_bad_folders(folder, change, error, message):
    change(folder)
    with pytest.raises(error, match=message):
        weights.load(folder)


def test_types_of_parameters(folder):
    halves = weights.load(folder, dtype="bfloat16")[1]
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(halves)} == {"bfloat16"}
    with pytest.raises(ValueError, match="dtype=int8: expected one of float16, bfloat16"):
        weights.load(folder, dtype="int8")


def test_what_else_an_index_may_say(folder, tmp_path):
    others = {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
              "feature_extractor": ["transformers", "CLIPImageProcessor"]}  # fmt: skip
    settings("model_index.json", **others, requires_safety_checker=True,
             requires_aesthetics_score=False)(folder)  # fmt: skip
    assert weights.read_model(folder) == cases.SD1
    weights.save(tmp_path / "xl", cases.XL, cases.filled("xl"))
    for said, expected in ((True, True), (False, False), ("missing", True)):
        index = json.loads((tmp_path / "xl/model_index.json").read_text())
        index["force_zeros_for_empty_prompt"] = said
        index = {key: value for key, value in index.items() if value != "missing"}
        (tmp_path / "xl/model_index.json").write_text(json.dumps(index))
        assert weights.read_model(tmp_path / "xl").zero_negative is expected
    config = json.loads((folder / "text_encoder/config.json").read_text())
    ids = cases.SD1.tokenizer.ids
    assert (config["bos_token_id"], config["pad_token_id"]) == (
        ids["<|startoftext|>"], ids["<|endoftext|>"],
    )  # fmt: skip


def test_an_address_is_no_folder():
    with pytest.raises(ValueError, match="folder=gs://a/b is an address"):
        weights.load("gs://a/b")


def test_what_does_not_fit_is_refused_before_anything_is_written(folder):
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
    good = cases.filled("sd1")
    unet = {"params": {**good["unet"]["params"], "head": {}}}
    skipping = cases.SD1.text_encoder.clone(skip_last=True)
    other = cases.SD1.vae.clone(num_blocks=2)
    bad = [
        (cases.SD1, {**good, "unet": unet}, "unet: parameters: missing head/bias, head/kernel"),
        (cases.SD1, {"unet": good["unet"]}, r"params: missing \['text_encoder', 'vae'\]; unknown"),
        (cases.SD1, {**good, "more": {}}, r"unknown \['more'\]"),
        (dataclasses.replace(cases.SD1, unet=dit.DiT(context_dim=8)), good,
         "a network of type DiT: folders hold a UNet"),
        (dataclasses.replace(cases.SD1, text_encoder=skipping), good, "skip_last=True: folders of"),
        (dataclasses.replace(cases.SD1, vae=other), good, "vae: parameters: missing"),
    ]  # fmt: skip
    for model, params, message in bad:
        with pytest.raises(ValueError, match=message):
            weights.save(folder, model, params)
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*")} == before


def test_a_folder_cut_short_is_not_taken_for_whole(folder, monkeypatch):
    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(weights.tensors, "save_tensors", full)
    with pytest.raises(OSError, match="No space left"):
        weights.save(folder, cases.SD1, cases.filled("sd1"))
    with pytest.raises(FileNotFoundError, match="has no model_index.json"):
        weights.load(folder)
    assert not [file.name for file in folder.rglob(".tmp-*")]


def test_tensors_by_name_need_no_file():
    tensors = cases.filled_tensors(cases.UNET)
    params = weights.from_tensors(cases.UNET, tensors)
    back = weights.to_tensors(cases.UNET, params)
    jax.tree.map(np.testing.assert_array_equal, back, tensors)
    half = weights.from_tensors(cases.UNET, tensors, np.float16)
    assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {np.dtype("float16")}
    assert {name: array.shape for name, array in tensors.items()} == weights.tensor_shapes(
        cases.UNET
    )
