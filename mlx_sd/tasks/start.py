"""What a batch of pictures begins with: noise alone here; images in painting.py, small images in upscaling.py."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import mlx.core as mx
from PIL import Image

from ..checkpoint.model import Model
from ..core.errors import InputError

# Draws unit noise of the latents' shape, or with as many channels as the argument says.
DrawNoise = Callable[..., mx.array]


class Start(NamedTuple):
    """The arrays that a batch of N pictures begins with."""

    noise: mx.array  # (N, h, w, C), of unit variance
    latents: mx.array | None = None  # (N, h, w, C) of the image to begin from
    channels: mx.array | None = None  # (1 or N, h, w, K), shown to the UNet beside the latents
    keep: Callable[[mx.array, float, float], mx.array] | None = None  # see `sampling.loop`


class PreparedStart(Protocol):
    """A starting point encoded for one checkpoint and one size: once for any number of batches."""

    def start(self, draw_noise: DrawNoise, noise: mx.array | None, indices: Sequence[int]) -> Start:
        """Returns the arrays of the pictures at `indices`; draws what `noise` does not hold."""
        ...


class StartingPoint(Protocol):
    """What a request begins with, opened and checked."""

    def size(self, model: Model, width: int | None, height: int | None) -> tuple[int | None, int | None]:
        """Returns width and height in pixels, as far as the starting point decides them."""
        ...

    def strength(self, strength: float | None, default: float) -> float | None:
        """Returns the share of the steps that run, `default` for None; None where all run from noise."""
        ...

    def begins_midway(self, strength: float | None) -> bool:
        """Returns whether sampling begins with the image and not with noise alone."""
        ...

    def prepare(
        self, model: Model, width: int, height: int, strength: float | None, count: int, tile: int | None
    ) -> PreparedStart:
        """Encodes the starting point for `count` pictures of (width, height); tile: as `StableDiffusion.encode`."""
        ...

    def finish(self, image: Image.Image) -> Image.Image:
        """Returns a decoded picture as it is handed to the user."""
        ...


class AllSteps:
    """What pictures of noise alone have in common, whatever the UNet is shown beside the latents: all steps run."""

    def strength(self, strength: float | None, default: float) -> float | None:
        """Returns None: a strength is refused before."""
        return None

    def begins_midway(self, strength: float | None) -> bool:
        """Returns False: sampling begins with noise alone."""
        return False

    def finish(self, image: Image.Image) -> Image.Image:
        """Returns the picture unchanged."""
        return image


@dataclass(frozen=True)
class FromNoise(AllSteps):
    """Noise alone, with channels beside the latents for UNets that take more than latents."""

    channels: mx.array | None = None  # (1 or N, h, w, K)

    def size(self, model: Model, width: int | None, height: int | None) -> tuple[int | None, int | None]:
        """Returns the size unchanged: noise has none of its own."""
        return width, height

    def strength(self, strength: float | None, default: float) -> float | None:
        """Returns None; InputError where a strength is set, for there is no image to change."""
        if strength is not None:
            raise InputError("strength says how much of an image changes; give --init-image too")
        return None

    def prepare(
        self, model: Model, width: int, height: int, strength: float | None, count: int, tile: int | None
    ) -> "FromNoise":
        """Checks the channels; InputError where the UNet takes others, or where their shape is wrong."""
        factor = model.vae.config.downsampling
        needed, size = model.additional_channels, (height // factor, width // factor)
        present = self.channels.shape[-1] if self.channels is not None else 0
        if present != needed:
            raise InputError(
                f"this UNet takes {needed} channels beside the latents, not {present}: with 9 in all it paints into "
                "pictures and wants mask and masked latents as channels="
            )
        if (channels := self.channels) is not None and (
            channels.ndim != 4 or channels.shape[1:3] != size or channels.shape[0] not in (1, count)
        ):
            raise InputError(f"channels must be (1 or {count}, {size[0]}, {size[1]}, {needed}), not {channels.shape}")
        return self

    def start(self, draw_noise: DrawNoise, noise: mx.array | None, indices: Sequence[int]) -> Start:
        """Returns the noise, and the channels of the pictures at `indices`."""
        channels = self.channels
        if channels is not None and channels.shape[0] > 1:
            channels = channels[mx.array(list(indices))]
        return Start(draw_noise() if noise is None else noise, channels=channels)
