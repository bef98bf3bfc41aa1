"""Score-based generative modelling through SDEs: processes, scores, samplers, likelihoods.

The currency between the rooms is the score function `score(x, t)`: [B, ...], [B] -> [B, ...].
"""
