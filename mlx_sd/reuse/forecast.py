"""How deep features are carried from full evaluations to the cached ones: as weights of those that are kept.

Every forecast here is linear in the features, so that it is a list of numbers: one weight for each kept full
evaluation, from log-SNRs alone. `feature_cache` sums the features. A policy chooses its forecast
(`Policy.extrapolation`).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_REACH = 0.5  # of the distance between the last two full evaluations


class Forecast(ABC):
    """Weighs the deep features of the latest full evaluations for an evaluation that comes after them."""

    @property
    @abstractmethod
    def reach(self) -> int:
        """Returns how many full evaluations are looked back on at most."""

    @abstractmethod
    def weights(self, levels: Sequence[float], level: float) -> list[float]:
        """Returns one weight for each of `levels`, log-SNRs of full evaluations, the latest last, at `level`."""


@dataclass(frozen=True)
class Polynomial(Forecast):
    """Runs the polynomial of a degree through the last `degree` + 1 full evaluations, as TaylorSeer does along time.

    Lagrange's form, w_i = prod_{j != i} (x - x_j) / (x_i - x_j). x reaches no further than half of the distance between
    the last two and stays there: beyond, it was seen to overshoot. Degree 0 holds the last features.
    """

    degree: int = 0

    @property
    def reach(self) -> int:
        """Returns the number of points that a polynomial of this degree goes through."""
        return 1 + self.degree

    def weights(self, levels: Sequence[float], level: float) -> list[float]:
        """Returns Lagrange's weights of the last levels, and 0 for those before them."""
        points = levels[-self.reach :]
        if len(points) == 1:
            return [0.0] * (len(levels) - 1) + [1.0]
        before, last = points[-2:]
        farthest = _REACH * abs(last - before)
        x = min(max(level, last - farthest), last + farthest)
        weights = []
        for x_i in points:
            weight = 1.0
            for x_j in points:
                if x_j != x_i:
                    weight *= (x - x_j) / (x_i - x_j)
            weights.append(weight)
        return [0.0] * (len(levels) - len(points)) + weights


@dataclass(frozen=True)
class ChebyshevRidge(Forecast):
    """Fits Chebyshev polynomials to the kept features by ridge regression (Spectrum, arXiv 2603.01623).

    X_kj = T_j(tau_k), T_j = 2 tau T_{j-1} - T_{j-2}, j = 0..degree; w = X (X^T X + ridge I)^-1 x, x_j = T_j(tau); the
    weights are blend * w + (1 - blend) * those of `polynomial`. tau maps the log-SNRs of the generation, from `lowest`
    to `highest`, to [-1, 1]. The ridge draws constants a little to 0, too: the weights w sum to slightly less than 1.
    """

    lowest: float
    highest: float
    degree: int = 4
    ridge: float = 0.1
    blend: float = 0.5
    points: int = 10
    polynomial: Polynomial = Polynomial(2)

    @property
    def reach(self) -> int:
        """Returns the number of evaluations that are fitted, or that the polynomial goes through."""
        return max(self.points, self.polynomial.reach)

    def weights(self, levels: Sequence[float], level: float) -> list[float]:
        """Returns the blended weights, solved in float64; of a single level, 1."""
        direct = np.array(self.polynomial.weights(levels, level))
        if len(levels) == 1:
            return [float(weight) for weight in direct]
        design = self._rows(levels[-self.points :])
        gram = design.T @ design + self.ridge * np.eye(self.degree + 1)
        fitted = np.zeros(len(levels))
        fitted[-len(design) :] = design @ np.linalg.solve(gram, self._rows([level])[0])
        return [float(weight) for weight in self.blend * fitted + (1 - self.blend) * direct]

    def _rows(self, levels: Sequence[float]) -> np.ndarray:
        """Returns T_0 to T_degree at each level, float64 (levels, degree + 1)."""
        span = self.highest - self.lowest
        tau = 2 * (np.array(levels, np.float64) - self.lowest) / span - 1 if span else np.zeros(len(levels))
        return np.polynomial.chebyshev.chebvander(tau, self.degree)
