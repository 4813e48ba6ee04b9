"""DeepCache (Ma et al. 2023): most evaluations reuse the UNet's deep features of earlier ones.

A policy says which evaluations of a generation are full, where the UNet is cut, and how the deep features are carried
to the evaluations between: held (forecast 0, which is DeepCache), or extrapolated along the log-SNR through the last
two or three full ones (1, 2), as TaylorSeer (Liu et al. 2025) does along time. Policies are values that print as what
`--deepcache` takes; `Reuse` is what one generation keeps.

On the embedded checkpoint (bench.policies) adaptive is best; degree 1 wins over 0 at 50 steps under every policy and in
two of six cases at 25; degree 2 never wins over 1.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, inf, isnan

import mlx.core as mx
import numpy as np

from ..core.errors import InputError
from ..networks.unet import Deep

_REACH = 0.5  # of the way between the last two full evaluations


class Policy:
    """What all policies share. Evaluations of the network are counted, from 0, not timesteps.

    `branch` counts the skip connections from conv_in as diffusers' DeepCacheSDHelper does (cache_branch_id): cached
    evaluations run the UNet's outer `branch` + 1 levels. `forecast` is the degree of the extrapolation.
    """

    branch: int
    forecast: int
    threshold: float = inf  # of how far the shallow features may move until an evaluation that is not due is full

    def due(self, evaluations: int) -> Sequence[int]:
        """Which of so many evaluations are full in any case; 0 is the first of them."""
        raise NotImplementedError

    def _written(self) -> str:
        raise NotImplementedError

    def __str__(self) -> str:
        return f"{self._written()}:{self.branch}" + (f"+forecast{self.forecast}" if self.forecast else "")

    def _check(self) -> None:
        if self.branch < 0:
            raise InputError(f"the DeepCache branch must be at least 0, not {self.branch}")
        if self.forecast not in (0, 1, 2):
            raise InputError(f"DeepCache forecasts of degree 0, 1 or 2, not {self.forecast}")


@dataclass(frozen=True)
class DeepCache(Policy):
    """Every `interval`-th evaluation is full: "N" on the command line."""

    interval: int = 3
    branch: int = 0
    forecast: int = 0

    def __post_init__(self) -> None:
        _check_interval(self.interval)
        self._check()

    def due(self, evaluations: int) -> Sequence[int]:
        return range(0, evaluations, self.interval)

    def _written(self) -> str:
        return str(self.interval)


@dataclass(frozen=True)
class NonUniform(Policy):
    """One evaluation in `interval` is full, denser around `centre`, as in the paper: "nonuniform:N[,CENTRE[,POWER]]".

    centre: an evaluation; None is at 3/10 of all, the authors' 15 of 50. power: above 1, to 10: how much denser.
    """

    interval: int = 5
    centre: int | None = None
    power: float = 1.4
    branch: int = 0
    forecast: int = 0

    def __post_init__(self) -> None:
        _check_interval(self.interval)
        if self.centre is not None and self.centre < 0:
            raise InputError(f"the centre of a nonuniform DeepCache must be at least 0, not {self.centre}")
        if not 1 < self.power <= 10:
            raise InputError(f"the power of a nonuniform DeepCache must be above 1, to 10, not {self.power}")
        self._check()

    def due(self, evaluations: int) -> Sequence[int]:
        centre = evaluations * 3 // 10 if self.centre is None else self.centre
        if centre >= evaluations:
            raise InputError(f"there is no evaluation {centre} of {evaluations} to be nonuniform DeepCache's centre")
        count, power = ceil(evaluations / self.interval), self.power
        while power > 1:
            # The authors' own numbers: below the centre the root is complex, and only the real part is used.
            ends = complex(-centre) ** (1 / power) if centre else 0.0, (evaluations - centre) ** (1 / power)
            places = np.unique(np.trunc((np.linspace(*ends, count + 1) ** power).real).astype(int))
            found = [0, *(int(place) + centre for place in places[1:-1])]
            if len(found) == count:
                return found
            power -= 0.02  # some coincide
        raise InputError(
            f"no {count} of {evaluations} evaluations are spread around {centre} by a power of at most {self.power}; "
            "choose another centre or a larger interval"
        )

    def _written(self) -> str:
        # A power that follows no centre has an empty place before it.
        centre = "" if self.centre is None else self.centre
        return f"nonuniform:{self.interval},{centre},{self.power!r}"


@dataclass(frozen=True)
class At(Policy):
    """The evaluations listed are full, as far as there are so many: "at=0,4,9"."""

    evaluations: tuple[int, ...]
    branch: int = 0
    forecast: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "evaluations", tuple(self.evaluations))
        listed = self.evaluations
        if not listed or listed[0] != 0 or any(b <= a for a, b in pairwise(listed)):
            raise InputError(
                f"DeepCache's full evaluations must begin with 0 and go up, not {','.join(map(str, listed)) or 'none'}"
            )
        self._check()

    def due(self, evaluations: int) -> Sequence[int]:
        return [place for place in self.evaluations if place < evaluations]

    def _written(self) -> str:
        return f"at={','.join(map(str, self.evaluations))}"


@dataclass(frozen=True)
class Adaptive(Policy):
    """Full when the shallow features have moved by `threshold` (relative L2) since the last full one: "adaptive:X".

    They are the last output above the cut, which is computed in any case. Pictures then go through the UNet one at a
    time, for each decides for itself.
    """

    threshold: float = 0.1
    branch: int = 0
    forecast: int = 0

    def __post_init__(self) -> None:
        if isnan(self.threshold) or self.threshold < 0:
            raise InputError(f"the threshold of an adaptive DeepCache must be at least 0, not {self.threshold}")
        self._check()

    def due(self, evaluations: int) -> Sequence[int]:
        return range(min(evaluations, 1))

    def _written(self) -> str:
        return f"adaptive:{self.threshold!r}"


def parse(text: str) -> Policy:
    """Reads what `--deepcache` takes: a policy as its class says, then ":BRANCH", then "+forecast1" or "+forecast2"."""
    whole = re.fullmatch(r"(?P<kind>nonuniform:|adaptive:|at=|)(?P<values>[^:]+?)(?::(\d+))?(?:\+forecast(\d+))?", text)
    try:
        if whole is None:
            raise ValueError
        values, how = whole["values"].split(","), (int(whole[3] or 0), int(whole[4] or 0))
        return _read(whole["kind"], values, *how)
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            "--deepcache takes N or N:BRANCH, for example 3 or 3:1, nonuniform:5, at=0,4,9 or adaptive:0.1, and after "
            f"any of them +forecast1, not {text!r}"
        ) from None


def _read(kind: str, values: list[str], branch: int, forecast: int) -> Policy:
    if kind == "at=":
        return At(tuple(map(int, values)), branch, forecast)
    if kind == "nonuniform:" and len(values) <= 3:
        interval, centre, power = values + ["", ""][len(values) - 1 :]
        return NonUniform(int(interval), int(centre) if centre else None, float(power or 1.4), branch, forecast)
    (value,) = values
    return Adaptive(float(value), branch, forecast) if kind else DeepCache(int(value), branch, forecast)


def _check_interval(interval: int) -> None:
    if interval < 1:
        raise InputError(f"the DeepCache interval must be at least 1, not {interval}")


class Reuse:
    """The deep features of one generation, and the count of its evaluations. Made fresh for each."""

    def __init__(self, policy: Policy | None, levels: Sequence[float], gate: int | None = None):
        """levels: the log-SNR of every evaluation to come (`Table.log_snr`); without a policy nobody asks for them.

        gate: T-GATE's. It wants every layer to run just before it; after it batches are smaller, and nothing kept fits.
        """
        self.policy, self._gate = policy, gate
        self.evaluations = self.full = 0
        self._levels, self._due = levels, {*(policy.due(len(levels)) if policy else ())}
        if gate is not None:
            self._due |= {gate - 1, gate}
        self._past: list[tuple[float, mx.array]] = []  # the latest full evaluations: level, deep features
        self._shallow: mx.array | None = None  # of the last of them

    def __call__(self, unet: Callable[[Deep, int], tuple[mx.array, mx.array]]) -> mx.array:
        """Runs `unet(deep, depth) -> (prediction, deep)` with what the policy keeps, and returns the prediction."""
        if (policy := self.policy) is None:
            self.evaluations, self.full = self.evaluations + 1, self.full + 1
            return unet(None, 1)[0]
        level, due = self._levels[self.evaluations], self.evaluations in self._due
        if self.evaluations == self._gate:
            self._past = []
        self.evaluations += 1
        given: mx.array | None = None

        def watch(shallow: mx.array) -> mx.array | None:
            nonlocal given
            if not due and self._shallow is not None and _moved(self._shallow, shallow) < policy.threshold:
                given = forecast(self._past, level)
            else:
                self._shallow = shallow
            return given

        if policy.threshold < inf:
            prediction, deep = unet(watch, policy.branch + 1)
        else:
            given = None if due else forecast(self._past, level)
            prediction, deep = unet(given, policy.branch + 1)
        if given is None:
            self.full += 1
            # Two evaluations at one level (Heun's) say the same: the later counts.
            past = [(was, kept) for was, kept in self._past if abs(was - level) > 5e-7]
            self._past = [*past, (level, deep)][-1 - policy.forecast :]
        return prediction


def forecast(past: Sequence[tuple[float, mx.array]], level: float) -> mx.array:
    """The polynomial through all of `past` (level, features) at `level`, in the features' dtype (Lagrange's form).

    It reaches no further than half the way between the last two, and stays there: beyond, it was seen to overshoot.
    """
    if len(past) == 1:
        return past[0][1]
    (before, _), (last, _) = past[-2:]
    reach = _REACH * abs(last - before)
    level = min(max(level, last - reach), last + reach)
    total = mx.zeros(past[0][1].shape)
    for here, features in past:
        weight = 1.0
        for other, _ in past:
            if other != here:
                weight *= (level - other) / (here - other)
        total = total + weight * features.astype(mx.float32)
    return total.astype(past[0][1].dtype)


def _moved(before: mx.array, now: mx.array) -> float:
    before = before.astype(mx.float32)
    relative = mx.linalg.norm(now.astype(mx.float32) - before) / mx.linalg.norm(before)
    return float(np.array(relative))
