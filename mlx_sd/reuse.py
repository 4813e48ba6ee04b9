"""DeepCache (Ma et al. 2023): most evaluations reuse the UNet's deep features of an earlier one."""

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx

from .errors import InputError


@dataclass(frozen=True)
class DeepCache:
    """Every `interval`-th evaluation is full; the others run only the UNet's outer `branch` + 1 levels.

    `branch` counts the skip connections from conv_in as diffusers' DeepCacheSDHelper does (cache_branch_id).
    """

    interval: int = 3
    branch: int = 0

    def __post_init__(self) -> None:
        if self.interval < 1:
            raise InputError(f"the DeepCache interval must be at least 1, not {self.interval}")
        if self.branch < 0:
            raise InputError(f"the DeepCache branch must be at least 0, not {self.branch}")

    @classmethod
    def parse(cls, text: str) -> "DeepCache":
        """Reads what `--deepcache` takes: "N" or "N:BRANCH"."""
        interval, _, branch = text.partition(":")
        try:
            return cls(int(interval), int(branch or 0))
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"--deepcache takes N or N:BRANCH, for example 3 or 3:1, not {text!r}") from None

    def __str__(self) -> str:
        return f"{self.interval}:{self.branch}"

    def refreshes(self, evaluation: int) -> bool:
        """Whether the given evaluation (from 0) computes the deep features anew."""
        return evaluation % self.interval == 0


class Reuse:
    """The deep features of one generation, and the count of its evaluations. Made fresh for each."""

    def __init__(self, policy: DeepCache):
        self.policy = policy
        self.evaluations = self.full = 0
        self._deep: mx.array | None = None

    def __call__(self, unet: Callable[[mx.array | None, int], tuple[mx.array, mx.array]]) -> mx.array:
        """Runs `unet(deep, depth) -> (prediction, deep)` with what the policy keeps, and returns the prediction."""
        if self.policy.refreshes(self.evaluations):
            self._deep, self.full = None, self.full + 1
        self.evaluations += 1
        prediction, self._deep = unet(self._deep, self.policy.branch + 1)
        return prediction
