"""What is shown of long work: bars of bytes and lines at a terminal, and numbers for a program that asks for them."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_DELAY = 0.5  # seconds before a bar appears: work that is shorter needs none
_HIDDEN: ContextVar[bool] = ContextVar("hidden", default=False)

Observer = Callable[[str, int, int], None]  # the title of the work, the bytes that are done, and all of them
_OBSERVER: ContextVar[Observer | None] = ContextVar("observer", default=None)


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
def observed(observer: Observer) -> Iterator[None]:
    """Tells `observer` how far work of bytes is while the block runs: at its begin, and with each part that is done."""
    before = _OBSERVER.set(observer)
    try:
        yield
    finally:
        _OBSERVER.reset(before)


def observer() -> Observer | None:
    """Returns the function that is told how far work is; None where nobody asks."""
    return _OBSERVER.get()


@contextmanager
def progress(total: int, title: str) -> Iterator[Callable[[int], Any]]:
    """Shows a bar of `total` bytes where somebody looks; yields the function that advances it by some bytes."""
    if (tell := observer()) is not None:
        done = 0
        tell(title, 0, total)

        def advance(size: int) -> None:
            """Counts some bytes and tells the observer."""
            nonlocal done
            done += size
            tell(title, done, total)

        yield advance
        return
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
