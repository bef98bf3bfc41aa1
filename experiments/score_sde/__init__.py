"""Generative models by score matching: real digits, exact problems, likelihoods, guidance."""
