"""The peer: torchvision's v2 transforms, `PYTHON peer.py CORE SIZE BLUR COUNT`.

Needs torch and torchvision, and nothing of this repository. One process on one core, one thread, as
a worker of a data loader is. For every line that comes in, "float32" or "uint8", it makes COUNT
views, each of an image of its own with numbers of its own (on a batch v2 draws one for all), and
writes "done"; the first line is answered once all is loaded and warm.
"""

from __future__ import annotations

import os
import sys

import torch
from torchvision.transforms import v2


def recipe(size: int, blur: bool) -> v2.Compose:
    """SimCLR's, on tensors: Chen et al. 2020, arXiv:2002.05709, appendix A, at strength 0.5."""
    steps = [
        v2.RandomResizedCrop(size, scale=(0.08, 1.0), antialias=True),
        v2.RandomHorizontalFlip(),
        v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
        v2.RandomGrayscale(0.2),
    ]
    if blur:
        kernel = max(3, size // 10 | 1)
        steps.append(v2.RandomApply([v2.GaussianBlur(kernel, (0.1, 2.0))], p=0.5))
    return v2.Compose(steps)


def main(core: int, size: int, blur: int, count: int) -> None:
    """Answers until the input ends."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    change = recipe(size, bool(blur))
    floats = torch.rand(count, 3, size, size)
    images = {"float32": floats, "uint8": (255 * floats).to(torch.uint8)}
    for each in images.values():
        for image in each[:8]:
            change(image)
    for line in sys.stdin:
        for image in images[line.strip()]:
            change(image)
        print("done", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
