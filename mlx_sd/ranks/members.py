"""What a rank knows of all ranks by the heartbeats that it hears: which work, which are silent, and why."""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

INTERVAL = 1.0  # seconds between heartbeats
SILENCE = 20.0  # seconds without a heartbeat after which a rank is silent
START = 120.0  # seconds after which a rank is silent that was never heard: it may load MLX and a model first
GONE = 2.0  # seconds after its last heartbeat from which the answer that nobody listens says that a rank is gone
LIMIT = 1400  # bytes of a heartbeat, which fits into one packet of any network
AWAKE = 2.0  # seconds between two ticks that count at most: what is longer, this process or machine has slept
DEPARTURE = 3.0  # seconds without a heartbeat after which a rank that has told its end has departed
_TEXT = 200  # characters of a text that is told; longer ones are cut

State = Literal["working", "ended", "failed", "interrupted"]
Fact = int | float | str


@dataclass
class _Member:
    """What is known of one rank."""

    number: int = 0  # of its last heartbeat
    heard: float | None = None  # when, in seconds of the clock of this process
    refused: float = 0.0  # when its host has answered last that nobody listens there
    state: State = "working"
    reason: str = ""  # why it has failed: "has failed: ..."
    host: str = ""
    pid: int = 0
    facts: dict[str, Fact] = field(default_factory=dict)


class Members:
    """The ranks of a run as one of them sees them. Its methods may be called from any thread.

    Time is that of this process alone, and counts only while it is awake (`tick`): clocks of hosts do not matter, and
    a machine that has slept does not take the others for silent.
    """

    def __init__(self, rank: int, hosts: list[str], run: str, clock: Callable[[], float] = time.monotonic) -> None:
        """hosts: a name or address of each rank's host, until it is heard. run: a text that no other run has."""
        self.rank, self.run = rank, run
        self._clock, self._last, self._now = clock, clock(), 0.0
        self._members = [_Member(host=host) for host in hosts]
        self.size, self._own = len(hosts), self._members[rank]
        self._own.host, self._own.pid = socket.gethostname()[:64], os.getpid()
        self._lock = threading.RLock()

    def tick(self) -> None:
        """Counts the time since the last tick; is called about once a second while this process is awake."""
        with self._lock:
            now = self._clock()
            self._now += min(max(0.0, now - self._last), AWAKE)
            self._last = now

    def tell(self, facts: Mapping[str, Fact]) -> None:
        """Puts facts over those of this rank; ValueError where they do not fit into a heartbeat."""
        if strange := [name for name, fact in facts.items() if type(fact) not in (int, float, str)]:
            raise ValueError(f"{strange[0]} is no number and no text")
        short = {name: fact[:_TEXT] if isinstance(fact, str) else fact for name, fact in facts.items()}
        with self._lock:
            before = self._own.facts
            self._own.facts = before | short
            if len(self._content()) > LIMIT - _TEXT:
                self._own.facts = before
                raise ValueError("these facts are too long for a heartbeat")

    def end(self, state: State, reason: str = "") -> None:
        """Sets how this rank ends; the first reason stays."""
        with self._lock:
            if self._own.state == "working":
                self._own.state, self._own.reason = state, " ".join(reason.split())[:_TEXT]

    def beat(self) -> bytes:
        """Returns the next heartbeat of this rank."""
        with self._lock:
            self._own.number += 1
            return self._content()

    def hear(self, content: bytes) -> tuple[int, bytes] | None:
        """Reads a heartbeat that has come, and returns the rank that has sent it and what is to be passed on.

        None where nothing is new, or where it is no heartbeat of another rank of this run.
        """
        message = _read(content)
        if message is None or message["run"] != self.run or message["rank"] == self.rank:
            return None
        if not (0 <= message["rank"] < self.size and 0 <= message["by"] < self.size):
            return None
        with self._lock:
            member = self._members[message["rank"]]
            if message["number"] <= member.number:
                return None
            member.number, member.heard = message["number"], self._now
            member.state, member.reason = message["state"], message["reason"][:_TEXT]
            member.host, member.pid, member.facts = message["host"][:64], message["pid"], message["facts"]
        return message["by"], _write(message | {"by": self.rank})

    def refuse(self, rank: int) -> None:
        """Notes that the host of a rank has answered that nobody listens there."""
        with self._lock:
            self._members[rank].refused = self._now

    def heard(self) -> bool:
        """Returns whether all other ranks have been heard at least once."""
        with self._lock:
            return all(member.heard is not None for member in self._members if member is not self._own)

    def gone(self, rank: int) -> bool:
        """Returns whether the process of a rank that has been heard is there no more."""
        with self._lock:
            member = self._members[rank]
            return member.heard is not None and member.refused - member.heard >= GONE

    def departed(self, rank: int) -> bool:
        """Returns whether a rank takes part no more: one that tells its end still does, until its process ends."""
        with self._lock:
            member = self._members[rank]
            last_word = member.state != "working" and member.heard is not None and self._now - member.heard >= DEPARTURE
            return last_word or self.gone(rank) or (member.state == "working" and self._is_silent(rank))

    def unheard(self, rank: int) -> float:
        """Returns the seconds since a rank was heard last, or since the start."""
        with self._lock:
            return self._now - (self._members[rank].heard or 0.0)

    def silent(self) -> list[int]:
        """Lists the ranks that have failed, have ended without a word, or have not been heard for too long."""
        with self._lock:
            return [rank for rank in range(self.size) if self._is_silent(rank)]

    def reason(self, rank: int) -> str:
        """Returns why a rank does not work, as the end of a sentence that begins with its name; "" where it works."""
        with self._lock:
            member = self._members[rank]
            if member.state != "working":
                usual = {"ended": "has ended", "failed": "has failed", "interrupted": "was interrupted"}
                return member.reason or usual[member.state]
            if not self._is_silent(rank):
                return ""
            if self.gone(rank):
                return "has ended without a word: it was killed, or has crashed"
            if member.heard is None:
                return f"was not heard for {START:.0f} s since the start: it is stopped, asleep or cut off"
            return f"has not answered for {self._now - member.heard:.0f} s: it is stopped, asleep or cut off"

    def name(self, rank: int) -> str:
        """Returns a rank and its host for messages: "rank 1 (host mac-2)"."""
        return f"rank {rank} (host {self._members[rank].host})"

    def facts(self, rank: int) -> dict[str, Fact]:
        """Returns what a rank has told last."""
        return dict(self._members[rank].facts)

    def state(self, rank: int) -> State:
        """Returns what a rank has said of itself last."""
        return self._members[rank].state

    def process(self, rank: int) -> tuple[str, int]:
        """Returns the host name and the number of the process of a rank; 0 where it was not heard."""
        return self._members[rank].host, self._members[rank].pid

    def _is_silent(self, rank: int) -> bool:
        member = self._members[rank]
        if member is self._own or member.state in ("ended", "interrupted"):
            return False
        if member.state == "failed" or self.gone(rank):
            return True
        return self._now >= START if member.heard is None else self._now - member.heard >= SILENCE

    def _content(self) -> bytes:
        member = self._own
        return _write(
            {
                "run": self.run,
                "rank": self.rank,
                "by": self.rank,
                "number": member.number,
                "host": member.host,
                "pid": member.pid,
                "state": member.state,
                "reason": member.reason,
                "facts": member.facts,
            }
        )


def _write(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _read(content: bytes) -> dict[str, Any] | None:
    """Returns a heartbeat, or None where the bytes are none."""
    if len(content) > LIMIT:
        return None
    try:
        message = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(message, dict):
        return None
    kinds = {"run": str, "rank": int, "by": int, "number": int, "host": str, "pid": int, "reason": str, "facts": dict}
    if not all(type(message.get(name)) is kind for name, kind in kinds.items()):
        return None
    if message.get("state") not in get_args(State):
        return None
    if not all(type(fact) in (int, float, str) for fact in message["facts"].values()):
        return None
    return message
