"""The peer: diffusers' pipeline on the same folder, `PYTHON peer.py FOLDER BATCH STEPS THREADS`.

Needs torch, diffusers and transformers. For every line that comes in it draws a batch with decoding
and writes the seconds that took; the first line is answered once all is loaded and warm.
"""

from __future__ import annotations

import sys
import time

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline


def main(folder: str, batch: int, steps: int, threads: int) -> None:
    """Answers until the input ends."""
    torch.set_num_threads(threads)
    pipe = StableDiffusionPipeline.from_pretrained(folder, use_safetensors=True)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    prompts = ["a red circle"] * batch

    def draw() -> float:
        start = time.perf_counter()
        pipe(prompts, num_inference_steps=steps, guidance_scale=4.0, output_type="np")
        return time.perf_counter() - start

    draw()
    for _ in sys.stdin:
        print(draw(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
