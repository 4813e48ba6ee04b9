"""FreeU (Si et al. 2023): at the joins of the up path, stronger backbone features and weaker low frequencies of skips.

It is a function handed to the UNet's call, `unet(..., join=FreeU(...).join(config))`, and changes no weights.
DeepCache keeps features from before the joins, so that FreeU never scales them twice.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from ..core.errors import InputError
from ..networks.family import Family
from ..networks.unet import Join, concatenate
from ..networks.unet_config import UNetConfig

# b1, b2, s1, s2 of the authors' README. Families that they do not name take those of SD 1.5.
_SD1, _SD2, _SDXL = (1.5, 1.6, 0.9, 0.2), (1.4, 1.6, 0.9, 0.2), (1.3, 1.4, 0.9, 0.2)
PUBLISHED: dict[Family, tuple[float, float, float, float]] = {
    Family.SD1: _SD1,
    Family.SD2: _SD2,
    Family.SDXL: _SDXL,
    Family.REFINER: _SDXL,
    Family.UPSCALER: _SD2,  # its UNet attends to the text features of SD 2
    Family.SUPER_RESOLUTION: _SD1,
    Family.CLASS_CONDITIONAL: _SD1,
    Family.UNCONDITIONAL: _SD1,
}


@dataclass(frozen=True)
class FreeU:
    """Holds the factors b of the backbone's first half of channels and s of the skips' lowest frequencies.

    b1, s1: at the coarser of the two places in the UNet that change; b2, s2: at the finer. At least 0; None for all
        four stands for those that the authors publish for the checkpoint's family.
    form: "structure", the original, scales more where features are strong and finds the places by their width;
        "constant", diffusers' simplification, scales evenly in the first two up blocks.
    """

    b1: float | None = None
    b2: float | None = None
    s1: float | None = None
    s2: float | None = None
    form: str = "structure"

    def __post_init__(self) -> None:
        if self.form not in _FORMS:
            raise InputError(f"FreeU's form is {' or '.join(_FORMS)}, not {self.form!r}")
        if len({factor is None for factor in self._factors}) > 1:
            raise InputError("FreeU takes all of b1, b2, s1 and s2, or none")
        for factor in self._factors:
            if factor is not None and not (math.isfinite(factor) and factor >= 0):
                raise InputError(f"FreeU's factors must be 0 or more, not {factor}")

    def __str__(self) -> str:
        return f"{self.form}:" + ",".join(repr(factor) for factor in self._factors if factor is not None)

    @property
    def _factors(self) -> tuple[float | None, ...]:
        return self.b1, self.b2, self.s1, self.s2

    def for_family(self, family: Family) -> "FreeU":
        """Returns the same with the published factors of the family where none are set."""
        return FreeU(*PUBLISHED[family], self.form) if self.b1 is None else self

    def join(self, config: UNetConfig) -> Join:
        """Returns what a UNet of this config calls where it joins a skip; the factors must be set."""
        b1, b2, s1, s2 = self._factors
        if b1 is None or b2 is None or s1 is None or s2 is None:
            raise ValueError("FreeU has no factors yet; call for_family() first")
        factors = (float(b1), float(s1)), (float(b2), float(s2))
        places, backbone_scale = _FORMS[self.form]
        place_of = places(config)

        def join(x: mx.array, skip: mx.array, number: int) -> mx.array:
            """Joins skip `number` with the backbone, both scaled where this is one of the two places."""
            place = place_of(x.shape[-1], number)
            if place is None:
                return concatenate(x, skip, number)
            b, s = factors[place]
            half = x.shape[-1] // 2
            scaled = (x[..., :half] * backbone_scale(x, b)).astype(x.dtype)
            return mx.concatenate([scaled, x[..., half:], scale_lowest_frequencies(skip, s)], axis=-1)

        return join


def parse(value: bool | str | FreeU | None) -> FreeU | None:
    """Reads what `freeu=` and `--freeu` take; raises InputError for anything else.

    value: True or "" is FreeU(), with published factors; "1.5,1.6,0.9,0.2" are b1, b2, s1, s2, with "constant:" or
    "structure:" before them where the form matters; None and False are no FreeU; a FreeU is returned as it is.
    """
    if value is None or value is False:
        return None
    if value is True:
        return FreeU()
    if isinstance(value, FreeU):
        return value
    if not isinstance(value, str):
        raise _unreadable(value)
    form, _, factors = value.rpartition(":")
    try:
        b1, b2, s1, s2 = map(float, factors.split(",")) if factors else (None,) * 4
        return FreeU(b1, b2, s1, s2, form or "structure")
    except InputError:
        raise
    except ValueError:
        raise _unreadable(value) from None


def _unreadable(value: Any) -> InputError:
    return InputError(f"--freeu takes B1,B2,S1,S2, for example 1.5,1.6,0.9,0.2, or nothing, not {value!r}")


# (channels of the backbone, number of the skip) -> 0 at the coarser place, 1 at the finer one, None elsewhere
Place = Callable[[int, int], int | None]


def _places_by_width(config: UNetConfig) -> Place:
    widths = sorted({block.channels for block in config.up}, reverse=True)[:2]  # 1280 and 640, in every published UNet
    return lambda width, number: widths.index(width) if width in widths else None


def _places_by_block(config: UNetConfig) -> Place:
    blocks = [i for i, block in enumerate(config.up) for _ in range(block.resnets)][::-1]
    return lambda width, number: blocks[number] if blocks[number] < 2 else None


def _structure_scale(x: mx.array, b: float) -> mx.array:
    """Returns (B, h, w, 1): b where the mean over channels is largest in the image, 1 where smallest (sec. 3.2)."""
    mean = mx.mean(x.astype(mx.float32), axis=-1, keepdims=True)
    low, high = mx.min(mean, axis=(1, 2), keepdims=True), mx.max(mean, axis=(1, 2), keepdims=True)
    return 1 + (b - 1) * (mean - low) / mx.maximum(high - low, 1e-12)


def _constant_scale(x: mx.array, b: float) -> mx.array:
    return mx.array(b)


_FORMS: dict[str, tuple[Callable[[UNetConfig], Place], Callable[[mx.array, float], mx.array]]] = {
    "structure": (_places_by_width, _structure_scale),
    "constant": (_places_by_block, _constant_scale),
}


def scale_lowest_frequencies(skip: mx.array, s: float) -> mx.array:
    """Returns (B, h, w, C) with the frequencies -1 and 0 of each axis, together, times s, in the skip's dtype.

    Computed in float32 with small matrices, z + (s - 1) (Re_h z Re_w' - Im_h z Im_w'), and not with a Fourier
    transform: Core ML has none.
    """
    z = skip.astype(mx.float32)
    (real_h, imag_h), (real_w, imag_w) = _projection(z.shape[1]), _projection(z.shape[2])
    low = _apply_to_axes(real_h, real_w, z) - _apply_to_axes(imag_h, imag_w, z)
    return (z + (s - 1) * low).astype(skip.dtype)


def _apply_to_axes(rows: mx.array, columns: mx.array, z: mx.array) -> mx.array:
    batch, height, width, channels = z.shape
    return columns @ (rows @ z.reshape(batch, height, width * channels)).reshape(z.shape)


def _projection(n: int) -> tuple[mx.array, mx.array]:
    """Returns real and imaginary part (n, n) of the projection on the frequencies -1 and 0 of n points."""
    angles = 2 * np.pi * np.subtract.outer(np.arange(n), np.arange(n)) / n
    real = (1 + np.cos(angles)) / n if n > 1 else np.ones((1, 1))  # of one point both frequencies are the same
    return mx.array(real.astype(np.float32)), mx.array((np.sin(angles) / n).astype(np.float32))
