"""Which pictures of a list go through the UNet together: whoever deals them out to others keeps these batches."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from . import conditions
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


def batches(model: Model, requests: Sequence[Request], size: int) -> list[list[int]]:
    """Returns the indices of completed requests that `StableDiffusion.stream` makes together, in order."""
    first, indices = 0, []
    for group in groups(requests):
        indices += [[first + i for i in batch] for batch in of_group(model, group, size)]
        first += len(group)
    return indices


def _shared_settings(request: Request) -> Request:
    return request.with_values(prompt=None, class_label=None, seed=None)
