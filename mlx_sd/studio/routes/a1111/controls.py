"""A1111's alwayson_scripts: the ControlNet extension's units become control networks, other scripts are refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ....checkpoint.control import MAKERS
from ....core.suggestions import unknown
from ...models.catalog import ModelEntry
from ..request_error import RequestError
from . import images as a1111_images
from .fields import Fields

CONTROLNET = "controlnet"
_FIELD = "alwayson_scripts.controlnet"
_MODES = {
    "balanced": None,
    "0": None,
    "controlnet is more important": True,
    "2": True,
}
_RESIZE = {
    "just resize": a1111_images.STRETCH,
    "resize and fill": a1111_images.FILL,
    "envelope (outer fit)": a1111_images.FILL,
    "crop and resize": a1111_images.CROP,
    "scale to fit (inner fit)": a1111_images.CROP,
}
_MASKS = ("mask", "mask_image", "effective_region_mask")  # names of a mask of a unit, through its versions
_HASH = re.compile(r"\s*\[[0-9a-f]{4,64}\]$")  # behind a name, as A1111's extension shows it

Decode = Callable[[object, str], Image.Image]  # base64 and the name of its field -> the checked image


@dataclass(frozen=True)
class Unit:
    """One control network with its image."""

    settings: Mapping[str, Any]  # an entry of `controls` in JSON, without its image
    image: Image.Image
    guess_mode: bool | None


def entry_of(name: str, entries: Sequence[ModelEntry]) -> ModelEntry | None:
    """Returns the entry that a client's name means: its id, title or name, with or without a hash; None for none."""
    key = _HASH.sub("", name).strip().lower()
    for entry in entries:
        names = (entry.id, entry.title, entry.name, _HASH.sub("", entry.title))
        if key in [spelling.lower().removesuffix(".safetensors") for spelling in names] or name in names:
            return entry
    return None


def units_of(
    scripts: Mapping[str, Any], networks: Sequence[ModelEntry], decode: Decode, size: tuple[int, int] | None
) -> list[Unit]:
    """Returns the control networks that a client's alwayson_scripts ask for.

    networks: the control networks that there are. size: of the picture, which control images are fitted to. Raises
    RequestError for scripts that are not here, and for units whose model or module is not.
    """
    units: list[Unit] = []
    for name, script in scripts.items():
        arguments = script.get("args") if isinstance(script, dict) else script
        if name.lower() != CONTROLNET:
            if _says_something(arguments):
                message = f"always on script {name!r} not found; there is {CONTROLNET} alone, leave the others out"
                raise RequestError(message, field="alwayson_scripts", code="script_not_found")
            continue
        for values in arguments if isinstance(arguments, list) else [arguments]:
            if isinstance(values, dict) and Fields(values).truth("enabled", True):
                units.append(_unit(values, networks, decode, size))
    if len({unit.guess_mode for unit in units}) > 1:
        raise RequestError("control_mode must be the same in all units here", field=_FIELD)
    return units


def _says_something(arguments: Any) -> bool:
    """Returns whether a script's arguments ask for anything; [], [false] and null switch it off."""
    return bool(arguments) and arguments not in ([False], [None], [{}])


def _unit(
    values: Mapping[str, Any], networks: Sequence[ModelEntry], decode: Decode, size: tuple[int, int] | None
) -> Unit:
    fields = Fields(values)
    name = fields.text("model")
    entry = entry_of(name, networks)
    if entry is None:
        names = [network.name for network in networks]
        none = f"there is no control network {name!r}: none is installed"
        raise RequestError(str(unknown("control network", name, names)) if names else none, field=f"{_FIELD}.model")
    module = fields.text("module").lower()
    maker = None if module in ("", "none") else module
    if maker is not None and maker not in MAKERS:
        raise RequestError(str(unknown("module", module, ("none", *MAKERS))), field=f"{_FIELD}.module")
    source = fields.get("image") or fields.get("input_image")
    if isinstance(source, dict):
        source = source.get("image")
    if source is None:
        raise RequestError(f"{_FIELD}: a unit has no image; send one in base64", field=f"{_FIELD}.image")
    if masked := next((key for key in _MASKS if fields.get(key)), None):
        raise RequestError(
            f"{_FIELD}: a unit acts on the whole picture here; leave out {masked}", field=f"{_FIELD}.{masked}"
        )
    image = decode(source, f"{_FIELD}.image")
    if size is not None:
        image = a1111_images.fitted(image, size, _resize_mode(values))
    numbers = (("weight", "scale"), ("guidance_start", "start"), ("guidance_end", "end"))
    settings: dict[str, Any] = {"model": entry.id, "maker": maker}
    settings |= {key: fields.number(name) for name, key in numbers}
    return Unit({key: value for key, value in settings.items() if value is not None}, image, _guess(values))


def _guess(values: Mapping[str, Any]) -> bool | None:
    """Returns the guess mode of a control_mode, which is a text or a number."""
    mode = str(values.get("control_mode") or "balanced").lower()
    if mode not in _MODES:
        choices = "Balanced and ControlNet is more important"
        raise RequestError(
            f"there is no control_mode {mode!r} here; there are {choices}", field=f"{_FIELD}.control_mode"
        )
    return _MODES[mode]


def _resize_mode(values: Mapping[str, Any]) -> int:
    mode = values.get("resize_mode")
    if isinstance(mode, int) and mode in _RESIZE.values():
        return mode
    return _RESIZE.get(str(mode).lower(), a1111_images.CROP)
