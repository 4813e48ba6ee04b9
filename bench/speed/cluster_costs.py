"""Seconds of a picture's evaluations on one Mac, and on two that share it, predicted or measured: for simulations."""

from functools import cache
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx

from mlx_sd.core.errors import InputError

from .. import results
from .chips import CHIPS, POINTS
from .latency import OWN
from .loops import Bench, Cost, Loop, check, setting
from .predict import fit


class Picture(NamedTuple):
    """The evaluations of one guided picture; each tuple has an entry for each of them."""

    alone: tuple[
        float, ...
    ]  # seconds of one Mac that computes both rows, and from T-GATE's gate on the one that is left
    row: tuple[float, ...]  # seconds of a Mac that computes one row
    sent: tuple[int, ...]  # bytes that a Mac sends which shares the picture
    exchanges: tuple[int, ...]  # in which it sends them: each Mac waits for the other
    gate: int  # the first evaluation with one row alone; the number of evaluations where there is none

    @property
    def seconds(self) -> float:
        """Returns the seconds of all evaluations on one Mac."""
        return sum(self.alone)


class Counts(NamedTuple):
    """What the evaluations of a picture cost on any machine, guided and of one row, and what is sent."""

    guided: tuple[Cost, ...]
    row: tuple[Cost, ...]
    sent: tuple[int, ...]
    exchanges: tuple[int, ...]
    gate: int


def predicted(chip: str, model: str, loop: Loop, steps: int) -> Picture:
    """Predicts a guided picture in float16 on a chip of CHIPS, by the model of `bench predict`."""
    counts, best = count(model, loop, steps, mx.float16), fit(POINTS)
    alone, row = (
        tuple(float(best.seconds(CHIPS[chip], cost)) for cost in costs) for costs in (counts.guided, counts.row)
    )
    return Picture(alone, row, counts.sent, counts.exchanges, counts.gate)


def measured(guided: Path, unguided: Path | None, loop: Loop) -> Picture:
    """Takes a picture from results of `bench latency`: each evaluation takes the median of its kind.

    unguided: results without guidance, for the seconds of one row; without them, a row takes half as long as both.
    InputError where the results are of other models or steps, or have no such loop.
    """
    values = results.read(guided)
    if not values["guided"] or values.get("control") or values["pictures"] != 1:
        raise InputError(f"{guided} is not of one guided picture; measure with bench latency --guided")
    model, steps = str(values["model"]), int(values["steps"])
    if str(loop) not in [entry["loop"] for entry in values["loops"] if entry["by"] == OWN]:
        names = ", ".join(dict.fromkeys(entry["loop"] for entry in values["loops"]))
        raise InputError(f"{guided} has no loop {loop}; it has {names}")
    counts = count(model, loop, steps, getattr(mx, values["dtype"]), int(values["latents"]))
    medians, rows = _medians(values), {}
    if unguided is not None:
        others = results.read(unguided)
        for key in ("model", "latents", "dtype"):
            if others[key] != values[key]:
                raise InputError(f"{unguided} has the {key} {others[key]}, and {guided} {values[key]}")
        if others["guided"]:
            raise InputError(f"{unguided} is of guided pictures; measure without --guided")
        rows = _medians(others)
    alone = tuple(_of_kind(medians, cost.macs, guided) for cost in counts.guided)
    row = tuple(
        rows.get(cost.macs, seconds if i >= counts.gate else seconds / 2)
        for i, (cost, seconds) in enumerate(zip(counts.row, alone, strict=True))
    )
    return Picture(alone, row, counts.sent, counts.exchanges, counts.gate)


@cache
def count(model: str, loop: Loop, steps: int, dtype: mx.Dtype, side: int | None = None) -> Counts:
    """Counts the evaluations of a loop without computing them; side: of the latents, by default the model's.

    As --split does it (mlx_sd/split_cost.py), the rows of guidance are exchanged in the dtype of the network, and at
    the evaluation before T-GATE's gate also what its layers have attended to. InputError for a loop that the model has
    not, or that the images decide.
    """
    check([loop], model, steps)
    guided, row = (Bench(setting(model, steps, side, guided=with_both, dtype=dtype)) for with_both in (True, False))
    evaluations = len(guided.table.rows)
    gate = min(loop.tgate.gate_step, evaluations) if loop.tgate else evaluations
    prediction = guided.setting.side**2 * guided.unet.config.out_channels * dtype.size
    sent, exchanges = [prediction] * evaluations, [1] * evaluations
    if gate < evaluations:
        attended = row.attended()
        sent[gate - 1] += sum(attended)
        exchanges[gate - 1] += len(attended)
    return Counts(tuple(guided.costs(loop)), tuple(row.costs(loop)), tuple(sent), tuple(exchanges), gate)


def _medians(values: results.Results) -> dict[int, float]:
    """The median seconds of each kind of evaluation, by its multiply-accumulates."""
    return {kind["macs"]: kind["median"] for kind in values["kinds"] if kind["by"] == OWN}


def _of_kind(medians: dict[int, float], macs: int, path: Path) -> float:
    if macs not in medians:
        raise InputError(f"{path} has no evaluation of {macs} multiplications, as this version has; measure again")
    return medians[macs]
