"""The model that an adapter was made for, as far as the names and shapes in its file tell it."""

import re

from mlx_sd.networks.family import Family

from ..files.file_kinds import adapter_family
from .adapter_file import Adapter

# Width of the prompt that attention looks at -> the family with such a prompt
FAMILIES = {768: Family.SD1, 1024: Family.SD2, 1280: Family.REFINER, 2048: Family.SDXL}
_CROSS_ATTENTION = re.compile(r"attn2[._]to_(k|v|kv)$")


def family(adapter: Adapter) -> str | None:
    """Returns the name of the family that an adapter was made for; None where nothing tells it."""
    if other := adapter_family(module.name for module in adapter.modules):
        return other
    if widths := prompt_widths(adapter):
        return width_names(widths)
    return Family.SDXL.value if any(module.part == "text_encoder_2" for module in adapter.modules) else None


def prompt_widths(adapter: Adapter) -> set[int]:
    """Returns the widths of the prompts that the adapter's cross attentions look at."""
    shapes = [module.shape for module in adapter.modules if _CROSS_ATTENTION.search(module.layer)]
    return {shape[1] for shape in shapes if shape}


def width_names(widths: set[int]) -> str:
    """Returns the names of the families with prompts of these widths."""
    return " or ".join(
        FAMILIES[width].value if width in FAMILIES else f"a model with prompts {width} wide" for width in sorted(widths)
    )
