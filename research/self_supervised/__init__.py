"""Self-supervised learning: losses that are right on every device count, and honest probes."""

PARENTS = ("attention", "transformers", "vision")
