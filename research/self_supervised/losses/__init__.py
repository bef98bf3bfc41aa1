"""All losses by name, `losses.nt_xent`: contrastive, without negatives, distillation.

    contrastive.py    nt_xent, sup_con, info_nce, moco_v3, spectral
    redundancy.py     byol, simsiam; barlow_twins, vicreg
    distillation.py   dino, view_cross_entropy, sinkhorn, koleo

All are means, [] float in float32 at least. Those over the batch take `axis_name`, and are then
the loss of the whole batch on every device, see `research.self_supervised.layout`.
"""

from research.self_supervised.losses.contrastive import (
    info_nce,
    moco_v3,
    nt_xent,
    spectral,
    sup_con,
)
from research.self_supervised.losses.distillation import dino, koleo, sinkhorn, view_cross_entropy
from research.self_supervised.losses.redundancy import barlow_twins, byol, simsiam, vicreg

__all__ = [
    "barlow_twins",
    "byol",
    "dino",
    "info_nce",
    "koleo",
    "moco_v3",
    "nt_xent",
    "simsiam",
    "sinkhorn",
    "spectral",
    "sup_con",
    "vicreg",
    "view_cross_entropy",
]
