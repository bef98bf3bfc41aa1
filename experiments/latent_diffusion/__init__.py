"""Studies of diffusion in latents: what a first stage, its scale and its rate leave to it."""
