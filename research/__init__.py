"""One folder a topic: pure functions, Flax Linen models and exact oracles."""
