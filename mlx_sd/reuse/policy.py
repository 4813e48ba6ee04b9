"""What a DeepCache policy is: the questions that it answers, and the checks that all policies share.

The policies themselves, and how they are read from text, are in `deepcache`. Neither file imports MLX before it
computes, so that `--help` can name every policy at once.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

from ..core.errors import InputError
from .forecast import Forecast, Polynomial

if TYPE_CHECKING:
    import mlx.core as mx

    from ..sampling.table import Table

_CLOSE = 1e-9  # of one: 0.7 of 10 are 7, whatever their product is rounded to

# An array (rows, ...) of the rows that this process computes -> of all rows of the batch, in order
CollectRows = Callable[["mx.array"], "mx.array"]


def all_rows(array: mx.array) -> mx.array:
    """Returns the array: this process computes all rows of its batch."""
    return array


def share_of(share: float, count: int) -> int:
    """Returns how many of `count` steps or evaluations a share is, rounded down."""
    return math.floor(share * count + _CLOSE)


class PathDecision(ABC):
    """Decides about the evaluations of one generation by the path of its latents; made fresh for each generation."""

    @abstractmethod
    def refreshes(self, evaluation: int, latents: mx.array) -> bool:
        """Tells whether the next evaluation, counted from 0, is full; it will be of these latents (N, h, w, C)."""

    @abstractmethod
    def end(self, evaluation: int, latents: mx.array, prediction: mx.array, full: bool) -> None:
        """Notes an evaluation: its latents, its guided prediction (N, h, w, C), and whether it was full."""


class Policy(ABC):
    """Decides which evaluations of the UNet are full. Evaluations are counted from 0; timesteps play no part.

    A policy is a frozen dataclass. It declares fields of its own, then `branch: int = 0` and `forecast: int = 0`, gives
    `prefix` and `example`, and defines `full_evaluations`, `arguments` and `from_arguments`. A policy that looks at the
    features also defines `decides_per_image` and `refreshes`, one that looks at the latents `follows_path` and `along`;
    one whose fields have ranges defines `error`.

    branch: where the UNet is cut, as the number of the skip connection, counted from conv_in = 0 (diffusers'
    `cache_branch_id`). Evaluations that are not full run the outer `branch` + 1 levels.
    forecast: degree of the polynomial that carries the deep features on, 0, 1 or 2; 0 reuses them unchanged. A policy
    that carries them in another way defines `extrapolation`.
    """

    prefix: ClassVar[str]  # how the policy begins in text: "name:" or "name="; empty for DeepCache alone
    example: ClassVar[str]  # arguments for messages and help, written after the prefix
    usual_forecast: ClassVar[int] = 0  # the default of `forecast`, which text leaves out

    @property
    @abstractmethod
    def branch(self) -> int:
        """Returns the number of the skip connection at which the UNet is cut."""

    @property
    @abstractmethod
    def forecast(self) -> int:
        """Returns the degree of the extrapolation of deep features."""

    def __post_init__(self) -> None:
        if self.branch < 0:
            raise InputError(f"the DeepCache branch must be at least 0, not {self.branch}")
        if self.forecast not in (0, 1, 2):
            raise InputError(f"DeepCache forecasts of degree 0, 1 or 2, not {self.forecast}")
        if error := self.error():
            raise InputError(error)

    def error(self) -> str | None:
        """Returns what is wrong with the policy's own fields, or None; asked when the policy is built."""
        return None

    @abstractmethod
    def full_evaluations(self, evaluations: int) -> Sequence[int]:
        """Returns the evaluations, of `evaluations` in all, that are full for any image; 0 is the first of them.

        Raises InputError where the policy does not fit that number.
        """

    def check(self, evaluations: int) -> None:
        """Raises InputError if the policy does not fit a generation of `evaluations` evaluations."""
        self.full_evaluations(evaluations)

    def extrapolation(self, log_snr: Sequence[float]) -> Forecast:
        """Returns how deep features are carried to cached evaluations; log_snr: of all evaluations."""
        return Polynomial(self.forecast)

    @property
    def decides_per_image(self) -> bool:
        """Tells whether the image decides about more full evaluations. Images then pass the UNet one at a time."""
        return self.follows_path

    @property
    def looks_inside(self) -> bool:
        """Tells whether `refreshes` decides, by features of the evaluation itself."""
        return self.decides_per_image and not self.follows_path

    @property
    def follows_path(self) -> bool:
        """Tells whether `along` decides about more full evaluations, before each of them, and not `refreshes`."""
        return False

    def along(self, table: Table) -> PathDecision | None:
        """Returns what decides about the evaluations of a table that are not in `full_evaluations`, or None."""
        return None

    def refreshes(self, reference: mx.array, shallow: mx.array, collect: CollectRows = all_rows) -> bool:
        """Tells whether an evaluation that is not in `full_evaluations` is full, where features decide per image.

        reference, shallow: (B, h, w, C) features just above the cut, at the last full evaluation and at this one. They
        are computed in every evaluation, so that looking at them costs nothing. collect: makes numbers of these rows,
        (B, ...), those of all rows, of which other ranks may have some: where a batch is shared out, all decide alike.
        """
        return False

    @abstractmethod
    def arguments(self) -> str:
        """Returns the policy's own fields as text, separated by commas, without ':'; `from_arguments` reads it."""

    @classmethod
    @abstractmethod
    def from_arguments(cls, values: Sequence[str]) -> Policy:
        """Builds the policy from the texts between the commas after the prefix; raises ValueError for bad ones."""

    def __str__(self) -> str:
        suffix = "" if self.forecast == self.usual_forecast else f"+forecast{self.forecast}"
        return f"{self.prefix}{self.arguments()}:{self.branch}{suffix}"
