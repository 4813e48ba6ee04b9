"""What a person at a terminal is shown of long work: bars of bytes, and lines about what is done once."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_DELAY = 0.5  # seconds before a bar appears: work that is shorter needs none
_HIDDEN: ContextVar[bool] = ContextVar("hidden", default=False)


def visible() -> bool:
    """Returns whether somebody looks: the standard error is a terminal, and the command is not quiet."""
    return sys.stderr.isatty() and not _HIDDEN.get()


@contextmanager
def hidden(hide: bool = True) -> Iterator[None]:
    """Shows nothing while the block runs, if `hide`."""
    before = _HIDDEN.set(hide or _HIDDEN.get())
    try:
        yield
    finally:
        _HIDDEN.reset(before)


def announce(line: str) -> None:
    """Prints a line on the standard error where somebody looks."""
    if visible():
        print(line, file=sys.stderr)


@contextmanager
def progress(total: int, title: str) -> Iterator[Callable[[int], Any]]:
    """Shows a bar of `total` bytes where somebody looks; yields the function that advances it by some bytes."""
    if not visible():
        yield lambda size: None
        return
    from tqdm import tqdm  # here because without a terminal nobody needs it

    with tqdm(total=total, unit="B", unit_scale=True, desc=title, delay=_DELAY, leave=False) as bar:
        yield bar.update


def size(count: int) -> str:
    """Returns a number of bytes in words: "4.27 GB"."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count} bytes"
