"""Schedules are those that users know, and what cannot be is refused with what can."""

import itertools
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from mlx_sd.core.errors import InputError
from mlx_sd.sampling import grids, samplers, schedules
from mlx_sd.sampling.scheduler import Scheduler
from mlx_sd.sampling.table import Options

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}


def _scheduler(**fields):
    return Scheduler.from_hf({"_class_name": "DDIMScheduler", "clip_sample": False, **SD, **fields})


def test_the_names_are_those_that_users_know():
    """Names that other programs rely on stay; more may be added."""
    promised = "euler euler_ancestral heun lms ddim ddpm plms dpmpp_2m dpmpp_2m_sde dpmpp_3m dpmpp_2s dpm_2m deis unipc"
    assert set(f"{promised} edm lcm tcd".split()) <= set(samplers.names())
    promised = "normal karras exponential beta sgm_uniform simple ays leading linspace trailing"
    assert set(promised.split()) <= set(schedules.names())


NAMES = """
import sys, types
package = types.ModuleType("mlx_sd")  # without what mlx_sd/__init__.py imports
package.__path__ = [sys.argv[1]]
sys.modules["mlx_sd"] = package
import mlx_sd.samplers, mlx_sd.schedule, mlx_sd.sampling.low_res
mlx_sd.samplers.names(), mlx_sd.schedule.names()
print(*sorted({"mlx", "scipy"} & {name.partition(".")[0] for name in sys.modules}))
"""


def test_the_names_come_without_mlx_and_scipy():
    package = Path(schedules.__file__).parents[1]
    imported = subprocess.run([sys.executable, "-c", NAMES, str(package)], capture_output=True, text=True, check=True)
    assert imported.stdout == "\n"


# Sigmas that ComfyUI computes for Stable Diffusion 1.x, from its definitions of the two (comfy/samplers.py).
COMFY = {
    "simple": lambda sigmas, n: [sigmas[-(1 + int(i * (len(sigmas) / n)))] for i in range(n)],
    "normal": lambda sigmas, n: np.exp(np.interp(np.linspace(999, 0, n), np.arange(1000), np.log(sigmas))),
}


@pytest.mark.parametrize("name", COMFY)
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_simple_and_normal_are_comfyui_s(name, sampler):
    scheduler = _scheduler()
    bar = scheduler.alphas_cumprod()
    sigmas = np.sqrt((1 - bar) / bar)
    for n in (1, 2, 7, 20, 38, 50, 76, 122):  # the stride of 38 falls a little short of a whole timestep
        steps = samplers.SAMPLERS[sampler].grid(scheduler, n, name, 7.0).steps
        assert [p.start.sigma for p in steps] == pytest.approx(list(COMFY[name](sigmas, n)), rel=1e-5), n
        # The network is told the timestep whose level is the nearest in the logarithm, the last one is zero.
        nearest = [int(np.abs(np.log(sigmas) - math.log(p.start.sigma)).argmin()) for p in steps]
        assert [p.timestep for p in steps] == pytest.approx(nearest, abs=0 if n != 7 else 1) and steps[
            -1
        ].end.noise == 0


def test_ays_between_its_ten_steps_is_log_linear():
    for xl, timesteps in ((False, [999, 850, 736]), (True, [999, 845, 730])):
        scheduler = Scheduler.from_hf({"_class_name": "EulerDiscreteScheduler", **SD}, xl=xl)
        ten, twenty = (grids.k_diffusion(scheduler, n, "ays").steps for n in (10, 20))
        assert [p.timestep for p in ten[:3]] == timesteps
        k = [math.log(p.start.sigma) for p in twenty]
        assert k[::2] == pytest.approx([math.log(p.start.sigma) for p in ten], abs=1e-5)
        assert k[1] == pytest.approx((k[0] + k[2]) / 2, abs=1e-5)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "plms", "lcm", "tcd"])
@pytest.mark.parametrize("schedule", [None, "ays", "karras"])
def test_samplers_of_timesteps_are_refused_where_a_checkpoint_knows_sigmas_alone(sampler, schedule):
    with pytest.raises(InputError, match=f"{sampler} needs timesteps, which this checkpoint does not know; use euler"):
        samplers.choose(_edm(), sampler, schedule)


def _edm(**fields):
    return Scheduler.from_hf({"_class_name": "EDMEulerScheduler", **fields})


def test_ays_of_a_network_that_knows_sigmas_is_the_list_of_stable_video_diffusion():
    scheduler = _edm(sigma_min=0.002, sigma_max=700.0, sigma_data=1.0)
    published = [700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034]
    ten, twenty = ([p.start.sigma for p in grids.k_diffusion(scheduler, n, "ays").steps] for n in (10, 20))
    assert ten == pytest.approx(published)
    assert twenty[::2] == pytest.approx(published)
    assert twenty[1::2] == pytest.approx([math.sqrt(p * q) for p, q in itertools.pairwise([*published, 0.002])])
    assert grids.k_diffusion(scheduler, 10, "ays").steps[-1].end.noise == 0
    low = _edm(sigma_min=0.002, sigma_max=700.0, sigma_data=1.0, final_sigmas_type="sigma_min")
    assert grids.k_diffusion(low, 10, "ays").steps[-1].end.noise == pytest.approx(0.002)


@pytest.mark.parametrize("highest", [80.0, 54.5, 10.0])
def test_ays_begins_no_higher_than_a_network_was_trained_on(highest):
    scheduler = _edm(sigma_max=highest)
    sigmas = [p.start.sigma * 0.5 for p in grids.dpm_solver(scheduler, 10, "ays").steps]
    assert sigmas[0] == pytest.approx(highest)
    assert all(p > q for p, q in itertools.pairwise(sigmas))
    # On the published curve, the same part of a piece of it to the next.
    curve = np.log([700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002])
    places = np.interp(-np.log([*sigmas, 0.002]), -curve, np.arange(11))
    assert np.diff(places) == pytest.approx([np.diff(places)[0]] * 10)


def test_ays_goes_with_every_sampler_of_a_network_that_knows_sigmas():
    assert samplers.choose(_edm(), "dpmpp_2m", "ays")[1] == "ays"
    with pytest.raises(InputError, match="it takes karras, exponential, ays, sigmas"):
        samplers.choose(_edm(), "euler", "beta")


@pytest.mark.parametrize("n", [1, 2, 7, 50, 333])
def test_beta_is_the_quantiles_of_its_distribution(n):
    quantiles = stats.beta.ppf(np.linspace(1, 0, n), 0.6, 0.6)
    assert schedules.shaped_sigmas("beta", 0.03, 14.6, n, 7.0) == pytest.approx(0.03 + quantiles * 14.57, rel=1e-14)


def test_rho_spaces_karras():
    by_rho = [[p.start.noise for p in grids.k_diffusion(_scheduler(), 8, "karras", rho).steps] for rho in (1.0, 7.0)]
    k = np.array(by_rho[0]) / np.sqrt(1 - np.array(by_rho[0]) ** 2)
    assert np.diff(k) == pytest.approx([k[1] - k[0]] * 7) and by_rho[1][3] < by_rho[0][3]


def test_a_list_is_a_schedule_of_its_own_number_of_steps():
    assert samplers.choose(_scheduler(), "euler", "timesteps=999,500,20")[1] == "timesteps=999,500,20"
    assert schedules.step_count("timesteps=999,500,20") == schedules.step_count("sigmas=3,2,1,0") == 3


WRONG = {
    "pair": (("lcm", "karras", {}), "lcm does not go with karras; it takes sgm_uniform, trailing, timesteps"),
    "pair of a list": (("ddim", "sigmas=2,1", {}), "ddim does not go with sigmas; it takes normal, sgm_uniform"),
    "sampler": (("magic", None, {}), "unknown sampler 'magic'; there are euler, euler_ancestral"),
    "schedule": (("euler", "magic", {}), "unknown schedule 'magic'; there are normal, karras"),
    "eta": (("ddim", None, {"eta": 1.5}), "eta must be from 0 to 1, not 1.5"),
    "eta nan": (("ddim", None, {"eta": math.nan}), "eta must be from 0 to 1, not nan"),
    "whose eta": (("euler", None, {"eta": 1.0}), "euler takes no eta; euler_ancestral, ddim do"),
    "gamma": (("tcd", None, {"gamma": -0.1}), "gamma must be from 0 to 1, not -0.1"),
    "churn": (("edm", None, {"s_churn": -1.0}), "s_churn must be 0 or more, not -1"),
    "order": (("deis", None, {"order": 4}), "order of deis must be 1 or 2 or 3, not 4"),
    "kind": (("unipc", None, {"kind": "heun"}), "kind of unipc must be bh2 or bh1, not heun"),
    "corrector": (("heun", None, {"corrector": True}), "heun takes no corrector; euler, lms, ddim"),
    "noise": (("ddim", None, {"eta": 0.5, "corrector": True}), "the corrector does a step again without its noise"),
    "rho": (("euler", "karras", {"rho": 0.0}), "rho must be above 0, not 0"),
    "whose rho": (("euler", "linspace", {"rho": 5.0}), "rho is of the karras schedule, not of linspace"),
    "timesteps": (("euler", "timesteps=1,2", {}), "timesteps must be whole numbers from 999 down to 0"),
    "timesteps high": (("euler", "timesteps=1000,2", {}), "timesteps must be whole numbers from 999 down to 0"),
    "timesteps odd": (("euler", "timesteps=9.5,2", {}), "timesteps must be whole numbers from 999 down to 0"),
    "sigmas up": (("euler", "sigmas=1,2,0", {}), "sigmas must be at least two numbers, each below the one before"),
    "sigmas equal": (("euler", "sigmas=2,2,0", {}), "sigmas must be at least two numbers, each below the one before"),
    "sigmas below": (("euler", "sigmas=2,-1", {}), "sigmas must be at least two numbers, each below the one before"),
    "sigmas nan": (("euler", "sigmas=nan,0", {}), "sigmas must be at least two numbers, each below the one before"),
    "sigmas one": (("euler", "sigmas=2", {}), "sigmas must be at least two numbers, each below the one before"),
    "sigmas text": (("euler", "sigmas=2,much", {}), "sigmas must be numbers with commas between them, not '2,much'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_is_refused_with_what_can(name):
    (sampler, spacing, options), message = WRONG[name]
    with pytest.raises(InputError, match=re.escape(message)):
        samplers.choose(_scheduler(), sampler, spacing, Options(**options))


def test_more_steps_than_a_distilled_network_knows_are_refused():
    with pytest.raises(InputError, match="takes 1 to 50 steps, not 51"):
        samplers.table(_scheduler(), "lcm", "trailing", Options(), 51)


def test_epsilon_from_zero_signal_is_refused():
    scheduler = _scheduler(rescale_betas_zero_snr=True)
    with pytest.raises(InputError, match="rescale_betas_zero_snr"):
        samplers.table(scheduler, "ddim", "trailing", Options(), 10)
    scheduler = _scheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction")
    samplers.table(scheduler, "ddim", "trailing", Options(), 10)
    with pytest.raises(InputError, match="corrector cannot start at zero signal"):
        samplers.table(scheduler, "ddim", "trailing", Options(corrector=True), 10)
