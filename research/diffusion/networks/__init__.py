"""Networks of a noisy state and a time: `unet`, `dit`, `mlp`, and the parts that they share."""
