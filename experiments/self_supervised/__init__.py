"""Studies of self-supervised learning: losses beside their theory, methods beside honest probes."""
