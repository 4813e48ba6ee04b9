"""How values of a request are read from friendly ones (3, "3:1", a path) and from JSON, and written to JSON.

Imports are inside the functions: the command line's --help reads the request's fields and needs no network.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .core.errors import InputError
from .sampling.schedules import DIFFUSERS

if TYPE_CHECKING:
    from .checkpoint.control import Control
    from .checkpoint.lora import Lora
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
    """Returns a JSON record of a request with its schedule under the present name.

    `Request.to_json` has always written model_hash, and writes rng since karras, exponential, beta and sgm_uniform mean
    what they mean in ComfyUI and A1111. In a record with the one and without the other they are diffusers'.
    """
    earlier = "model_hash" in record and "rng" not in record
    name = f"diffusers_{record.get('schedule')}"
    return {**record, "schedule": name} if earlier and name in DIFFUSERS else record
