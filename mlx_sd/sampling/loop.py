"""The one loop that runs every sampler's table.

    x' = row.mix.base * base + sum_j row.mix.estimates[j] * history[j] + row.fresh_noise * z

`base` are the latents at the start of the step, `history` are estimates made from the network's outputs, the newest
first: denoised images, noise or raw predictions (Table.history), whichever the method is linear in. A method with
several evaluations in one step marks all its rows but the last with `ends_step=False`: the base stays. A corrector
replaces the base, by the same kind of combination, once the estimate at the step's end is known.
"""

from collections import deque
from collections.abc import Callable, Iterator

import mlx.core as mx

from ..core.errors import Failure, InputError
from .denoise import clip_image, estimate_image, estimate_noise
from .table import Mix, Table


def run(
    table: Table,
    predict: Callable[[mx.array, float], mx.array],
    noise: mx.array,
    normal: Callable[[], mx.array],
    callback: Callable[[int, int, mx.array], None] | None = None,
    image: mx.array | None = None,
    keep: Callable[[mx.array, float, float], mx.array] | None = None,
) -> mx.array:
    """Runs a whole table as `evaluate` does and returns the final latents.

    `callback(evaluation, evaluations, denoised)` is called after each evaluation, counted from 1.
    """
    latents = noise
    for i, (x, estimate) in enumerate(evaluate(table, predict, noise, normal, image, keep), 1):
        latents = x
        if callback is not None:
            callback(i, len(table.rows), estimate)
    return latents


def evaluate(
    table: Table,
    predict: Callable[[mx.array, float], mx.array],
    noise: mx.array,
    normal: Callable[[], mx.array],
    image: mx.array | None = None,
    keep: Callable[[mx.array, float, float], mx.array] | None = None,
) -> Iterator[tuple[mx.array, mx.array]]:
    """Runs a table from unit `noise` (N, h, w, C); yields (latents, denoised), float32, after each evaluation.

    `predict(x, timestep)` is the network, guidance and reuse included. `normal()` draws noise of the latents' shape; it
    is called only for rows that add some. A table that begins midway needs an `image`: scaled latents that broadcast to
    the noise. `keep(x, signal, noise)` may change the latents after each row; they are of the level (signal, noise).
    Raises InputError if the image is missing, Failure as soon as the latents are not finite.
    """
    if (table.image_scale is None) != (image is None):
        raise InputError("a table that begins midway needs the image it starts from; other tables take no image")
    x = noise.astype(mx.float32) * table.noise_scale
    if table.image_scale is not None and image is not None:
        x = x + table.image_scale * image.astype(mx.float32)
    if table.churn_scale:
        x = x + table.churn_scale * normal()
    base, levels = x, table.levels
    history: deque[mx.array] = deque(maxlen=_longest(table))
    for i, row in enumerate(table.rows):
        prediction = predict(x, row.timestep).astype(mx.float32)
        unclipped = estimate = estimate_image(table.prediction_type, x, prediction, row.level)
        if table.clip:
            estimate = clip_image(unclipped, table.clip)
        if table.history == "noise":
            history.appendleft(estimate_noise(table.prediction_type, x, prediction, row.level))
        else:
            history.appendleft(estimate if table.history == "denoised" else prediction)
        if row.correction:
            base = _combine(row.correction, base, history)
        x = _combine(row.mix, base, history)
        if table.clip and row.clip_weight:
            x = x + row.clip_weight * (unclipped - estimate)
        if row.fresh_noise:
            x = x + row.fresh_noise * normal()
        if keep:
            x = keep(x, *levels[i])
        if row.ends_step:
            base = x
        mx.eval(x)
        if not mx.isfinite(x).all().item():
            raise Failure(
                f"the latents are not finite after evaluation {i + 1} of {len(table.rows)}: the weights hold NaN, "
                "or float16 overflowed (try --dtype float32)"
            )
        yield x, estimate


def _longest(table: Table) -> int:
    """Returns how many estimates the table looks back on at most."""
    mixes = [mix for row in table.rows for mix in (row.mix, row.correction) if mix]
    return max(len(mix.estimates) for mix in mixes)


def _combine(mix: Mix, base: mx.array, history: deque[mx.array]) -> mx.array:
    combined = mix.base * base
    for weight, estimate in zip(mix.estimates, history, strict=False):
        if weight:
            combined = combined + weight * estimate
    return combined
