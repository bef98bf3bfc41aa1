"""The peer: greedy decoding by `transformers.generate` in PyTorch, with our weights."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import transformers

from library.types import Params
from research.transformers import models, weights


def generation(
    config: models.DecoderConfig,
    params: Params,
    prompt: np.ndarray,
    num_tokens: int,
    num_threads: int,
) -> Callable[[], np.ndarray]:
    """A function that continues the prompt [B, T] greedily and returns the new tokens [B, N].

    Args:
        config, params: of a GPT-2; its weights go over by tensor name.
        prompt: [B, T] int.
        num_tokens: N.
        num_threads: of PyTorch.
    """
    torch.set_num_threads(num_threads)
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=config.vocab_size,
            n_positions=config.max_length,
            n_embd=config.stack.width,
            n_layer=config.stack.depth,
            n_head=config.stack.num_heads,
        )
    ).eval()
    tensors = weights.to_huggingface(config, params)
    state = {name: torch.from_numpy(np.array(tensor)) for name, tensor in tensors.items()}
    prefix = "" if next(iter(state)).startswith("transformer.") else "transformer."
    missing, unknown = model.load_state_dict(
        {prefix + name: tensor for name, tensor in state.items()}, strict=False
    )
    if unknown or set(missing) - {"lm_head.weight"}:
        raise ValueError(f"weights do not go over: missing {missing}, unknown {unknown}")
    model.tie_weights()
    inputs = torch.from_numpy(prompt.astype(np.int64))
    options = {
        "attention_mask": torch.ones_like(inputs),
        "max_new_tokens": num_tokens,
        "min_new_tokens": num_tokens,
        "do_sample": False,
        "pad_token_id": 0,
    }

    def generate() -> np.ndarray:
        with torch.inference_mode():
            return model.generate(inputs, **options)[:, inputs.shape[1] :].numpy()

    return generate
