"""What modules need of the `Studio` that holds them, so that they need not import it."""

from pathlib import Path
from typing import Any, Protocol

from ...request import Request
from ..jobs.events import Events
from ..jobs.job_queue import JobQueue
from ..models.catalog import Catalog, ModelEntry
from ..pictures.gallery import Gallery


class Sources(Protocol):
    """What the names in a client's request mean."""

    catalog: Catalog

    @property
    def default_model(self) -> ModelEntry:
        """Returns the model of requests that name none."""

    def picture(self, name: str) -> Path:
        """Returns the file of a picture that a client names; InputError for one that is not there."""

    def picture_name(self, path: str) -> str:
        """Returns the name by which clients know a picture file."""


class Parts(Sources, Protocol):
    """The parts of a Studio that work together."""

    folder: Path
    hidden: Path
    events: Events
    queue: JobQueue
    gallery: Gallery
    low_memory: bool  # as of `StableDiffusion.load`

    def show(self, request: Request) -> dict[str, Any]:
        """Returns a request as clients see it, without paths."""
