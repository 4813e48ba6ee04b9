"""The Studio: one local server, its page, and APIs; `Client` talks to it from Python."""

from typing import Any

__all__ = ["Client"]


def __getattr__(name: str) -> Any:
    if name == "Client":  # when it is used: the server itself needs none
        from .client import Client

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
