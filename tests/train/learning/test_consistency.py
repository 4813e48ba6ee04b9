"""Consistency functions are the samplers' steps, and their targets lie on trajectories of a closed-form flow."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_sd.core.errors import InputError
from mlx_sd.sampling import samplers
from mlx_sd.sampling.denoise import estimate_image
from mlx_sd.sampling.scheduler import Scheduler
from mlx_sd.sampling.table import Options
from mlx_sd.train.learning.consistency import Consistency, Jump
from tests.support.families import numbers

PREDICTIONS = ("epsilon", "v_prediction", "sample")
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "set_alpha_to_one": False}
SHAPE = (3, 4, 5, 2)
MEAN, DEVIATION = 0.3, 0.7  # of the images of the Gaussian flow


def scheduler(prediction_type: str = "epsilon", **changes: object) -> Scheduler:
    return Scheduler.from_hf(BETAS | {"_class_name": "DDIMScheduler", "prediction_type": prediction_type} | changes)


def arrays(*names: str) -> list[mx.array]:
    return [mx.array(numbers(name, *SHAPE)) for name in names]


def stepped(table, row, x: mx.array, output: mx.array) -> mx.array:
    """Returns the latents after a row of a sampler's table, without its fresh noise."""
    image = estimate_image(table.prediction_type, x, output, row.level)
    return row.mix.base * x + row.mix.estimates[0] * image


def close(a: mx.array, b: mx.array) -> bool:
    return bool(mx.allclose(a, b, rtol=2e-5, atol=2e-6).item())


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_a_trajectory_function_without_a_way_to_go_returns_its_latents(prediction_type):
    consistency, (x, output) = Consistency(scheduler(prediction_type)), arrays("x", "output")
    for timestep in consistency.timesteps:
        places = [timestep] * len(x)
        assert mx.array_equal(consistency.function(x, output, places, places), x).item()


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_latent_consistency_returns_its_latents_at_timestep_0(prediction_type):
    consistency, (x, output) = Consistency(scheduler(prediction_type), "lcm"), arrays("x", "output")
    assert mx.array_equal(consistency.function(x, output, [0] * len(x), [0] * len(x)), x).item()


@pytest.mark.parametrize(
    ("prediction_type", "zero_snr"),
    [*((prediction_type, False) for prediction_type in PREDICTIONS), ("v_prediction", True), ("sample", True)],
)
def test_a_step_of_the_solver_is_a_row_of_ddim(prediction_type, zero_snr):
    config, (x, output) = scheduler(prediction_type, rescale_betas_zero_snr=zero_snr), arrays("x", "output")
    consistency = Consistency(config)
    table = samplers.table(config, *samplers.choose(config, "ddim", "trailing"), 50)
    for row in table.rows:
        start = int(row.timestep)
        end = max(start - 20, 0)
        assert Jump(start, end, 0) == consistency.jump(start - 5, 0.999)
        assert close(
            consistency.solve(x, output, [start] * len(x), [end] * len(x)),
            stepped(table._replace(prediction_type=prediction_type), row, x, output),
        )


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize("steps", [1, 2, 4, 8, 50])
def test_steps_of_the_sampler_tcd_without_noise_are_the_trajectory_function(steps, prediction_type):
    config, (x, output) = scheduler(prediction_type), arrays("x", "output")
    consistency = Consistency(config)
    table = samplers.table(config, *samplers.choose(config, "tcd", None, Options(gamma=0.0)), steps)
    ends = [*(int(row.timestep) for row in table.rows[1:]), 0]
    for row, end in zip(table.rows, ends, strict=True):
        jumped = consistency.function(x, output, [int(row.timestep)] * len(x), [end] * len(x))
        assert close(jumped, stepped(table, row, x, output))


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_steps_of_the_sampler_lcm_are_the_consistency_function_in_noise(prediction_type):
    config, (x, output) = scheduler(prediction_type), arrays("x", "output")
    consistency = Consistency(config, "lcm")
    table = samplers.table(config, *samplers.choose(config, "lcm"), 4)
    for row, end in zip(table.rows, [*(following.level for following in table.rows[1:]), table.end], strict=True):
        image = consistency.function(x, output, [int(row.timestep)] * len(x), [0] * len(x))
        assert close(end.signal * image, stepped(table, row, x, output))


@pytest.mark.parametrize("scaling", [10.0, 3.0])
def test_latent_consistency_mixes_latents_and_image_by_the_scaled_timestep(scaling):
    consistency = Consistency(scheduler("sample", timestep_scaling=scaling), "lcm")
    x, image = arrays("x", "output")
    places = np.array([19, 499, 999])
    square = (scaling * places) ** 2
    skip, out = 0.25 / (square + 0.25), np.sqrt(square / (square + 0.25))
    mixed = skip[:, None, None, None] * np.array(x) + out[:, None, None, None] * np.array(image)
    assert np.allclose(consistency.function(x, image, places.tolist(), [0, 0, 0]), mixed, rtol=1e-6)


@pytest.mark.parametrize("method", ["lcm", "tcd"])
def test_the_timesteps_are_those_that_distilled_samplers_know(method):
    config = scheduler()
    rows = samplers.table(config, *samplers.choose(config, method), 50).rows
    consistency = Consistency(config)
    assert list(consistency.timesteps[:0:-1]) == [row.timestep for row in rows]
    assert [consistency.levels[timestep] for timestep in consistency.timesteps[:0:-1]] == [row.level for row in rows]


@given(st.integers(0, 999), st.floats(0, 1, exclude_max=True), st.floats(0, 1), st.integers(1, 300))
def test_jumps_go_down_the_timesteps_of_the_solver(timestep, chance, width, steps):
    consistency = Consistency(scheduler(), solver_steps=steps)
    jump = consistency.jump(timestep, chance, width)
    place = consistency.timesteps.index(jump.start)
    assert jump.solved == consistency.timesteps[place - 1]
    assert jump.end in consistency.timesteps[:place]
    assert jump.start >= timestep or place == steps  # steps that do not divide the timesteps leave some out
    assert consistency.jump(timestep, chance, 0.0).end == jump.solved
    assert Consistency(scheduler(), "lcm", steps).jump(timestep, chance, width).end == 0


def test_ends_of_full_width_are_uniform():
    consistency = Consistency(scheduler())
    ends = [consistency.jump(199, (i + 0.5) / 300).end for i in range(300)]  # below 199 there are 10 timesteps
    assert {end: ends.count(end) for end in set(ends)} == dict.fromkeys(consistency.timesteps[:10], 30)


def test_more_steps_than_timesteps_are_refused():
    with pytest.raises(InputError, match="1 to 1000 steps, not 1001"):
        Consistency(scheduler(), solver_steps=1001)


# ------------------------------------------------------------------------------------------------ a closed-form flow


def levels(consistency: Consistency, timesteps: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    signal, noise = np.array([consistency.levels[timestep] for timestep in timesteps]).T
    return signal[:, None, None, None], noise[:, None, None, None]


def exact_image(consistency: Consistency) -> Callable[[mx.array, mx.array], mx.array]:
    """Returns the denoiser of images that are Gaussian: the mean of the image that latents are of."""

    def denoise(x: mx.array, timesteps: mx.array) -> mx.array:
        signal, noise = levels(consistency, timesteps.tolist())
        image = (signal * DEVIATION**2 * np.array(x, np.float64) + noise**2 * MEAN) / (
            signal**2 * DEVIATION**2 + noise**2
        )
        return mx.array(image.astype(np.float32))

    return denoise


def flow(consistency: Consistency, x: np.ndarray, starts: Sequence[int], ends: Sequence[int]) -> np.ndarray:
    """Returns where the probability flow of Gaussian images leads x from `starts` to `ends`."""
    (signal, noise), (end_signal, end_noise) = levels(consistency, starts), levels(consistency, ends)
    unit = (x - signal * MEAN) / np.sqrt(signal**2 * DEVIATION**2 + noise**2)
    return end_signal * MEAN + unit * np.sqrt(end_signal**2 * DEVIATION**2 + end_noise**2)


def exact_student(consistency: Consistency, ends: Sequence[int]) -> Callable[[mx.array, mx.array], mx.array]:
    """Returns the network whose consistency function follows the flow to `ends`."""

    def predict(x: mx.array, timesteps: mx.array) -> mx.array:
        starts = timesteps.tolist()
        zeros, ones = mx.zeros_like(x), mx.ones_like(x)
        kept = np.array(consistency.function(x, zeros, starts, ends), np.float64)
        weight = np.array(consistency.function(zeros, ones, starts, ends), np.float64)
        reached = flow(consistency, np.array(x, np.float64), starts, ends)
        return mx.array(((reached - kept) / np.where(weight == 0, 1, weight)).astype(np.float32))

    return predict


def loss_of_exact_student(method: str, steps: int) -> float:
    consistency = Consistency(scheduler("sample"), method, steps)
    ends = [0, 0, 0] if method == "lcm" else [199, 99, 399]
    places = zip((299, 499, 899), ends, strict=True)
    jumps = [consistency.jump(timestep, 0.0)._replace(end=end) for timestep, end in places]
    student = exact_student(consistency, ends)
    (x,) = arrays("x")
    return float(consistency.loss(student, student, exact_image(consistency), x, jumps).item())


@pytest.mark.parametrize("method", ["lcm", "tcd"])
def test_targets_lie_on_the_trajectory_but_for_the_error_of_the_solver(method):
    """The error of a step is of second order, and the loss is its square."""
    losses = [loss_of_exact_student(method, steps) for steps in (10, 20, 40)]
    assert losses[0] < 1e-3
    assert all(8 < coarse / fine < 24 for coarse, fine in pairwise(losses))


@pytest.mark.parametrize("method", ["lcm", "tcd"])
@pytest.mark.parametrize("huber", [None, 1e-3])
def test_the_loss_of_the_exact_denoiser_vanishes_with_the_step_of_the_solver(method, huber):
    def loss(steps: int) -> float:
        consistency = Consistency(scheduler("sample"), method, steps, huber)
        jumps = [consistency.jump(timestep, 0.5) for timestep in (299, 499, 899)]
        denoise = exact_image(consistency)
        return float(consistency.loss(denoise, denoise, denoise, arrays("x")[0], jumps).item())

    losses = [loss(steps) for steps in (10, 50, 250, 1000)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] / (300 if huber is None else 10)


# ------------------------------------------------------------------------------------------------ the loss


@pytest.mark.parametrize("huber", [None, 0.02])
def test_the_loss_is_the_distance_of_both_ends_weighted_by_example(huber):
    consistency = Consistency(scheduler("v_prediction"), huber=huber)
    jumps = [Jump(999, 979, 499), Jump(519, 499, 0), Jump(19, 0, 0)]
    x, *outputs = arrays("x", "student", "target", "teacher")
    student, target, teacher = (lambda x, t, output=output: output + 0.1 * x for output in outputs)
    starts, places, ends = zip(*jumps, strict=True)
    solved = consistency.solve(x, teacher(x, None), starts, places)
    goal = consistency.function(solved, target(solved, None), places, ends)
    difference = np.array(consistency.function(x, student(x, None), starts, ends) - goal, np.float64)
    distance = difference**2 if huber is None else np.sqrt(difference**2 + huber**2) - huber
    weights = np.array([1.0, 0.25, 3.0])
    expected = (distance.mean((1, 2, 3)) * weights).mean()
    loss = consistency.loss(student, target, teacher, x, jumps, mx.array(weights.astype(np.float32)))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_gradients_reach_the_student_and_nothing_else():
    consistency, (x,) = Consistency(scheduler()), arrays("x")
    jumps = [Jump(999, 979, 499), Jump(519, 499, 0), Jump(39, 19, 19)]

    def loss(student: mx.array, target: mx.array, teacher: mx.array) -> mx.array:
        networks = [lambda x, t, scale=scale: scale * x for scale in (student, target, teacher)]
        return consistency.loss(*networks, x, jumps)

    gradients = mx.grad(loss, argnums=(0, 1, 2))(mx.array(0.5), mx.array(0.4), mx.array(0.3))
    assert gradients[0].item() != 0
    assert [gradient.item() for gradient in gradients[1:]] == [0, 0]
