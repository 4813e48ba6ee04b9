"""Block weights of LoRAs: a factor for each stage of the UNet, in the order in which block weights are written.

BASE (text encoders, and the layers of the UNet in no stage), IN00, IN01 ..., M00, OUT00, OUT01 ...: all stages (26
for Stable Diffusion 1.x and 2.x, 20 for SDXL), or only those with attention (17 and 12).
"""

import re
from collections.abc import Callable, Iterable

from mlx_sd.checkpoint.lora import Lora
from mlx_sd.core.errors import InputError

_STAGE = re.compile(r"(down|up)\.stages\.(\d+)|middle")


def factors(lora: Lora, unet: Iterable[str]) -> Callable[[str, str], float]:
    """Returns the function (network, layer) -> factor of the layer's difference.

    unet: the names of the UNet's parameters. Raises InputError where the numbers are not as many as the stages, and
    the function raises it where a layer has no factor.
    """
    if not lora.blocks:
        return lambda part, layer: 1.0
    names = list(unet)
    every = _sorted(stage(name) for name in names)
    attending = _sorted(stage(name) for name in names if ".blocks." in name)
    stages = next((s for s in (every, attending) if len(s) + 1 == len(lora.blocks)), None)
    if stages is None:
        raise InputError(
            f"LoRA {lora.path}: {len(lora.blocks)} block weights; this model has {len(every) + 1} (BASE, IN00 ...) or "
            f"{len(attending) + 1} (BASE and the blocks with attention)"
        )
    weights = dict(zip(("base", *stages), lora.blocks, strict=True))

    def factor(part: str, layer: str) -> float:
        """Returns the block weight of the layer's stage."""
        place = stage(layer) if part == "unet" else "base"
        if place not in weights:
            raise InputError(
                f"LoRA {lora.path} changes {layer}, in a block without attention; give {len(every) + 1} block weights"
            )
        return weights[place]

    return factor


def stage(layer: str) -> str:
    """Returns the stage of a UNet's layer: "down.4", "middle", "up.11", or "base" for a layer of no stage."""
    match = _STAGE.match(layer)
    if match is None:
        return "base"
    return f"{match[1]}.{match[2]}" if match[1] else "middle"


def _sorted(stages: Iterable[str]) -> list[str]:
    sides = ("down", "middle", "up")

    def place(name: str) -> tuple[int, int]:
        """Returns a stage's place in the order of block weights."""
        side, _, number = name.partition(".")
        return sides.index(side), int(number or 0)

    return sorted(set(stages) - {"base"}, key=place)
