"""Scaling laws: laws as values, runs with a checked schema, robust fits, plans with intervals."""
