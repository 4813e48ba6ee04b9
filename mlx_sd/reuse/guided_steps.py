"""Which steps are guided: those of an interval, or all until the prompt makes no difference any more.

A step without classifier-free guidance sees the prompt alone, and costs half. Kynkäänniemi et al. 2024
(arXiv:2404.07724) guide within an interval of noise levels, which also makes better pictures; Castillo et al. 2023
(arXiv:2312.12487) guide until the two predictions point the same way.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from ..core.errors import InputError
from .policy import share_of

if TYPE_CHECKING:
    import mlx.core as mx

    from ..sampling.table import Table

FORM = "START-END"
_SPAN = re.compile(r"\s*(\d*\.?\d+)\s*-\s*(\d*\.?\d+)\s*")


@dataclass(frozen=True)
class Interval:
    """The share of the steps, from 0 to 1, that is guided: START-END on the command line."""

    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end <= 1:
            raise InputError(
                f"the guidance interval begins at {self.start:g} and ends at {self.end:g} of the steps; give {FORM} "
                "from 0 to 1, such as 0-0.6"
            )

    def __str__(self) -> str:
        return f"{digits(self.start)}-{digits(self.end)}"

    def acts(self, step: int, steps: int) -> bool:
        """Tells whether a step, counted from 1, lies within start and end, as diffusers' guiders decide it."""
        first, end = self._ends(steps)
        return first < step <= end

    def is_empty(self, steps: int) -> bool:
        """Tells whether none of so many steps lies within start and end."""
        first, end = self._ends(steps)
        return first == end

    def _ends(self, steps: int) -> tuple[int, int]:
        """Returns how many of so many steps lie before the start, and before the end."""
        return share_of(self.start, steps), share_of(self.end, steps)

    def check(self, steps: int) -> None:
        """Raises InputError where no step of so many is guided."""
        if self.is_empty(steps):
            raise InputError(
                f"none of {steps} steps lies from {self.start:g} to {self.end:g}; widen --guidance-interval"
            )


def digits(share: float) -> str:
    """Returns a number with all its digits and without an exponent, so that reading it gives the number again."""
    return f"{Decimal(repr(share)).normalize():f}"


def parse_interval(value: Any) -> Interval:
    """Reads "0-0.6" or a pair (0, 0.6); returns an Interval itself. InputError for anything else."""
    if isinstance(value, Interval):
        return value
    if isinstance(value, str) and (match := _SPAN.fullmatch(value)):
        return Interval(float(match[1]), float(match[2]))
    pair = value if isinstance(value, tuple | list) and len(value) == 2 else ()
    if pair and all(isinstance(number, int | float) and not isinstance(number, bool) for number in pair):
        return Interval(*map(float, pair))
    raise InputError(f"--guidance-interval takes {FORM}, for example 0-0.6, not {value!r}")


class GuidedSteps:
    """Tells which evaluations of one generation are guided; made fresh for each generation."""

    def __init__(
        self, table: Table, numbers: Sequence[int], steps: int, interval: Interval | None, limit: float | None
    ) -> None:
        """Prepares for the evaluations of a table.

        numbers: of the step of each evaluation, from 1, of so many steps in all. interval: None guides all steps.
        limit: the cosine of the two estimates of the noise above which guidance ends; the batch is then of one picture.
        """
        self._acts = [interval is None or interval.acts(number, steps) for number in numbers]
        self._table, self._limit, self._ended = table, limit, False

    def changes(self) -> list[int]:
        """Returns the evaluations, counted from 0, at which the interval begins or ends."""
        return [i for i in range(1, len(self._acts)) if self._acts[i] != self._acts[i - 1]]

    def guides(self, evaluation: int) -> bool:
        """Tells whether an evaluation is guided."""
        return self._acts[evaluation] and not self._ended

    def ends_with(self, evaluation: int, x: mx.array, output: mx.array) -> bool:
        """Tells whether guidance ends with an evaluation, and notes that it does.

        x: latents (1, h, w, C). output: of the unconditional and of the conditional row, (2, h, w, C), float32.
        """
        if self._limit is None:
            return False
        from ..sampling.denoise import estimate_noise  # here because `--help` reads this file, and needs no MLX

        unconditional, conditional = (
            estimate_noise(self._table.prediction_type, x, row, self._table.rows[evaluation].level)
            for row in (output[:1], output[1:])
        )
        product = (unconditional * conditional).sum()
        norms = (unconditional.square().sum() * conditional.square().sum()).sqrt()
        self._ended = bool((product / norms > self._limit).item())
        return self._ended


def guided_steps_of(request: Any, table: Table, numbers: Sequence[int], steps: int) -> GuidedSteps | None:
    """Returns which evaluations of a request are guided; None where all are. Arguments as of `GuidedSteps`."""
    interval, limit = request.guidance_interval, request.adaptive_guidance
    if interval is None and limit is None:
        return None
    return GuidedSteps(table, numbers, steps, interval, limit)
