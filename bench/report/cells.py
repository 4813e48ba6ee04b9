"""Cells and lines that several sections share."""

from typing import Any

from .. import results
from ..speed.loops import Loop


def flags(loop: str) -> str:
    """Returns the flags of a loop, such as `--deepcache 3:0`, from its text in the results."""
    text = Loop.parse(loop).flags
    return f"`{text}`" if text else "every step full"


def with_interval(share: dict[str, Any]) -> str:
    """Returns a share in percent with its interval."""
    return f"{share['percent']:.1f}% ({share['low']:.1f} to {share['high']:.1f})"


def machine(values: results.Results) -> str:
    """Returns one line about the machine of a measurement."""
    m = values["machine"]
    return f"{m['processor']}, {m['cores']} cores, {m['system']}, {m['device']}, MLX {m['mlx']}, {m['blas']}."
