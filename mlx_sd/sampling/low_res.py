"""The noise that an upscaler adds to the small picture it is conditioned on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ..core.errors import InputError
from .scheduler import Scheduler

if TYPE_CHECKING:
    import mlx.core as mx

NOISE_LEVEL, HIGHEST_NOISE_LEVEL = 20, 350  # the default, and the highest for checkpoints that do not say


class LowRes(NamedTuple):
    """How a checkpoint adds noise to the small picture."""

    scheduler: Scheduler
    highest: int  # noise level allowed

    @classmethod
    def of(cls, about: Mapping[str, Any], where: str) -> LowRes | None:
        """Reads the model.json of an x4 upscaler; returns None where its UNet is not told a level of noise.

        Raises InputError if the network needs it and the file does not describe it.
        """
        config, unet = about.get("low_res_scheduler"), about["networks"]["unet"]
        if not unet.get("num_class_embeds"):
            return None
        if config is None:
            raise InputError(f"{where}: low_res_scheduler is missing, by which upscalers noise the small picture")
        scheduler = Scheduler.from_hf(config, f"{where}: low_res_scheduler")
        highest = about["pipeline"].get("max_noise_level", HIGHEST_NOISE_LEVEL)
        return cls(scheduler, min(highest, unet["num_class_embeds"] - 1, scheduler.num_train_timesteps - 1))

    def level(self, noise_level: int | None) -> int:
        """Returns the noise level, a training timestep, or the default for None; InputError if it is out of range."""
        if noise_level is None:
            return min(NOISE_LEVEL, self.highest)
        if not 0 <= noise_level <= self.highest:
            raise InputError(f"the noise level must be from 0 to {self.highest}, not {noise_level}")
        return noise_level

    def noised(self, pixels: mx.array, noise: mx.array, level: int) -> mx.array:
        """Returns the small picture with unit `noise` added, at a level as `level` returns it."""
        alpha_cumprod = self.scheduler.alphas_cumprod()[level]
        return float(alpha_cumprod**0.5) * pixels + float((1 - alpha_cumprod) ** 0.5) * noise
