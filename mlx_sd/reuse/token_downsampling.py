"""Token downsampling (ToDo, Smith et al. 2024, arXiv:2402.13573): large pictures attend to a part of their own tokens.

Neighbouring tokens of a picture are much alike. In self-attention, keys and values are made of every factor-th row and
column of tokens alone; queries stay, so that nothing has to be put together again. The cost of attention falls by the
square of the factor.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..core.errors import InputError
from .guided_steps import Interval, digits

if TYPE_CHECKING:
    import mlx.core as mx

    from ..networks.blocks import Attend
    from ..networks.layers import Attention
    from ..networks.unet_config import UNetConfig

FORM = "FACTOR[:DEPTH[:END]]"
_TEXT = re.compile(r"\s*(\d+)(?::(\d+))?(?::(\d*\.?\d+))?\s*")


@dataclass(frozen=True)
class TokenDownsampling:
    """Holds the numbers of ToDo: FACTOR[:DEPTH[:END]] on the command line.

    factor: one of so many rows, and of so many columns, is kept; at least 2. depth: how many levels of the UNet do so,
    from the outermost with attention. end: the share of the steps, from the first, that do; later ones draw details.
    """

    factor: int = 2
    depth: int = 1
    end: float = 1.0

    def __post_init__(self) -> None:
        if self.factor < 2 or self.depth < 1 or not 0 < self.end <= 1:
            raise InputError(
                f"--token-downsampling {self}: the factor is at least 2, the depth at least 1, and the end a share of "
                "the steps above 0, to 1"
            )

    def __str__(self) -> str:
        tail = f":{digits(self.end)}" if self.end < 1 else ""
        return f"{self.factor}" + (f":{self.depth}{tail}" if tail or self.depth != 1 else "")

    @property
    def interval(self) -> Interval:
        """Returns the share of the steps that downsample."""
        return Interval(0.0, self.end)

    def levels(self, config: UNetConfig) -> list[int]:
        """Lists the levels of a UNet that downsample, by the number of times that they halve the latents.

        InputError for a UNet whose pictures attend to nothing.
        """
        levels = [i for i, block in enumerate(config.down) if block.transformers and not block.only_cross]
        if not levels:
            raise InputError("this UNet has no tokens that attend to each other; leave --token-downsampling out")
        return levels[: self.depth]

    def check(self, config: UNetConfig, steps: int) -> None:
        """Raises InputError where no token of a UNet would be left out, or at none of so many steps."""
        self.levels(config)
        if self.interval.is_empty(steps):
            raise InputError(f"--token-downsampling {self} acts at none of {steps} steps; give a later end")

    def apply(self, attend: Attend, size: tuple[int, int], levels: Sequence[int]) -> Attend:
        """Returns what computes an attention, from the latents' size (h, w); attend: all that is not changed."""
        from ..networks.blocks import apply_attention  # here because `--help` reads this file, and needs no MLX

        sizes = dict(_tokens(size, levels))

        def downsampled(layer: Attention, x: mx.array, context: mx.array) -> mx.array:
            """Returns the layer's output for all of x, with keys and values of a part of it."""
            if context is not x or x.shape[1] not in sizes:
                return attend(layer, x, context)
            return apply_attention(layer, x, coarse_tokens(x, sizes[x.shape[1]], self.factor))

        return downsampled


def _tokens(size: tuple[int, int], levels: Sequence[int]) -> Iterator[tuple[int, tuple[int, int]]]:
    """Yields the number of tokens of each level, and its height and width; each level halves, rounding up."""
    for level in levels:
        height, width = (-(-side // 2**level) for side in size)
        yield height * width, (height, width)


def coarse_tokens(x: mx.array, size: tuple[int, int], factor: int) -> mx.array:
    """Returns the tokens (B, n, C) of x (B, h w, C) that lie on the coarser grid, size being (h, w).

    They are those of PyTorch's "nearest-exact", as in the authors' code; a side that is shorter than the factor keeps
    one.
    """
    batch, _, channels = x.shape
    rows, columns = (_places(side, max(1, side // factor)) for side in size)
    return x.reshape(batch, *size, channels)[:, rows][:, :, columns].reshape(batch, -1, channels)


def _places(side: int, count: int) -> mx.array:
    import mlx.core as mx

    return mx.array([int((i + 0.5) * side / count) for i in range(count)])


class TokenSteps:
    """Tells at which evaluations of a generation tokens are downsampled, and what computes attention there."""

    def __init__(self, settings: TokenDownsampling, config: UNetConfig, numbers: Sequence[int], steps: int) -> None:
        """numbers: of the step of each evaluation, from 1, of so many steps in all."""
        self._settings, self._levels = settings, settings.levels(config)
        self._acts = [settings.interval.acts(number, steps) for number in numbers]

    def acts(self, evaluation: int) -> bool:
        """Tells whether an evaluation downsamples its tokens."""
        return self._acts[evaluation]

    def attend(self, evaluation: int, attend: Attend, size: tuple[int, int]) -> Attend:
        """Returns what computes the attentions of an evaluation; see `TokenDownsampling.apply`."""
        return self._settings.apply(attend, size, self._levels) if self.acts(evaluation) else attend


def parse(value: Any) -> TokenDownsampling:
    """Reads 2, "2:1" or "2:2:0.7" as FORM says; returns a TokenDownsampling itself. InputError for anything else."""
    if isinstance(value, TokenDownsampling):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return TokenDownsampling(value)
    if isinstance(value, str) and (match := _TEXT.fullmatch(value)):
        return TokenDownsampling(int(match[1]), int(match[2] or 1), float(match[3] or 1))
    raise InputError(f"--token-downsampling takes {FORM}, for example 2 or 2:1:0.7, not {value!r}")
