"""The machinery every topic shares: the training step, placement, the loop, data, reports."""
