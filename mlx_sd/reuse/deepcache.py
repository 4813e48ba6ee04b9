"""DeepCache (Ma, Fang and Wang 2023, arXiv 2312.00858): most evaluations reuse the deep features of an earlier one.

From one sampling step to the next the features in the depth of the UNet hardly change (sec. 3.2). So only some
evaluations run the whole network; each keeps F = U_{m+1}, the features that rise from below the cut. The evaluations
between run the outer levels alone and join them with F, Concat(D_m, F), instead of computing what lies below
(sec. 3.3). An evaluation of SD 1.5 then costs 31.6 GMAC in place of 401.6 at branch 0.

This module holds the policies: which evaluations are full, where the UNet is cut, and how F is carried to the
evaluations between. F is reused as it is (forecast 0, which is DeepCache), or extrapolated along the log-SNR through
the last two or three full evaluations (forecast 1 or 2), as TaylorSeer (Liu et al. 2025) does along time.
`feature_cache` applies a policy to a generation. `spectrum` has a policy with a forecast of its own, `sada`
one that looks at the path of the latents.

To add a policy: write a frozen dataclass derived from `Policy`, here or in a file beside, and list it in `POLICIES`.
From then on `--deepcache` and its help, `generate(deepcache=...)`, the metadata of images and the benchmarks take it.

On the embedded checkpoint (python -m bench policies) adaptive is best; degree 1 wins over 0 at 50 steps under every
policy and in two of six cases at 25; degree 2 never wins over 1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil, isfinite
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from ..core.errors import InputError
from ..core.suggestions import closest
from .policy import CollectRows, Policy, all_rows
from .sada import SADA
from .spectrum import Spectrum

if TYPE_CHECKING:
    import mlx.core as mx


@dataclass(frozen=True)
class DeepCache(Policy):
    """Makes every `interval`-th evaluation full: "uniform 1:N inference" of the paper, N on the command line."""

    prefix = ""
    example = "3"

    interval: int = 3
    branch: int = 0
    forecast: int = 0

    def error(self) -> str | None:
        """Returns an error for an interval below 1."""
        return _interval_error(self.interval)

    def full_evaluations(self, evaluations: int) -> Sequence[int]:
        """Returns 0, N, 2N, ... (sec. 3.3: I = {x | x = iN, 0 <= i < k})."""
        return range(0, evaluations, self.interval)

    def arguments(self) -> str:
        """Returns the interval as text."""
        return str(self.interval)

    @classmethod
    def from_arguments(cls, values: Sequence[str]) -> DeepCache:
        """Reads the interval, one number."""
        (interval,) = values
        return cls(int(interval))


@dataclass(frozen=True)
class NonUniform(Policy):
    """Makes one evaluation in `interval` full, denser around `centre`: "non-uniform 1:N inference" of the paper.

    On the command line: nonuniform:N[,CENTRE[,POWER]].

    centre: an evaluation; None stands for 3/10 of all, the authors' 15 of 50.
    power: above 1, at most 10; the larger, the denser around the centre.
    """

    prefix = "nonuniform:"
    example = "5"

    interval: int = 5
    centre: int | None = None
    power: float = 1.4
    branch: int = 0
    forecast: int = 0

    def error(self) -> str | None:
        """Returns an error for an interval below 1, a negative centre or a power out of range."""
        if self.centre is not None and self.centre < 0:
            return f"the centre of a nonuniform DeepCache must be at least 0, not {self.centre}"
        if not 1 < self.power <= 10:
            return f"the power of a nonuniform DeepCache must be above 1, to 10, not {self.power}"
        return _interval_error(self.interval)

    def full_evaluations(self, evaluations: int) -> Sequence[int]:
        """Returns ceil(T/N) evaluations of T: c + int(l**p), l evenly spaced from (-c)**(1/p) to (T - c)**(1/p).

        Where rounding makes some of them equal, the power is lowered by 0.02 until none are, as in the authors' code.
        Raises InputError for a centre beyond the end, and where no power above 1 gives that many.
        """
        centre = evaluations * 3 // 10 if self.centre is None else self.centre
        if centre >= evaluations:
            raise InputError(f"there is no evaluation {centre} of {evaluations} to be nonuniform DeepCache's centre")
        count, power = ceil(evaluations / self.interval), self.power
        while power > 1:
            # Below the centre the root is complex; the authors' code drops the imaginary part.
            ends = complex(-centre) ** (1 / power) if centre else 0.0, (evaluations - centre) ** (1 / power)
            offsets = np.unique(np.trunc((np.linspace(*ends, count + 1) ** power).real).astype(int))
            full = [0, *(int(offset) + centre for offset in offsets[1:-1])]
            if len(full) == count:
                return full
            power -= 0.02
        raise InputError(
            f"no {count} of {evaluations} evaluations are spread around {centre} by a power of at most {self.power}; "
            "choose another centre or a larger interval"
        )

    def arguments(self) -> str:
        """Returns "N,CENTRE,POWER"; the place of a centre of None is empty."""
        centre = "" if self.centre is None else self.centre
        return f"{self.interval},{centre},{self.power!r}"

    @classmethod
    def from_arguments(cls, values: Sequence[str]) -> NonUniform:
        """Reads N, N,CENTRE or N,CENTRE,POWER; an empty centre or power stands for the default."""
        interval, centre, power = [*values, *[""] * (3 - len(values))]
        return cls(int(interval), int(centre) if centre else None, float(power or cls.power))


@dataclass(frozen=True)
class At(Policy):
    """Makes the listed evaluations full, as far as a generation has them: at=0,4,9 on the command line."""

    prefix = "at="
    example = "0,4,9"

    evaluations: tuple[int, ...]
    branch: int = 0
    forecast: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "evaluations", tuple(self.evaluations))  # a list is welcome, too
        super().__post_init__()

    def error(self) -> str | None:
        """Returns an error for a list that does not begin with 0 or does not increase."""
        listed = self.evaluations
        if listed and listed[0] == 0 and all(a < b for a, b in pairwise(listed)):
            return None
        return f"DeepCache's full evaluations must begin with 0 and go up, not {self.arguments() or 'none'}"

    def full_evaluations(self, evaluations: int) -> Sequence[int]:
        """Returns the listed evaluations below `evaluations`."""
        return [evaluation for evaluation in self.evaluations if evaluation < evaluations]

    def arguments(self) -> str:
        """Returns the list as text, "0,4,9"."""
        return ",".join(map(str, self.evaluations))

    @classmethod
    def from_arguments(cls, values: Sequence[str]) -> At:
        """Reads the list of evaluations."""
        return cls(tuple(map(int, values)))


@dataclass(frozen=True)
class Adaptive(Policy):
    """Makes an evaluation full when the shallow features have changed by `threshold`: adaptive:X on the command line.

    threshold: relative L2 change |now - then| / |then| since the last full evaluation, at least 0; 0 is always full.
    """

    prefix = "adaptive:"
    example = "0.1"

    threshold: float = 0.1
    branch: int = 0
    forecast: int = 0

    def error(self) -> str | None:
        """Returns an error for a negative threshold and for NaN."""
        if self.threshold >= 0:
            return None
        return f"the threshold of an adaptive DeepCache must be at least 0, not {self.threshold}"

    def full_evaluations(self, evaluations: int) -> Sequence[int]:
        """Returns the first evaluation alone; the images decide about the others."""
        return range(min(evaluations, 1))

    @property
    def decides_per_image(self) -> bool:
        """Tells that the images decide, unless the threshold is infinite, which no change reaches."""
        return isfinite(self.threshold)

    def refreshes(self, reference: mx.array, shallow: mx.array, collect: CollectRows = all_rows) -> bool:
        """Tells whether the relative change reaches the threshold; a change that is not a number does."""
        return not relative_change(reference, shallow, collect) < self.threshold

    def arguments(self) -> str:
        """Returns the threshold as text."""
        return repr(self.threshold)

    @classmethod
    def from_arguments(cls, values: Sequence[str]) -> Adaptive:
        """Reads the threshold, one number."""
        (threshold,) = values
        return cls(float(threshold))


POLICIES: tuple[type[Policy], ...] = (DeepCache, NonUniform, At, Adaptive, Spectrum, SADA)

_TEXT = re.compile(r"(?P<prefix>[A-Za-z_-]+[:=])?(?P<values>[^:]+?)(?::(?P<branch>\d+))?(?:\+forecast(?P<degree>\d+))?")


def relative_change(reference: mx.array, features: mx.array, collect: CollectRows = all_rows) -> float:
    """Returns |features - reference| / |reference|, the relative L2 change, from the norms of rows in float32.

    collect: as `Policy.refreshes` takes it. Each row's norms are computed by themselves, so that they are the same
    wherever the other rows are.
    """
    import mlx.core as mx  # not above: --help reads `examples` and needs no MLX

    norms = [mx.zeros((0, 2))]
    for then, now in zip(reference.astype(mx.float32), features.astype(mx.float32), strict=True):
        norms.append(mx.stack([mx.linalg.norm((now - then).reshape(-1)), mx.linalg.norm(then.reshape(-1))])[None])
    squares = np.square(np.array(collect(mx.concatenate(norms)), np.float64)).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.sqrt(squares[0]) / np.sqrt(squares[1]))


def examples() -> str:
    """Returns an example of each policy as text, for messages and help: "3 or 3:1, nonuniform:5, ..."."""
    texts = [policy.prefix + policy.example for policy in POLICIES]
    texts[0] += f" or {texts[0]}:1"
    return f"{', '.join(texts[:-1])} or {texts[-1]}"


@overload
def parse(value: None) -> None:
    """Returns None, which is no DeepCache."""


@overload
def parse(value: int | str | Policy) -> Policy:
    """Returns the policy that a number or a text stands for, or the policy itself."""


def parse(value: int | str | Policy | None) -> Policy | None:
    """Reads a policy from what `deepcache=` and `--deepcache` take; raises InputError for anything else.

    value: 3 is DeepCache(3); "3:1", "nonuniform:5", "at=0,4,9" or "adaptive:0.1:2+forecast1" are a policy's prefix and
    arguments, then ":BRANCH", then "+forecast1" or "+forecast2"; a Policy and None are returned as they are.
    """
    if value is None or isinstance(value, Policy):
        return value
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise _unreadable(value)
    match = _TEXT.fullmatch(str(value))
    policies = {policy.prefix: policy for policy in POLICIES}
    if match is None or (prefix := match["prefix"] or "") not in policies:
        raise _unreadable(value)
    try:
        base: Any = policies[prefix].from_arguments(match["values"].split(","))
        degree = int(match["degree"]) if match["degree"] else base.usual_forecast
        policy: Policy = replace(base, branch=int(match["branch"] or 0), forecast=degree)
    except InputError:
        raise
    except ValueError:
        raise _unreadable(value) from None
    return policy


def _unreadable(value: Any) -> InputError:
    """The error for a value that is no policy; it names the nearest right spelling."""
    message = f"--deepcache takes N or N:BRANCH, for example {examples()}, and after any of them +forecast1, not"
    name = re.match(r"[A-Za-z_-]*", str(value))
    spellings = {policy.prefix.rstrip(":="): policy.prefix + policy.example for policy in POLICIES if policy.prefix}
    nearest = closest(name[0].lower(), spellings) if name else None
    return InputError(f"{message} {value!r}" + (f"; did you mean {spellings[nearest]}?" if nearest else ""))


def _interval_error(interval: int) -> str | None:
    return f"the DeepCache interval must be at least 1, not {interval}" if interval < 1 else None
