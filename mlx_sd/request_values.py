"""How values of a request are read from friendly ones (3, "3:1", a path) and from JSON, and written to JSON.

Imports are inside the functions: the command line's --help reads the request's fields and needs no network.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .core.errors import InputError
from .sampling.schedules import DIFFUSERS

if TYPE_CHECKING:
    from .checkpoint.control import Control
    from .checkpoint.lora import Lora
    from .prompts.embeddings import Embedding
    from .reuse.freeu import FreeU
    from .reuse.policy import Policy
    from .reuse.tgate import TGate


def parse_deepcache(value: Any) -> Policy:
    """Returns the policy of 3, "3:1" or a policy."""
    from .reuse.deepcache import parse

    policy: Policy = parse(value)
    return policy


def parse_tgate(value: Any) -> TGate:
    """Returns the T-GATE settings of 10, "10,5,1,2" or a `TGate`."""
    from .reuse.tgate import parse

    settings: TGate = parse(value)
    return settings


def parse_freeu(value: Any) -> FreeU | None:
    """Returns the FreeU factors of True, "1.5,1.6,0.9,0.2" or a `FreeU`."""
    from .reuse.freeu import parse

    return parse(value)


def parse_loras(value: Any) -> tuple[Lora, ...]:
    """Returns adapters of paths, or of tuples of path, scale and block weights."""
    from .checkpoint.lora import Lora

    entries = [value] if isinstance(value, (str, os.PathLike)) else list(value)
    return tuple(Lora.of(entry) for entry in entries)


def loras_from_json(value: Any) -> tuple[Lora, ...]:
    """Returns the adapters that metadata list."""
    from .checkpoint.lora import Lora

    return tuple(Lora.from_record(record) for record in value)


def loras_to_json(loras: tuple[Lora, ...]) -> list[dict[str, Any]]:
    """Returns the list that metadata hold."""
    return [lora.to_record() for lora in loras]


def parse_embeddings(value: Any) -> tuple[Embedding, ...]:
    """Returns embeddings of paths, "PATH:NAME" or tuples of path and name."""
    from .prompts.embeddings import Embedding

    entries = [value] if isinstance(value, (str, os.PathLike)) else list(value)
    return tuple(Embedding.of(entry) for entry in entries)


def embeddings_from_json(value: Any) -> tuple[Embedding, ...]:
    """Returns the embeddings that metadata list."""
    from .prompts.embeddings import Embedding

    return tuple(Embedding.from_record(record) for record in value)


def embeddings_to_json(embeddings: tuple[Embedding, ...]) -> list[dict[str, Any]]:
    """Returns the list that metadata hold."""
    return [embedding.to_record() for embedding in embeddings]


def parse_pair(value: Any) -> tuple[int, int]:
    """Returns two whole numbers from 0 up, of "1024x768", "0,64" or a pair; InputError for anything else."""
    match = re.fullmatch(r"\s*(\d{1,6})\s*[xX*,\u00d7]\s*(\d{1,6})\s*", value) if isinstance(value, str) else None
    numbers = tuple(map(int, match.groups())) if match else value
    whole = isinstance(numbers, (tuple, list)) and all(type(n) is int and 0 <= n < 10**6 for n in numbers)
    if not whole or len(numbers) != 2:
        raise InputError(f"two whole numbers are needed, such as 1024x768 or 0,64, not {value!r}")
    return numbers[0], numbers[1]


def pair_to_json(value: tuple[int, int]) -> str:
    """Returns a pair as text, "1024x768"."""
    return f"{value[0]}x{value[1]}"


def parse_controls(value: Any) -> tuple[Control, ...]:
    """Returns the control networks of texts, of tuples of model, image and scale, or of `Control` objects."""
    from .checkpoint.control import Control

    entries = [value] if isinstance(value, (str, Control)) else list(value)
    return tuple(Control.of(entry) for entry in entries)


def controls_from_json(value: Any) -> tuple[Control, ...]:
    """Returns the control networks that metadata list, or texts as `--control` takes them."""
    from .checkpoint.control import Control

    return tuple(Control.parse(entry) if isinstance(entry, str) else Control.from_record(entry) for entry in value)


def controls_to_json(controls: tuple[Control, ...]) -> list[dict[str, Any]]:
    """Returns the list that metadata hold."""
    return [control.to_record() for control in controls]


def parse_image(value: Any) -> Any:
    """Returns a path as text, and an image unchanged."""
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def image_to_json(value: Any) -> str:
    """Returns the path of an image; an image in memory has none."""
    return value if isinstance(value, str) else "(an image in memory)"


def parse_class(value: Any) -> int | str:
    """Returns the number or the name of a class; InputError for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise InputError(f"a class must be a number or a name, not {value!r}")
    return value


def with_present_names(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns a JSON record of a request with what an earlier version meant by it.

    `Request.to_json` has always written model_hash, and writes rng since karras, exponential, beta and sgm_uniform mean
    what they mean in ComfyUI and A1111. In a record with the one and without the other they are diffusers'. It writes
    prompt_style since prompts have weights; before, they were plain text.
    """
    if "model_hash" not in record:
        return record
    name = f"diffusers_{record.get('schedule')}"
    earlier = {} if "prompt_style" in record else {"prompt_style": "plain"}
    if "rng" not in record and name in DIFFUSERS:
        earlier["schedule"] = name
    return {**record, **earlier}
