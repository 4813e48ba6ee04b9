"""Images edited by instruction (InstructPix2Pix, Brooks et al. 2023): the UNet sees the image's latents at every step.

Sampling begins with noise alone. The latents of the image are the mean of its posterior, and no noise is drawn for
them. Guidance has two scales: of the instruction, and of the image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from PIL import Image

from ..checkpoint.model import Model
from ..core.errors import InputError
from ..networks.configs import TinyConfig
from ..networks.family import Task
from . import images
from .images import ImageSource
from .painting import Canvas, posterior
from .start import AllSteps, DrawNoise, Start

_WHOLE = "the whole image is edited"
# Settings of a request that this task does not take -> the reason.
REFUSED = {
    "strength": "all steps run, from noise; --image-guidance says how near the picture stays to the image",
    "mask": _WHOLE,
    "mask_blur": _WHOLE,
    "only_masked": _WHOLE,
    "padding": _WHOLE,
    "extend": _WHOLE,
    "hires": "the second pass would need an image of its own",
    "controls": "there is no rule for how it joins with the guidance of an image",
    "adapters": "there is no rule for how it joins with the guidance of an image",
    "pag": "there is no rule for how it joins with the guidance of an image",
    "tgate": "it ends guidance at its gate, and the image guides to the end",
    "guidance_interval": "the image guides at all steps",
    "adaptive_guidance": "the image guides at all steps",
    "unconditional_refresh": "the image guides at all steps",
    "speed": "nothing has been measured for such checkpoints",
}
_OFF = (None, False, 0, ())
_FLAGS = {"controls": "--control", "adapters": "--adapter"}


@dataclass(frozen=True)
class EditedImage(AllSteps):
    """The image to be edited."""

    image: Image.Image  # RGB

    def size(self, model: Model, width: int | None, height: int | None) -> tuple[int | None, int | None]:
        """Returns the size as of image to image: the requested one, else the image's, in whole latents."""
        return Canvas(self.image).size(model, width, height)

    def prepare(
        self, model: Model, width: int, height: int, strength: float | None, count: int, tile: int | None
    ) -> "EncodedImage":
        """Encodes the image at (width, height)."""
        pixels = images.to_pixels(images.fitted(self.image, (width, height)))
        mean, _ = posterior(model.vae, pixels, tile)
        return EncodedImage(model.vae.scale(mean) * _factor(model))


@dataclass(frozen=True)
class EncodedImage:
    """The latents of the image, as the UNet is shown them."""

    latents: mx.array  # (1, h, w, C)

    def start(self, draw_noise: DrawNoise, noise: mx.array | None, indices: Sequence[int]) -> Start:
        """Draws the noise of the pictures alone."""
        return Start(draw_noise() if noise is None else noise, channels=self.latents)


def _factor(model: Model) -> float:
    """Returns the factor of the image's latents; of Core ML packages, which do not record it, by their configs.

    InputError where these do not tell: a tiny autoencoder's config does not hold the scale of the checkpoint's latents.
    """
    if model.image_factor is not None:
        return model.image_factor
    if isinstance(model.vae.config, TinyConfig):
        raise InputError(f"{model.name} edits images by instruction, which its packages of a tiny autoencoder cannot")
    return 1.0 if model.scheduler.edm else 1 / model.vae.config.scaling_factor  # CosXL Edit is an EDM


def edited_image(model: Model, image: ImageSource | None, channels: bool = False) -> EditedImage | None:
    """Opens the image to be edited; returns None where the UNet is shown `channels` in its place.

    InputError where there is none, or both.
    """
    if image is None and not channels:
        raise without_image(model.name)
    if image is not None and channels:
        raise InputError("give an image or channels, not both")
    return None if image is None else EditedImage(images.opaque(images.read(image)))


def without_image(name: str) -> InputError:
    """Returns the error for a request without an image to edit; name: of the checkpoint."""
    return InputError(f"{name} edits an image by an instruction, its prompt; give it one (--init-image)")


def check(name: str, task: Task, settings: Any) -> None:
    """Raises InputError where a checkpoint's task and the settings of a request do not go together.

    name: of the checkpoint. settings: a request.
    """
    if task is not Task.INSTRUCTION:
        if settings.image_guidance is not None:
            raise InputError(
                f"image guidance is of checkpoints that edit images by instruction (InstructPix2Pix); {name} is none: "
                "name one by --model, or leave out --image-guidance"
            )
        return
    for setting, reason in REFUSED.items():
        if getattr(settings, setting) not in _OFF:
            flag = _FLAGS.get(setting, f"--{setting.replace('_', '-')}")
            raise InputError(f"{name} edits images by instruction, without {flag}: {reason}; leave it out")
