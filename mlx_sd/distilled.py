"""Checkpoints and LoRAs that were distilled to few steps: how they are recognised, and the settings that they need.

With the usual settings, their pictures are burnt or blurred. What the files themselves say counts first: a UNet that is
told its guidance, a scheduler of LCM or TCD, Euler's steps that are spaced as Turbo's. Otherwise the name decides, in
the words that the authors use: "sdxl_lightning_4step_lora", "Hyper-SD15-8steps-CFG-lora". The settings are those that
the authors publish; whatever a request says itself stays.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

from .checkpoint.model import Model
from .networks.family import Family

# File names that say nothing: their folder has the name.
_NAMELESS = {"pytorch_lora_weights", "diffusion_pytorch_model", "model", "unet", "lora", "adapter_model"}
_FAMILIES = (Family.SD1, Family.SD2, Family.SDXL)
_STEPS = re.compile(r"(\d+)[-_ ]?steps?(?![a-z])")
_UNGUIDED = 1.0


class Distilled(NamedTuple):
    """A method of distillation, and the settings that its authors publish for it."""

    method: str  # "SDXL Lightning"
    steps: int
    guidance: float = _UNGUIDED
    sampler: str | None = None  # None is the checkpoint's own
    schedule: str | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """Returns the settings by their names in a request."""
        return {name: getattr(self, name) for name in ("steps", "guidance", "sampler", "schedule")}


def distilled_of(model: Model) -> Distilled | None:
    """Returns how a model, or a LoRA in it, was distilled; None where nothing says so."""
    if model.family not in _FAMILIES:
        return None
    for lora in reversed(model.loras):
        if lora["scale"] > 0 and (by_lora := by_name(lora["path"], model.family, lora=True)):
            return by_lora
    by_files = _by_files(model)
    named = by_name(model.name, model.family)
    # Both say Turbo, or the name says more: a merge with Lightning keeps the scheduler of its base.
    return by_files if by_files and (named is None or by_files.sampler) else named or by_files


def _by_files(model: Model) -> Distilled | None:
    scheduler = model.scheduler
    if model.unet.config.guidance_dims is not None:
        return Distilled("LCM", 4, 8.5, "lcm")
    if scheduler.sampler in ("lcm", "tcd"):
        return Distilled(scheduler.sampler.upper(), 4, _UNGUIDED, scheduler.sampler)
    turbo = scheduler.sampler in ("euler", "euler_ancestral") and scheduler.timestep_spacing == "trailing"
    if turbo and scheduler.prediction_type == "epsilon" and not scheduler.rescale_betas_zero_snr:
        return Distilled("Turbo", 4)
    return None


def by_name(name: str, family: Family, *, lora: bool = False) -> Distilled | None:
    """Returns the method that a name tells of: a path, a file or a hub id. None where it tells of none.

    lora: it is of a LoRA, where "lightning" may also be the subject: only with a number of steps, or with the name of a
    family beside it, is it the method.
    """
    path = Path(name)
    stem = path.parent.name if path.stem.lower() in _NAMELESS else path.name.removesuffix(".safetensors")
    text = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", stem).lower()
    words = {word for word in re.split(r"[^a-z0-9]+", text) if word}
    match = _STEPS.search(text.replace("--", "-"))
    steps = int(match[1]) if match else None
    certain = not lora or steps is not None or any(word.startswith(("sd", "xl")) for word in words)
    if "lcm" in words:
        return Distilled("LCM", steps or 4, _UNGUIDED, "lcm")
    if "tcd" in words:
        return Distilled("TCD", steps or 4, _UNGUIDED, "tcd")
    if "dmd2" in words:
        return Distilled("DMD2", steps or 4, _UNGUIDED, "lcm")
    if "hyper" in words and certain:
        if "cfg" in words:  # distilled so that guidance still works
            return Distilled("Hyper-SD with guidance", steps or 8, 5.0, "ddim", "trailing")
        if steps == 1:
            return Distilled("Hyper-SD", 1, _UNGUIDED, "tcd")
        return Distilled("Hyper-SD", steps or 8, _UNGUIDED, "ddim", "trailing")
    if "lightning" in words and certain and family is Family.SDXL:
        return Distilled("SDXL Lightning", steps or 4, _UNGUIDED, "euler", "trailing")
    if "turbo" in words and certain and family in (Family.SD2, Family.SDXL):
        sampler = "euler_ancestral" if family is Family.SDXL else "euler"
        return Distilled("Turbo", steps or 4, _UNGUIDED, sampler, "trailing")
    return None
