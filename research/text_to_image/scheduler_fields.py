"""What diffusers' scheduler_config.json files say, by class: their fields, and which are followed.

Defaults are those of diffusers 0.42.1, which a file's missing fields stand for.
"""

from __future__ import annotations

import math
from typing import Any

_SHARED = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
    "steps_offset": 0,
}
_CLIPPED = {
    "clip_sample": True,
    "clip_sample_range": 1.0,
    "thresholding": False,
    "dynamic_thresholding_ratio": 0.995,
    "sample_max_value": 1.0,
    "timestep_spacing": "leading",
    "rescale_betas_zero_snr": False,
}
_SIGMAS = {
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "timestep_spacing": "linspace",
}
_MULTISTEP = {
    "solver_order": 2,
    "thresholding": False,
    "dynamic_thresholding_ratio": 0.995,
    "sample_max_value": 1.0,
    "lower_order_final": True,
    "use_flow_sigmas": False,
    "flow_shift": 1.0,
    "final_sigmas_type": "zero",
    "rescale_betas_zero_snr": False,
    "use_dynamic_shifting": False,
    "time_shift_type": "exponential",
}

FIELDS: dict[str, dict[str, Any]] = {
    "DDIMScheduler": {**_SHARED, **_CLIPPED, "set_alpha_to_one": True},
    "DDPMScheduler": {**_SHARED, **_CLIPPED, "variance_type": "fixed_small"},
    "PNDMScheduler": {
        **_SHARED,
        "skip_prk_steps": False,
        "set_alpha_to_one": False,
        "timestep_spacing": "leading",
    },
    "EulerDiscreteScheduler": {
        **_SHARED,
        **_SIGMAS,
        "interpolation_type": "linear",
        "sigma_min": None,
        "sigma_max": None,
        "timestep_type": "discrete",
        "rescale_betas_zero_snr": False,
        "final_sigmas_type": "zero",
    },
    "EulerAncestralDiscreteScheduler": {
        **_SHARED,
        "timestep_spacing": "linspace",
        "rescale_betas_zero_snr": False,
    },
    "HeunDiscreteScheduler": {
        **_SHARED,
        **_SIGMAS,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "clip_sample": False,
        "clip_sample_range": 1.0,
    },
    "DPMSolverMultistepScheduler": {
        **_SHARED,
        **_SIGMAS,
        **_MULTISTEP,
        "algorithm_type": "dpmsolver++",
        "solver_type": "midpoint",
        "euler_at_final": False,
        "use_lu_lambdas": False,
        "lambda_min_clipped": -math.inf,
        "variance_type": None,
    },
    "UniPCMultistepScheduler": {
        **_SHARED,
        **_SIGMAS,
        **_MULTISTEP,
        "predict_x0": True,
        "solver_type": "bh2",
        "disable_corrector": [],
        "solver_p": None,
        "sigma_min": None,
        "sigma_max": None,
        "shift_terminal": None,
    },
}

FOLLOWED = {
    *_SHARED,
    "timestep_spacing",
    "rescale_betas_zero_snr",
    "set_alpha_to_one",
    "final_sigmas_type",
}

# Of what is not followed, the one value that is done here, where it is not the class's default.
ONLY: dict[str, Any] = {"clip_sample": False, "skip_prk_steps": True}

# Fields that say nothing while the switch beside them is off, or that a class does not read.
IDLE = {
    "clip_sample_range",
    "dynamic_thresholding_ratio",
    "sample_max_value",
    "flow_shift",
    "time_shift_type",
}

# Leftovers of other classes in published files, which the class of the file does not read; they may
# stand there with any value.
LEFTOVERS = {
    name for fields in FIELDS.values() for name in fields if name not in ("num_train_timesteps",)
}
