"""Which of a test's cases `make test` runs; the others are marked slow, and run in `make test-all`."""

from collections.abc import Iterable, Sequence
from typing import Any

import pytest

# Of each kind of table one: fresh noise, two evaluations a step, a warm-up, the default, a corrector. The loop knows
# the rows of tables alone, so what holds of it under these five holds under every sampler.
SAMPLERS = ("euler_ancestral", "heun", "plms", "dpmpp_2m", "unipc")


def slow_but(quick: Iterable[Any], values: Iterable[Any]) -> list[Any]:
    """Returns values of one parameter, marked slow but for those in `quick`; an unknown one in `quick` is an error."""
    return slow_rows_but([(value,) for value in quick], [(value,) for value in values])


def slow_rows_but(quick: Iterable[Sequence[Any]], rows: Iterable[Sequence[Any]]) -> list[Any]:
    """Returns rows of several parameters, marked slow but for those in `quick`; an unknown one there is an error."""
    quick, rows = list(quick), list(rows)
    missing = [row for row in quick if row not in rows]
    if missing:
        raise ValueError(f"{missing} are not among {rows}")
    return [pytest.param(*row, marks=() if row in quick else pytest.mark.slow) for row in rows]
