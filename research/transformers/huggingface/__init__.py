"""Checkpoints of Hugging Face in and out: `weights` by the tensor `names` of a `config`."""
