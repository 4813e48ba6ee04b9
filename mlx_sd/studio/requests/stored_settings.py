"""The settings in a picture that a client sends -> what the page's form takes, and remarks about what is left out.

Nothing that a picture names is opened: models, LoRAs and pictures are looked up by name among those that are here.
"""

import io
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

from ...core.errors import InputError
from ...hires_setting import MODES
from ...metadata import infotext, picture_file
from ...metadata.from_a1111 import NEEDS, Translation, translate
from ...tasks.painting import ALPHA
from ..models.catalog import Catalog, ModelEntry
from ..pictures.picture_parts import texts_of
from . import json_text
from .fields import IGNORED, KEYS
from .parts import Sources
from .submission import FieldError, read_request

_FLAG = re.compile(r" \([^()]*--[^()]*\)")  # advice for the command line
_HIDDEN = {*IGNORED, "coreml"}
_IMAGES = {"init_image": "the image it began with", "mask": "the mask"}
_BESIDE = {"controls": "control networks", "adapters": "adapters", "ip_adapters": "image prompts"}
_LONGEST = 40  # characters of a name in a remark


class Stored(NamedTuple):
    """What a picture says about itself: settings under the names that `submission.read_request` takes, and remarks."""

    settings: dict[str, Any]
    remarks: list[str]


def read(studio: Sources, data: bytes) -> Stored:
    """Reads the settings in a picture file, ours or those of A1111's web UI; InputError where there are none."""
    stored = texts(data)
    remarks: list[str] = []
    if (text := stored.get(picture_file.SETTINGS)) is not None:
        values = json_text.loads(text.encode("utf-8", "surrogatepass"))
        if not isinstance(values, dict):
            raise InputError("the settings in the picture are damaged")
    else:
        parameters = stored.get(picture_file.PARAMETERS, "")
        if (translation := translate(parameters)) is None:
            raise InputError(_silence(stored))
        values, remarks = _foreign(translation, parameters)
    named = _Names(studio, remarks)
    settings = {key: value for key in values if (value := named.value(key, values[key])) is not None}
    for key, other in NEEDS.items():
        if other not in settings:
            settings.pop(key, None)
    return Stored(_accepted(studio, settings, remarks), remarks)


def texts(data: bytes) -> dict[str, str]:
    """Returns the texts in a picture file by their names; InputError where it is none that is read."""
    return picture_file.read(io.BytesIO(texts_of(data)), "the picture")


def _silence(texts: Mapping[str, str]) -> str:
    if texts.keys() & {"workflow", "prompt"}:
        return "the picture holds a graph of ComfyUI, which is not read; save it with A1111's text"
    return "the picture does not say how it was made (was it edited or saved again?)"


def _foreign(translation: Translation, text: str) -> tuple[dict[str, Any], list[str]]:
    """Returns what A1111's text says, with the names of model and LoRAs in it, and remarks."""
    parsed = infotext.parse(text)
    model = parsed.values.get("Model") if parsed else None
    loras = [{"path": adapter.name, "scale": adapter.scale} for adapter in translation.adapters]
    remarks = [_FLAG.sub("", remark.text) for remark in translation.remarks if remark.field != "model"]
    return translation.settings | ({"model": model} if model else {}) | ({"loras": loras} if loras else {}), remarks


def _accepted(studio: Sources, settings: dict[str, Any], remarks: list[str]) -> dict[str, Any]:
    """Returns the settings without those that a request would be refused for, each with a remark."""
    while settings:
        try:
            read_request(studio, settings)
        except FieldError as error:
            remarks.append(f"{error.field or 'the settings'}: {error}")
            if error.field not in settings or error.field == "prompt":  # the user sees it at the field
                break
            del settings[error.field]
        else:
            break
    return settings


class _Names:
    """Finds what a picture names among what is here, and remarks on what is not."""

    def __init__(self, studio: Sources, remarks: list[str]):
        self._studio, self._remarks = studio, remarks
        catalog: Catalog = studio.catalog
        self._lists: Mapping[str, tuple[str, Callable[[], list[ModelEntry]]]] = {
            "model": ("model", catalog.models),
            "refiner": ("refiner", catalog.refiners),
            "vae": ("VAE", catalog.vaes),
            "ip_encoder": ("image encoder", catalog.image_encoders),
        }

    def value(self, key: str, value: Any) -> Any:
        """Returns the value of a setting as clients give it; None where it is left out."""
        if value is None or value == [] or key in _HIDDEN:
            return None
        if key not in KEYS:
            self._remarks.append(f"there is no setting {_short(key)} here")
            return None
        if key in self._lists:
            noun, entries = self._lists[key]
            return self._id(noun, value, entries())
        if key == "hires_mode" and value not in MODES:
            return self._id("upscaler", value, self._studio.catalog.upscalers())
        if key in _IMAGES:
            return self._image(_IMAGES[key], value)
        if key == "loras":
            return self._records(value, "LoRA", self._studio.catalog.loras(), ("scale", "blocks")) or None
        if key == "embeddings":
            return self._records(value, "embedding", self._studio.catalog.embeddings(), ("name",)) or None
        if key in _BESIDE:
            self._remarks.append(f"the {_BESIDE[key]}: choose their images anew")
            return None
        return value

    def _id(self, noun: str, name: Any, entries: Iterable[ModelEntry]) -> str | None:
        """Returns the id of the entry that has a name: its source, title or name, or the last part of a path."""
        listed = list(entries)
        for candidate in (name, _last(name)):
            for entry in listed:
                if candidate in (entry.source, entry.id, entry.title, entry.name, _last(entry.name)):
                    return entry.id
        self._remarks.append(f"the {noun} {_short(_last(name))} is not here")
        return None

    def _image(self, noun: str, name: Any) -> str | None:
        if name == ALPHA:
            return ALPHA
        if isinstance(name, str):
            reference = self._studio.picture_name(name)
            try:
                self._studio.picture(reference)
            except InputError:
                pass
            else:
                return reference
        self._remarks.append(f"{noun}, which is not in the picture: add it anew")
        return None

    def _records(
        self, value: Any, noun: str, entries: list[ModelEntry], names: tuple[str, ...]
    ) -> list[dict[str, Any]]:
        """Returns the entries of a list that are here, with their ids and those of their values that are named."""
        records = []
        for record in value if isinstance(value, list) else []:
            if isinstance(record, Mapping) and (id := self._id(noun, record.get("path"), entries)):
                records.append({"id": id} | {name: record[name] for name in names if name in record})
        return records


def _last(name: Any) -> str:
    """Returns the last part of a path of any system, without the suffix of weights."""
    return PureWindowsPath(str(name)).name.removesuffix(".safetensors") or Path(str(name)).name


def _short(text: str) -> str:
    line = ascii(json.loads(json.dumps(text))) if not text.isprintable() else repr(text)
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."
