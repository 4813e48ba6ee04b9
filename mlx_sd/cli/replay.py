"""Flags over the settings of a replayed picture: the request that the command line means."""

import argparse
import sys
from collections.abc import Mapping
from typing import Any

from .. import metadata
from ..request import SETTINGS, SOLVER, Request, values_from_json
from ..reuse import presets
from ..sampling import names

# A flag -> the settings of a replayed picture that it makes obsolete, beside its own.
_OVERRULES: Mapping[str, tuple[str, ...]] = {
    "prompt": ("class_label",),
    "prompts": ("class_label", "prompt"),
    "class_label": ("prompt",),
    "sampler": SOLVER,  # another solver gives its options another meaning
    "schedule": SOLVER,
    "speed": (*SOLVER, *presets.FIELDS),
    "init_image": ("width", "height", "init_image_hash"),  # the new image's size counts
    "mask": ("mask_hash",),
    "model": ("model_hash", "coreml"),
    "refiner": ("refiner_hash",),
}
HASHES = {"model_hash": "model", "refiner_hash": "refiner", "init_image_hash": "init_image", "mask_hash": "mask"}


def request_of(arguments: argparse.Namespace) -> Request:
    """Returns flags over the settings of --from-image over defaults; InputError where the picture's make no sense."""
    flags = {name: value for name in SETTINGS if (value := getattr(arguments, name, None)) is not None}
    for kind in ("timesteps", "sigmas"):
        if (values := getattr(arguments, kind)) is not None:
            flags["schedule"] = f"{kind}={values}"
    choice = names.canonical(flags.get("sampler"), flags.get("schedule"), flags.get("kind"))
    flags |= {name: value for name, value in choice._asdict().items() if value}
    recorded: dict[str, Any] = {}
    if arguments.from_image:
        stored = metadata.read(arguments.from_image)
        stored.pop(metadata.VERSION_KEY, None)
        recorded = values_from_json(stored, str(arguments.from_image))
    present = [*flags, *(["prompts"] if arguments.prompts is not None else [])]
    obsolete = {name for flag in present for name in _OVERRULES.get(flag, ())}
    if "=" in flags.get("schedule", "") or flags.get("schedule", "").endswith(".json"):
        obsolete.add("steps")  # a list of timesteps has its own number of steps
    return Request(**({name: value for name, value in recorded.items() if name not in obsolete} | flags))


def without_hashes(request: Request) -> Request:
    """Returns the request for the files and models as they are now, whatever a replayed picture was made with."""
    loras = tuple(lora._replace(sha256=None) for lora in request.loras)
    return request.with_values(**dict.fromkeys(HASHES), loras=loras)


def report_changes(name: str, replayed: Request, completed: Request) -> None:
    """Prints a line on stderr for each file or model that is not the one that the replayed picture was made with."""
    for field, source in HASHES.items():
        recorded = getattr(replayed, field)
        if recorded not in (None, getattr(completed, field)):
            kind = "the file" if source in ("init_image", "mask") else "the weights"
            path = getattr(replayed, source)
            print(f"{name}: {path} is not {kind} that the picture was made with", file=sys.stderr)
    for before, now in zip(replayed.loras, completed.loras, strict=False):
        if before.sha256 not in (None, now.sha256):
            print(f"{name}: the LoRA {now.path} is not the one the picture was made with", file=sys.stderr)
