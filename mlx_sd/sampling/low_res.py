"""How an upscaler noises the small picture that it is shown."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import mlx.core as mx

from ..core.errors import InputError
from .scheduler import Scheduler

LEVEL, HIGHEST = 20, 350  # where nobody says otherwise
_CHANNELS = 7  # of latents and colours


class LowRes(NamedTuple):
    """How a checkpoint noises the small picture."""

    scheduler: Scheduler
    highest: int  # level allowed

    @classmethod
    def of(cls, about: Mapping[str, Any], where: str) -> "LowRes | None":
        """That of a model.json; None where there is no such noise, InputError where there must be."""
        config, unet = about.get("low_res_scheduler"), about["networks"]["unet"]
        if not unet.get("num_class_embeds") or unet.get("in_channels") != _CHANNELS:
            return None
        if config is None:
            raise InputError(f"{where}: low_res_scheduler is missing, by which upscalers noise the small picture")
        scheduler = Scheduler.from_hf(config, f"{where}: low_res_scheduler")
        highest = about["pipeline"].get("max_noise_level", HIGHEST)
        return cls(scheduler, min(highest, unet["num_class_embeds"] - 1, scheduler.timesteps - 1))

    def level(self, asked: int | None) -> int:
        """The noise level, or the usual one; InputError where it is out of range."""
        if asked is None:
            return min(LEVEL, self.highest)
        if not 0 <= asked <= self.highest:
            raise InputError(f"the noise level must be from 0 to {self.highest}, not {asked}")
        return asked

    def noised(self, pixels: mx.array, noise: mx.array, level: int) -> mx.array:
        """The small picture with unit `noise` brought to a level, which is a timestep of training."""
        bar = self.scheduler.alphas_cumprod()[level]
        return float(bar**0.5) * pixels + float((1 - bar) ** 0.5) * noise
