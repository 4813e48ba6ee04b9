"""Consistency functions, solver and timesteps of distillation are those of diffusers' schedulers, live."""

import mlx.core as mx
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler, TCDScheduler

from mlx_sd.sampling.scheduler import Scheduler
from mlx_sd.train.learning.consistency import Consistency
from tests.support.families import distance, numbers

PREDICTIONS = ("epsilon", "v_prediction", "sample")
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SHAPE = (2, 4, 6, 3)
EXACT = 1e-5


def consistency(prediction_type: str, method: str = "tcd") -> Consistency:
    return Consistency(Scheduler.from_hf(BETAS | {"prediction_type": prediction_type}), method)


@pytest.mark.parametrize(("method", "made"), [("lcm", LCMScheduler), ("tcd", TCDScheduler)])
def test_timesteps_and_levels(method, made):
    theirs = made(**BETAS)
    theirs.set_timesteps(50, original_inference_steps=50)
    ours = consistency("epsilon", method)
    timesteps = list(ours.timesteps[:0:-1])
    assert timesteps == theirs.timesteps.tolist()
    powers = theirs.alphas_cumprod[timesteps].numpy()
    assert np.allclose([ours.levels[timestep].signal ** 2 for timestep in timesteps], powers, rtol=1e-6)


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_the_solver_is_ddim(prediction_type, measure):
    """set_alpha_to_one is false: the last step ends at the level of timestep 0."""
    theirs = DDIMScheduler(
        **BETAS,
        prediction_type=prediction_type,
        clip_sample=False,
        set_alpha_to_one=False,
        timestep_spacing="trailing",
    )
    theirs.set_timesteps(50)
    x, output = numbers("x", *SHAPE), numbers("output", *SHAPE)
    ours = consistency(prediction_type)
    for timestep in theirs.timesteps.tolist():
        end = max(timestep - 20, 0)
        solved = ours.solve(mx.array(x), mx.array(output), [timestep] * 2, [end] * 2)
        expected = theirs.step(torch.tensor(output), timestep, torch.tensor(x)).prev_sample.numpy()
        measure("solver of distillation", distance(solved, expected), EXACT)


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize("steps", [2, 4, 10])
def test_the_trajectory_function(prediction_type, steps, measure):
    """TCD's step without noise: eta 0, for all steps but the last, which ends at the level of timestep 0 in both."""
    theirs = TCDScheduler(**BETAS, prediction_type=prediction_type, clip_sample=False, set_alpha_to_one=False)
    theirs.set_timesteps(steps)
    x, output = numbers("x", *SHAPE), numbers("output", *SHAPE)
    ours = consistency(prediction_type)
    timesteps = theirs.timesteps.tolist()
    for timestep, end in zip(timesteps, [*timesteps[1:], 0], strict=True):
        jumped = ours.function(mx.array(x), mx.array(output), [timestep] * 2, [end] * 2)
        expected = theirs.step(torch.tensor(output), timestep, torch.tensor(x), eta=0.0).prev_sample.numpy()
        measure("consistency function of TCD", distance(jumped, expected), EXACT)


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_the_function_of_latent_consistency(prediction_type, measure):
    theirs = LCMScheduler(**BETAS, prediction_type=prediction_type, clip_sample=False)
    theirs.set_timesteps(8)
    x, output = numbers("x", *SHAPE), numbers("output", *SHAPE)
    ours = consistency(prediction_type, "lcm")
    for timestep in theirs.timesteps.tolist():
        image = ours.function(mx.array(x), mx.array(output), [timestep] * 2, [0, 0])
        expected = theirs.step(torch.tensor(output), timestep, torch.tensor(x)).denoised.numpy()
        measure("consistency function of LCM", distance(image, expected), EXACT)
