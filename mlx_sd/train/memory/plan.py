"""What memory a step needs, and what for: the numbers of a plan, and its words."""

from dataclasses import asdict, dataclass

from ... import memory
from ...core import terminal
from ..learning.settings import TrainSettings
from .buffers import Peak

_SMALL_RANK = 8  # of adapters whose memory does not matter


@dataclass(frozen=True)
class MemoryPlan:
    """The bytes in memory at the peak of a step; all parts but `largest` add up to `peak`."""

    peak: int
    frozen: int  # weights that do not learn, of all networks that stay in memory
    learned: int  # weights that learn
    moments: int  # the optimizer's state, and averages
    gradients: int  # those that are there at the peak
    activations: int  # arrays of the forward that gradients will read
    working: int  # everything else: arrays that are computed with
    largest: int  # the largest array that is made
    available: int  # what this machine has

    @property
    def fits(self) -> bool:
        """Returns whether the machine has this much."""
        return self.peak <= self.available

    def numbers(self) -> dict[str, int]:
        """Returns what was counted, in bytes, by the names that the log has for it."""
        return {f"memory_{name}": value for name, value in asdict(self).items() if name != "available"}

    def lines(self) -> list[str]:
        """Returns the plan in words, two lines."""
        size = terminal.size
        return [
            f"a step needs about {size(self.peak)} of memory, of the {size(self.available)} of this machine: "
            f"weights {size(self.frozen)}, learned {size(self.learned)}, optimizer {size(self.moments)},",
            f"gradients {size(self.gradients)}, kept for them {size(self.activations)}, in work {size(self.working)} "
            f"(the largest array {size(self.largest)})",
        ]

    def advice(self, settings: TrainSettings) -> str:
        """Returns one line about what needs less memory, for a step that does not fit."""
        rank = getattr(settings, "rank", None)
        remedies = [
            f"--batch 1 --accumulate {settings.batch * settings.accumulate}" if settings.batch > 1 else "",
            "" if settings.recompute else "--recompute",
            "a smaller --resolution",
            "a smaller --rank" if rank is not None and rank > _SMALL_RANK else "",
            "--optimizer adafactor" if self.moments > self.frozen + self.activations else "",
        ]
        return (
            f"a step needs about {terminal.size(self.peak)} of memory, and this machine has "
            f"{terminal.size(self.available)}; less is needed with {', '.join(filter(None, remedies))}"
        )


@dataclass(frozen=True)
class Residents:
    """The bytes that are there all the time: weights that do not learn, those that do, the optimizer's state."""

    frozen: int
    learned: int
    moments: int

    def with_gradients(self, at: Peak) -> MemoryPlan:
        """Returns the plan where the gradients' computation has the peak."""
        always = self.frozen + self.learned + self.moments
        gradients = at.results + at.consumed
        total = always + gradients + at.activations + at.working
        return self._plan(total, gradients, at.activations, at.working, at.largest)

    def with_update(self, at: Peak) -> MemoryPlan:
        """Returns the plan where the optimizer's step has the peak: of what is not held, gradients come first."""
        beside = max(at.total - self.learned - self.moments, 0)
        gradients = min(self.learned, beside)
        total = self.frozen + self.learned + self.moments + beside
        return self._plan(total, gradients, 0, beside - gradients, at.largest)

    def _plan(self, peak: int, gradients: int, activations: int, working: int, largest: int) -> MemoryPlan:
        return MemoryPlan(
            peak, self.frozen, self.learned, self.moments, gradients, activations, working, largest, memory.available()
        )
