"""Schemes by name: "palettize4", "palettize4:16", "int8", "int4:32", "sparse50", or a file of mixed bits."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from mlx_sd.core.errors import InputError
from mlx_sd.core.files import read_json

from .constants import Constant, Palette, Scaled, Sparse
from .palettes import palettize

SMALLEST = 2048  # numbers in a weight that is compressed; smaller ones gain nothing, and coremltools leaves them too
PALETTE_BITS = (1, 2, 3, 4, 6, 8)
INTEGER_BITS = (4, 8)
EXAMPLES = (
    "palettize1, 2, 3, 4, 6 or 8; palettize4:16, with a palette for every 16 outputs; int8 or int4; int4:32, in blocks "
    "of 32 inputs; sparse50, half of it zero; or a file that python -m coreml bits wrote"
)
MIXED, MIXED_VERSION = "mlx-sd mixed bits", 1
_FORM = re.compile(r"(?P<kind>palettize|int|sparse)(?P<number>\d{1,2})(?::(?P<group>\d{1,4}))?")

Compressor = Callable[[str, np.ndarray], Constant | None]  # (parameter's name, weight) -> its description


@dataclass(frozen=True)
class Scheme:
    """How weights are compressed."""

    kind: str  # "palettize", "int" or "sparse"
    number: int  # bits, of sparse weights the percentage of zeros
    group: int | None = None  # of palettes, outputs of a run; of integers, inputs of a block

    @property
    def name(self) -> str:
        """Returns the name that `parse` reads."""
        return f"{self.kind}{self.number}" + (f":{self.group}" if self.group else "")

    @property
    def bits(self) -> float:
        """Returns about how many bits a number takes; palettes and scales are not counted."""
        return 1 + 16 * (1 - self.number / 100) if self.kind == "sparse" else float(self.number)

    def compress(self, weight: np.ndarray) -> Constant | None:
        """Returns the description of a weight (outputs, inputs, ...), or None where it stays as it is.

        Weights of under SMALLEST numbers stay as they are. Where a group does not divide the outputs or the inputs, the
        whole weight has one palette, and each output one scale.
        """
        if weight.size < SMALLEST:
            return None
        if self.kind == "palettize":
            return _palette(weight, self.number, self.group)
        if self.kind == "int":
            return _scaled(weight, self.number, self.group)
        return _sparse(weight, self.number / 100)


def parse(name: str) -> Scheme:
    """Reads the name of a scheme; InputError for one that does not exist."""
    match = _FORM.fullmatch(name)
    if match is not None:
        scheme = Scheme(match["kind"], int(match["number"]), int(match["group"]) if match["group"] else None)
        possible = {"palettize": PALETTE_BITS, "int": INTEGER_BITS, "sparse": range(1, 100)}[scheme.kind]
        if scheme.number in possible and scheme.group != 0 and not (scheme.kind == "sparse" and scheme.group):
            return scheme
    raise InputError(f"unknown compression {name!r}; there are {EXAMPLES}")


@dataclass(frozen=True)
class MixedBits:
    """Palettes of the bits that a search gave to each layer of a UNet, and one scheme for the other networks."""

    model: str  # hash of the model that was searched
    bits: Mapping[str, int]  # of a parameter's name; 16 for one that stays as it is
    others: Scheme
    mean: float  # bits of the uniform palettes that take as many bytes

    def compressor(self, part: str) -> Compressor:
        """Returns what compresses the weights of a network; InputError for a weight that was not searched."""
        if part != "unet":
            return lambda _, weight: self.others.compress(weight)

        def compress(parameter: str, weight: np.ndarray) -> Constant | None:
            """Describes a weight of the UNet by its own bits."""
            if weight.size < SMALLEST:
                return None
            if parameter not in self.bits:
                raise InputError(f"the file of --compress has no bits for {parameter}; search them for this model")
            bits = self.bits[parameter]
            return None if bits == 16 else _palette(weight, bits, None)

        return compress


def compressor(name: str | None, part: str) -> Compressor:
    """Returns what describes the weights of a network, by the name of a scheme, a file of mixed bits, or None.

    part: the network, "unet", "vae", ... Raises InputError for a name that does not exist and for a damaged file.
    """
    if name is None:
        return lambda _, weight: None
    if name.endswith(".json"):
        return mixed(name).compressor(part)
    scheme = parse(name)
    return lambda _, weight: scheme.compress(weight)


def mixed(path: str) -> MixedBits:
    """Reads a file that the search wrote; InputError where it is none of this version, or damaged."""
    return _mixed(path, Path(path).stat().st_mtime_ns if Path(path).is_file() else 0)


@lru_cache(maxsize=1)
def _mixed(path: str, _time: int) -> MixedBits:
    content = read_json(Path(path))
    if content.get("format") != MIXED or content.get("version") != MIXED_VERSION:
        raise InputError(f"{path} is not of the format {MIXED} {MIXED_VERSION}; write it with python -m coreml bits")
    try:
        layers = {str(name): layer["bits"] for name, layer in content["layers"].items()}
        model, others, mean = str(content["model"]["hash"]), parse(content["others"]), float(content["bits"])
    except (KeyError, TypeError, AttributeError, ValueError):
        raise InputError(f"{path} is damaged; write it again with python -m coreml bits") from None
    for name, bits in layers.items():
        if bits not in (*PALETTE_BITS, 16):
            raise InputError(f"{path}: layers: {name} cannot have {bits!r} bits; write it again")
    return MixedBits(model, layers, others, mean)


def check_model(name: str | None, model_hash: str) -> None:
    """Raises InputError where a file of mixed bits was searched for another model than that of a hash."""
    if name is not None and name.endswith(".json") and mixed(name).model != model_hash:
        raise InputError(f"{name} has the bits of another model; search them for this one with python -m coreml bits")


def bits_per_number(name: str) -> float:
    """Returns about how many bits a number takes, for an estimate of the space; of mixed bits, in the mean."""
    return mixed(name).mean if name.endswith(".json") else parse(name).bits


def record(name: str | None) -> dict[str, Any] | None:
    """Returns what info.json says of a compression: its name, and of mixed bits those of each layer of the UNet."""
    if name is None:
        return None
    if not name.endswith(".json"):
        return {"name": name}
    return {"name": "mixed", "others": mixed(name).others.name, "bits": dict(mixed(name).bits)}


def restore(recorded: Any, model_hash: str, file: Path) -> str | None:
    """Returns the name of a compression that `record` has described; mixed bits are written into `file` again.

    Raises InputError where the description, which comes from an info.json, is damaged.
    """
    if recorded is None:
        return None
    try:
        if recorded["name"] != "mixed":
            return parse(recorded["name"]).name
        others = parse(recorded["others"])
        layers = {str(name): {"bits": bits} for name, bits in recorded["bits"].items()}
    except (KeyError, TypeError, AttributeError):
        raise InputError("compression of info.json is damaged; export again") from None
    content = {
        "format": MIXED,
        "version": MIXED_VERSION,
        "model": {"hash": model_hash},
        "bits": others.bits,
        "others": others.name,
        "layers": layers,
    }
    file.write_text(json.dumps(content), encoding="utf-8")
    return str(file)


def _palette(weight: np.ndarray, bits: int, group: int | None) -> Palette:
    runs = len(weight) // group if group and len(weight) % group == 0 else 1
    pieces = [palettize(piece, bits) for piece in np.split(weight, runs)]
    return Palette(np.concatenate([indices for _, indices in pieces]), np.stack([table for table, _ in pieces]), bits)


def _scaled(weight: np.ndarray, bits: int, group: int | None) -> Scaled:
    """Describes weight = scale q to half a step."""
    outputs, inputs = weight.shape[:2]
    runs = inputs // group if group and inputs % group == 0 else 1
    largest = (1 << (bits - 1)) - 1
    numbers = weight.astype(np.float32).reshape(outputs, runs, -1)
    # A block holds whole inputs: their axis is split first, so that each run of inputs is together.
    scale = np.maximum(np.abs(numbers).max(axis=2) / largest, np.finfo(np.float16).tiny).astype(weight.dtype)
    q = np.rint(numbers / scale.astype(np.float32)[:, :, None])
    q = np.clip(q, -largest, largest).astype(np.int8).reshape(weight.shape)
    return Scaled(q, scale.reshape(outputs, runs, *(1,) * (weight.ndim - 2)), bits)


def _sparse(weight: np.ndarray, share: float) -> Sparse:
    """Describes a weight without the given share of its numbers, the smallest; of equal ones the first ones go."""
    count = min(max(round(share * weight.size), 1), weight.size - 1)
    order = np.argsort(np.abs(weight.astype(np.float32)), axis=None, kind="stable")
    mask = np.ones(weight.size, np.uint8)
    mask[order[:count]] = 0
    return Sparse(mask.reshape(weight.shape), weight.ravel()[mask != 0])
