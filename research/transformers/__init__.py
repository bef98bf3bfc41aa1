"""Transformers: one stack of layers, architectures as frozen configs, weights in and out.

    layers.py     Stack (the config of a stack of layers) and Layers (its Flax module)
    models.py     Decoder (GPT-2, LLaMA, Mistral, Gemma), Encoder (BERT), EncoderDecoder (T5, 2017)
    sizes.py      the published configs: `sizes.GPT2_SMALL`, `sizes.LLAMA_7B`, ...
    losses.py     next-token, masked and sequence-to-sequence losses for the shared training step
    placement.py  rules for `library.sharding`: tensor parallelism by path
    weights.py    from_huggingface / to_huggingface: tensors by name, checked by shape
    names.py      which tensor of a Hugging Face checkpoint is which of our parameters
    configs.py    a Hugging Face config.json as one of our configs

A model is a module of a config, used as a pure function:

    model = models.Decoder(sizes.GPT2_SMALL)
    logits = model.apply(params, tokens)                                    # [B, T] -> [B, T, V]
    cache = models.empty_cache(sizes.GPT2_SMALL, batch=1, length=1024)
    logits, cache = model.apply(params, tokens, positions=i, cache=cache)   # new tokens only
"""
