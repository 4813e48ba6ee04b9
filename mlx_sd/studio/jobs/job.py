"""One job of the Studio: a request, who asked for it, and how far it is."""

import dataclasses
import threading
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ...request import Request


class State(str, Enum):
    """Where a job stands; the last three are ends."""

    QUEUED, RUNNING, DONE, FAILED, CANCELLED = "queued", "running", "done", "failed", "cancelled"

    @property
    def is_end(self) -> bool:
        """Whether nothing happens to the job any more."""
        return self not in (State.QUEUED, State.RUNNING)


@dataclass(frozen=True)
class Origin:
    """Who asked for a job.

    kind: "page", whose jobs go on after a restart, or "api", whose jobs end with their connection. client: jobs of
    different clients take turns.
    """

    kind: str
    client: str


PAGE, API = "page", "api"  # kinds of origins


@dataclass(eq=False)
class StudioJob:
    """One picture to make, with its state; only the queue and the worker change it."""

    id: str
    origin: Origin
    request: Request
    group: str  # id shared by the jobs of one submission
    keep: bool  # saved in the data folder; otherwise only `result` has the picture
    target: str | None = None  # file name in the data folder, where it is kept
    # The request as clients see it, with ids in place of paths.
    shown: dict[str, Any] = dataclasses.field(default_factory=dict)
    state: State = State.QUEUED
    error: str | None = None
    field: str | None = None  # the setting that the error is about
    created: float = 0.0
    started: float | None = None
    ended: float | None = None
    evaluation: int = 0
    evaluations: int = 0
    seconds_left: float | None = None
    result: bytes | None = None  # the PNG with its settings, until it is taken
    preview: bytes | None = None  # the last preview, a JPEG
    watched: float = 0.0  # time.time() until which somebody wants previews of this job
    turn: int = 0
    completed: Request | None = None  # the request with everything filled in, once the worker has it
    # Set where it is to end at the next evaluation.
    stop: threading.Event = dataclasses.field(default_factory=threading.Event)

    def to_json(self) -> dict[str, Any]:
        """Returns what events and /api/jobs show of the job."""
        return {
            "id": self.id,
            "group": self.group,
            "origin": self.origin.kind,
            "client": self.origin.client,
            "state": self.state.value,
            "keep": self.keep,
            "target": self.target,
            "error": None if self.error is None else {"message": self.error, "field": self.field},
            "created": self.created,
            "started": self.started,
            "ended": self.ended,
            "evaluation": self.evaluation,
            "evaluations": self.evaluations,
            "seconds_left": self.seconds_left,
            "request": self.shown,
        }
