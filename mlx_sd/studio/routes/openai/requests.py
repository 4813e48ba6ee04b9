"""The JSON and the forms of OpenAI's Images API -> the JSON of our requests."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ....core.errors import InputError
from ....core.suggestions import unknown
from ....spellings import parse_size
from .. import setting_names
from ..request_error import RequestError, wrong_input

MOST = 10  # pictures of one call, as of OpenAI's
_LONGEST = 32_000  # characters of a prompt, as of OpenAI's
FORMATS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}  # output_format -> Pillow's name
_PARTIAL = 3  # most partial images of a stream
# OpenAI's fields that are about its service and change no picture here.
_SERVICE = ("user", "safety_identifier", "moderation", "response_format")
# OpenAI's fields that would change the picture there and have no equal here: they pass, and the answer lists them.
_NO_EQUAL = ("style", "quality", "input_fidelity", "complexity", "markup", "frame_count", "frame_duration_ms", "svg")
_HANDLED = ("n", "size", "background", "output_format", "output_compression", "stream", "partial_images")
_DEFAULTS = ("auto", "standard", "opaque")
# Names of OpenAI's own models, which stand for the default one here.
_HOSTED = re.compile(r"(dall-e|gpt-image|chatgpt-image|gpt-4o|gpt-5)[\w.\-]*")


@dataclass(frozen=True)
class Order:
    """What a call of OpenAI's Images API asks for."""

    settings: Mapping[str, Any]  # of the pictures, as in `Request.to_json`, images and models by their ids
    count: int = 1
    format: str = "png"  # one of FORMATS
    quality: int | None = None  # 0 to 100, of JPEG and WebP
    stream: bool = False
    partial_images: int = 0
    ignored: tuple[str, ...] = field(default=())  # what has no equal here


def is_hosted(model: str) -> bool:
    """Returns whether a name is one of OpenAI's own models."""
    return _HOSTED.fullmatch(model) is not None


def generation(values: Mapping[str, Any]) -> Order:
    """Returns what the JSON object of a generation asks for; RequestError names the field that is wrong."""
    if values.get("prompt") is None:
        raise RequestError(
            "prompt is missing; say what the picture shows", field="prompt", code="missing_required_parameter"
        )
    return _order(values, form=False)


def missing(field: str, advice: str) -> RequestError:
    """Returns the error for a field that must be there."""
    return RequestError(f"{field} is missing; {advice}", field=field, code="missing_required_parameter")


def edit(fields: Mapping[str, str]) -> Order:
    """Returns what the text fields of an edit or a variation ask for, its images not among them."""
    return _order(fields, form=True)


def _order(values: Mapping[str, Any], form: bool) -> Order:
    values = {name: value for name, value in values.items() if value is not None}
    if form:
        values = {name: value for name, value in values.items() if value != ""}
    settings = _settings(values, form)
    output = _choice(values, "output_format", FORMATS, "png", "animations and drawings are not made here")
    count = _whole(values, "n", 1, 1, MOST)
    partial = _whole(values, "partial_images", 0, 0, _PARTIAL)
    if _choice(values, "background", ("auto", "opaque", "transparent"), "auto") == "transparent":
        raise RequestError("background: pictures have no transparency here; leave it out", field="background")
    _choice(values, "response_format", ("b64_json", "url"), "b64_json")
    ignored = tuple(name for name in _NO_EQUAL if name in values and values[name] not in _DEFAULTS)
    quality = _whole(values, "output_compression", 100, 0, 100) if "output_compression" in values else None
    return Order(settings, count, output, quality, _truth(values, "stream"), partial, ignored)


def _settings(values: Mapping[str, Any], form: bool) -> dict[str, Any]:
    """Returns the settings among the values; the size, which OpenAI has in one text, is two of them."""
    prompt = values.get("prompt", "")
    if not isinstance(prompt, str) or len(prompt) > _LONGEST:
        raise RequestError(f"prompt must be text of at most {_LONGEST} characters", field="prompt")
    model = values.get("model")
    if model is not None and not isinstance(model, str):
        raise RequestError(f"model must be a name, not {model!r}", field="model")
    outside = (*_SERVICE, *_NO_EQUAL, *_HANDLED)
    additional = {name: value for name, value in values.items() if name not in outside}
    if model is not None and is_hosted(model):
        del additional["model"]
    settings = (setting_names.read_form if form else setting_names.read)(additional, outside)
    size = values.get("size", "auto")
    if size == "auto":
        return settings
    try:
        width, height = parse_size(size if isinstance(size, str) else str(size))
    except InputError as error:
        raise wrong_input(error, "size") from None
    if settings.keys() & {"width", "height"}:
        raise RequestError("size says width and height; leave them out, or the size", field="size")
    return {**settings, "width": width, "height": height}


def _choice(values: Mapping[str, Any], name: str, choices: Any, default: str, reason: str = "") -> str:
    value = values.get(name, default)
    if not isinstance(value, str) or value not in choices:
        message = str(unknown(name, str(value), choices))
        raise RequestError(f"{message}; {reason}" if reason else message, field=name, code="invalid_value")
    return value


def _whole(values: Mapping[str, Any], name: str, default: int, least: int, most: int) -> int:
    """Returns a whole number of the values, which a form has as text."""
    value = values.get(name, default)
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d{1,6}", value.strip()):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        message = f"{name} must be a whole number from {least} to {most}, not {value!r}"
        raise RequestError(message, field=name, code="invalid_value")
    return value


def _truth(values: Mapping[str, Any], name: str) -> bool:
    value = values.get(name, False)
    value = {"true": True, "false": False}.get(value.lower(), value) if isinstance(value, str) else value
    if not isinstance(value, bool):
        raise RequestError(f"{name} must be true or false, not {value!r}", field=name, code="invalid_value")
    return value
