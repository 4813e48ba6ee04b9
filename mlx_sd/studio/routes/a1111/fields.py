"""The fields of A1111's txt2img and img2img: their names, its defaults for the answer, and how values are read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..request_error import RequestError

_SHARED: Mapping[str, Any] = {
    "prompt": "",
    "negative_prompt": "",
    "styles": None,
    "seed": -1,
    "subseed": -1,
    "subseed_strength": 0,
    "seed_resize_from_h": -1,
    "seed_resize_from_w": -1,
    "sampler_name": None,
    "scheduler": None,
    "batch_size": 1,
    "n_iter": 1,
    "steps": None,
    "cfg_scale": None,
    "width": None,
    "height": None,
    "restore_faces": None,
    "tiling": None,
    "do_not_save_samples": False,
    "do_not_save_grid": False,
    "eta": None,
    "denoising_strength": None,
    "s_churn": None,
    "s_tmax": None,
    "s_tmin": None,
    "s_noise": None,
    "override_settings": None,
    "override_settings_restore_afterwards": True,
    "refiner_checkpoint": None,
    "refiner_switch_at": None,
    "sampler_index": "Euler",
    "script_name": None,
    "script_args": [],
    "send_images": True,
    "save_images": False,
    "alwayson_scripts": {},
}
TXT2IMG: Mapping[str, Any] = {
    **_SHARED,
    "enable_hr": False,
    "firstphase_width": 0,
    "firstphase_height": 0,
    "hr_scale": 2.0,
    "hr_upscaler": None,
    "hr_second_pass_steps": 0,
    "hr_resize_x": 0,
    "hr_resize_y": 0,
    "hr_checkpoint_name": None,
    "hr_sampler_name": None,
    "hr_scheduler": None,
    "hr_prompt": "",
    "hr_negative_prompt": "",
}
IMG2IMG: Mapping[str, Any] = {
    **_SHARED,
    "init_images": None,
    "resize_mode": 0,
    "image_cfg_scale": None,
    "mask": None,
    "mask_blur": None,
    "mask_blur_x": 4,
    "mask_blur_y": 4,
    "inpainting_fill": 0,
    "inpaint_full_res": True,
    "inpaint_full_res_padding": 0,
    "inpainting_mask_invert": 0,
    "initial_noise_multiplier": None,
    "include_init_images": False,
}


class Fields:
    """The values of a client, read as what they should be; null is what is not there."""

    def __init__(self, values: Mapping[str, Any]):
        self._values = {name: value for name, value in values.items() if value is not None}

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def get(self, name: str) -> Any:
        """Returns a value as the client sent it; None where it is not there."""
        return self._values.get(name)

    def text(self, name: str) -> str:
        """Returns a text, empty where it is not there."""
        value = self._values.get(name, "")
        if not isinstance(value, str):
            raise RequestError(f"{name} must be text, not {_shown(value)}", field=name)
        return value

    def number(self, name: str) -> float | None:
        """Returns a finite number, which may be written as text; None where it is not there."""
        value = self._values.get(name)
        if isinstance(value, str):
            try:
                value = float(value) if value.strip() else None
            except ValueError:
                raise RequestError(f"{name} must be a number, not {_shown(value)}", field=name) from None
        if value is None:
            return None
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            raise RequestError(f"{name} must be a number, not {_shown(value)}", field=name)
        return float(value)

    def integer(self, name: str) -> int | None:
        """Returns a whole number, which may be written with a point or as text; None where it is not there."""
        value = self._values.get(name)
        if isinstance(value, int):
            return int(value)
        number = self.number(name)
        if number is not None and number != int(number):
            raise RequestError(f"{name} must be a whole number, not {_shown(value)}", field=name)
        return None if number is None else int(number)

    def truth(self, name: str, default: bool = False) -> bool:
        """Returns true or false, which may be a number."""
        value = self._values.get(name, default)
        if not isinstance(value, (bool, int)):
            raise RequestError(f"{name} must be true or false, not {_shown(value)}", field=name)
        return bool(value)

    def mapping(self, name: str) -> Mapping[str, Any]:
        """Returns an object, empty where it is not there."""
        value = self._values.get(name, {})
        if not isinstance(value, dict):
            raise RequestError(f"{name} must be an object, not {_shown(value)}", field=name)
        return value

    def sequence(self, name: str) -> list[Any]:
        """Returns a list, empty where it is not there."""
        value = self._values.get(name, [])
        if not isinstance(value, list):
            raise RequestError(f"{name} must be a list, not {_shown(value)}", field=name)
        return value


def echoed(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the `parameters` of an answer: A1111's fields alone, with its defaults where the client says nothing.

    Other keys are not sent back: some clients send a password among them.
    """
    return {name: values[name] if values.get(name) is not None else value for name, value in defaults.items()}


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
