"""How values of a request are read from friendly ones (3, "3:1", a path) and from JSON, and written to JSON.

Imports are inside the functions: the command line's --help reads the request's fields and needs no network.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .core.errors import InputError
from .sampling.schedules import DIFFUSERS
from .setting import setting

if TYPE_CHECKING:
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


@dataclass(frozen=True)
class Entries:
    """How a field that holds several records of one class is read and written; the class is imported when it is used.

    The class has `of`, which reads an entry in any form, `from_record` and `to_record`.
    """

    module: str  # as `mlx_sd` imports it, ".checkpoint.lora"
    name: str

    def parse(self, value: Any) -> tuple[Any, ...]:
        """Returns the records of one entry or of several."""
        if value == ():  # of most requests
            return ()
        record = self._record()
        entries = [value] if isinstance(value, (str, os.PathLike, record)) else list(value)
        return tuple(record.of(entry) for entry in entries)

    def from_json(self, value: Any) -> tuple[Any, ...]:
        """Returns the records that metadata list."""
        return tuple(self._record().from_record(entry) for entry in value)

    def to_json(self, records: tuple[Any, ...]) -> list[dict[str, Any]]:
        """Returns the list that metadata hold."""
        return [record.to_record() for record in records]

    def _record(self) -> Any:
        return getattr(import_module(self.module, __package__), self.name)


def entries_setting(module: str, name: str, help: str, **description: Any) -> Any:
    """Returns the setting of a field that holds several records of a class, by its module and its name."""
    entries = Entries(module, name)
    return setting(
        (),
        help,
        kind=object,
        parse=entries.parse,
        to_json=entries.to_json,
        from_json=entries.from_json,
        repeat=True,
        **description,
    )


def parse_pair(value: Any) -> tuple[int, int]:
    """Returns two whole numbers from 0 up, of "1024x768", "0,64" or a pair; InputError for anything else."""
    match = re.fullmatch(r"\s*(\d{1,6})\s*[xX*,\u00d7]\s*(\d{1,6})\s*", value) if isinstance(value, str) else None
    numbers = tuple(map(int, match.groups())) if match else value
    valid = isinstance(numbers, (tuple, list)) and all(type(n) is int and 0 <= n < 10**6 for n in numbers)
    if not valid or len(numbers) != 2:
        raise InputError(f"two whole numbers are needed, such as 1024x768 or 0,64, not {value!r}")
    return numbers[0], numbers[1]


def pair_to_json(value: tuple[int, int]) -> str:
    """Returns a pair as text, "1024x768"."""
    return f"{value[0]}x{value[1]}"


def parse_image(value: Any) -> Any:
    """Returns a path as text, and an image unchanged."""
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def image_to_json(value: Any) -> str:
    """Returns the path of an image; an image in memory has none."""
    from .checkpoint.image_argument import recorded_name

    return recorded_name(value)


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
