"""The settings of a request about the image that it begins with."""

# ruff: noqa: RUF009 - `setting` is our `dataclasses.field`
from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from . import request_values, spellings
from .sampling.low_res import HIGHEST_NOISE_LEVEL, NOISE_LEVEL
from .setting import Range, setting
from .tasks.extension import Extension, parse

if TYPE_CHECKING:
    from PIL import Image

    ImageSource = str | os.PathLike[str] | Image.Image

STRENGTH = 0.8  # of image to image; 1 with a mask
PADDING = 32  # pixels around --only-masked
IMAGE_GUIDANCE = 1.5  # of checkpoints that edit by instruction

_image_setting = partial(setting, None, group="image", always_recorded=False)
_file_setting = partial(
    _image_setting, kind=object, parse=request_values.parse_image, to_json=request_values.image_to_json, metavar="FILE"
)


@dataclass(frozen=True, kw_only=True)
class ImageSettings:
    """Holds the image, the mask, and what is done with them."""

    init_image: ImageSource | None = _file_setting(
        "the image to begin with, of any size and kind; what is transparent is white",
        aliases="i image image-path init init-img input-image",
        false_friends={},
    )
    strength: float | None = setting(
        None,
        f"how much of the image changes: the share of the steps that run (default {STRENGTH}; with a mask 1)",
        kind=float,
        range=Range(0, 1, open_minimum=True),
        group="image",
        aliases="denoise denoising denoising-strength denoise-strength",
        false_friends={"image-strength": spellings.IMAGE_STRENGTH},
    )
    mask: ImageSource | None = _file_setting(
        "paint only where this image is white; or alpha: where the image itself is transparent",
        aliases="mask-image mask-path mask-img masked-image-path inpaint-mask",
        false_friends=dict.fromkeys(("invert-mask", "mask-invert", "inpainting-mask-invert"), spellings.INVERTED),
    )
    mask_blur: float | None = _image_setting(
        "fade in from the mask's edge (default 0)",
        kind=float,
        unit="pixels",
        range=Range(0, 10000),
        metavar="PIXELS",
    )
    only_masked: bool | None = _image_setting(
        "cut out the mask's surroundings, paint them at the size of a whole picture, and put them back",
        kind=bool,
        aliases="inpaint-full-res",
        false_friends={"padding-mask-crop": "say --only-masked --padding {value}"},
    )
    padding: int | None = _image_setting(
        f"of those surroundings (default {PADDING})",
        kind=int,
        unit="pixels",
        range=Range(0),
        metavar="PIXELS",
        aliases="inpaint-full-res-padding masked-padding only-masked-padding",
    )
    image_guidance: float | None = _image_setting(
        "how near the picture stays to the image, with checkpoints that edit it by an instruction, the prompt (default "
        f"{IMAGE_GUIDANCE})",
        kind=float,
        range=Range(1),
        metavar="SCALE",
        aliases="image-guidance-scale image-cfg-scale image-cfg cfg-image img-cfg-scale",
    )
    noise_level: int | None = setting(
        None,
        f"noise on the small image that an x4 upscaler enlarges; more invents more, 0 to {HIGHEST_NOISE_LEVEL} "
        f"(default {NOISE_LEVEL})",
        kind=int,
        range=Range(0),
        group="image",
        metavar="N",
    )
    extend: Extension | None = setting(
        None,
        "outpainting: paint on beyond the image's sides, for example left=128,top=64",
        kind=object,
        parse=parse,
        to_json=str,
        group="image",
        metavar="SIDE=PIXELS,...",
        always_recorded=False,
        aliases="outpaint outpainting",
    )
