"""Parity with diffusers and transformers, which run in an environment of their own."""
