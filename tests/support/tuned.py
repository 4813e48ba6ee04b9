"""Machines whose clock is told how long everything takes, for tests of tuning; and entries of a record."""

import random
from collections.abc import Callable

from mlx_sd import StableDiffusion
from mlx_sd.networks.tuning import Coverage, Tuning
from mlx_sd.tuning import record
from mlx_sd.tuning.choices import Choice, text_of
from mlx_sd.tuning.measure import MOST, Check, Finding, Samples


class Machine:
    """A meter and its clock: `cost(tuning)` seconds for a full evaluation, a tenth for a cached one."""

    def __init__(
        self, cost: Callable[[Tuning], float], noise: float = 0.0, exact: Callable[[Tuning], bool] = bool, seed: int = 0
    ):
        self._cost, self._noise, self._exact = cost, noise, exact
        self._random, self.now = random.Random(seed), 0.0
        self.order: list[Tuning] = []
        self.compared: list[Tuning] = []
        self.first_cost: Callable[[Tuning], float] = lambda tuning: 0.0
        self.interrupt_after: int | None = None  # evaluations

    def clock(self) -> float:
        """Returns the seconds since the machine began."""
        return self.now

    def first(self, tuning: Tuning) -> float:
        """Spends the seconds of the first evaluations."""
        seconds = self.first_cost(tuning) + self._cost(tuning)
        self.now += seconds
        return seconds

    def step(self, tuning: Tuning) -> tuple[float, float]:
        """Spends the seconds of a full and a cached evaluation."""
        if self.interrupt_after is not None and len(self.order) >= self.interrupt_after:
            raise KeyboardInterrupt
        self.order.append(tuning)
        full = self._cost(tuning) * (1 + self._noise * (self._random.random() - 0.5))
        self.now += 1.1 * full
        return full, 0.1 * full

    def compare(self, tuning: Tuning) -> Check:
        """Tells whether a tuning changes a bit."""
        self.compared.append(tuning)
        exact = self._exact(tuning)
        return Check(exact, 0.0 if exact else 1e-6)


def finding(choice: Choice, ratios: dict[str, float], exact: dict[str, bool], rounds: int = MOST) -> Finding:
    """Returns a finding without spread: the ratio of each value to the default's second, and what was compared."""
    values = {
        text_of(value): Samples(
            full=[0.9 * ratios.get(text_of(value), 1.0)] * rounds,
            cached=[0.1 * ratios.get(text_of(value), 1.0)] * rounds,
            exact=exact.get(text_of(value)),
            difference=None if text_of(value) not in exact else 0.0 if exact[text_of(value)] else 1e-6,
        )
        for value in choice.values
    }
    return Finding(choice.name, "", values)


def write_entry(sd: StableDiffusion, size: tuple[int, int], *findings: Finding, rows: tuple[int, ...] = (1, 2)) -> None:
    """Writes an entry of a loaded model into the record, as if it had been measured on this machine."""
    factor = sd.vae.config.downsampling
    coverage = Coverage(rows, size[1] // factor, size[0] // factor, 77)
    entry = record.Entry(record.key_of(sd.model, *size), coverage, list(findings))
    record.path().parent.mkdir(parents=True, exist_ok=True)
    record.write(record.path(), entry)
