"""Conventions of counting parameters and FLOP, by hand."""

import dataclasses

import pytest

from research.scaling_laws import counting


def test_counting_says_what_is_in_it():
    gpt2 = counting.Transformer(
        depth=12, width=768, vocabulary=50257, context=1024, tied=True, learned_positions=True
    )
    blocks = 12 * 12 * 768**2
    assert counting.block_parameters(gpt2) == blocks
    assert counting.parameters(gpt2, embeddings=False, head=False) == blocks
    # GPT-2 has 124,439,808 weights, 121,344 of them biases and gains of norms.
    assert counting.parameters(gpt2, embeddings=True, head=True) == 124_439_808 - 121_344
    assert counting.training_flops(gpt2, 1e9) == 6e9 * blocks
    head = counting.flops_per_token(gpt2, attention=False, head=True)
    assert head - 6 * blocks == 6 * 50257 * 768
    both = counting.flops_per_token(gpt2, attention=True, head=True)
    assert both - head == 6 * 12 * 768 * 1024
    with pytest.raises(ValueError, match="depth=0"):
        counting.Transformer(depth=0, width=1, vocabulary=1, context=1)


def test_every_option_by_hand():
    """Two blocks of width 4, feed-forward of 6 with a gate, 10 symbols, 8 tokens a sequence."""
    plain = counting.Transformer(depth=2, width=4, vocabulary=10, context=8, hidden=6, gated=True)
    blocks = 2 * (4 * 16 + 3 * 24)
    assert counting.block_parameters(plain) == blocks
    assert counting.parameters(plain, embeddings=True, head=False) == blocks + 40
    assert counting.parameters(plain, embeddings=True, head=True) == blocks + 80
    tied = dataclasses.replace(plain, tied=True, learned_positions=True)
    assert counting.parameters(tied, embeddings=True, head=True) == blocks + 40 + 32
    assert counting.parameters(tied, embeddings=True, head=False) == blocks + 40 + 32
    assert counting.parameters(tied, embeddings=False, head=True) == blocks + 40
    # Scores and mixing: 2 products, on average 4 of 8 tokens, 2 FLOP each, three passes, 2 blocks.
    attention = 2 * 4 * 4 * 2 * 3 * 2
    assert counting.flops_per_token(plain, attention=True, head=False) == 6 * blocks + attention
    total = counting.training_flops(plain, 100, attention=True, head=True)
    assert total == 100 * (6 * (blocks + 40) + attention)
