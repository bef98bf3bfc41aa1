"""Scaling laws: the laws as values, runs with a checked schema, robust fits, plans with intervals."""
