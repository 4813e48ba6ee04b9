"""Every sampler ends where diffusers' scheduler ends, under one non-linear model and one stream of noise."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch

from mlx_sd import samplers
from mlx_sd.errors import InputError
from mlx_sd.schedule import Scheduler
from tests import families, reference
from tests.families import distance

SHAPE, SEED = (2, 8, 8, 4), 11
STEPS = (1, 2, 5, 20, 50)
PREDICTIONS = ("epsilon", "v_prediction")
MIX = families.numbers("mix", 4, 4).astype(np.float64) * 0.4
# diffusers keeps sigmas and mixes latents in float32, so that this is what it says of itself
EXACT = 1e-5


def model(x: np.ndarray, t: float) -> np.ndarray:
    """A network in float64: bounded, non-linear, mixing channels, and never blind to its timestep."""
    return np.tanh(1.3 * x @ MIX + t / 700) + 0.3 * x


def ours(config: dict[str, Any], sampler: str | None, schedule: str | None, steps: int) -> np.ndarray:
    scheduler = Scheduler.from_hf(config)
    table = samplers.table(scheduler, *samplers.choose(scheduler, sampler, schedule), steps)
    streams = [np.random.RandomState(SEED + i) for i in range(SHAPE[0])]

    def normal() -> mx.array:
        drawn = [s.standard_normal((SHAPE[3], SHAPE[1], SHAPE[2])).astype(np.float32) for s in streams]
        return mx.array(np.stack(drawn).transpose(0, 2, 3, 1))

    def predict(x: mx.array, t: float) -> mx.array:
        return mx.array(model(np.array(x, np.float64), t).astype(np.float32))

    return np.array(samplers.run(table, predict, mx.array(families.numbers("start", *SHAPE)), normal))


def theirs(config: dict[str, Any], sampler: str | None, schedule: str | None, steps: int) -> np.ndarray:
    made = reference.scheduler(config, sampler, schedule)
    # DDIM and DDPM refuse nothing and compute in the latents' type; the Euler family casts to float32 itself.
    noise = torch.from_numpy(families.numbers("start", *SHAPE)).movedim(-1, 1).double()

    def predict(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(model(x.double().movedim(1, -1).numpy(), float(t))).movedim(-1, 1)

    return reference.last(reference.run(made, steps, noise, predict, SEED))


def config(sampler: str, prediction: str = "epsilon", **changes: Any) -> dict[str, Any]:
    """A checkpoint's scheduler config that asks for `sampler` by its diffusers class."""
    name, extra = reference.SCHEDULERS[sampler]
    shared = {
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": False,
        "num_train_timesteps": 1000,
        "steps_offset": 1,
    }
    return shared | {"_class_name": name, "prediction_type": prediction} | extra | changes


def compare(measure: Any, name: str, *arguments: Any, limit: float = EXACT) -> None:
    measure(name, distance(ours(*arguments), theirs(*arguments)), limit)


PAIRS = [(name, schedule) for name in samplers.names() for schedule in samplers.SAMPLERS[name].schedules]


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(("sampler", "schedule"), PAIRS)
def test_every_sampler_on_every_schedule_ends_where_diffusers_does(sampler, schedule, prediction, measure):
    for steps in STEPS:
        compare(measure, f"sampler {sampler}", config(sampler, prediction), sampler, schedule, steps)


@pytest.mark.parametrize("sampler", samplers.names())
def test_a_checkpoint_s_own_config_decides_sampler_and_schedule(sampler, measure):
    for changes in ({}, {"timestep_spacing": "trailing"}, {"timestep_spacing": "leading", "steps_offset": 0}):
        compare(measure, "schedulers' own defaults", config(sampler, **changes), None, None, 20)


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("sampler", ["ddim", "plms"])
def test_set_alpha_to_one_decides_where_ddim_and_plms_end(sampler, prediction, clean, measure):
    for spacing in ("leading", "linspace", "trailing"):
        for steps in STEPS:
            made = config(sampler, prediction, set_alpha_to_one=clean)
            compare(measure, "set_alpha_to_one", made, sampler, spacing, steps)


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m", "euler", "euler_ancestral"])
def test_zero_terminal_snr_is_rescaled_as_diffusers_does(sampler, measure):
    for spacing in ("leading", "linspace", "trailing"):
        for steps in STEPS:
            made = config(sampler, "v_prediction", rescale_betas_zero_snr=True)
            # The Euler family's first sigma is 4096 then, of which float32 keeps no more than this.
            rounded = sampler.startswith("euler") and steps <= 5
            name = "rescale_betas_zero_snr" + (", sigma 4096 in float32" if rounded else "")
            limit = 4096 * 2.0**-23 if rounded else EXACT
            compare(measure, name, made, sampler, spacing, steps, limit=limit)


@pytest.mark.parametrize("schedule", ["leading", "linspace", "trailing", "karras"])
@pytest.mark.parametrize("sampler", ["dpmpp_2m", "euler", "euler_ancestral"])
def test_sigma_min_is_where_it_ends_when_asked(sampler, schedule, measure):
    for steps in STEPS:
        made = config(sampler, final_sigmas_type="sigma_min")
        compare(measure, "final_sigmas_type sigma_min", made, sampler, schedule, steps)


@pytest.mark.parametrize("steps", [5, 14, 15, 20])
@pytest.mark.parametrize("final", ["zero", "sigma_min"])
def test_the_last_step_is_of_the_order_that_the_config_says(final, steps, measure):
    for lower in (True, False):
        for euler in (True, False):
            made = config("dpmpp_2m", lower_order_final=lower, euler_at_final=euler, final_sigmas_type=final)
            compare(measure, "lower_order_final, euler_at_final", made, "dpmpp_2m", "linspace", steps)


@pytest.mark.parametrize("betas", ["linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("sampler", samplers.names())
def test_other_beta_schedules(sampler, betas, measure):
    made = config(sampler, "v_prediction", beta_schedule=betas, beta_start=1e-4, beta_end=0.02)
    for schedule in ("leading", "karras"):
        # diffusers' DPM-Solver does not round cosine's Karras timesteps and then fails on them.
        if (sampler, betas, schedule) == ("dpmpp_2m", "squaredcos_cap_v2", "karras"):
            continue
        if schedule in samplers.SAMPLERS[sampler].schedules:
            compare(measure, "other betas", made, sampler, schedule, 20)


@pytest.mark.parametrize("sampler", samplers.names())
def test_trained_betas_and_other_lengths_of_training(sampler, measure):
    betas = [float(b) for b in np.linspace(0.001, 0.03, 600)]
    made = config(sampler, trained_betas=betas, num_train_timesteps=600)
    compare(measure, "trained_betas", made, sampler, "leading", 20)


@pytest.mark.parametrize("sampler", samplers.names())
def test_networks_that_predict_the_sample(sampler, measure):
    made = config(sampler, "sample")
    if sampler == "plms":
        with pytest.raises(InputError):
            ours(made, sampler, None, 20)
        return
    if sampler == "euler_ancestral":
        pytest.skip("diffusers' Euler ancestral takes no sample prediction")
    compare(measure, "sample prediction", made, sampler, None, 20)
