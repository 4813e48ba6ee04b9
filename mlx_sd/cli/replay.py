"""Flags over the settings of a replayed picture: the request that the command line means."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import metadata
from ..checkpoint.model import Model
from ..core.embedded import FORMER
from ..core.errors import InputError
from ..discrete import calls
from ..metadata.from_a1111 import Translation
from ..networks.family import Family
from ..request import SETTINGS, SOLVER, Request, values_from_json
from ..reuse import presets
from ..sampling import names
from ..tasks import images, painting
from . import foreign

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
    "model": ("model_hash", "checkpoint_hash", "coreml"),
    "refiner": ("refiner_hash",),
    "vae": ("vae_hash",),
    "hires_mode": ("hires_hash",),
}
# Networks beside the model -> what their weights are called.
_BESIDE = {"controls": "the control network", "adapters": "the weights", "ip_adapters": "the weights"}
_Files = Sequence[tuple[Any, str | None]]  # names or images, with their hashes
_WITHOUT_CLIP_SKIP = (Family.SDXL, Family.REFINER)  # in A1111
HASHES = {
    "model_hash": "model",
    "refiner_hash": "refiner",
    "vae_hash": "vae",
    "init_image_hash": "init_image",
    "mask_hash": "mask",
}


def request_of(arguments: argparse.Namespace) -> Request:
    """Returns flags over the settings of --from-image over defaults; InputError where the picture's make no sense."""
    flags = _flags(arguments)
    present = _present(arguments)
    obsolete = {name for flag in present for name in _OVERRULES.get(flag, ())}
    recorded: dict[str, Any] = {}
    if arguments.from_image:
        stored, where = metadata.read_any(arguments.from_image), str(arguments.from_image)
        if isinstance(stored, Translation):
            recorded = foreign.values_of(stored, present, where)
            obsolete -= {"width", "height"}  # the image was fitted to them
        else:
            recorded = values_from_json(metadata.without_facts(stored), where)
    if "=" in flags.get("schedule", "") or flags.get("schedule", "").endswith(".json"):
        obsolete.add("steps")  # a list of timesteps has its own number of steps
    sampler, before = flags.get("sampler"), recorded.get("sampler")
    if sampler in calls.MASKING:
        obsolete.add("schedule")  # it has its own
    if sampler and sampler != before and calls.DNDM_C in (sampler, before):
        obsolete.add("steps")  # as many as tokens
    return Request(**({name: value for name, value in recorded.items() if name not in obsolete} | flags))


def _flags(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the fields of a request that the command line decides."""
    flags = {name: value for name in SETTINGS if (value := getattr(arguments, name, None)) is not None}
    for kind in ("timesteps", "sigmas"):
        if (values := getattr(arguments, kind)) is not None:
            flags["schedule"] = f"{kind}={values}"
    choice = names.canonical(flags.get("sampler"), flags.get("schedule"), flags.get("kind"))
    return flags | {name: value for name, value in choice._asdict().items() if value}


def _present(arguments: argparse.Namespace) -> list[str]:
    """Returns the names of the flags that decide something about the request."""
    return [*_flags(arguments), *(["prompts"] if arguments.prompts is not None else [])]


def without_hashes(request: Request) -> Request:
    """Returns the request for the files and models as they are now, whatever a replayed picture was made with."""
    loras = tuple(lora._replace(sha256=None) for lora in request.loras)
    return request.with_values(**dict.fromkeys(HASHES), loras=loras)


def _translation(arguments: argparse.Namespace) -> Translation | None:
    """Returns what the picture of another program says; None for ours, and without a picture."""
    stored = metadata.read_any(arguments.from_image) if arguments.from_image else None
    return stored if isinstance(stored, Translation) else None


def check_images(replayed: Request, request: Request) -> None:
    """Reads the images of a request, its own and those of networks; InputError where one is missing or no picture.

    replayed: of the picture that is made again.
    """
    for field, source in (("init_image_hash", "init_image"), ("mask_hash", "mask")):
        name = getattr(request, source)
        if not isinstance(name, str) or name == painting.ALPHA:
            continue
        recorded = getattr(replayed, field) is not None and name == getattr(replayed, source)
        if recorded and not Path(name).is_file():
            raise _vanished(name, f"--{source.replace('_', '-')}")
        images.read(name)
    for field in _BESIDE:
        recorded_names = {name for entry in getattr(replayed, field) for name, digest in entry.files if digest}
        for name in (name for entry in getattr(request, field) for name, _ in entry.files if isinstance(name, str)):
            if name in recorded_names and not Path(name).is_file():
                raise _vanished(name, f"--{field.removesuffix('s').replace('_', '-')}")
            images.read(name)


def _vanished(name: str, flag: str) -> InputError:
    return InputError(f"{name} is no longer there, and the picture was made with it; {flag} names another")


def changes(
    arguments: argparse.Namespace, replayed: Request, request: Request, model: Model, refiner: Model | None
) -> list[str]:
    """Returns a line for each file and model that is not the one the replayed picture was made with.

    request: that is made of it; what it replaces has not changed. model, refiner: its own, loaded. Raises InputError
    with all lines unless --allow-changed goes on.
    """
    hashes = {"model_hash": model.hash, "refiner_hash": refiner.hash if refiner else None, "vae_hash": model.vae_hash}
    lines = []
    for field, source in HASHES.items():
        before, name = getattr(replayed, field), getattr(replayed, source)
        if before is None or name != getattr(request, source):
            continue
        if before == (hashes[field] if field in hashes else metadata.digest(name)):
            continue
        if before in FORMER:
            lines.append(f"the picture was made with {FORMER[before]}")
        else:
            kind = "the file" if source in ("init_image", "mask") else "the weights"
            lines.append(f"{name} is not {kind} that the picture was made with")
    if [lora.path for lora in replayed.loras] == [lora.path for lora in request.loras]:
        for lora, record in zip(replayed.loras, model.loras, strict=False):
            if lora.sha256 not in (None, record["sha256"]):
                lines.append(f"the LoRA {lora.path} is not the one the picture was made with")
    return _allowed(arguments, lines)


def changes_beside(arguments: argparse.Namespace, replayed: Request, completed: Request) -> list[str]:
    """Returns a line for each network beside the model, and file, that the replayed picture was not made with.

    Raises InputError with all lines unless --allow-changed goes on.
    """
    lines = []
    for field, noun in _BESIDE.items():
        for before, now in zip(getattr(replayed, field), getattr(completed, field), strict=False):
            if before.model == now.model and before.model_hash not in (None, now.model_hash):
                lines.append(f"{now.model} is not {noun} that the picture was made with")
            lines += _changed_files(before.files, now.files)
    if replayed.hires_mode == completed.hires_mode and replayed.hires_hash not in (None, completed.hires_hash):
        lines.append(f"{completed.hires_mode} is not the weights that the picture was made with")
    digests = {embedding.path: embedding.sha256 for embedding in completed.embeddings}
    for path, digest in ((embedding.path, embedding.sha256) for embedding in replayed.embeddings):
        if path in digests:
            lines += _changed_files([(f"the embedding {path}", digest)], [(f"the embedding {path}", digests[path])])
    return _allowed(arguments, lines)


def _changed_files(before: _Files, now: _Files) -> list[str]:
    """Returns a line for each file whose hash was recorded and is another one now."""
    return [
        f"{name} is not the file that the picture was made with"
        for (earlier, digest), (name, current) in zip(before, now, strict=False)
        if earlier == name and digest not in (None, current)
    ]


def _allowed(arguments: argparse.Namespace, lines: list[str]) -> list[str]:
    """Returns lines about what has changed; InputError with all of them unless --allow-changed goes on."""
    if lines and not arguments.allow_changed:
        raise InputError(f"{'; '.join(lines)}; --allow-changed makes another picture with what is there now")
    return lines


def fitted(arguments: argparse.Namespace, request: Request, model: Model) -> Request:
    """Returns the request as its model takes it: in A1111, the text encoders of SDXL leave out no layers."""
    foreign_skip = request.clip_skip and arguments.clip_skip is None and _translation(arguments)
    return request.with_values(clip_skip=0) if foreign_skip and model.family in _WITHOUT_CLIP_SKIP else request


def remarks(arguments: argparse.Namespace, model: Model) -> list[str]:
    """Returns a line about what a picture of another program says and the request leaves out, where there is any."""
    stored, present = _translation(arguments), _present(arguments)
    if model.family in _WITHOUT_CLIP_SKIP:
        present.append("clip_skip")
    if stored is None or not (words := foreign.remarks_of(stored, present)):
        return []
    return [f"{arguments.from_image} is of another program; left out or different here: {'; '.join(words)}"]
