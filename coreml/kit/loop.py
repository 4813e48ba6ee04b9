"""The loop that runs every sampler table of a kit, in NumPy: what an app does, line by line."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
# evaluate(latents, timestep, deep features or None) -> (guided prediction, its deep features or None)
Evaluate = Callable[[Floats, float, Any], tuple[Floats, Any]]


def run(
    table: Mapping[str, Any], noise: Floats, fresh_noise: Callable[[], Floats], evaluate: Evaluate
) -> Iterator[Floats]:
    """Yields the latents before the first evaluation and after each one; the last are those of the picture.

    table: as `tables.describe` returns it. noise: unit noise, the first of its generator; fresh_noise() is the next of
    the same shape. evaluate() runs the whole UNet, or where it is handed deep features, the outer levels around them.
    """
    x = table["start"]["noise"] * noise
    if table["start"]["fresh_noise"]:
        x = x + table["start"]["fresh_noise"] * fresh_noise()
    yield x
    base, history = x, list[Floats]()
    features: dict[int, Any] = {}
    for evaluation, row in enumerate(table["rows"]):
        deep = None if row["full"] else sum(weight * features[int(i)] for i, weight in row["deep"])
        prediction, feature = evaluate(x, row["timestep"], deep)
        if row["full"]:
            features[evaluation] = feature
        for i in row["forget"]:
            del features[i]
        history.insert(0, row["estimate"]["latents"] * x + row["estimate"]["prediction"] * prediction)
        del history[table["history"] :]
        if row["correction"]:
            base = _mixed(row["correction"], base, history)
        x = _mixed(row["mix"], base, history)
        if row["fresh_noise"]:
            x = x + row["fresh_noise"] * fresh_noise()
        if row["ends_step"]:
            base = x
        yield x


def _mixed(mix: Mapping[str, Any], base: Floats, history: list[Floats]) -> Floats:
    """Returns base and the estimates, the newest first, each times its weight; surplus weights meet nothing."""
    combined: Floats = mix["base"] * base
    for weight, estimate in zip(mix["estimates"], history, strict=False):
        combined = combined + weight * estimate
    return combined
