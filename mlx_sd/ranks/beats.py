"""Heartbeats: each rank tells the others once a second that it works, and how far it is.

MLX's ring notices that another rank has ended, but not which one, and waits for ever for one that is stopped or cut
off.
"""

import secrets
import sys
import time
from typing import TYPE_CHECKING, Protocol

from .members import DEPARTURE, INTERVAL, SILENCE, Fact, Members, State

if TYPE_CHECKING:
    from .datagrams import Datagrams

PATIENCE = 20.0  # seconds after which heartbeats that did not arrive at the start are given up


class Exchange(Protocol):
    """What heartbeats need of `Ranks` at their start; all ranks call the same methods together."""

    rank: int
    size: int

    def share_text(self, text: str) -> str:
        """Returns the text of rank 0 on all ranks."""

    def all(self, holds: bool) -> bool:
        """Returns whether something holds on all ranks."""


class Beats:
    """The heartbeats of this process while a `with` block runs; without others, it does nothing.

    active: whether those of all ranks arrive. Otherwise no rank is ever silent.
    """

    def __init__(
        self, ranks: Exchange | None = None, members: Members | None = None, datagrams: "Datagrams | None" = None
    ) -> None:
        """Takes what `of` makes; members and datagrams are None without heartbeats."""
        self._ranks, self._members, self._datagrams = ranks, members, datagrams
        self._facts: dict[str, Fact] = {}  # of this rank, where there are no heartbeats
        self.active = False

    @classmethod
    def of(cls, ranks: Exchange) -> "Beats":
        """Returns the heartbeats of all ranks, which call this together; none without a hostfile of MLX's ring."""
        if ranks.size == 1:
            return cls(ranks)
        from . import ring  # here because one process needs no sockets, which take long to import
        from .datagrams import Datagrams

        addresses = ring.addresses(ranks.size)
        if not ranks.all(bool(addresses)):
            return cls(ranks)
        run = ranks.share_text(secrets.token_hex(8))
        members = Members(ranks.rank, [listed[0][0] for listed in addresses], run)
        return cls(ranks, members, Datagrams(members, addresses))

    def __enter__(self) -> "Beats":
        """Begins, and waits until all ranks hear each other."""
        if self._ranks is None or self._members is None or self._datagrams is None:
            return self
        problem = self._datagrams.open()
        end = time.monotonic() + PATIENCE
        while not self._members.heard() and time.monotonic() < end and not problem:
            time.sleep(0.01)
        self.active = self._ranks.all(self._members.heard())
        if not self.active:
            self._datagrams.close()
            listening = self._ranks.all(not problem)
            if problem or (listening and self._ranks.rank == 0):
                cause = problem or "heartbeats by UDP do not reach all ranks"
                line = f"rank {self._ranks.rank}: {cause}; it will not be noticed where a rank stops"
                print(line, file=sys.__stderr__, flush=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.end("ended")
        if self.active and self._datagrams is not None:
            self._datagrams.close()
            self.active = False

    def tell(self, **facts: Fact) -> None:
        """Tells facts of this rank, over those that were told before; ValueError where they are too long."""
        if self._members is None:
            self._facts |= facts
        else:
            self._members.tell(facts)

    def facts(self, rank: int) -> dict[str, Fact]:
        """Returns the facts that a rank has told last, this one or another."""
        if self._members is not None:
            return self._members.facts(rank)
        return dict(self._facts) if rank == (0 if self._ranks is None else self._ranks.rank) else {}

    def name(self, rank: int) -> str:
        """Returns a rank and its host for messages: "rank 1 (host mac-2)"."""
        return f"rank {rank}" if self._members is None else self._members.name(rank)

    def silent(self) -> list[int]:
        """Lists the ranks that have failed, have ended without a word, or have not been heard for 20 s."""
        return self._members.silent() if self._members is not None and self.active else []

    def reason(self, rank: int) -> str:
        """Returns why a rank does not work, as the end of a sentence that begins with its name; "" where it works."""
        return self._members.reason(rank) if self._members is not None and self.active else ""

    def state(self, rank: int) -> State:
        """Returns what a rank has told of itself last."""
        return self._members.state(rank) if self._members is not None and self.active else "working"

    def departed(self, rank: int) -> bool:
        """Returns whether a rank takes part no more: well, with an error, or without a word."""
        return self._members is not None and self.active and self._members.departed(rank)

    def gone(self, rank: int) -> bool:
        """Returns whether the process of a rank is there no more, as its host says."""
        return self._members is not None and self.active and self._members.gone(rank)

    def unheard(self, rank: int) -> float:
        """Returns the seconds since a rank was heard last."""
        return self._members.unheard(rank) if self._members is not None and self.active else 0.0

    def process(self, rank: int) -> tuple[str, int]:
        """Returns the host of a rank and the number of its process; 0 where it was not heard."""
        return self._members.process(rank) if self._members is not None else ("", 0)

    def faults(self) -> str:
        """Returns a sentence about the ranks that are silent, each with its host and why; "" where there are none."""
        return "; ".join(f"{self.name(rank)} {self.reason(rank)}" for rank in self.silent())

    def explain(self) -> str:
        """Waits until it is known which rank does not work any more, and returns a sentence about it.

        It is called where the connection is gone. The sentence is "" where all are heard all the same.
        """
        start = time.monotonic()
        while self._members is not None and self.active and time.monotonic() - start < SILENCE + INTERVAL:
            if self.silent():
                return self.faults()
            ended = [rank for rank in range(self._members.size) if self.state(rank) in ("ended", "interrupted")]
            if ended and time.monotonic() - start > DEPARTURE:  # they may have ended because another is gone
                return f"{self.name(ended[0])} {self.reason(ended[0])}"
            time.sleep(0.05)
        return ""

    def end(self, state: State, reason: str = "") -> None:
        """Tells the others how this rank ends, at once; the first call counts.

        reason: continues a sentence, such as "has failed: the disk is full".
        """
        if self._members is not None and self._datagrams is not None and self.active:
            self._members.end(state, reason)
            self._datagrams.send_last()
