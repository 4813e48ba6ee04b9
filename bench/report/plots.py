"""What all figures share: matplotlib, where it is installed, and its style."""

from pathlib import Path
from typing import Any

from mlx_sd.core.errors import InputError
from mlx_sd.core.files import atomic_file

# Okabe and Ito's colours, which colour-blind readers can tell apart; without their yellow, too pale on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def figure(width: float, height: float) -> Any:
    """Creates an empty figure of a size in inches; InputError without matplotlib."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("matplotlib is missing; pip install 'mlx-sd[bench]'") from None
    matplotlib.rcParams |= {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    return Figure(figsize=(width, height), layout="constrained")


def save(drawing: Any, path: Path) -> None:
    """Writes a figure as a PNG, all or nothing."""
    with atomic_file(path) as f:
        drawing.savefig(f, format="png", dpi=130)
