"""Textual inversion: a new word's embedding learned from a few images, all else left as it is.

Gal et al. 2022, arXiv:2208.01618, eq. (2). The word's row is a parameter of its own and the
networks are model state: no optimizer sees them, so that weight decay and averages leave them equal
to the bit, as zeroed gradients would not.

    word, texts = "<thing>", ["a <thing>", "a picture of a <thing>"]
    tokens = model.tokenizer.add_tokens(word).encode(texts)
    init = lambda rng: inversion.init(model, params, "toy")
    state = training.train(inversion.loss(model), optax.adamw(5e-3), init, batch_at,
                           model_state={"unet": ..., "text_encoder": ...}, ...)
    model, params = inversion.learned(model, params, state.params["row"], word)
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from library.types import Array, Aux, Batch, Key, LossFn, ModelState, Params, at_least_float32
from research.text_to_image import text_encoder, training
from research.text_to_image.model import Model


def loss(model: Model, drop_rate: float = 0.0) -> LossFn:
    """The loss of `training.loss` as a function of one row of the text encoder's table.

    The parameters are {"row": [D]}; "unet" and "text_encoder" are in the model state. A batch is as
    there; in its tokens the new word has the number `len(model.tokenizer)`.

    Args:
        model: as it was trained, without the word.
        drop_rate: share of prompts that are replaced by the empty one, in [0, 1].
    Raises:
        ValueError: for a rate outside [0, 1], a model of two text encoders, or one whose table has
            another number of rows than its tokeniser has tokens.
    """
    _check_size(model)
    null = model.tokens([""])[0]
    training.loss(model, null, drop_rate)  # refuses before anything is traced

    def loss_fn(
        params: Params, model_state: ModelState, rng: Key, batch: Batch
    ) -> tuple[Array, Aux]:
        encoder, text = text_encoder.with_row(
            model.text_encoder, model_state["text_encoder"], params["row"]
        )
        grown = dataclasses.replace(model, text_encoder=encoder)
        of_networks = training.loss(grown, null, drop_rate)
        return of_networks({**model_state, "text_encoder": text}, {}, rng, batch)

    return loss_fn


def init(model: Model, params: Params, word: str) -> Params:
    """{"row": [D]}, float32 or wider, the row of a word that the model knows.

    Raises:
        ValueError: for a text that is not one token of the model's.
    """
    row = model.tokenizer.encode([word])[0].tolist()
    inner = row[1 : row.index(model.tokenizer.ids[model.tokenizer.end], 1)]
    if len(inner) != 1:
        raise ValueError(f"word {word!r} is {len(inner)} tokens: expected one that the model knows")
    table = params["text_encoder"]["params"]["embedding"]
    return {"row": jnp.asarray(table[inner[0]], at_least_float32(table.dtype))}


def learned(model: Model, params: Params, row: Array, word: str) -> tuple[Model, Params]:
    """The model and parameters with one more word, which prompts may hold from now on.

    Args:
        model, params: as they were when the row was trained.
        row: [D].
        word: as it is written in prompts, e.g. "<thing>".
    Returns:
        Both; all leaves but the text encoder's table are the same arrays, and of that the old rows
        are equal to the bit. `weights.save` writes them.
    Raises:
        ValueError: for a row of another width, a word that the tokeniser knows, or a table of
            another number of rows than the tokeniser has tokens.
    """
    _check_size(model)
    encoder, text = text_encoder.with_row(model.text_encoder, params["text_encoder"], row)
    tokenizer = model.tokenizer.add_tokens(word)
    grown = dataclasses.replace(model, text_encoder=encoder, tokenizer=tokenizer)
    return grown, {**params, "text_encoder": text}


def _check_size(model: Model) -> None:
    rows, tokens = model.text_encoder.vocab_size, len(model.tokenizer)
    if rows != tokens:
        raise ValueError(f"a table of {rows} rows for {tokens} tokens: expected one a token")
