"""How one picture is scaled, flipped and cropped to its bucket."""

import random
from dataclasses import dataclass

from PIL import Image, ImageOps

from ...core.errors import InputError
from ...tasks.images import fitted
from .buckets import Placement, Size


@dataclass(frozen=True)
class Fit:
    """Scaling to `resized`, then flipping, then cropping `size` at `corner`."""

    original: Size  # of the picture, turned as its EXIF says
    resized: Size
    corner: tuple[int, int]  # left and top, in pixels of the scaled and flipped picture
    size: Size
    flip: bool = False

    @property
    def time_ids(self) -> tuple[int, int, int, int, int, int]:
        """Returns SDXL's (original height, width, crop top, left, target height, width), in pixels."""
        (width, height), (left, top), (target_width, target_height) = self.original, self.corner, self.size
        return height, width, top, left, target_height, target_width

    def apply(self, image: Image.Image) -> Image.Image:
        """Returns the crop of an RGB picture; InputError where the picture has not the size of `original`."""
        if image.size != self.original:
            raise InputError(
                f"the picture is {image.width} x {image.height} pixels and was {self.original[0]} x "
                f"{self.original[1]} when it was checked; leave pictures alone while they are trained on"
            )
        scaled = fitted(image, self.resized)
        if self.flip:
            scaled = ImageOps.mirror(scaled)
        left, top = self.corner
        return scaled.crop((left, top, left + self.size[0], top + self.size[1]))


def fit(original: Size, placement: Placement, draw: random.Random | None = None, flip: bool = False) -> Fit:
    """Returns how a picture is cropped: at the centre, or where `draw` says.

    original: (width, height) of the picture. placement: as `Buckets.bucket_of` or `cover` returns it. flip: mirror the
    picture, left to right.
    """
    (width, height), resized = placement
    surplus_x, surplus_y = resized[0] - width, resized[1] - height
    if draw is None:
        return Fit(original, resized, (surplus_x // 2, surplus_y // 2), placement.size, flip)
    corner = int(draw.random() * (surplus_x + 1)), int(draw.random() * (surplus_y + 1))
    return Fit(original, resized, corner, placement.size, flip)


def generator(seed: int, epoch: int, batch: int, row: int) -> random.Random:
    """Returns the random numbers for one row of one batch: a function of its arguments, in every Python alike."""
    return random.Random(f"{seed}/{epoch}/{batch}/{row}")
