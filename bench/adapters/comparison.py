"""Two editions of the adapters side by side: whether the intervals of their figures overlap."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlx_sd.core.errors import InputError

from .. import results
from . import figures
from .figures import Figure
from .subject import WITH


def compare(first: Path, second: Path) -> dict[str, Any]:
    """Compares the results of two runs of `bench adapters`; InputError where they have no adapter in common.

    Adapters of different checkpoints, and those that were measured otherwise, are refused too.
    """
    (a, hash_a), (b, hash_b) = _adapters(first), _adapters(second)
    if hash_a != hash_b:
        raise InputError(f"{first} and {second} are of different checkpoints; compare editions of one")
    names = [name for name in a if name in b]
    if not names:
        raise InputError(f"{first} and {second} have no adapter in common")
    compared: dict[str, dict[str, Any]] = {}
    for name in names:
        same = all(a[name].get(key) == b[name].get(key) for key in ("steps", "captions", "sampling"))
        if not same or a[name]["figures"].keys() != b[name]["figures"].keys():
            raise InputError(f"{name} was measured otherwise in {second} than in {first}; compare equal recipes")
        pairs = {part: (sides[WITH], b[name]["figures"][part][WITH]) for part, sides in a[name]["figures"].items()}
        compared[name] = {part: _pair(*pair) for part, pair in pairs.items()}
    overlap = all(pair["overlap"] for parts in compared.values() for pair in parts.values())
    return {"first": str(first), "second": str(second), "overlap": overlap, "adapters": compared}


def _pair(first: Figure, second: Figure) -> dict[str, Any]:
    """Returns two figures, whether their intervals overlap, and whether the second lies in the first's interval."""
    value = second["percent"] if "percent" in second else second["median"]
    within = bool(first["low"] <= value <= first["high"])
    return {"overlap": figures.overlap(first, second), "within": within, "first": first, "second": second}


def _adapters(path: Path) -> tuple[dict[str, Any], str | None]:
    """Returns the adapters of a file of results by name, and the hash of their checkpoint."""
    values = results.read(path)
    if values.get("measurement") != "adapters":
        raise InputError(f"{path} holds no results of python -m bench adapters")
    return {entry["adapter"]: entry for entry in values["adapters"]}, values.get("hash")
