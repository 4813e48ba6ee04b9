"""Progress as a bar on a terminal, and as a line every so often elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 30.0


class Progress:
    """Shows how much of `total` is done; a context manager."""

    def __init__(self, name: str, total: float, unit: str) -> None:
        self.name, self.total, self.unit = name, total, unit
        self.terminal = sys.stderr.isatty()
        layout = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f}" + unit + " [{elapsed}<{remaining}{postfix}]"
        self.bar = tqdm(total=total, desc=name, disable=not self.terminal, bar_format=layout)
        self.next_line = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        self.bar.close()

    def show(self, done: float, note: str = "") -> None:
        """Say that `done` of the total is done, and `note`."""
        if self.terminal:
            self.bar.set_postfix_str(note, refresh=False)
            self.bar.update(min(done, self.total) - self.bar.n)
        elif time.monotonic() >= self.next_line or done >= self.total:
            self.next_line = time.monotonic() + SECONDS_BETWEEN_LINES
            line = f"{self.name}: {min(done, self.total):.0f}/{self.total:.0f}{self.unit} {note}"
            print(line.rstrip(), file=sys.stderr, flush=True)
