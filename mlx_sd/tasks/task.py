"""What pictures begin with: noise alone, a picture to change or to paint into, or a small one to make larger."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import mlx.core as mx
from PIL import Image

from ..checkpoint.model import Model
from ..core.errors import InputError
from ..settings import Settings

Normal = Callable[..., mx.array]  # draws unit noise of the latents' shape, or of as many channels as it is told


class Start(NamedTuple):
    """What a batch of N pictures begins with."""

    noise: mx.array  # (N, h, w, C)
    image: mx.array | None = None  # latents to begin from, (N, h, w, C)
    channels: mx.array | None = None  # beside the latents, (1 or N, h, w, K)
    keep: Callable[[mx.array, float, float], mx.array] | None = None  # see sampling.loop.evaluate


class Starter(Protocol):
    """A task as one checkpoint takes it with certain settings: what is encoded is encoded once."""

    def start(self, normal: Normal, noise: mx.array | None, places: Sequence[int]) -> Start:
        """Of the pictures at `places` of all; draws by `normal` what is not given."""
        ...


class Task(Protocol):
    """What was given beside prompt and settings, opened and checked."""

    def settings(self, model: Model, given: Mapping[str, Any]) -> dict[str, Any]:
        """Settings with what the task decides filled in."""
        ...

    def midway(self, chosen: Settings) -> bool:
        """Whether sampling begins with the picture, in place of noise alone."""
        ...

    def starter(self, model: Model, chosen: Settings, pictures: int, tile: int | None) -> Starter:
        """For so many pictures of complete settings; tile: of encoding, as `StableDiffusion.decode` takes it."""
        ...

    def finish(self, picture: Image.Image) -> Image.Image:
        """A decoded picture as it is handed out."""
        ...


@dataclass(frozen=True)
class FromNoise:
    """Noise alone, and what the UNet is shown beside it, if anything."""

    channels: mx.array | None = None  # (1 or N, h, w, K)

    def settings(self, model: Model, given: Mapping[str, Any]) -> dict[str, Any]:
        """Those given; InputError for one that is of a picture."""
        if given.get("strength") is not None:
            raise InputError("strength says how much of an image changes; give --init-image too")
        return dict(given)

    def midway(self, chosen: Settings) -> bool:
        """Never."""
        return False

    def starter(self, model: Model, chosen: Settings, pictures: int, tile: int | None) -> "FromNoise":
        """This; InputError for channels that the UNet does not take."""
        latent, factor = model.vae.config.latent_channels, model.vae.config.downsampling
        extra, size = model.unet.config.in_channels - latent, (chosen.height // factor, chosen.width // factor)
        given = self.channels.shape[-1] if self.channels is not None else 0
        if given != extra:
            raise InputError(
                f"this UNet takes {extra} channels beside the latents, not {given}: with 9 in all it paints into "
                "pictures and wants mask and masked latents as channels="
            )
        if (channels := self.channels) is not None and (
            channels.ndim != 4 or channels.shape[1:3] != size or channels.shape[0] not in (1, pictures)
        ):
            raise InputError(f"channels must be (1 or {pictures}, {size[0]}, {size[1]}, {extra}), not {channels.shape}")
        return self

    def start(self, normal: Normal, noise: mx.array | None, places: Sequence[int]) -> Start:
        """Noise, and the channels of these pictures."""
        channels = self.channels
        if channels is not None and channels.shape[0] > 1:
            channels = channels[mx.array(list(places))]
        return Start(normal() if noise is None else noise, channels=channels)

    def finish(self, picture: Image.Image) -> Image.Image:
        """As it is."""
        return picture
