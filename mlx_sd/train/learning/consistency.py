"""Consistency distillation: a network learns to make in one step what a solver makes in many.

A teacher's solver leads latents x_t a little way down their trajectory, to x_u. From both places the consistency
function f, which a student network makes, shall lead to the same latents at a timestep s below both:

    loss = d(f(x_t, t -> s), f'(x_u, u -> s)),    f' without gradient

TCD (Zheng et al. 2024): f is DDIM's step, and s is any timestep of the solver from u down to 0; f(x, t -> t) = x
without further ado. LCM (Luo et al. 2023, algorithm 1): s is always 0, and f mixes the latents with the student's image
so that f(x, 0 -> 0) = x. The samplers `tcd` and `lcm` take steps of these functions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import floor
from typing import NamedTuple

import mlx.core as mx

from ...core.errors import InputError
from ...networks import gradients
from ...sampling.onestep import boundary
from ...sampling.quadrature import drift
from ...sampling.scheduler import Scheduler
from ...sampling.steps import Level
from .objective import Predict

METHODS = ("tcd", "lcm")


class Jump(NamedTuple):
    """The timesteps of one example: t > u >= s."""

    start: int  # t, at which the student is learned
    solved: int  # u, to which the teacher's solver leads
    end: int  # s, to which the consistency function leads from both


@dataclass(frozen=True)
class Consistency:
    """The loss of a student on the timesteps of the teacher's solver.

    solver_steps: of DDIM from the last timestep to the first. huber: c of the pseudo-Huber distance
    sqrt(d^2 + c^2) - c; None is the square.
    """

    scheduler: Scheduler
    method: str = "tcd"
    solver_steps: int = 50
    huber: float | None = None

    def __post_init__(self) -> None:
        total = self.scheduler.num_train_timesteps
        if not 1 <= self.solver_steps <= total:
            raise InputError(f"this checkpoint's solver takes 1 to {total} steps, not {self.solver_steps}")

    @cached_property
    def timesteps(self) -> tuple[int, ...]:
        """Returns the timesteps between which the solver steps, rising: 0, then those that networks are called at."""
        stride = self.scheduler.num_train_timesteps // self.solver_steps
        return (0, *(number * stride - 1 for number in range(1, self.solver_steps + 1)))

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """Returns the noise level of each timestep of training."""
        return tuple(Level.from_alpha_cumprod(float(power)) for power in self.scheduler.alphas_cumprod(exact_zero=True))

    def jump(self, timestep: int, chance: float, width: float = 1.0) -> Jump:
        """Returns the jump whose start is the solver's timestep nearest above `timestep`.

        chance: from 0 to below 1, which of the possible ends it takes. width: from 0, where the end is the solver's
        next timestep, to 1, where it is any from there to 0; for LCM it is always 0.
        """
        stride = self.scheduler.num_train_timesteps // self.solver_steps
        number = min(timestep // stride + 1, self.solver_steps)
        lowest = 0 if self.method == "lcm" else number - 1 - floor(chance * (1 + floor(width * (number - 1))))
        return Jump(*(self.timesteps[place] for place in (number, number - 1, lowest)))

    def solve(self, x: mx.array, output: mx.array, starts: Sequence[int], ends: Sequence[int]) -> mx.array:
        """Returns DDIM's step (Song et al. 2021, eq. 12) from x (B, h, w, C) at `starts` to `ends`, in float32.

        output: the network's at `starts`, of the checkpoint's prediction type. starts, ends: a timestep of training for
        each example.
        """
        return self._combine(self._solver_weights, x, output, starts, ends)

    def function(self, x: mx.array, output: mx.array, starts: Sequence[int], ends: Sequence[int]) -> mx.array:
        """Returns the consistency function of x (B, h, w, C); arguments as of `solve`, LCM's `ends` are not read."""
        weights = self._boundary_weights if self.method == "lcm" else self._solver_weights
        return self._combine(weights, x, output, starts, ends)

    def loss(
        self,
        student: Predict,
        target: Predict,
        teacher: Predict,
        noisy: mx.array,
        jumps: Sequence[Jump],
        weights: mx.array | None = None,
    ) -> mx.array:
        """Returns the mean over examples of the distances between both ends; gradients reach the student alone.

        target: the network of f', the student or an average of it. teacher: with its guidance. noisy: latents
        (B, h, w, C) at the jumps' starts. weights: (B,), of each example.
        """
        starts, solved_at, ends = zip(*jumps, strict=True)
        t, u = mx.array(starts), mx.array(solved_at)
        with gradients.stopped():
            solved = self.solve(noisy, teacher(noisy, t), starts, solved_at)
            goal = mx.stop_gradient(self.function(solved, target(solved, u), solved_at, ends))
        estimate = self.function(noisy, student(noisy, t), starts, ends)
        distances = self._distance(estimate - goal).mean(axis=(1, 2, 3))
        return (distances if weights is None else distances * weights).mean()

    def _distance(self, difference: mx.array) -> mx.array:
        squares = mx.square(difference)
        if self.huber is None:
            return squares
        return squares / (mx.sqrt(squares + self.huber**2) + self.huber)  # without cancellation near 0

    def _solver_weights(self, start: int, end: int) -> tuple[float, float]:
        base, image = drift(self.levels[start], self.levels[end])
        return self._of_output(start, base, image)

    def _boundary_weights(self, start: int, end: int) -> tuple[float, float]:
        skip, out = boundary(start, self.scheduler.timestep_scaling)
        return self._of_output(start, skip, out)

    def _of_output(self, start: int, base: float, image: float) -> tuple[float, float]:
        """Returns the weights of latents and network's output in base * latents + image * denoised image."""
        signal, noise = self.levels[start]
        if self.scheduler.prediction_type == "epsilon":
            return base + image / signal, -image * noise / signal
        if self.scheduler.prediction_type == "v_prediction":
            return base + image * signal, -image * noise
        return base, image

    def _combine(
        self,
        weights_of: Callable[[int, int], tuple[float, float]],
        x: mx.array,
        output: mx.array,
        starts: Sequence[int],
        ends: Sequence[int],
    ) -> mx.array:
        """Returns the combination of latents and output by weights that are computed in float64."""
        weights = [weights_of(start, end) for start, end in zip(starts, ends, strict=True)]
        of_latents, of_output = (mx.array(column)[:, None, None, None] for column in zip(*weights, strict=True))
        return of_latents * x.astype(mx.float32) + of_output * output.astype(mx.float32)
