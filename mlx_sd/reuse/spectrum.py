"""Spectrum (arXiv 2603.01623) as a policy of DeepCache: full evaluations become rarer, and a fit carries features on.

Its authors forecast what enters the UNet's last convolution; here the deep features are forecast, and the levels above
the cut are computed at every evaluation. `forecast.ChebyshevRidge` has the fit. The more of the way is behind, the
better it is known, so that the window between full evaluations grows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .forecast import ChebyshevRidge, Forecast, Polynomial
from .policy import Policy, share_of


@dataclass(frozen=True)
class Spectrum(Policy):
    """Makes every W-th evaluation full, W growing from `window` by `growth` each time, after the `first` ones.

    On the command line: spectrum:WINDOW[,GROWTH[,FIRST[,LAST[,DEGREE[,RIDGE[,BLEND[,POINTS]]]]]]].

    last: share of the evaluations at the end that are all full. degree, ridge, points: of the fit (`ChebyshevRidge`).
    blend: share of the fit in the forecast; the rest is the polynomial of degree `forecast`. The defaults are the
    authors' numbers for SDXL, but for `forecast`: they go up to 2, which never won here.
    """

    prefix = "spectrum:"
    example = "2"
    usual_forecast = 1

    window: float = 2.0
    growth: float = 0.75
    first: int = 4
    last: float = 0.0
    degree: int = 4
    ridge: float = 0.1
    blend: float = 0.5
    points: int = 10
    branch: int = 0
    forecast: int = 1

    def error(self) -> str | None:
        """Returns an error for a number that is out of its range."""
        fits = {
            "window must be from 1": 1 <= self.window < math.inf,
            "growth must be from 0": 0 <= self.growth < math.inf,
            "first evaluations must be at least 1": self.first >= 1,
            "last share must be from 0 to 1": 0 <= self.last <= 1,
            "degree must be from 0 to 20": 0 <= self.degree <= 20,
            "ridge must be above 0": 0 < self.ridge < math.inf,
            "blend must be from 0 to 1": 0 <= self.blend <= 1,
            "points must be at least 2": self.points >= 2,
        }
        return next((f"Spectrum's {rule}, not in {self.arguments()}" for rule, fit in fits.items() if not fit), None)

    def full_evaluations(self, evaluations: int) -> Sequence[int]:
        """Returns the `first` ones, then each with (cached in a row + 1) mod floor(W) = 0, and the `last` share."""
        full, window, cached = [], self.window, 0
        end = evaluations - share_of(self.last, evaluations)
        for evaluation in range(evaluations):
            if evaluation < self.first:
                full.append(evaluation)
            elif evaluation >= end or (cached + 1) % math.floor(window) == 0:
                full.append(evaluation)
                window, cached = window + self.growth, 0
            else:
                cached += 1
        return full

    def extrapolation(self, log_snr: Sequence[float]) -> Forecast:
        """Returns the fit over the log-SNRs of the generation, blended with the polynomial."""
        lowest, highest = min(log_snr, default=0.0), max(log_snr, default=0.0)
        polynomial = Polynomial(self.forecast)
        return ChebyshevRidge(lowest, highest, self.degree, self.ridge, self.blend, self.points, polynomial)

    def arguments(self) -> str:
        """Returns all eight numbers as text."""
        numbers = (self.window, self.growth, self.first, self.last, self.degree, self.ridge, self.blend, self.points)
        return ",".join(map(repr, numbers))

    @classmethod
    def from_arguments(cls, values: Sequence[str]) -> Spectrum:
        """Reads up to eight numbers; an empty place stands for the default."""
        kinds = {"window": float, "growth": float, "first": int, "last": float}
        kinds |= {"degree": int, "ridge": float, "blend": float, "points": int}
        if len(values) > len(kinds):
            raise ValueError(f"{len(values)} numbers, at most {len(kinds)}")
        places = zip(kinds.items(), values, strict=False)
        return cls(**{name: kind(value) for (name, kind), value in places if value.strip()})
