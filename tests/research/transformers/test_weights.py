"""Names of checkpoints: the round trip is the identity, and what does not fit is named."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from library.testing import assert_trees_equal
from research.transformers import names, published, weights
from tests.research.transformers import cases


@pytest.mark.parametrize("name", cases.TINY)
def test_out_and_in_again_is_the_identity(name, tmp_path):
    config = cases.TINY[name]
    params = cases.random_params(config, dtype=np.float32)
    weights.save(tmp_path / "model.safetensors", config, params)
    assert_trees_equal(weights.from_huggingface(config, tmp_path), params)
    tensors = weights.to_huggingface(config, params)
    assert {key: tensor.shape for key, tensor in tensors.items()} == weights.tensor_shapes(config)
    # Every number of ours is one number of theirs.
    assert sum(t.size for t in tensors.values()) == sum(x.size for x in jax.tree.leaves(params))


@pytest.mark.parametrize(
    "config, count, some",
    [
        (published.GPT2_SMALL, 148, {
            "transformer.wte.weight": (50257, 768), "transformer.wpe.weight": (1024, 768),
            "transformer.h.11.attn.c_attn.weight": (768, 2304),
            "transformer.h.0.attn.c_attn.bias": (2304,),
            "transformer.h.3.mlp.c_proj.weight": (3072, 768), "transformer.ln_f.bias": (768,)}),
        (published.LLAMA3_8B, 291, {
            "model.embed_tokens.weight": (128256, 4096), "lm_head.weight": (128256, 4096),
            "model.layers.31.self_attn.k_proj.weight": (1024, 4096),
            "model.layers.0.mlp.down_proj.weight": (4096, 14336), "model.norm.weight": (4096,)}),
        (dataclasses.replace(published.BERT_BASE, pooler=True), 199, {
            "bert.embeddings.token_type_embeddings.weight": (2, 768),
            "bert.encoder.layer.11.intermediate.dense.weight": (3072, 768),
            "bert.pooler.dense.bias": (768,)}),
        (published.T5_SMALL, 131, {
            "shared.weight": (32128, 512), "decoder.final_layer_norm.weight": (512,),
            "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (32, 8),
            "decoder.block.5.layer.2.DenseReluDense.wi.weight": (2048, 512)}),
    ],
)  # fmt: skip
def test_tensor_lists_of_published_checkpoints(config, count, some):
    """Names and shapes as the model cards' safetensors files list them, buffers and ties apart."""
    shapes = weights.tensor_shapes(config)
    assert len(shapes) == count
    assert {name: shapes[name] for name in some} == some


def test_checkpoints_without_prefix_with_buffers_and_with_old_names():
    config = cases.TINY["gpt2"]
    params = cases.random_params(config)
    bare = {
        name.removeprefix("transformer."): tensor
        for name, tensor in weights.to_huggingface(config, params).items()
    }
    bare |= {"h.0.attn.bias": np.zeros((1, 1, 8, 8)), "lm_head.weight": bare["wte.weight"]}
    assert_trees_equal(weights.from_huggingface(config, bare), params)
    config = cases.TINY["bert"]
    params = cases.random_params(config)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("Norm.bias", "Norm.beta"): t
        for name, t in weights.to_huggingface(config, params).items()
    }
    assert_trees_equal(weights.from_huggingface(config, old), params)


@pytest.mark.parametrize("name", ["gpt2", "llama", "t5"])
def test_a_dtype_of_choice_and_copies_of_the_embedding(name):
    """A tied output matrix beside the embedding is read over; numbers become float16."""
    config = dataclasses.replace(cases.TINY[name], tied=True)
    params = cases.random_params(config, dtype=np.float32)
    tensors = weights.to_huggingface(config, params)
    table = {"gpt2": "transformer.wte.weight", "llama": "model.embed_tokens.weight"}
    tensors["lm_head.weight"] = tensors[table.get(name, "shared.weight")]
    read = weights.from_huggingface(config, tensors, dtype=np.float16)
    assert_trees_equal(read, jax.tree.map(lambda leaf: leaf.astype(np.float16), params))


def test_what_does_not_fit_is_named():
    config = cases.TINY["gpt2"]
    tensors = weights.to_huggingface(config, cases.random_params(config))
    larger = dataclasses.replace(config, vocab_size=12)
    with pytest.raises(ValueError, match=r"wte.weight has shape \(11, 12\), .* \(12, 12\)"):
        weights.from_huggingface(larger, tensors)
    lacking = {name: tensor for name, tensor in tensors.items() if "ln_f" not in name}
    with pytest.raises(ValueError, match="missing transformer.ln_f.weight, .*unknown nothing"):
        weights.from_huggingface(config, lacking)
    with pytest.raises(ValueError, match="unknown transformer.more"):
        weights.from_huggingface(config, {**tensors, "transformer.more": jnp.zeros(1)})
    with pytest.raises(ValueError, match=r"embedding has shape \(11, 12\).* \(12, 12\)"):
        weights.to_huggingface(larger, cases.random_params(config))
    untied = {**tensors, "lm_head.weight": 1 + tensors["transformer.wte.weight"]}
    with pytest.raises(ValueError, match="lm_head.weight is not transformer.wte.weight"):
        weights.from_huggingface(config, untied)
    other = cases.random_params(dataclasses.replace(config, tied=False))
    with pytest.raises(ValueError, match="parameters: missing nothing; unknown output/kernel"):
        weights.to_huggingface(config, other)
    with pytest.raises(FileNotFoundError, match="no safetensors"):
        weights.from_huggingface(config, "nowhere")
    with pytest.raises(ValueError, match="no Hugging Face family"):
        weights.tensor_shapes(published.VASWANI_BASE)


def test_a_table_of_ones_own(tmp_path):
    """Two tensors, a buffer that holds nothing, and a copy that must be one."""
    entries = names.affine("net.out", "out", "linear")
    table = names.Names(
        "own", "net.", tuple(entries), r"counter$|^copy$", (("copy", "net.out.bias"),)
    )
    kernel, bias = np.arange(6.0).reshape(2, 3), np.ones(3)
    shapes = {"out/kernel": (2, 3), "out/bias": (3,)}
    tensors = {"net.out.weight": kernel.T, "net.out.bias": bias, "copy": bias, "net.counter": bias}
    found = weights.read(table, shapes, tensors)
    assert_trees_equal(found, {"params": {"out": {"kernel": kernel, "bias": bias}}})
    with pytest.raises(ValueError, match="tensor copy is not net.out.bias"):
        weights.read(table, shapes, {**tensors, "copy": 2 * bias})
    with pytest.raises(ValueError, match="not a own checkpoint.*unknown net.other"):
        weights.read(table, shapes, {**tensors, "net.other": bias})


def test_paths_are_of_this_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = cases.TINY["gpt2"]
    params = cases.random_params(config, dtype=np.float32)
    weights.save("~/model.safetensors", config, params)
    assert (tmp_path / "model.safetensors").is_file()
    for source in ("~", "~/model.safetensors"):
        assert_trees_equal(weights.from_huggingface(config, source), params)
    with pytest.raises(ValueError, match="source=gs://bucket/model is an address"):
        weights.from_huggingface(config, "gs://bucket/model")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="file=s3://bucket/a.safetensors is an address"):
        weights.save("s3://bucket/a.safetensors", config, params)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
