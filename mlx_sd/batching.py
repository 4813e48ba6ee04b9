"""Which pictures of a list go through the UNet together: whoever deals them out to others keeps these batches."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from . import conditions, seeds
from .checkpoint.model import Model
from .request import Request


def groups(requests: Sequence[Request]) -> Iterator[list[Request]]:
    """Yields consecutive requests that share all settings but prompt, class and seed."""
    for _, members in groupby(requests, _shared_settings):
        yield list(members)


def of_group(model: Model, requests: Sequence[Request], size: int) -> Iterator[list[int]]:
    """Yields the indices of a group's completed requests that go together, in order: at most `size`."""
    if requests[0].decides_per_image:
        size = 1  # what one picture needs must not decide for another
    yield from conditions.batches(model, requests, size)


def completed(
    model: Model, first: Request, requests: Sequence[Request], draw_seed: Callable[[], int] = seeds.draw
) -> list[Request]:
    """Returns a group's requests, completed as the first of them is; those without a seed draw one."""
    seeded = [request if request.seed is not None else request.with_values(seed=draw_seed()) for request in requests]
    return [first.with_subject(conditions.check_subject(model, request)) for request in seeded]


def accepted(
    model: Model, requests: Sequence[Request], size: int, accept: Callable[[int], bool] | None
) -> Iterator[list[int]]:
    """Yields the indices of a group's completed requests that go together, those that `accept` accepts just then."""
    for batch in of_group(model, requests, size):
        if indices := [i for i in batch if accept is None or accept(i)]:
            yield indices


def batches(model: Model, requests: Sequence[Request], size: int) -> list[list[int]]:
    """Returns the indices of completed requests that `StableDiffusion.stream` makes together, in order."""
    first, indices = 0, []
    for group in groups(requests):
        indices += [[first + i for i in batch] for batch in of_group(model, group, size)]
        first += len(group)
    return indices


def _shared_settings(request: Request) -> Request:
    return request.with_values(prompt=None, class_label=None, seed=None)
