"""From logits to text: one compiled loop, its samplers and caches, and what makes it faster."""
