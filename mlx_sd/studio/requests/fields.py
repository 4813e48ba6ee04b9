"""One field of a request as clients send it: ids become what the library names files by, and nothing else is a path."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ... import hires_setting
from ...checkpoint.adapter import Adapter
from ...checkpoint.control import Control
from ...checkpoint.ip_adapter import ImagePrompt
from ...checkpoint.lora import Lora
from ...core.errors import InputError
from ...metadata.to_a1111 import FACTS
from ...prompts.embeddings import Embedding
from ...request import SETTINGS
from ...tasks.painting import ALPHA
from ..models.catalog import chosen_entry
from .limits import LIMITS
from .parts import Sources

KEYS = {description.key or name: name for name, description in SETTINGS.items()}  # names in JSON -> fields
# Names in JSON that say how a picture was made, and are no settings.
IGNORED = {*FACTS, *(description.key or name for name, description in SETTINGS.items() if description.hidden)}
HASHES = ("sha256", "model_hash", "image_hash", "image_hashes", "mask_hash")  # of an entry: as above
_REFUSED = {"coreml": "Core ML packages are run by the command line alone; choose a model"}
_FILE = re.compile(r"\.json\s*$", re.IGNORECASE)


class FieldError(InputError):
    """An input of a client is wrong; `field` is the setting that it is about, None where it is no single one."""

    def __init__(self, message: str, field: str | None = None):
        super().__init__(message)
        self.field = field


def short(value: Any) -> str:
    """Returns a value of a client for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def read(sources: Sources, name: str, value: Any) -> Any:
    """Returns the value of a field, with ids replaced by sources; FieldError."""
    description = SETTINGS[name]
    key = description.key or name
    try:
        _check_size(value, LIMITS.text if name in _LONG else LIMITS.word)
        if name in _REFUSED:
            raise InputError(_REFUSED[name])
        if reader := _READERS.get(name):
            return reader(sources, value)
        if description.from_json is not None:
            raise InputError(f"{key} cannot be given here")  # a field that names files has a reader of its own
        return description.check(name, value)
    except InputError as error:
        raise FieldError(str(error), key) from None
    except (TypeError, KeyError, AttributeError, ValueError, OverflowError):
        raise FieldError(f"{key} is {short(value)}, which makes no sense", key) from None


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
        raise InputError(f"a name is needed, not {short(value)}")
    return value


def _model(sources: Sources, value: Any) -> str:
    return sources.catalog.model(_text(value)).source


def _refiner(sources: Sources, value: Any) -> str:
    return chosen_entry("refiner", _text(value), sources.catalog.refiners()).source


def _vae(sources: Sources, value: Any) -> str:
    return chosen_entry("VAE", _text(value), sources.catalog.vaes()).source


def _encoder(sources: Sources, value: Any) -> str:
    return chosen_entry("image encoder", _text(value), sources.catalog.image_encoders()).source


def _hires_mode(sources: Sources, value: Any) -> str:
    if value in hires_setting.MODES:
        return str(value)
    entries = sources.catalog.upscalers()
    if not any(_text(value) in (entry.id, entry.title, entry.name) for entry in entries):
        modes = ", ".join((*hires_setting.MODES, *(entry.id for entry in entries)))
        raise InputError(f"there is no hires mode {short(value)}; choose one of {modes}")
    return chosen_entry("upscaler", value, entries).source


def _schedule(sources: Sources, value: Any) -> str:
    if _FILE.search(_text(value)):
        raise InputError("a schedule is a name, or a list such as timesteps=999,850,...; files are not read here")
    return _text(value)


def _image(sources: Sources, value: Any) -> str:
    return str(sources.picture(_text(value)))


def _mask(sources: Sources, value: Any) -> str:
    return ALPHA if value == ALPHA else _image(sources, value)


def _records(value: Any, names: Sequence[str], noun: str) -> list[dict[str, Any]]:
    """Returns a list of JSON objects with these keys; a lone object is a list of one."""
    entries = [value] if isinstance(value, Mapping | str) else value
    if not isinstance(entries, list) or len(entries) > LIMITS.entries:
        raise InputError(f"at most {LIMITS.entries} are taken, in a list, not {short(value)}")
    records = []
    for entry in entries:
        record = {names[0]: entry} if isinstance(entry, str) else entry
        if not isinstance(record, Mapping):
            raise InputError(f"{noun} is an object with {', '.join(names)}, not {short(entry)}")
        if surplus := sorted(str(key) for key in record.keys() - {*names, "name", *HASHES}):
            raise InputError(f"{noun} has no {surplus[0][:50]!r}; it has {', '.join(names)}")
        records.append(dict(record))
    return records


def _number(record: Mapping[str, Any], name: str, default: float) -> float:
    number = record.get(name)
    if number is None:
        return default
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise InputError(f"{name} must be a number, not {short(number)}")
    return float(number)


def _loras(sources: Sources, value: Any) -> tuple[Any, ...]:
    loras = []
    for record in _records(value, ("id", "scale", "blocks"), "a LoRA"):
        entry = chosen_entry("LoRA", _text(record.get("id", record.get("name"))), sources.catalog.loras())
        loras.append(Lora.of((entry.source, _number(record, "scale", 1.0), tuple(record.get("blocks") or ()))))
    return tuple(loras)


def _embeddings(sources: Sources, value: Any) -> tuple[Any, ...]:
    entries = []
    for record in _records(value, ("id", "name"), "an embedding"):
        entry = chosen_entry("embedding", _text(record.get("id", record.get("name"))), sources.catalog.embeddings())
        name = record.get("name") or Path(entry.name).name
        entries.append(Embedding(entry.source, _text(name)))
    return tuple(entries)


def _controls(sources: Sources, value: Any) -> tuple[Any, ...]:
    names = ("model", "image", "scale", "start", "end", "maker", "mode")
    controls = []
    for record in _records(value, names, "a control network"):
        entry = chosen_entry("control network", _text(record.get("model")), sources.catalog.control_networks())
        image = _image(sources, record.get("image"))
        scale, start, end = (_number(record, *pair) for pair in (("scale", 1.0), ("start", 0.0), ("end", 1.0)))
        maker, mode = (_text(record[name]) if record.get(name) else None for name in ("maker", "mode"))
        controls.append(Control(entry.source, image, scale, start, end, maker, mode).checked())
    return tuple(controls)


def _adapters(sources: Sources, value: Any) -> tuple[Any, ...]:
    adapters = []
    for record in _records(value, ("model", "image", "scale"), "an adapter"):
        entry = chosen_entry("adapter", _text(record.get("model")), sources.catalog.adapters())
        image, scale = _image(sources, record.get("image")), _number(record, "scale", 1.0)
        adapters.append(Adapter(entry.source, image, scale).checked())
    return tuple(adapters)


def _ip_adapters(sources: Sources, value: Any) -> tuple[Any, ...]:
    prompts = []
    for record in _records(value, ("model", "images", "scale", "mask", "blocks"), "an image prompt"):
        entry = chosen_entry("image prompt", _text(record.get("model")), sources.catalog.image_prompts())
        shown = record.get("images")
        images = tuple(_image(sources, name) for name in (shown if isinstance(shown, list) else [shown]))
        scale: Any = record.get("blocks") or record.get("scale", 1.0)
        mask = None if record.get("mask") is None else _image(sources, record["mask"])
        prompts.append(ImagePrompt(entry.source, images, scale, mask).checked())
    return tuple(prompts)


_READERS: Mapping[str, Callable[[Sources, Any], Any]] = {
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
