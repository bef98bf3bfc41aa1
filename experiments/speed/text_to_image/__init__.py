"""How fast images come from text: beside the bare network, and beside diffusers."""
