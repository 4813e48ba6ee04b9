"""SADA (arXiv 2507.17135) as a policy of DeepCache: where the path of the latents is steady, deep features are reused.

The latents follow dx/dt = f = -beta/2 x + beta/2 e/s, e being the guided noise and s its level. A step of D from the
last three f, f0 the latest, foresees the next latents x'. Where its error does not point along the second difference of
f, the path is steady, and the next evaluation is cached:

    x^ = x - D (5/8 f0 + 3/4 f1 - 3/8 f2),  cached if mean((x' - x^) (f0 - 2 f1 + f2)) <= 0.

Its authors then skip the whole network; here the levels above the cut still run. Fresh noise, of samplers that add
some, counts as error, and the sign is then that of chance.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .policy import PathDecision, Policy, share_of

if TYPE_CHECKING:
    import mlx.core as mx

    from ..sampling.table import Table

_LEAST = 1e-4  # of the signal, so that its logarithm is finite
_ORDER = 3  # drifts that a step is foreseen from

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SADA(Policy):
    """Makes an evaluation full where the path bends, and at least one in `most` + 1: sada:MOST on the command line.

    With more numbers, sada:MOST[,START[,END[,SETTLED]]]. most: evaluations of steps in a row that are cached. start,
    end: shares of the evaluations before and after which all are full. settled: share after which every `most`-th is
    full, whatever the path. The defaults are the authors' for 50 steps: 4, steps 10 to 47, 24.
    """

    prefix = "sada:"
    example = "4"

    most: int = 4
    start: float = 0.2
    end: float = 0.94
    settled: float = 0.48
    branch: int = 0
    forecast: int = 0

    def error(self) -> str | None:
        """Returns an error for fewer than one cached evaluation and for shares that are out of order."""
        if self.most < 1:
            return f"SADA caches at least 1 evaluation in a row, not {self.most}"
        if not 0 <= self.start <= self.end <= 1 or not 0 <= self.settled <= 1:
            return f"SADA's shares must be from 0 to 1, START before END, not {self.arguments()}"
        return None

    def full_evaluations(self, evaluations: int) -> Sequence[int]:
        """Returns those before the start and after the end, at least the first three; the path decides the others."""
        start, end = max(_ORDER, share_of(self.start, evaluations)), share_of(self.end, evaluations)
        return [i for i in range(evaluations) if i < start or i >= end]

    @property
    def follows_path(self) -> bool:
        """Tells that the path of the latents decides."""
        return True

    def along(self, table: Table) -> PathDecision:
        """Returns what decides about the evaluations of a table."""
        return Steadiness(table, self.most, share_of(self.settled, len(table.rows)))

    def arguments(self) -> str:
        """Returns all four numbers as text."""
        return f"{self.most},{self.start!r},{self.end!r},{self.settled!r}"

    @classmethod
    def from_arguments(cls, values: Sequence[str]) -> SADA:
        """Reads up to four numbers; an empty place stands for the default."""
        most, start, end, settled = [*values, *[""] * (4 - len(values))]
        shares = (float(start or cls.start), float(end or cls.end), float(settled or cls.settled))
        return cls(int(most or cls.most), *shares)


class Steadiness(PathDecision):
    """Decides by the error of a step from three drifts, once a step: at the first of its evaluations.

    Further evaluations of a step, as Heun's, are as the first. Latents of any scale count at unit variance, and time is
    that of the table's timesteps. Everything is computed by NumPy in float64, so that ranks that share a picture, whose
    latents are the same, decide alike.
    """

    def __init__(self, table: Table, most: int, settled: int):
        """most: steps in a row that are cached at most. settled: the evaluation from which every `most`-th is full."""
        self._table, self._most, self._settled = table, most, settled
        self._times = np.array([row.timestep for row in table.rows], np.float64)
        self._rates = _rates(self._times, np.array([_signal(row.level) for row in table.rows]))
        steps = table.steps
        self._begins = [i == 0 or steps[i] != steps[i - 1] for i in range(len(steps))]
        self._drifts: deque[Array] = deque(maxlen=_ORDER)  # the latest first
        self._place: Array | None = None  # latents of the latest step
        self._evaluation = 0  # at which they were
        self._cached = 0  # steps in a row
        self._full = True  # whether the latest step was

    def refreshes(self, evaluation: int, latents: mx.array) -> bool:
        """Tells whether the path bends too much, or too many steps in a row were cached; see `PathDecision`."""
        if not self._begins[evaluation]:
            return self._full
        if evaluation >= self._settled:
            return self._cached >= self._most - 1
        return self._cached >= self._most or not self.is_steady(evaluation, self._scaled(evaluation, latents))

    def end(self, evaluation: int, latents: mx.array, prediction: mx.array, full: bool) -> None:
        """Notes the drift at the first evaluation of a step; see `PathDecision.end`."""
        if not self._begins[evaluation]:
            return
        from ..sampling.denoise import estimate_noise  # here because `--help` reads this file, and needs no MLX

        level = self._table.rows[evaluation].level
        noise = np.array(estimate_noise(self._table.prediction_type, latents, prediction, level), np.float64)
        place = self._scaled(evaluation, latents)
        deviation = math.hypot(level.signal, level.noise)
        drift = self._rates[evaluation] / 2 * (noise * deviation / level.noise - place) if level.noise else 0 * place
        self._drifts.appendleft(drift)
        self._place, self._evaluation = place, evaluation
        self._cached, self._full = 0 if full else self._cached + 1, full

    def is_steady(self, evaluation: int, place: Array) -> bool:
        """Tells whether latents at unit variance are where three drifts foresaw them, by the sign of the product."""
        if len(self._drifts) < _ORDER or self._place is None:
            return False
        first, second, third = self._drifts
        duration = self._times[self._evaluation] - self._times[evaluation]
        foreseen = self._place - duration * (5 / 8 * first + 3 / 4 * second - 3 / 8 * third)
        return bool(((place - foreseen) * (first - 2 * second + third)).mean() <= 0)

    def _scaled(self, evaluation: int, latents: mx.array) -> Array:
        level = self._table.rows[evaluation].level
        return np.array(latents, np.float64) / math.hypot(level.signal, level.noise)


def _signal(level: tuple[float, float]) -> float:
    """Returns the signal at unit variance."""
    signal, noise = level
    return max(signal / math.hypot(signal, noise), _LEAST)


def _rates(times: Array, signals: Array) -> Array:
    """Returns beta = -2 d log(signal) / dt at each of some times, by differences of the distinct ones."""
    distinct, places = np.unique(times, return_inverse=True)
    if len(distinct) < 2:
        return np.zeros(len(times))
    logarithms = np.zeros(len(distinct))
    logarithms[places] = np.log(signals)
    slopes: Array = np.gradient(-2 * logarithms, distinct)
    return slopes[places]
