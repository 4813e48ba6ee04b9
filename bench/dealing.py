"""Pictures of a measurement dealt out over the ranks that mlx.launch starts; rank 0 measures and reports.

One process alone does all of it, by the same way. What is dealt out are whole batches, so that every picture is
computed together with the same others, and has the same bits, whatever the number of ranks.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_sd import StableDiffusion, batching
from mlx_sd.core import command
from mlx_sd.core.version import VERSION
from mlx_sd.ranks import launch
from mlx_sd.ranks.exchange import Ranks
from mlx_sd.request import Request

from .machine import describe

Unit = TypeVar("Unit")


def run(name: str, measure: Callable[[Ranks], None]) -> int:
    """Runs the measurement of this process's rank, and returns the exit code."""
    return command.run(f"bench {name}", lambda: launch.run(measure))


def check_same(ranks: Ranks, sd: StableDiffusion, settings: object) -> None:
    """Raises InputError where a rank has another version, model or settings than rank 0."""
    parts = {"another version of mlx-sd": VERSION, "another model": sd.model.hash}
    parts |= {"other prompts or settings": repr(settings)}
    ranks.check_same(parts)


class Batch(NamedTuple):
    """Pictures that went through the UNet together."""

    indices: list[int]  # of their requests
    pixels: NDArray[np.uint8]  # (N, H, W, 3)
    latents: NDArray[np.float32]  # (N, h, w, C)
    cost: dict[str, float]  # "seconds" of one picture, "evaluations" and "full_evaluations"


def make(ranks: Ranks, sd: StableDiffusion, requests: Sequence[Request], batch: int) -> Iterator[Batch]:
    """Makes the pictures of requests that differ in prompt, class and seed alone, and yields them on all ranks."""
    if not requests:
        return
    shared = sd.complete(requests[0])
    units = batching.batches(sd.model, [shared.with_subject(request) for request in requests], batch)

    def compute(indices: list[int]) -> dict[str, Any]:
        """Makes the pictures of one batch, which share its time; each evaluation was one of all of them."""
        [result] = sd.stream([requests[i] for i in indices], batch=batch)
        cost = {"seconds": sum(result.seconds) / len(indices), "evaluations": result.evaluations}
        cost |= {"full_evaluations": result.full}
        content = np.frombuffer(json.dumps(cost).encode(), np.uint8)
        return {
            "pixels": np.stack([np.asarray(image) for image in result.images]),
            "latents": result.latents,
            "cost": content,
        }

    for indices, arrays in zip(units, deal(ranks, units, compute), strict=True):
        yield Batch(indices, arrays["pixels"], arrays["latents"], json.loads(arrays["cost"].tobytes()))


def deal(
    ranks: Ranks, units: Sequence[Unit], compute: Callable[[Unit], Mapping[str, Any]]
) -> Iterator[dict[str, NDArray[Any]]]:
    """Yields the arrays of each unit in order, on all ranks; each rank computes its share of the units.

    compute: returns arrays of MLX or NumPy by name. Units are computed when they are asked for, as many at a time as
    there are ranks.
    """
    for first in range(0, len(units), ranks.size):
        group = units[first : first + ranks.size]
        computed = {}
        for unit in group[ranks.rank : ranks.rank + 1]:
            computed = {name: _array(value) for name, value in compute(unit).items()}
        for owner in range(len(group)):
            yield {name: np.array(array) for name, array in ranks.share(computed, owner).items()}


def agree(ranks: Ranks, value: Any) -> Any:
    """Returns a value of rank 0, which JSON can hold, on all ranks."""
    return json.loads(ranks.share_text(json.dumps(value)))


def machine(ranks: Ranks) -> dict[str, Any]:
    """Returns the machine of a measurement, of several ranks each one's; all ranks call this together."""
    machines = [json.loads(ranks.share_text(json.dumps(describe()), owner)) for owner in range(ranks.size)]
    return {"machine": machines[0]} | ({"ranks": machines} if ranks.size > 1 else {})


def _array(value: Any) -> mx.array:
    if isinstance(value, np.ndarray) and value.dtype == np.float64:
        raise ValueError("float64 would lose digits: MLX has none")
    return value if isinstance(value, mx.array) else mx.array(value)
