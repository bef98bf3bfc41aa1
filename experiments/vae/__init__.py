"""Studies of variational autoencoders: bounds, gradients, codes, and images by their bits."""
