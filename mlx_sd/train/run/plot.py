"""The plot of a run's losses: raw, smoothed, and of the validation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...core.errors import InputError
from ...core.files import atomic_file

NAME = "loss.png"
_SIZE, _DPI = (8, 4.5), 120  # inches, and pixels of an inch
_RAW, _SMOOTHED, _VALIDATION, _GRID = "#9CC4DE", "#0072B2", "#D55E00", "#E4E4E4"
_FEW = 40  # points that are marked one by one
_WIDE = 20  # the ratio of losses from which on the axis is logarithmic


def draw(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Draws the losses of a log's lines into a PNG, all or nothing.

    lines: as `log.read` returns them; those without a loss are left out, and no line at all gives empty axes.
    InputError where matplotlib is missing; OSError where the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        raise InputError("matplotlib is missing; pip install 'mlx-sd[train]'") from None
    losses, validations = _points(lines, "loss"), _points(lines, "validation")
    style: dict[str, Any]
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.add_subplot()
    if losses:
        span = smoothing(len(losses))
        few = len(losses) < _FEW
        style = {"marker": "o", "markersize": 3} if few else {}
        axes.plot(*zip(*losses, strict=True), color=_RAW, linewidth=0.8, label="loss of each step", **style)
        if len(losses) > 1:
            means = smoothed([loss for _, loss in losses], span)
            axes.plot(
                [step for step, _ in losses], means, color=_SMOOTHED, linewidth=2, label=f"smoothed over {span:g} steps"
            )
    if validations:
        style = {"marker": "o", "markersize": 4} if len(validations) < _FEW else {}
        axes.plot(*zip(*validations, strict=True), color=_VALIDATION, linewidth=1.5, label="validation", **style)
    axis = limits([loss for _, loss in losses], [loss for _, loss in validations])
    if axis is not None:
        low, high, logarithmic = axis
        axes.set_yscale("log" if logarithmic else "linear")
        axes.set_ylim(low, high)
    if len(steps := {step for step, _ in losses + validations}) == 1:
        axes.set_xlim(min(steps) - 1, min(steps) + 1)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if losses or validations:
        axes.legend(edgecolor="none", loc="upper right")
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=_DPI)


def smoothing(count: int) -> int:
    """Returns over how many of `count` losses the plot smooths: a twentieth, from 5 to 200."""
    return min(max(count // 20, 5), 200)


def smoothed(losses: Sequence[float], span: int) -> list[float]:
    """Returns the exponential mean of the losses up to each: the last `span` have 86% of the weight (1 - exp(-2)).

    The weights of the first ones are scaled to sum to 1, so that the curve begins at the first loss.
    """
    decay = 1 - 2 / (span + 1)
    total, weight, means = 0.0, 0.0, []
    for loss in losses:
        total, weight = decay * total + loss, decay * weight + 1
        means.append(total / weight)
    return means


def limits(losses: Sequence[float], validations: Sequence[float]) -> tuple[float, float, bool] | None:
    """Returns the lowest and the highest loss of the axis, and whether it is logarithmic; None for an axis of any kind.

    It shows all losses but the outermost hundredth at each end, and of those what lasts: medians of five in a row. So
    a few losses that stand out do not decide it, and a short fall at the beginning is seen. It is logarithmic where
    what lasts falls far.
    """
    ordered = sorted(losses)
    cut = len(ordered) // 100
    medians = [sorted(losses[i : i + 5])[2] for i in range(len(losses) - 4)]
    lasting = [*medians, *validations]
    shown = [*ordered[cut : len(ordered) - cut], *lasting]
    low, high = min(shown, default=0.0), max(shown, default=0.0)
    if low == high:
        return None
    if low > 0 and lasting and min(lasting) * _WIDE < max(lasting):
        return low / 1.1, high * 1.1, True
    margin = (high - low) * 0.05
    return low - margin, high + margin, False


def _points(lines: Sequence[Mapping[str, Any]], key: str) -> list[tuple[int, float]]:
    """The steps and numbers of the lines that have a number by this key; null, which stands for NaN, is none."""
    return [(line["step"], line[key]) for line in lines if isinstance(line.get(key), int | float)]
