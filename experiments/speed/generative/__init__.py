"""Steps of a variational autoencoder and of an adversarial pair, beside eager PyTorch."""
