"""Sizes by aspect ratio ("buckets"), by the rules of kohya's sd-scripts."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from ...core.errors import InputError

Size = tuple[int, int]  # width and height in pixels

_FACTOR = 8  # pixels a side of a latent of Stable Diffusion; steps are multiples of it


class Placement(NamedTuple):
    """The bucket of a picture, and the size to which the picture is scaled before it is cropped to the bucket."""

    size: Size
    resized: Size  # neither side is shorter than that of `size`


@dataclass(frozen=True)
class Buckets:
    """The sizes at which pictures are trained on; of `no_upscale` any multiples of `step` within `area`."""

    sizes: tuple[Size, ...]  # sorted; of two that are equally near, the first is taken
    step: int
    area: int  # pixels
    no_upscale: bool = False

    def bucket_of(self, size: Size) -> Placement:
        """Returns the bucket of a picture of (width, height): its own size, else that with the nearest aspect ratio.

        The difference is that of width / height, not of its logarithm. With `no_upscale` a picture within the area
        keeps its size, cut to multiples of the step. Raises InputError where a side would be shorter than the step.
        """
        if self.no_upscale:
            return self._without_upscaling(size)
        if size in self.sizes:
            return Placement(size, size)
        aspect = size[0] / size[1]
        return cover(size, min(self.sizes, key=lambda bucket: abs(bucket[0] / bucket[1] - aspect)))

    def _without_upscaling(self, size: Size) -> Placement:
        """Of a picture that is too large, one side becomes a multiple of the step: that which fits the aspect best."""
        width, height = size
        aspect = width / height
        resized = size
        if width * height > self.area:
            exact_width = math.sqrt(self.area * aspect)
            by_width = self._floor(_round(exact_width))
            by_height = self._floor(_round(self.area / exact_width))
            of_width = self._aspect(by_width, self._floor(_round(by_width / aspect)))
            of_height = self._aspect(self._floor(_round(by_height * aspect)), by_height)
            if abs(of_width - aspect) < abs(of_height - aspect):
                resized = by_width, _round(by_width / aspect)
            else:
                resized = _round(by_height * aspect), by_height
        bucket = self._floor(resized[0]), self._floor(resized[1])
        if 0 in bucket:
            raise InputError(
                f"a picture of {width} x {height} pixels has no bucket in steps of {self.step}; give a smaller step or "
                "a larger resolution, allow enlarging, or leave the picture out"
            )
        return Placement(bucket, resized)

    def _floor(self, side: int) -> int:
        return side - side % self.step

    def _aspect(self, width: int, height: int) -> float:
        return width / height if height else math.inf


def buckets(
    resolution: Size,
    *,
    step: int = 64,
    minimum: int | None = None,
    maximum: int | None = None,
    no_upscale: bool = False,
) -> Buckets:
    """Makes the buckets of a resolution: its area is the largest that any of them has.

    step: sides are multiples of it, as the UNet's levels need (32 for the embedded checkpoint, 64 for SD and SDXL).
    minimum, maximum: of a side; None is half and twice the side of the square, so 256 and 1024 for 512 x 512, which
    are kohya's defaults. kohya caps 1024 x 1024 at 1024 as well, so that its long buckets lose area. no_upscale: small
    pictures keep their size. Raises InputError where these do not fit together.
    """
    _check_size(resolution, step)
    area = resolution[0] * resolution[1]
    square = math.isqrt(area) // step * step
    half = min(square // 2, min(resolution)) // step * step
    least = minimum if minimum is not None else max(half, step)
    most = maximum if maximum is not None else max(2 * square, *resolution)
    if least < step or least > min(resolution):
        raise InputError(f"the shortest side of a bucket must be {step} to {min(resolution)} pixels, not {least}")
    if most < max(resolution):
        raise InputError(f"the longest side of a bucket must be at least {max(resolution)} pixels, not {most}")
    sizes = {(square, square)}
    for width in range(least, most + 1, step):
        height = min(most, area // width) // step * step
        if height >= least:
            sizes |= {(width, height), (height, width)}
    return Buckets(tuple(sorted(sizes)), step, area, no_upscale)


def single(resolution: Size, step: int = _FACTOR) -> Buckets:
    """Returns one bucket for all pictures; InputError where a side is no multiple of `step`."""
    _check_size(resolution, step)
    if any(side % step for side in resolution):
        raise InputError(f"width and height must be multiples of {step} pixels, not {resolution[0]} x {resolution[1]}")
    return Buckets((resolution,), step, resolution[0] * resolution[1])


def cover(original: Size, size: Size) -> Placement:
    """Returns the placement of a picture in a bucket: scaled until it covers the bucket, its aspect ratio kept."""
    width, height = original
    if width * size[1] > size[0] * height:  # wider than the bucket
        return Placement(size, (max(_round(width * (size[1] / height)), size[0]), size[1]))
    return Placement(size, (size[0], max(_round(height * (size[0] / width)), size[1])))


def counts(sizes: Iterable[Size]) -> dict[Size, int]:
    """Returns how many pictures each bucket has, the fullest first; sizes: the bucket of each picture."""
    table: dict[Size, int] = {}
    for size in sizes:
        table[size] = table.get(size, 0) + 1
    return dict(sorted(table.items(), key=lambda item: (-item[1], item[0])))


def _check_size(resolution: Size, step: int) -> None:
    if step < _FACTOR or step % _FACTOR:
        raise InputError(f"the step of buckets must be a multiple of {_FACTOR} pixels, not {step}")
    if min(resolution) < step:
        raise InputError(f"a resolution of {resolution[0]} x {resolution[1]} is below the step of {step} pixels")


def _round(length: float) -> int:
    return int(length + 0.5)
