"""JSON of a client -> a checked `Request`: ids become paths here, and errors name the field that they are about.

No text of a client is opened as a path. Names of models, LoRAs, embeddings and pictures are looked up in tables of what
is there; settings that would name files otherwise are refused.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..checkpoint.lora import Lora
from ..core.errors import InputError
from ..core.suggestions import did_you_mean
from ..prompts import lora_tags
from ..prompts.embeddings import Embedding
from ..prompts.style_names import A1111
from ..prompts.wildcards import expand
from ..request import SETTINGS, Request, pictures_of
from .catalog import ModelEntry, chosen_entry
from .fields import IGNORED, KEYS, FieldError, read, short
from .limits import LIMITS
from .parts import Sources

__all__ = ["FieldError", "check_limits", "field_of", "pictures", "read_fields", "read_request"]

UPLOAD, GALLERY = "upload:", "gallery:"  # how clients name pictures
_FLAG = re.compile(r"--([a-z][a-z0-9-]*)")


def read_request(sources: Sources, values: Mapping[str, Any]) -> Request:
    """Returns the request that a JSON object of a client means, under the names of `Request.to_json`.

    Models, LoRAs, embeddings and other networks are given by their ids in the catalogue, images as "upload:ID" or
    "gallery:NAME". A LoRA that the prompt names is looked up in the catalogue too. Raises FieldError.
    """
    fields, errors = read_fields(sources, values)
    if errors:
        raise errors[0]
    try:
        request = Request(**({"model": sources.default_model.source} | fields))
        request = with_named_embeddings(sources, with_named_loras(sources, request))
    except FieldError:
        raise
    except InputError as error:
        raise FieldError(str(error), field_of(str(error))) from None
    check_limits(request)
    return request


def read_fields(sources: Sources, values: Mapping[str, Any]) -> tuple[dict[str, Any], list[FieldError]]:
    """Returns the fields of a request that a JSON object names, by themselves, and what is wrong with the others."""
    fields: dict[str, Any] = {}
    errors: list[FieldError] = []
    for key, value in values.items():
        if key in IGNORED or value is None:
            continue
        name = KEYS.get(key)
        if name is None:
            errors.append(FieldError(_unknown(key), key))
            continue
        try:
            fields[name] = read(sources, name, value)
        except FieldError as error:
            errors.append(error)
    return fields, errors


def pictures(request: Request, count: int = 1, wildcards: bool = True) -> list[Request]:
    """Returns the request of each picture of a submission, with its seed and its wildcards chosen; FieldError."""
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= LIMITS.count:
        raise FieldError(f"count must be a whole number from 1 to {LIMITS.count}, not {short(count)}", "count")
    try:
        requests = pictures_of([request], count, 1)
        if wildcards and request.prompt is not None:
            prompts = [expand(request.prompt, picture.seed or 0) for picture in requests]
            requests = [picture.with_values(prompt=text) for picture, text in zip(requests, prompts, strict=True)]
    except InputError as error:
        raise FieldError(str(error), "seed") from None
    return requests


def with_named_loras(sources: Sources, request: Request) -> Request:
    """Returns a request with the LoRAs of its prompt, <lora:NAME:1>, among its own, found by name in the catalogue."""
    if request.prompt is None or request.prompt_style != A1111:
        return request
    try:
        prompt, tags = lora_tags.taken_out(request.prompt)
        entries = [chosen_entry("LoRA", tag.name, _by_stem(sources.catalog.loras())) for tag in tags]
        if not tags:
            return request
        loras = (Lora(entry.source, tag.scale) for entry, tag in zip(entries, tags, strict=True))
        return request.with_values(prompt=prompt, loras=(*request.loras, *loras))
    except InputError as error:
        raise FieldError(str(error), "prompt") from None


def with_named_embeddings(sources: Sources, request: Request) -> Request:
    """Returns a request with the embeddings of the catalogue that its prompts name.

    They are named as <NAME> or embedding:NAME, or by the bare name where that is no ordinary word: it has a capital, a
    digit, a dash or an underscore.
    """
    text = " ".join(filter(None, (request.prompt, request.negative, request.prompt_2, request.negative_2)))
    present = {entry.path for entry in request.embeddings}
    named = []
    for entry in sources.catalog.embeddings() if text else ():
        name = Path(entry.name).name
        bare = rf"(?<![\w-]){re.escape(name)}(?![\w-])"
        marked = f"<{name}>" in text or re.search(rf"embedding:{re.escape(name)}(?![\w-])", text)
        if entry.source not in present and (marked or (re.search("[A-Z0-9_-]", name) and re.search(bare, text))):
            named.append(Embedding(entry.source, name))
    return request.with_values(embeddings=(*request.embeddings, *named)) if named else request


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
    labels = sorted(KEYS, key=len, reverse=True)
    for key in labels:
        if re.match(rf"(the |unknown |there is no )?{re.escape(key.replace('_', ' '))}\b", message, re.IGNORECASE):
            return key
    return None


def _by_stem(entries: Iterable[ModelEntry]) -> list[ModelEntry]:
    """Returns the entries with the names of their files alone as titles, as prompts write them."""
    return [replace(entry, title=Path(entry.name).name) for entry in entries]


def _unknown(key: str) -> str:
    return f"there is no setting {key[:50]!r};{did_you_mean(key[:50], KEYS) or ' leave it out'}"


def _flags() -> dict[str, str]:
    """Returns the settings by their flags without dashes."""
    return {
        (description.flag or name).lstrip("-").replace("_", "-"): description.key or name
        for name, description in SETTINGS.items()
    }


_BY_FLAG = _flags()
