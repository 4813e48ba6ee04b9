"""The checkpoints, samplers, schedules, options and steps of the golden tables."""

import itertools
from collections.abc import Iterator
from typing import Any

from mlx_sd.sampling import samplers, schedules
from mlx_sd.sampling.scheduler import Scheduler

STEPS = (1, 2, 7, 20, 50)
_SCALED = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
_LISTS = ("timesteps=999,800,600,400,100,20", "sigmas=14.5,6.25,2.5,0.75,0.1,0", "sigmas=10,3,1,0.25")
# name -> (diffusers config, of SDXL, whether every sampler meets every schedule and number of steps, whether runs are
# recorded)
CHECKPOINTS: dict[str, tuple[dict[str, Any], bool, bool, bool]] = {
    "sd1": ({"_class_name": "PNDMScheduler", "steps_offset": 1, "skip_prk_steps": True, **_SCALED}, False, True, True),
    "sd2-v": (
        {
            "_class_name": "DPMSolverMultistepScheduler",
            "prediction_type": "v_prediction",
            "timestep_spacing": "trailing",
            "steps_offset": 1,
            **_SCALED,
        },
        False,
        True,
        True,
    ),
    "zero-snr": (
        {
            "_class_name": "DDIMScheduler",
            "prediction_type": "v_prediction",
            "rescale_betas_zero_snr": True,
            "timestep_spacing": "trailing",
            "clip_sample": False,
            "set_alpha_to_one": False,
            "steps_offset": 1,
            **_SCALED,
        },
        False,
        True,
        True,
    ),
    "sdxl": (
        {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading", "steps_offset": 1, **_SCALED},
        True,
        False,
        False,
    ),
    "pixels": (
        {"_class_name": "DDPMScheduler", "beta_schedule": "squaredcos_cap_v2", "prediction_type": "sample"},
        False,
        False,
        True,
    ),
    "thresholding": (
        {"_class_name": "DDPMScheduler", "variance_type": "fixed_large", "thresholding": True, "sample_max_value": 1.5},
        False,
        False,
        True,
    ),
    "prk": (
        {
            "_class_name": "PNDMScheduler",
            "skip_prk_steps": False,
            "set_alpha_to_one": True,
            "prediction_type": "v_prediction",
            **_SCALED,
        },
        False,
        False,
        True,
    ),
    "final-sigma": (
        {
            "_class_name": "DPMSolverMultistepScheduler",
            "algorithm_type": "sde-dpmsolver++",
            "solver_type": "heun",
            "final_sigmas_type": "sigma_min",
            "lower_order_final": False,
            "use_karras_sigmas": True,
            **_SCALED,
        },
        False,
        False,
        True,
    ),
    "zero-snr-epsilon": (
        {"_class_name": "EulerDiscreteScheduler", "rescale_betas_zero_snr": True, **_SCALED},
        False,
        False,
        False,
    ),
    "edm": (
        {
            "_class_name": "EDMDPMSolverMultistepScheduler",
            "sigma_data": 0.5,
            "sigma_min": 0.002,
            "sigma_max": 80.0,
            "solver_order": 2,
            "rho": 6.5,
        },
        True,
        False,
        True,
    ),
    "unknown-class": ({"_class_name": "RePaintScheduler", **_SCALED}, False, False, False),
}
_OPTIONS: tuple[dict[str, Any], ...] = (
    {"eta": 0.5},
    {"eta": 1.0},
    {"gamma": 0.0},
    {"gamma": 0.75},
    {"order": 1},
    {"order": 3},
    {"order": 4},
    {"kind": "heun"},
    {"kind": "bh1"},
    {"corrector": True},
    {"corrector": False},
    {"corrector": True, "eta": 0.2},
    {"rho": 5.0},
    {"rho": -1.0},
    {"order": 2, "s_churn": 10.0, "s_noise": 1.01},
    {"order": 1, "s_churn": 40.0, "s_tmin": 0.1, "s_tmax": 5.0},
    {"eta": 1.5},
    {"order": 3, "kind": "heun", "corrector": True},
)


def scheduler_of(name: str) -> Scheduler:
    """Returns the scheduler of a checkpoint."""
    config, xl, _, _ = CHECKPOINTS[name]
    return Scheduler.from_hf(config, "scheduler", xl=xl)


def cases() -> Iterator[dict[str, Any]]:
    """Yields the checkpoint, sampler, schedule, options, steps and strength of every case."""
    listed = (*schedules.names(), *_LISTS)
    for checkpoint, (_, _, every, _) in CHECKPOINTS.items():
        steps = STEPS if every else (2, 12)
        for sampler, schedule, count in itertools.product(samplers.names(), listed, steps):
            fixed = schedules.step_count(schedule)
            if fixed is not None:
                if count != steps[0]:
                    continue
                count = fixed
            yield {"checkpoint": checkpoint, "sampler": sampler, "schedule": schedule, "steps": count}
        for sampler in samplers.names():
            for strength, count in ((0.3, 20), (0.8, 13), (1.0, 5), (0.05, 10)):
                yield {"checkpoint": checkpoint, "sampler": sampler, "steps": count, "strength": strength}
            for options in _OPTIONS:
                named = {"schedule": "karras"} if "rho" in options else {}
                yield {"checkpoint": checkpoint, "sampler": sampler, "steps": 9, "options": options} | named
        yield {"checkpoint": checkpoint, "steps": 15}
        yield {"checkpoint": checkpoint, "sampler": "euler", "schedule": "trailing", "steps": 1001}
        yield {"checkpoint": checkpoint, "sampler": "lms", "schedule": "karras", "steps": 300}
        yield {"checkpoint": checkpoint, "sampler": "unipc", "steps": 12, "strength": 0.5, "options": {"order": 3}}
