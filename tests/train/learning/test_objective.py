"""The objective: its targets lead back to the image, its weights are min-SNR's, its numbers depend on places alone."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_sd.core.errors import InputError
from mlx_sd.sampling.denoise import estimate_image
from mlx_sd.sampling.scheduler import Scheduler
from mlx_sd.sampling.steps import Level
from mlx_sd.train.learning import random_keys
from mlx_sd.train.learning.objective import Objective
from mlx_sd.train.learning.random_keys import Place

BETAS = {"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
TYPES = ("epsilon", "v_prediction", "sample")
SHAPE = (4, 6, 4)


def objective(prediction_type: str, **options: float) -> Objective:
    return Objective.of(Scheduler.from_hf(BETAS | {"prediction_type": prediction_type}), **options)


def places(count: int, step: int = 0) -> list[Place]:
    return [Place(step, example) for example in range(count)]


@pytest.mark.parametrize("prediction_type", TYPES)
def test_a_network_that_hits_the_target_finds_the_image(prediction_type):
    """By the sampler's own reading of such a prediction."""
    task = objective(prediction_type)
    clean, draws = mx.random.normal((3, *SHAPE), key=mx.random.key(1)), task.draw(5, places(3), SHAPE)
    noisy, target = (f(clean, draws.noise, draws.timesteps) for f in (task.mix, task.target))
    for i, t in enumerate(draws.timesteps.tolist()):
        power = task.alphas_cumprod[t].item()
        estimate = estimate_image(prediction_type, noisy[i], target[i], Level(power**0.5, (1 - power) ** 0.5))
        assert mx.abs(estimate - clean[i]).max().item() < 2e-4 / power**0.5
    assert task.loss(lambda x, t: task.target(clean, draws.noise, t), clean, draws).item() == 0


@pytest.mark.parametrize("prediction_type", TYPES)
def test_min_snr_weighs_the_error_of_the_image_alike_in_every_parametrisation(prediction_type):
    """Hang et al. 2023, sec. 3.4: min(SNR, gamma) times the squared error of the image."""
    task = objective(prediction_type, snr_gamma=5.0)
    timesteps = mx.array([1, 300, 600, 999])
    power = np.array(task.alphas_cumprod, np.float64)[[1, 300, 600, 999]]
    snr = power / (1 - power)
    # An error of 1 of the image is an error of this size of the prediction, by the formulas of the targets.
    of_prediction = {"epsilon": snr, "v_prediction": snr + 1, "sample": np.ones(4)}[prediction_type]
    np.testing.assert_allclose(np.array(task.weights(timesteps)) * of_prediction, np.minimum(snr, 5), rtol=1e-3)


def test_without_min_snr_all_timesteps_weigh_alike():
    assert mx.array_equal(objective("epsilon").weights(mx.array([0, 999])), mx.ones(2))


def test_noise_offset_and_perturbation_do_what_they_say():
    plain = objective("epsilon").draw(3, places(64), SHAPE)
    offset = objective("epsilon", noise_offset=0.5).draw(3, places(64), SHAPE)
    shift = np.array(offset.noise - plain.noise)
    assert np.abs(shift - shift[:, :1, :1]).max() < 1e-6  # one number for each channel of each example
    assert abs(shift[:, 0, 0].std() - 0.5) < 0.1
    assert mx.array_equal(offset.noise, offset.input_noise)
    perturbed = objective("epsilon", input_perturbation=0.5).draw(3, places(64), SHAPE)
    assert mx.array_equal(perturbed.noise, plain.noise)  # the target
    assert abs(np.array(perturbed.input_noise - perturbed.noise).std() - 0.5) < 0.02


@given(st.integers(0, 2**32 - 1), st.integers(0, 10**6), st.integers(1, 5))
def test_draws_are_a_function_of_seed_and_place(seed, step, count):
    """Not of the examples beside one: so batches may be split over micro-batches and machines."""
    task = objective("epsilon")
    together = task.draw(seed, places(count, step), SHAPE)
    for i, place in enumerate(places(count, step)):
        alone = task.draw(seed, [place], SHAPE)
        assert mx.array_equal(together.noise[i], alone.noise[0])
        assert together.timesteps[i].item() == alone.timesteps[0].item()


def test_timesteps_are_uniform_and_all_occur():
    task = objective("epsilon")
    drawn = [int(random_keys.chance(0, Place(step, 0), "timestep") * 1000) for step in range(20_000)]
    counts = np.bincount(np.array(drawn) // 100, minlength=10)
    chi_square = ((counts - 2000) ** 2 / 2000).sum()
    assert chi_square < 27.9  # 0.1% of the distribution with 9 degrees of freedom
    assert min(drawn) == 0 and max(drawn) == 999 == task.alphas_cumprod.size - 1


def test_what_cannot_be_learned_is_refused():
    zero = BETAS | {"rescale_betas_zero_snr": True}
    with pytest.raises(InputError, match="v-prediction"):
        Objective.of(Scheduler.from_hf(zero | {"prediction_type": "epsilon"}))
    Objective.of(Scheduler.from_hf(zero | {"prediction_type": "v_prediction"}))
    with pytest.raises(InputError, match="EDM"):
        Objective.of(Scheduler.from_hf({"_class_name": "EDMEulerScheduler"}))
