"""Control networks during one generation: which act at which evaluation, and what they add to the UNet."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import mlx.core as mx

from .checkpoint.control import Control
from .condition_rows import Conditions
from .networks.control import ControlNet, Residuals
from .networks.few_rows import part_of_batch


class Branch(NamedTuple):
    """A loaded control network with its image, and when and how much it acts."""

    control: Control
    network: ControlNet
    image: Any  # (1, h, w, C), embedded; of packages what their `embed` returns
    mode: int | tuple[int, ...] = 0  # of a union; several where the image is the sum of several


class Controller:
    """The control networks of one generation of a batch of N pictures."""

    def __init__(self, branches: Sequence[Branch], evaluations: int, guess: bool = False):
        """Collects the networks for so many evaluations; guess: guess mode, see `ControlNet.__call__`."""
        self._branches, self._evaluations, self._guess = branches, evaluations, guess

    @property
    def changes(self) -> list[int]:
        """Returns the evaluations at which other networks act than at the one before.

        Deep features of earlier evaluations hold residuals of networks that no longer act, or lack those that do.
        """
        acting = [self._acting(i) for i in range(self._evaluations)]
        return [i for i in range(1, self._evaluations) if acting[i] != acting[i - 1]]

    def residuals(
        self,
        evaluation: int,
        latents: mx.array,
        timestep: mx.array,
        conditions: Conditions,
        depth: int | None,
        share: range | None = None,
    ) -> Residuals | None:
        """Returns the sum of what the acting networks add, None where none acts.

        latents: (N, h, w, C), the UNet's without additional channels and without copies. conditions: of all rows of the
        UNet, so many for each picture. depth: as `ControlNet.__call__` takes it. share: the copies that this rank
        computes, None for all.
        """
        part = conditions if share is None else conditions.part(share)
        total: Residuals | None = None
        for index in self._acting(evaluation):
            branch = self._branches[index]
            # Without a prompt nothing tells these networks what to leave alone: their half of a guided batch is zeros.
            halved = conditions.guided and (self._guess or branch.network.config.pools)
            rows, batch = (part.conditional(), conditions.conditional()) if halved else (part, conditions)
            if not rows.copies:
                continue
            x = mx.concatenate([latents] * rows.copies)
            sizes = branch.network.config.unet.added_time_dims is not None
            with part_of_batch(x.shape[0], batch.copies * latents.shape[0]):
                residuals = branch.network(
                    x,
                    timestep,
                    rows.context,
                    branch.image,
                    text_embeds=rows.keywords["text_embeds"] if sizes else None,
                    time_ids=rows.keywords["time_ids"] if sizes else None,
                    scale=branch.control.scale,
                    guess=self._guess,
                    depth=depth,
                    mode=branch.mode,
                )
            if halved and part.promptless:
                residuals = _below_zeros(residuals, latents.shape[0])
            total = residuals if total is None else total + residuals
        return total

    def _acting(self, evaluation: int) -> list[int]:
        """The numbers of the branches that act at an evaluation; a scale of 0 is none."""
        controls = [branch.control for branch in self._branches]
        return [
            i for i, control in enumerate(controls) if control.scale and control.acts(evaluation, self._evaluations)
        ]


def _below_zeros(residuals: Residuals, count: int) -> Residuals:
    """Returns residuals (rows, ...) behind so many rows of zeros, which are those without a prompt."""

    def extended(array: mx.array) -> mx.array:
        """Returns an array (count + rows, ...) with zeros first."""
        return mx.concatenate([mx.zeros((count, *array.shape[1:]), array.dtype), array])

    middle = residuals.middle
    return Residuals([extended(array) for array in residuals.skips], None if middle is None else extended(middle))
