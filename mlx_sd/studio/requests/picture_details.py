"""All that a picture of the gallery says: its request as a form takes it, A1111's text, its size and its date."""

import json
from collections.abc import Mapping
from typing import Any

from ...core.errors import InputError
from ...metadata import picture_file, without_facts
from ...metadata.from_a1111 import translate
from ...request import Request
from ..pictures.picture_record import Record
from .parts import Parts


def of(studio: Parts, record: Record) -> dict[str, Any]:
    """Returns the details of a picture as a JSON object, in the gallery's thread; paths are shown as names or ids.

    `request` is None where the picture does not say how it was made; `remarks` are lines about what was not understood.
    """
    texts = studio.gallery.texts(record.name)
    request, remarks = _request(studio, texts)
    return {
        **record.to_json(),
        "format": picture_file.FORMATS["." + record.name.rpartition(".")[2].lower()],
        "parameters": texts.get(picture_file.PARAMETERS),
        "request": request,
        "remarks": remarks,
    }


def _request(studio: Parts, texts: Mapping[str, str]) -> tuple[dict[str, Any] | None, list[str]]:
    """Returns the settings of a picture without paths, and lines about what was not understood."""
    remarks: list[str] = []
    if picture_file.SETTINGS in texts:
        try:
            values = json.loads(texts[picture_file.SETTINGS])
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict):
            return None, ["the settings in this picture are damaged"]
        values = without_facts(values)
    else:
        translation = translate(texts.get(picture_file.PARAMETERS, ""))
        if translation is None:
            return None, remarks
        values = translation.settings
        remarks = [remark.text for remark in translation.remarks]
    try:
        return studio.show(Request.from_json(values, "this picture")), remarks
    except InputError as error:  # without the value, which may be a path
        return None, [*remarks, f"{str(error).partition(' = ')[0]}, which this version cannot read"]
