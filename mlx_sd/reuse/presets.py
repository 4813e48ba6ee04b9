"""Sampler, steps, DeepCache and T-GATE chosen together: what --speed takes.

The embedded checkpoint's presets come from measured curves of quality against cost (docs/results/reuse.md), those of
other checkpoints from what DeepCache and T-GATE publish, in the settings that they publish it for.
"""

from dataclasses import dataclass
from typing import Any

from ..core.errors import InputError
from ..networks.family import Family
from .deepcache import DeepCache
from .policy import Policy
from .tgate import TGate


@dataclass(frozen=True)
class Preset:
    """Holds settings, each of which its own flag overrules, and the evidence for them."""

    steps: int
    deepcache: Policy | None
    tgate: TGate | None
    evidence: str  # what the preset saves and what that costs, in one clause
    sampler: str = "dpmpp_2m"

    @property
    def settings(self) -> dict[str, Any]:
        """Returns the settings by the names that `generate` takes them by."""
        return {"sampler": self.sampler, "steps": self.steps, "deepcache": self.deepcache, "tgate": self.tgate}


_SD_EXACT = Preset(25, None, None, "nothing is reused")

EMBEDDED = {
    "exact": Preset(
        25,
        None,
        None,
        "2.0 times fewer multiplications than 50 steps of DDIM; of the captions measured 92.0% come true, there 89.5%",
        "dpmpp_2m_sde",
    ),
    "fast": Preset(
        8,
        None,
        TGate(4),
        "8.5 times fewer multiplications than 50 steps of DDIM; of the captions measured 85.0% come true, there 89.5%",
    ),
    "fastest": Preset(
        6,
        None,
        TGate(3),
        "11.4 times fewer multiplications than 50 steps of DDIM; of the captions measured 83.5% come true, there 89.5%",
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
BY_FAMILY = {Family.SD1: SD, Family.SD2: SD, Family.SDXL: SDXL, Family.REFINER: SDXL}
NAMES = tuple(EMBEDDED)
FIELDS = ("sampler", "schedule", "steps", "deepcache", "tgate")  # the settings that a preset decides


def preset(name: str, family: Family, *, embedded: bool = False, distilled: bool = False) -> Preset:
    """Returns the preset of that name for a checkpoint of a family.

    embedded: the checkpoint is the one that ships with the package, whose presets are measured.
    distilled: it was trained to make images in few steps (LCM, TCD), which leave little to reuse.
    Raises InputError for an unknown name, a family that does not turn text into images, and a distilled checkpoint.
    """
    if name not in NAMES:
        raise InputError(f"there is no speed {name!r}; choose {', '.join(NAMES)}")
    if family not in BY_FAMILY:
        raise InputError(f"--speed is for checkpoints that turn text into images, not for {family.value}; leave it out")
    if distilled:
        raise InputError("this checkpoint is distilled to few steps, where little repeats itself: leave out --speed")
    return EMBEDDED[name] if embedded else BY_FAMILY[family][name]
