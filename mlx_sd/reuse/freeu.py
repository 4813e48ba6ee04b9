"""FreeU (Si et al. 2023): where backbone and skips are joined, more of the one and fewer low frequencies of the other.

It is a function handed to the UNet's call, `unet(..., join=FreeU(...).join(config))`, and changes no weights. What
DeepCache keeps enters the joins, so it is kept from before FreeU, and is never scaled twice.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ..core.errors import InputError
from ..networks.unet import Join, concatenate
from ..networks.unet_config import UNetConfig

# b1, b2, s1, s2 of the authors' README.
_SD1, _SD2, _XL = (1.5, 1.6, 0.9, 0.2), (1.4, 1.6, 0.9, 0.2), (1.3, 1.4, 0.9, 0.2)


@dataclass(frozen=True)
class FreeU:
    """Factors b of the backbone's first half of channels, and s of the skips' lowest frequencies.

    b1 and s1 are of the coarser of the two places in the UNet that change, b2 and s2 of the finer; None for all four is
    what the authors publish for the family. form: "structure", the original, scales more where features are strong, and
    tells the places by their width; "constant", diffusers' simplification, scales evenly the first two up blocks.
    """

    b1: float | None = None
    b2: float | None = None
    s1: float | None = None
    s2: float | None = None
    form: str = "structure"

    def __post_init__(self) -> None:
        if self.form not in _FORMS:
            raise InputError(f"FreeU's form is {' or '.join(_FORMS)}, not {self.form!r}")
        if len({value is None for value in self._values}) > 1:
            raise InputError("FreeU takes all of b1, b2, s1 and s2, or none")
        for value in self._values:
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise InputError(f"FreeU's factors must be 0 or more, not {value}")

    @classmethod
    def parse(cls, text: str) -> "FreeU":
        """Reads what `--freeu` takes: "B1,B2,S1,S2" or "", with "constant:" or "structure:" before it."""
        form, _, values = text.rpartition(":")
        try:
            b1, b2, s1, s2 = map(float, values.split(",")) if values else (None,) * 4
            return cls(b1, b2, s1, s2, form or "structure")
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"--freeu takes B1,B2,S1,S2, for example 1.5,1.6,0.9,0.2, or nothing, not {text!r} "
                "(the prompt goes before it)"
            ) from None

    def __str__(self) -> str:
        return f"{self.form}:" + ",".join(repr(value) for value in self._values if value is not None)

    @property
    def _values(self) -> tuple[float | None, ...]:
        return self.b1, self.b2, self.s1, self.s2

    def of(self, config: UNetConfig) -> "FreeU":
        """The same with the published factors in place of none: those of SDXL, SD 2 or, for any other, SD 1.5."""
        if self.b1 is not None:
            return self
        published = _XL if config.added_time_dims else _SD2 if config.down[-1].context == 1024 else _SD1
        return FreeU(*published, self.form)

    def join(self, config: UNetConfig) -> Join:
        """What the UNet of this config is to call where it joins a skip."""
        b1, b2, s1, s2 = (float(value or 0) for value in self.of(config)._values)
        place, strength = _FORMS[self.form]
        where, factors = place(config), ((b1, s1), (b2, s2))

        def joined(x: mx.array, skip: mx.array, number: int) -> mx.array:
            found = where(x.shape[-1], number)
            if found is None:
                return concatenate(x, skip, number)
            b, s = factors[found]
            half = x.shape[-1] // 2
            stronger = (x[..., :half] * strength(x, b)).astype(x.dtype)
            return mx.concatenate([stronger, x[..., half:], weaken(skip, s)], axis=-1)

        return joined


Place = Callable[[int, int], int | None]  # (width, number of the skip) -> 0 for the coarser, 1 for the finer place


def _by_width(config: UNetConfig) -> Place:
    widths = sorted({block.channels for block in config.up}, reverse=True)[:2]  # 1280 and 640, in every published UNet
    return lambda width, number: widths.index(width) if width in widths else None


def _by_block(config: UNetConfig) -> Place:
    blocks = [i for i, block in enumerate(config.up) for _ in range(block.resnets)][::-1]
    return lambda width, number: blocks[number] if blocks[number] < 2 else None


def _structured(x: mx.array, b: float) -> mx.array:
    """b where the mean over channels is largest in the picture, 1 where it is smallest (sec. 3.2 of the paper)."""
    mean = mx.mean(x.astype(mx.float32), axis=-1, keepdims=True)
    low, high = mx.min(mean, axis=(1, 2), keepdims=True), mx.max(mean, axis=(1, 2), keepdims=True)
    return 1 + (b - 1) * (mean - low) / mx.maximum(high - low, 1e-12)


def _constant(x: mx.array, b: float) -> mx.array:
    return mx.array(b)


_FORMS: dict[str, tuple[Callable[[UNetConfig], Place], Callable[[mx.array, float], mx.array]]] = {
    "structure": (_by_width, _structured),
    "constant": (_by_block, _constant),
}


def weaken(skip: mx.array, s: float) -> mx.array:
    """(B, h, w, C) with the frequencies -1 and 0 of each axis, together, times s; in float32, in the skip's dtype.

    As matrices, and not as a Fourier transform there and back: they run on any back end.
    """
    z = skip.astype(mx.float32)
    (rh, ih), (rw, iw) = _lowest(z.shape[1]), _lowest(z.shape[2])
    return (z + (s - 1) * (_both(rh, rw, z) - _both(ih, iw, z))).astype(skip.dtype)


def _both(rows: mx.array, columns: mx.array, z: mx.array) -> mx.array:
    batch, height, width, channels = z.shape
    return columns @ (rows @ z.reshape(batch, height, width * channels)).reshape(z.shape)


def _lowest(n: int) -> tuple[mx.array, mx.array]:
    """Real and imaginary part (n, n) of the projection on frequencies -1 and 0 of n points."""
    turn = 2 * np.pi * np.subtract.outer(np.arange(n), np.arange(n)) / n
    real = (1 + np.cos(turn)) / n if n > 1 else np.ones((1, 1))  # of one point they are the same
    return mx.array(real.astype(np.float32)), mx.array((np.sin(turn) / n).astype(np.float32))
