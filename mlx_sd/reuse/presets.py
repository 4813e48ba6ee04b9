"""Solver, steps and reuse chosen together: what --speed takes.

Chosen from curves of quality against cost: for the embedded checkpoint measured (docs/results/reuse.md), for the others
those that DeepCache and T-GATE publish, in the settings that they publish them for.
"""

from dataclasses import dataclass
from typing import Any

from ..checkpoint.model import Model
from ..core.errors import InputError
from .deepcache import DeepCache, Policy
from .tgate import TGate


@dataclass(frozen=True)
class Preset:
    """Settings, each of which a flag of its own overrules, and what is known of them."""

    steps: int
    deepcache: Policy | None
    tgate: TGate | None
    known: str  # what it saves, and what that costs
    sampler: str = "dpmpp_2m"

    @property
    def settings(self) -> dict[str, Any]:
        """By the names that `mlx_sd.settings.complete` takes them by."""
        return {"sampler": self.sampler, "steps": self.steps, "deepcache": self.deepcache, "tgate": self.tgate}

    def __str__(self) -> str:
        flags = [f"--sampler {self.sampler} --steps {self.steps}"]
        flags += [f"--deepcache {self.deepcache}"] if self.deepcache else []
        flags += [f"--tgate {self.tgate}"] if self.tgate else []
        return f"{' '.join(flags)}: {self.known}"


_SD_EXACT = Preset(25, None, None, "nothing is reused")

EMBEDDED = {
    "exact": Preset(
        25,
        None,
        None,
        "2.0 times fewer multiplications than 50 steps of DDIM, Frechet distance -3.7%, CLIP score -0.0",
    ),
    "fast": Preset(
        8,
        None,
        TGate(4),
        "8.7 times fewer multiplications than 50 steps of DDIM, Frechet distance -0.9%, CLIP score +0.8",
    ),
    "fastest": Preset(
        6,
        None,
        TGate(3),
        "11.6 times fewer multiplications than 50 steps of DDIM, Frechet distance -2.2%, CLIP score -2.4",
    ),
}
SD = {
    "exact": _SD_EXACT,
    "fast": Preset(
        25, DeepCache(3), None, "2.3 times as fast at a CLIP score 0.05 lower in 50 steps (published for SD 1.5)"
    ),
    "fastest": Preset(25, DeepCache(3), TGate(10), "published for SDXL only; look at what you get"),
}
SDXL = {
    "exact": _SD_EXACT,
    "fast": Preset(25, DeepCache(3), None, "2.6 times fewer multiplications, FID 24.6 to 23.8 (published)"),
    "fastest": Preset(25, DeepCache(3), TGate(10), "3.4 times fewer multiplications, FID 24.6 to 24.0 (published)"),
}
NAMES = tuple(EMBEDDED)
SETS = ("sampler", "schedule", "steps", "deepcache", "tgate")  # what a preset decides


def preset(model: Model, name: str) -> Preset:
    """The preset of that name for a model; InputError for none of that name, or a model that has nothing to repeat."""
    if name not in NAMES:
        raise InputError(f"there is no speed {name!r}; choose {', '.join(NAMES)}")
    unet = model.unet.config
    if not model.text_encoders or model.upscales:
        raise InputError(f"speeds are of checkpoints that turn text into pictures; {model.name} does not")
    if unet.guidance_dims is not None or model.scheduler.sampler in ("lcm", "tcd"):
        raise InputError("this checkpoint is distilled to few steps, where little repeats itself: leave out --speed")
    family = EMBEDDED if model.name == "tiny" else SD if unet.added_time_dims is None else SDXL
    return family[name]
