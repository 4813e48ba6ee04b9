"""A picture of A1111's web UI, or of a program that writes the same text -> values of a request."""

from collections.abc import Collection
from typing import Any

from .. import seeds
from ..metadata.from_a1111 import NEEDS, Translation
from ..request import values_from_json


def values_of(translation: Translation, flags: Collection[str], where: str) -> dict[str, Any]:
    """Returns the fields of a request that a text of A1111 decides.

    flags: the fields that the command line decides. where: the picture. Raises InputError for a value that makes no
    sense.
    """
    settings = {key: value for key, value in translation.settings.items() if value is not None}
    if _seed_problem(translation):
        del settings["seed"]
    values = values_from_json(settings, where)
    return {field: value for field, value in values.items() if field not in NEEDS or NEEDS[field] in flags}


def remarks_of(translation: Translation, flags: Collection[str]) -> list[str]:
    """Returns what a request leaves out of a text of A1111, or has differently, flags excepted."""
    remarks = [remark.text for remark in translation.remarks if remark.field not in flags]
    if "seed" not in flags and (problem := _seed_problem(translation)):
        remarks.append(problem)
    if "loras" not in flags and translation.adapters:
        names = ", ".join(f"{adapter.name} at {adapter.scale:g}" for adapter in translation.adapters)
        remarks.append(f"the LoRA {names} (--lora PATH:SCALE adds one)")
    return remarks


def _seed_problem(translation: Translation) -> str | None:
    seed = translation.settings.get("seed")
    if not isinstance(seed, int) or 0 <= seed <= seeds.HIGHEST:
        return None
    return f"the seed {seed} (seeds go from 0 to {seeds.HIGHEST})"
