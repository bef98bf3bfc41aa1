"""Studies of adversarial networks: convergence computed before it is trained, modes, images."""
