"""A1111's hires fix -> ours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ....core.suggestions import unknown
from ....hires_setting import STRENGTH
from ....metadata.to_a1111 import HIRES
from ...models.catalog import ModelEntry
from ..request_error import RequestError
from .controls import entry_of
from .fields import Fields

_SCALE = 2.0  # where the client says none, as in A1111
_NEAR = 8  # pixels by which a target may miss the picture's shape: that of rounding to whole latents
# What the second pass may not have of its own here -> the field of the first pass.
_OTHERS = {
    "hr_checkpoint_name": "sd_model_checkpoint",
    "hr_sampler_name": "sampler_name",
    "hr_scheduler": "scheduler",
    "hr_prompt": "prompt",
    "hr_negative_prompt": "negative_prompt",
}
_SAME = ("", "none", "use same checkpoint", "use same sampler", "use same scheduler")


def settings_of(fields: Fields, size: tuple[int, int] | None, upscalers: Sequence[ModelEntry]) -> dict[str, Any]:
    """Returns the settings of a hires fix; nothing where it is not enabled.

    size: (width, height) of the first pass, where the client says them. upscalers: the x4 upscalers that there are.
    """
    if any(fields.number(name) for name in ("firstphase_width", "firstphase_height")):
        raise RequestError("firstphase_width: say the first size by width and hr_scale", field="firstphase_width")
    if not fields.truth("enable_hr"):
        return {}
    for name, first in _OTHERS.items():
        value = fields.text(name)
        if value.lower() not in _SAME and value != fields.get(first):
            raise RequestError(f"{name}: the second pass has the {first} of the first one; leave it out", field=name)
    strength = fields.number("denoising_strength")
    steps = fields.integer("hr_second_pass_steps") or ""
    scale = _scale(fields, size)
    return {
        "hires": f"{scale:g}:{steps}:{STRENGTH if strength is None else strength:g}",
        "hires_mode": _mode(fields.text("hr_upscaler"), upscalers),
    }


def _mode(name: str, upscalers: Sequence[ModelEntry]) -> str:
    modes = {label.lower(): mode for mode, label in HIRES.items()}
    if not name or name.lower() in modes:
        return modes.get(name.lower(), next(iter(HIRES)))
    entry = entry_of(name, upscalers)
    if entry is None:
        names = [*HIRES.values(), *(upscaler.name for upscaler in upscalers)]
        raise RequestError(str(unknown("upscaler", name, names)), field="hr_upscaler")
    return entry.id


def _scale(fields: Fields, size: tuple[int, int] | None) -> float:
    """Returns how much larger the second pass is: hr_scale, or hr_resize_x and hr_resize_y over the first size."""
    target = [fields.integer("hr_resize_x") or 0, fields.integer("hr_resize_y") or 0]
    if not any(target):
        scale = fields.number("hr_scale")
        return _SCALE if scale is None else scale
    if size is None:
        raise RequestError("hr_resize_x: say width and height too, or hr_scale", field="hr_resize_x")
    ratios = [goal / side for goal, side in zip(target, size, strict=True) if goal]
    scale = math.ceil(max(ratios) * 1e5) / 1e5  # never a pixel too small, in the digits that are recorded
    if any(goal and abs(side * scale - goal) > _NEAR for goal, side in zip(target, size, strict=True)):
        shape = f"{target[0]} x {target[1]} is not the shape of {size[0]} x {size[1]}"
        raise RequestError(f"hr_resize_x: {shape}, and nothing is cropped here; say hr_scale", field="hr_resize_x")
    return scale
