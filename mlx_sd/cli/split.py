"""--split: rank 0 plans, writes and prints as it does alone; the other ranks compute their share of its pictures."""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from .. import split_checks
from ..checkpoint.model import Model
from ..core.errors import InputError
from ..pipeline import StableDiffusion
from ..request import Request
from ..result import Result
from ..split import UNSPLIT, Split
from . import models

if TYPE_CHECKING:
    from ..ranks.exchange import Ranks


class Lead:
    """What rank 0 tells the others; of one process alone, nothing."""

    def __init__(self, split: Split = UNSPLIT):
        self._split, self._kind, self._ranks = split, split.kind, split.ranks

    def check(self, request: Request) -> None:
        """Raises InputError for a request that cannot be dealt out, as far as flags alone tell."""
        if self._kind:
            split_checks.check_flags(request, self._kind)

    def load(self, request: Request) -> None:
        """Has the others load the model of a request, while this rank does."""
        if self._ranks:
            self._ranks.share_text(json.dumps({"load": request.to_json()}))

    def check_parts(self, model: Model, request: Request) -> None:
        """Raises InputError for a completed request that has less to deal out than there are ranks."""
        if self._kind and self._ranks:
            split_checks.check_parts(model, [request], self._kind, self._ranks.size)

    def words(self, model: Model, request: Request) -> list[str]:
        """Returns a line about what the ranks exchange for a completed request, and when that pays."""
        if not (self._kind and self._ranks):
            return []
        from .. import split_cost

        return [split_cost.words(split_cost.exchange_of(model, request, self._kind, self._ranks.size))]

    def stream(
        self,
        sd: StableDiffusion,
        requests: Sequence[Request],
        batch: int,
        refiner: StableDiffusion | None,
        callback: Callable[[int, int, mx.array], None],
        accept: Callable[[int], bool],
    ) -> Iterator[Result]:
        """Makes the pictures of requests, with the others; see `StableDiffusion.stream`."""
        if self._ranks:
            records = [request.to_json() for request in requests]
            self._ranks.share_text(json.dumps({"requests": records, "batch": batch}))
        return sd.stream(requests, batch=batch, refiner=refiner, callback=callback, accept=accept, split=self._split)


def make_together(arguments: argparse.Namespace, ranks: "Ranks", make: Callable[[Lead], None]) -> None:
    """Makes pictures together with the other ranks; `make` does rank 0's work."""
    if arguments.keep_going:
        raise InputError("--keep-going is of ranks that make pictures of their own; --split needs all of them")
    split = Split(arguments.split, ranks)
    if ranks.rank:
        _follow(arguments, split, ranks)
    else:
        make(Lead(split))
        ranks.share_text(json.dumps({}))


def _follow(arguments: argparse.Namespace, split: Split, ranks: "Ranks") -> None:
    """Does what rank 0 tells, until it has nothing more."""
    loaded: tuple[StableDiffusion, StableDiffusion | None] | None = None
    while task := json.loads(ranks.share_text("")):
        if "load" in task:
            loaded = None  # before the next model is there
            loaded = models.load(arguments, _request(task["load"]))
            continue
        assert loaded is not None
        sd, refiner = loaded
        for _ in sd.stream(
            [_request(record) for record in task["requests"]], batch=task["batch"], refiner=refiner, split=split
        ):
            pass


def _request(record: dict[str, Any]) -> Request:
    return Request.from_json(record, "rank 0")
