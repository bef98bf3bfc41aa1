"""Scaling laws held against the published fits, the solvable models and a user's own runs."""
