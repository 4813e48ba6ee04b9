"""The file of what was measured: one JSON beside the cache, an entry for each machine, model and size of pictures.

An entry counts only where all of its key is as it is now: another chip, system, version of MLX or of mlx-sd, another
network, size, dtype or quantization was not measured. It names no model, no folder and no user.
"""

import hashlib
import json
import math
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..checkpoint.model import Model
from ..core import blas, device, files
from ..core.errors import Failure, InputError
from ..core.places import cache_folder, shown
from ..core.version import VERSION
from ..networks.tuning import Coverage
from .choices import WINOGRAD
from .measure import Finding, Samples

NAME = "tuning.json"
_VERSION = 1  # of the file
_MACHINE = ("chip", "system", "mlx", "mlx_sd", "blas", "winograd")
_KEYS = {
    **dict.fromkeys((*_MACHINE, "family", "unet", "dtype", "quantize"), str),
    **dict.fromkeys(("width", "height"), int),
}
_SAMPLES = {"full": list, "cached": list, "first": float, "exact": bool, "difference": float, "fails": bool}

Key = dict[str, str | int]


@dataclass
class Entry:
    """What was measured of one model and size on one machine."""

    key: Key
    coverage: Coverage
    findings: list[Finding] = field(default_factory=list)

    @property
    def size(self) -> tuple[int, int]:
        """Returns (width, height) of the pictures in pixels."""
        return int(self.key["width"]), int(self.key["height"])


def path() -> Path:
    """Returns the path of the file."""
    return cache_folder() / NAME


def machine() -> Key:
    """Returns the part of a key that says what computes."""
    import mlx.core as mx

    system = f"macOS {platform.mac_ver()[0]}" if sys.platform == "darwin" else platform.system()
    library = Path(blas.preload() or "none").name
    version = str(mx.__version__)  # type: ignore[attr-defined]
    return {
        "chip": device.describe(),
        "system": system,
        "mlx": version,
        "mlx_sd": VERSION,
        "blas": library,
        "winograd": os.environ.get(WINOGRAD, ""),  # it decides how Metal convolves
    }


def key_of(model: Model, width: int, height: int) -> Key:
    """Returns the key of a loaded model and a size of pictures in pixels, on this machine."""
    return sized(model_key(model), width, height)


def sized(key: Key, width: int, height: int) -> Key:
    """Returns the key of a model with a size of pictures in pixels."""
    return key | {"width": width, "height": height}


def model_key(model: Model) -> Key:
    """Returns the part of a key that says what computes, and which loaded model."""
    network = hashlib.sha256(repr(model.unet.config).encode()).hexdigest()[:12]
    quantized = [f"{name}={layer.bits}" for name, layer in model.unet.named_modules() if hasattr(layer, "bits")]
    scheme = hashlib.sha256(",".join(sorted(quantized)).encode()).hexdigest()[:12] if quantized else "no"
    dtype = str(model.dtype).rpartition(".")[2]
    return machine() | {
        "family": model.family.value,
        "unet": network,
        "dtype": dtype,
        "quantize": scheme,
    }


def read(file: Path) -> list[Entry]:
    """Reads the entries of a file, none where there is no file; InputError with the way out where it is damaged."""
    if not files.is_file(file):
        return []
    try:
        content = files.read_json(file)
        version = content.get("version")
        if version != _VERSION or isinstance(version, bool):
            raise InputError(f"its version is {version!r}, not {_VERSION}")
        return [_entry(value) for value in _typed(content.get("entries"), list, "entries")]
    except InputError as error:
        reason = str(error).removeprefix(f"{file} ")
        raise InputError(f"{shown(file)} cannot be used ({reason}); mlx-sd tune --forget removes it") from None


def of_this_machine(entries: Sequence[Entry]) -> list[Entry]:
    """Returns the entries that were measured on this machine, with its versions of today."""
    here = machine()
    return [entry for entry in entries if all(entry.key[name] == here[name] for name in _MACHINE)]


def write(file: Path, entry: Entry) -> None:
    """Puts an entry into a file, in the place of one with its key; Failure where it cannot be written."""
    try:
        with files.turn(file):
            others = [other for other in read(file) if other.key != entry.key]
            whole_file = {"version": _VERSION, "entries": [_json(content) for content in (*others, entry)]}
            with files.atomic_file(file) as f:
                f.write(json.dumps(whole_file, indent=1).encode())
    except OSError as error:
        raise Failure(f"{shown(file)} cannot be written: {error.strerror}") from None


def remove(file: Path) -> bool:
    """Removes a file, whatever it holds; returns whether there was one. Failure where it stays."""
    try:
        file.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise Failure(f"{shown(file)} cannot be removed: {error.strerror}") from None
    return True


def _json(entry: Entry) -> dict[str, Any]:
    findings = [asdict(finding) for finding in entry.findings]
    return {"key": entry.key, "coverage": entry.coverage._asdict(), "findings": findings}


def _entry(value: Any) -> Entry:
    content = _fields(value, {"key": dict, "coverage": dict, "findings": list}, "an entry")
    key = _fields(content["key"], _KEYS, "a key")
    sizes = _fields(content["coverage"], {"rows": list, "height": int, "width": int, "tokens": int}, "a coverage")
    rows = tuple(_typed(row, int, "rows") for row in sizes["rows"])
    return Entry(key, Coverage(**{**sizes, "rows": rows}), [_finding(finding) for finding in content["findings"]])


def _finding(value: Any) -> Finding:
    content = _fields(value, {"choice": str, "beside": str, "values": dict}, "a finding")
    values = {text: _samples(samples) for text, samples in content["values"].items()}
    if not values:
        raise InputError(f"{content['choice']} has no values")
    rounds = len(next(iter(values.values())).full)
    if any(len(samples.full) != rounds for samples in values.values() if not samples.fails):
        raise InputError(f"the values of {content['choice']} have different numbers of rounds")
    return Finding(content["choice"], content["beside"], values)


def _samples(value: Any) -> Samples:
    content = _fields(value, _SAMPLES, "samples", optional=("exact", "difference"))
    seconds = {name: [_seconds(second) for second in content[name]] for name in ("full", "cached")}
    if len(seconds["full"]) != len(seconds["cached"]):
        raise InputError("full and cached evaluations have different numbers of rounds")
    return Samples(**{**content, **seconds})


def _seconds(value: Any) -> float:
    seconds: float = _typed(value, float, "seconds")
    if not (math.isfinite(seconds) and seconds > 0):
        raise InputError(f"{value!r} is no number of seconds")
    return seconds


def _fields(value: Any, kinds: Mapping[str, type], name: str, optional: Sequence[str] = ()) -> dict[str, Any]:
    """Returns the fields of a JSON object, all of their types; InputError for others, and for more or fewer."""
    content = _typed(value, dict, name)
    if content.keys() != kinds.keys():
        raise InputError(f"{name} has {', '.join(map(repr, content))}, not {', '.join(map(repr, kinds))}")
    return {
        key: None if content[key] is None and key in optional else _typed(content[key], kind, key)
        for key, kind in kinds.items()
    }


def _typed(value: Any, kind: type, name: str) -> Any:
    number = kind is float and isinstance(value, int) and not isinstance(value, bool)
    if not (number or (isinstance(value, kind) and (kind is bool or not isinstance(value, bool)))):
        raise InputError(f"{name} is {value!r:.60}, and no {kind.__name__}")
    return float(value) if number else value
