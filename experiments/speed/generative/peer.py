"""The peer: the same VAE and DCGAN in eager PyTorch, with the same batches and optimizers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional

LATENT = 100


def vae(batch_size: int, num_steps: int, num_threads: int) -> Callable[[], float]:
    """Updates of 784-200-200-50 and back on the bound of one draw, by Adam."""
    torch.set_num_threads(num_threads)
    encoder = nn.Sequential(nn.Linear(784, 200), nn.Tanh(), nn.Linear(200, 200), nn.Tanh())
    mean_head, log_var_head = nn.Linear(200, 50), nn.Linear(200, 50)
    decoder = nn.Sequential(
        nn.Linear(50, 200), nn.Tanh(), nn.Linear(200, 200), nn.Tanh(), nn.Linear(200, 784)
    )
    parts = nn.ModuleList([encoder, mean_head, log_var_head, decoder])
    optimizer = torch.optim.Adam(parts.parameters(), lr=1e-3)
    bits = np.random.default_rng(0).integers(0, 2, (batch_size, 784))
    x = torch.from_numpy(bits.astype(np.float32))

    def update() -> float:
        for _ in range(num_steps):
            h = encoder(x)
            mean, log_var = mean_head(h), log_var_head(h)
            z = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
            error = functional.binary_cross_entropy_with_logits(decoder(z), x, reduction="sum")
            kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum()
            loss = (error + kl) / batch_size
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        return loss.item()

    return update


def dcgan(
    batch_size: int, num_steps: int, resolution: int, width: int, num_threads: int
) -> Callable[[], float]:
    """Rounds of DCGAN: the critic on data and samples, then the generator, by Adam."""
    torch.set_num_threads(num_threads)
    generator, critic = _generator(resolution, width), _critic(resolution, width)
    adam = lambda net: torch.optim.Adam(net.parameters(), lr=2e-4, betas=(0.5, 0.999))
    optimizers = adam(generator), adam(critic)
    shape = (batch_size, resolution, resolution, 3)
    images = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    softplus = functional.softplus

    def update() -> float:
        for _ in range(num_steps):
            with torch.no_grad():
                fake = generator(torch.randn(batch_size, LATENT))
            loss = softplus(-critic(x)).mean() + softplus(critic(fake)).mean()
            optimizers[1].zero_grad(set_to_none=True)
            loss.backward()
            optimizers[1].step()
            loss = softplus(-critic(generator(torch.randn(batch_size, LATENT)))).mean()
            optimizers[0].zero_grad(set_to_none=True)
            loss.backward()
            optimizers[0].step()
        return loss.item()

    return update


def _generator(resolution: int, width: int) -> nn.Module:
    first = width * resolution // 8
    layers = [nn.Linear(LATENT, 16 * first, bias=False), nn.Unflatten(1, (first, 4, 4))]
    size, channels = 4, first
    while size < resolution:
        size *= 2
        out = 3 if size == resolution else channels // 2
        layers += [nn.BatchNorm2d(channels), nn.ReLU()]
        layers.append(nn.ConvTranspose2d(channels, out, 4, 2, 1, bias=False))
        channels = out
    return nn.Sequential(*layers, nn.Tanh())


def _critic(resolution: int, width: int) -> nn.Module:
    layers, channels, size, out = [], 3, resolution, width
    while size > 4:
        layers.append(nn.Conv2d(channels, out, 4, 2, 1, bias=False))
        if size < resolution:
            layers.append(nn.BatchNorm2d(out))
        layers.append(nn.LeakyReLU(0.2))
        channels, out, size = out, out * 2, size // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * channels, 1, bias=False))
