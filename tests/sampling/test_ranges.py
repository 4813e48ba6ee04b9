"""karras, exponential, beta and sgm_uniform cover the checkpoint's whole range of noise, as in ComfyUI and A1111."""

import math

import numpy as np
import pytest
from scipy import stats

from mlx_sd.sampling import samplers
from mlx_sd.sampling.scheduler import Scheduler
from mlx_sd.sampling.table import Options
from tests.support.effort import slow_but

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SPACINGS = ("leading", "linspace", "trailing")


def _scheduler(spacing):
    return Scheduler.from_hf({"_class_name": "PNDMScheduler", "timestep_spacing": spacing, "steps_offset": 1, **BETAS})


def _training_sigmas():
    """k-diffusion's DiscreteSchedule of Stable Diffusion 1.x, from the definition of its betas."""
    betas = np.linspace(math.sqrt(0.00085), math.sqrt(0.012), 1000) ** 2
    bar = np.cumprod(1 - betas)
    return np.sqrt((1 - bar) / bar)


def _karras(sigmas, n, rho=7.0):  # k_diffusion.sampling.get_sigmas_karras
    ramp = np.linspace(0, 1, n)
    low, high = sigmas[0] ** (1 / rho), sigmas[-1] ** (1 / rho)
    return (high + ramp * (low - high)) ** rho


# Name -> the levels that ComfyUI (but for beta: A1111) computes, before the zero at the end.
THEIRS = {
    "karras": _karras,
    "exponential": lambda sigmas, n: np.exp(np.linspace(math.log(sigmas[-1]), math.log(sigmas[0]), n)),
    "sgm_uniform": lambda sigmas, n: np.exp(
        np.interp(np.linspace(999, 0, n + 1)[:-1], np.arange(1000), np.log(sigmas))
    ),
    "beta": lambda sigmas, n: sigmas[0] + (sigmas[-1] - sigmas[0]) * stats.beta.ppf(1 - np.linspace(0, 1, n), 0.6, 0.6),
}


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(
    "sampler", slow_but(["euler", "dpmpp_2m"], ["euler", "euler_ancestral", "heun", "lms", "edm", "dpmpp_2m", "unipc"])
)
@pytest.mark.parametrize("name", THEIRS)
def test_the_levels_are_comfyui_s_whatever_the_checkpoint_s_spacing(name, sampler, spacing):
    sigmas = _training_sigmas()
    for n in (1, 2, 5, 20, 50):
        steps = samplers.SAMPLERS[sampler].grid(_scheduler(spacing), n, name, 7.0).steps
        known = THEIRS[name](sigmas, n)
        assert [step.start.sigma for step in steps] == pytest.approx(list(known), rel=2e-5), n
        assert steps[-1].end.noise == 0
        # The network is told the timestep of that level, rounded by solvers that take whole ones.
        exact = np.interp(np.log(known), np.log(sigmas), np.arange(1000))
        assert [step.timestep for step in steps] == pytest.approx(list(exact), abs=0.51), n


@pytest.mark.parametrize("name", ["karras", "exponential", "beta"])
def test_diffusers_range_is_that_of_the_checkpoint_s_spacing(name):
    """... in its Euler family, and the whole one in its DPM family."""
    sigmas = _training_sigmas()
    for spacing, (first, last) in {"leading": (951, 1), "linspace": (999, 0), "trailing": (999, 49)}.items():
        for n in (20,):
            grid = samplers.SAMPLERS["euler"].grid(_scheduler(spacing), n, f"diffusers_{name}", 7.0).steps
            ends = [grid[0].start.sigma, grid[-1].start.sigma]
            assert ends == pytest.approx([sigmas[first], sigmas[last]], rel=2e-5), spacing
            grid = samplers.SAMPLERS["dpmpp_2m"].grid(_scheduler(spacing), n, f"diffusers_{name}", 7.0).steps
            assert [step.start.sigma for step in grid] == pytest.approx(list(THEIRS[name](sigmas, n)), rel=2e-5)


def test_an_earlier_picture_s_sgm_uniform_begins_with_the_noise_it_had():
    """It was `trailing` but for the first latents of checkpoints whose own spacing is `leading`."""
    for spacing, scale in (("leading", 1.0), ("trailing", None)):
        for name, same in (("trailing", False), ("diffusers_sgm_uniform", True)):
            grid = samplers.SAMPLERS["euler"].grid(_scheduler(spacing), 10, name, 7.0)
            noise = scale if same and scale else grid.steps[0].start.noise
            assert grid.noise_scale == pytest.approx(noise)
            assert [step.timestep for step in grid.steps][:3] == [999, 899, 799]


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "plms"])
def test_whole_timesteps_take_sgm_uniform_as_trailing(sampler):
    tables = [
        samplers.table(_scheduler("leading"), sampler, name, Options(), 20)
        for name in ("sgm_uniform", "trailing", "diffusers_sgm_uniform")
    ]
    assert tables[0] == tables[1] == tables[2]
