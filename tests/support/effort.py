"""Which of a test's cases `make test` runs; the others are marked slow, and run in `make test-all`."""

from collections.abc import Iterable
from typing import Any

import pytest

# Of each kind of table one: fresh noise, two evaluations a step, a warm-up, the default, a corrector. The loop knows
# the rows of tables alone, so what holds of it under these five holds under every sampler.
SAMPLERS = ("euler_ancestral", "heun", "plms", "dpmpp_2m", "unipc")


def slow_but(quick: Iterable[Any], values: Iterable[Any]) -> list[Any]:
    """Returns the parameters `values`, marked slow but for those in `quick`; an unknown one in `quick` is an error."""
    quick, values = list(quick), list(values)
    missing = [value for value in quick if value not in values]
    if missing:
        raise ValueError(f"{missing} are not among {values}")
    return [value if value in quick else pytest.param(value, marks=pytest.mark.slow) for value in values]
