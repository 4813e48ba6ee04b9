"""JSON of a client -> a checked `Request`: ids become paths here, and errors name the field that they are about.

No text of a client is opened as a path. Names of models, LoRAs, embeddings and pictures are looked up in tables of what
is there; settings that would name files otherwise are refused.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import hires_setting
from ..checkpoint.lora import Lora
from ..core.errors import InputError
from ..metadata.to_a1111 import VERSION_KEY
from ..prompts import lora_tags
from ..prompts.style_names import A1111
from ..prompts.wildcards import expand
from ..request import SETTINGS, Request, pictures_of
from ..setting import Setting
from .catalog import ModelEntry, chosen_entry
from .limits import LIMITS

if TYPE_CHECKING:
    from .studio import Studio

ALPHA = "alpha"  # a mask that is the transparency of the image
UPLOAD, GALLERY = "upload:", "gallery:"  # how clients name pictures
_KEYS = {description.key or name: name for name, description in SETTINGS.items()}
_IGNORED = {VERSION_KEY, *(description.key or name for name, description in SETTINGS.items() if description.hidden)}
_REFUSED = {"coreml": "Core ML packages are run by the command line alone; choose a model"}
_FILE = re.compile(r"\.json\s*$", re.IGNORECASE)
_FLAG = re.compile(r"--([a-z][a-z0-9-]*)")


class FieldError(InputError):
    """An input of a client is wrong; `field` is the setting that it is about, None where it is no single one."""

    def __init__(self, message: str, field: str | None = None):
        super().__init__(message)
        self.field = field


def read_request(studio: "Studio", values: Mapping[str, Any]) -> Request:
    """Returns the request that a JSON object of a client means, under the names of `Request.to_json`.

    Models, LoRAs, embeddings and other networks are given by their ids in the catalogue, images as "upload:ID" or
    "gallery:NAME". A LoRA that the prompt names is looked up in the catalogue too. Raises FieldError.
    """
    fields: dict[str, Any] = {}
    for key, value in values.items():
        if key in _IGNORED or value is None:
            continue
        name = _KEYS.get(key)
        if name is None:
            raise FieldError(_unknown(key), key)
        fields[name] = _value(studio, name, SETTINGS[name], value)
    try:
        request = Request(**({"model": studio.default_model.source} | fields))
        request = with_named_loras(studio, request)
    except FieldError:
        raise
    except InputError as error:
        raise FieldError(str(error), field_of(str(error))) from None
    check_limits(request)
    return request


def pictures(request: Request, count: int = 1, wildcards: bool = True) -> list[Request]:
    """Returns the request of each picture of a submission, with its seed and its wildcards chosen; FieldError."""
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= LIMITS.count:
        raise FieldError(f"count must be a whole number from 1 to {LIMITS.count}, not {_short(count)}", "count")
    try:
        requests = pictures_of([request], count, 1)
        if wildcards and request.prompt is not None:
            prompts = [expand(request.prompt, picture.seed or 0) for picture in requests]
            requests = [picture.with_values(prompt=text) for picture, text in zip(requests, prompts, strict=True)]
    except InputError as error:
        raise FieldError(str(error), "seed") from None
    return requests


def with_named_loras(studio: "Studio", request: Request) -> Request:
    """Returns a request with the LoRAs of its prompt, <lora:NAME:1>, among its own, found by name in the catalogue."""
    if request.prompt is None or request.prompt_style != A1111:
        return request
    try:
        prompt, tags = lora_tags.taken_out(request.prompt)
        entries = [chosen_entry("LoRA", tag.name, _by_stem(studio.catalog.loras())) for tag in tags]
        if not tags:
            return request
        own = (Lora(entry.source, tag.scale) for entry, tag in zip(entries, tags, strict=True))
        return request.with_values(prompt=prompt, loras=(*request.loras, *own))
    except InputError as error:
        raise FieldError(str(error), "prompt") from None


def check_limits(request: Request) -> None:
    """Raises FieldError where a request is larger than the table of limits allows."""
    for name in ("width", "height"):
        if (getattr(request, name) or 0) > LIMITS.side:
            raise FieldError(f"{name} is at most {LIMITS.side} pixels here, not {getattr(request, name)}", name)
    if (request.width or 1) * (request.height or 1) > LIMITS.pixels:
        raise FieldError(
            f"a picture has at most {LIMITS.pixels} pixels here, not {request.width} x {request.height}; make it "
            "smaller, and larger with hires or an upscaler",
            "width",
        )
    if request.hires and (request.width or 512) * (request.height or 512) * request.hires.scale**2 > (
        LIMITS.enlarged_pixels
    ):
        raise FieldError(f"hires makes pictures of at most {LIMITS.enlarged_pixels} pixels here; take less", "hires")
    for name, steps in (("steps", request.steps), ("hires", request.hires and request.hires.steps)):
        if steps and steps > LIMITS.steps:
            raise FieldError(f"steps are at most {LIMITS.steps} here, not {steps}", name)


def field_of(message: str) -> str | None:
    """Returns the setting that an error of the library is about, as far as its text says so."""
    for word in _FLAG.findall(message):
        if (name := _BY_FLAG.get(word)) is not None:
            return name
    labels = sorted(_KEYS, key=len, reverse=True)
    for key in labels:
        if re.match(rf"(the )?{re.escape(key.replace('_', ' '))}\b", message, re.IGNORECASE):
            return key
    return None


def shown_request(studio: "Studio", request: Request) -> dict[str, Any]:
    """Returns a request as clients see it: `read_request` reads it back, and it has no path in it."""
    values = {key: value for key, value in request.to_json().items() if key not in _IGNORED and value is not None}
    title, picture = studio.catalog.title_of, studio.picture_name
    for key in ("model", "refiner", "vae", "ip_encoder"):
        if key in values:
            values[key] = title(values[key])
    if values.get("hires_mode") not in (None, *hires_setting.MODES):
        values["hires_mode"] = title(values["hires_mode"])
    for key in ("init_image", "mask"):
        if key in values and values[key] != ALPHA:
            values[key] = picture(values[key])
    for key, name in (("loras", "path"), ("embeddings", "path"), ("controls", "model"), ("adapters", "model")):
        if key in values:
            values[key] = [_shown_entry(entry, name, title, picture) for entry in values[key]]
    if "ip_adapters" in values:
        values["ip_adapters"] = [_shown_entry(entry, "model", title, picture) for entry in values["ip_adapters"]]
    return values


def _shown_entry(
    entry: Mapping[str, Any], name: str, title: Callable[[str], str], picture: Callable[[str], str]
) -> dict[str, Any]:
    hashes = ("sha256", "model_hash", "image_hash", "image_hashes", "mask_hash")
    values = {key: value for key, value in entry.items() if key not in (*hashes, name) and value is not None}
    key = "id" if name == "path" else name
    for image in ("image", "mask"):
        if image in values:
            values[image] = picture(values[image])
    if "images" in values:
        values["images"] = [picture(image) for image in values["images"]]
    return {key: title(entry[name]), **values}


# ------------------------------------------------------------------------------------------------ one setting


def _value(studio: "Studio", name: str, description: Setting, value: Any) -> Any:
    """Returns the value of a field, with ids replaced by sources; FieldError."""
    key = description.key or name
    try:
        _check_size(value, LIMITS.text if name in _LONG else LIMITS.word)
        if name in _REFUSED:
            raise InputError(_REFUSED[name])
        if reader := _READERS.get(name):
            return reader(studio, value)
        if description.from_json is not None:
            raise InputError(f"{key} cannot be given here")  # a field that names files has a reader of its own
        return description.check(name, value)
    except InputError as error:
        raise FieldError(str(error), key) from None
    except (TypeError, KeyError, AttributeError, ValueError, OverflowError):
        raise FieldError(f"{key} is {_short(value)}, which makes no sense", key) from None


def _check_size(value: Any, longest: int) -> None:
    """Raises InputError for a text that is too long or holds a NUL, and for too many entries."""
    if isinstance(value, str):
        if len(value) > longest:
            raise InputError(f"the text has {len(value)} characters; at most {longest} are taken")
        if "\0" in value:
            raise InputError("the text holds a NUL character; leave it out")
    elif isinstance(value, Mapping | list):
        if len(value) > max(LIMITS.entries, 32):
            raise InputError(f"there are {len(value)} entries; at most {LIMITS.entries} are taken")
        for inner in value.values() if isinstance(value, Mapping) else value:
            _check_size(inner, LIMITS.word)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise InputError(f"a name is needed, not {_short(value)}")
    return value


def _model(studio: "Studio", value: Any) -> str:
    return studio.catalog.model(_text(value)).source


def _refiner(studio: "Studio", value: Any) -> str:
    return chosen_entry("refiner", _text(value), studio.catalog.refiners()).source


def _vae(studio: "Studio", value: Any) -> str:
    return chosen_entry("VAE", _text(value), studio.catalog.vaes()).source


def _encoder(studio: "Studio", value: Any) -> str:
    return chosen_entry("image encoder", _text(value), studio.catalog.image_encoders()).source


def _hires_mode(studio: "Studio", value: Any) -> str:
    if value in hires_setting.MODES:
        return str(value)
    entries = studio.catalog.upscalers()
    if not any(_text(value) in (entry.id, entry.title, entry.name) for entry in entries):
        modes = ", ".join((*hires_setting.MODES, *(entry.id for entry in entries)))
        raise InputError(f"there is no hires mode {_short(value)}; choose one of {modes}")
    return chosen_entry("upscaler", value, entries).source


def _schedule(studio: "Studio", value: Any) -> str:
    if _FILE.search(_text(value)):
        raise InputError("a schedule is a name, or a list such as timesteps=999,850,...; files are not read here")
    return _text(value)


def _image(studio: "Studio", value: Any) -> str:
    return str(studio.picture(_text(value)))


def _mask(studio: "Studio", value: Any) -> str:
    return ALPHA if value == ALPHA else _image(studio, value)


def _records(value: Any, known: Sequence[str], noun: str) -> list[dict[str, Any]]:
    """Returns a list of JSON objects with known keys; a lone object is a list of one."""
    entries = [value] if isinstance(value, Mapping | str) else value
    if not isinstance(entries, list) or len(entries) > LIMITS.entries:
        raise InputError(f"at most {LIMITS.entries} are taken, in a list, not {_short(value)}")
    records = []
    for entry in entries:
        record = {known[0]: entry} if isinstance(entry, str) else entry
        if not isinstance(record, Mapping):
            raise InputError(f"{noun} is an object with {', '.join(known)}, not {_short(entry)}")
        if surplus := sorted(str(key) for key in record.keys() - {*known, "name", *_HASHES}):
            raise InputError(f"{noun} has no {surplus[0][:50]!r}; it has {', '.join(known)}")
        records.append(dict(record))
    return records


_HASHES = ("sha256", "model_hash", "image_hash", "image_hashes", "mask_hash")


def _number(record: Mapping[str, Any], name: str, default: float) -> float:
    number = record.get(name)
    if number is None:
        return default
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise InputError(f"{name} must be a number, not {_short(number)}")
    return float(number)


def _loras(studio: "Studio", value: Any) -> tuple[Any, ...]:
    loras = []
    for record in _records(value, ("id", "scale", "blocks"), "a LoRA"):
        entry = chosen_entry("LoRA", _text(record.get("id", record.get("name"))), studio.catalog.loras())
        loras.append(Lora.of((entry.source, _number(record, "scale", 1.0), tuple(record.get("blocks") or ()))))
    return tuple(loras)


def _embeddings(studio: "Studio", value: Any) -> tuple[Any, ...]:
    from ..prompts.embeddings import Embedding

    entries = []
    for record in _records(value, ("id", "name"), "an embedding"):
        entry = chosen_entry("embedding", _text(record.get("id", record.get("name"))), studio.catalog.embeddings())
        name = record.get("name") or Path(entry.name).name
        entries.append(Embedding(entry.source, _text(name)))
    return tuple(entries)


def _controls(studio: "Studio", value: Any) -> tuple[Any, ...]:
    from ..checkpoint.control import Control

    known = ("model", "image", "scale", "start", "end", "maker", "mode")
    controls = []
    for record in _records(value, known, "a control network"):
        entry = chosen_entry("control network", _text(record.get("model")), studio.catalog.control_networks())
        image = _image(studio, record.get("image"))
        scale, start, end = (_number(record, *pair) for pair in (("scale", 1.0), ("start", 0.0), ("end", 1.0)))
        maker, mode = (_text(record[name]) if record.get(name) else None for name in ("maker", "mode"))
        controls.append(Control(entry.source, image, scale, start, end, maker, mode).checked())
    return tuple(controls)


def _adapters(studio: "Studio", value: Any) -> tuple[Any, ...]:
    from ..checkpoint.adapter import Adapter

    adapters = []
    for record in _records(value, ("model", "image", "scale"), "an adapter"):
        entry = chosen_entry("adapter", _text(record.get("model")), studio.catalog.adapters())
        image, scale = _image(studio, record.get("image")), _number(record, "scale", 1.0)
        adapters.append(Adapter(entry.source, image, scale).checked())
    return tuple(adapters)


def _ip_adapters(studio: "Studio", value: Any) -> tuple[Any, ...]:
    from ..checkpoint.ip_adapter import ImagePrompt

    prompts = []
    for record in _records(value, ("model", "images", "scale", "mask", "blocks"), "an image prompt"):
        entry = chosen_entry("image prompt", _text(record.get("model")), studio.catalog.image_prompts())
        names = record.get("images")
        images = tuple(_image(studio, name) for name in (names if isinstance(names, list) else [names]))
        scale: Any = record.get("blocks") or record.get("scale", 1.0)
        mask = None if record.get("mask") is None else _image(studio, record["mask"])
        prompts.append(ImagePrompt(entry.source, images, scale, mask).checked())
    return tuple(prompts)


_READERS: Mapping[str, Callable[["Studio", Any], Any]] = {
    "model": _model,
    "refiner": _refiner,
    "vae": _vae,
    "ip_encoder": _encoder,
    "hires_mode": _hires_mode,
    "schedule": _schedule,
    "init_image": _image,
    "mask": _mask,
    "loras": _loras,
    "embeddings": _embeddings,
    "controls": _controls,
    "adapters": _adapters,
    "ip_adapters": _ip_adapters,
}
_LONG = ("prompt", "negative", "prompt_2", "negative_2", "schedule")


def _by_stem(entries: Iterable[ModelEntry]) -> list[ModelEntry]:
    """Returns the entries with the names of their files alone as titles, as prompts write them."""
    from dataclasses import replace

    return [replace(entry, title=Path(entry.name).name) for entry in entries]


def _unknown(key: str) -> str:
    from ..core.suggestions import did_you_mean

    return f"there is no setting {key[:50]!r};{did_you_mean(key[:50], _KEYS) or ' leave it out'}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def _flags() -> dict[str, str]:
    """Returns the settings by their flags without dashes."""
    return {
        (description.flag or name).lstrip("-").replace("_", "-"): description.key or name
        for name, description in SETTINGS.items()
    }


_BY_FLAG = _flags()
