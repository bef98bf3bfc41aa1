"""The noising processes that tests of all processes go over."""

from research.diffusion import processes

NAMED = [
    processes.vp(),
    processes.sub_vp(),
    processes.ve(0.01, 50.0),
    processes.edm(),
    processes.cosine(),
    processes.flow(),
]
ALL = [
    *NAMED,
    processes.from_alpha_sigma(lambda t: 1 / (1 + t), lambda t: t * (1 + t), 1e-3, 5.0),
]
