"""Figures of a measure with their 95% intervals: shares of pictures, and medians of numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..quality.truth_judge import Share

Figure = dict[str, Any]  # "low" and "high" bound its interval; "percent" or "median" is the figure itself


def share(judgements: Iterable[bool]) -> Figure:
    """Returns how many of some judgements are true, with Wilson's interval in percent."""
    values = list(judgements)
    return Share(sum(values), len(values)).to_json()


def median(numbers: Sequence[float]) -> Figure:
    """Returns the median of numbers, its interval by order statistics, and the smallest and the largest number.

    Of fewer than six numbers no interval has 95%: theirs reaches from the smallest to the largest.
    """
    ordered = np.sort(np.asarray(numbers, np.float64))
    count = len(ordered)
    reach = 1.959964 * math.sqrt(count) / 2
    last = min(math.ceil(count / 2 + reach), count - 1)
    first = count - 1 - last
    values = {"median": np.median(ordered), "low": ordered[first], "high": ordered[last]}
    values |= {"smallest": ordered[0], "largest": ordered[-1]}
    return {"count": count} | {name: round(float(value), 4) for name, value in values.items()}


def above(figure: Figure, other: Figure) -> bool:
    """Returns whether the interval of a figure lies above another's."""
    return bool(figure["low"] > other["high"])


def overlap(figure: Figure, other: Figure) -> bool:
    """Returns whether the intervals of two figures have a number in common."""
    return bool(figure["low"] <= other["high"] and other["low"] <= figure["high"])
