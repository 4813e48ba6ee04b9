"""Which model the worker has in memory, for everybody to read."""

from dataclasses import dataclass


@dataclass
class ModelState:
    """Ids of the model that is in memory, and of the one that is being loaded."""

    loaded: str | None = None
    loading: str | None = None
