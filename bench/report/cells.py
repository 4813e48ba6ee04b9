"""Cells and lines that several sections share."""

from .. import results
from ..speed.loops import Loop


def flags(loop: str) -> str:
    """Returns the flags of a loop, such as `--deepcache 3:0`, from its text in the results."""
    text = Loop.parse(loop).flags
    return f"`{text}`" if text else "every step full"


def machine(values: results.Results) -> str:
    """Returns one line about the machine of a measurement."""
    m = values["machine"]
    return f"{m['processor']}, {m['cores']} cores, {m['system']}, {m['device']}, MLX {m['mlx']}, {m['blas']}."
