"""Progress as a bar on a terminal, and as a line every so often elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 30.0


class Progress:
    """Shows the progress of a task towards `total`; a context manager."""

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

    def show(self, amount: float, note: str = "") -> None:
        """Shows that `amount` of the total is finished, and a note."""
        if self.terminal:
            self.bar.set_postfix_str(note, refresh=False)
            self.bar.update(min(amount, self.total) - self.bar.n)
        elif time.monotonic() >= self.next_line or amount >= self.total:
            self.next_line = time.monotonic() + SECONDS_BETWEEN_LINES
            line = f"{self.name}: {min(amount, self.total):.0f}/{self.total:.0f}{self.unit} {note}"
            print(line.rstrip(), file=sys.stderr, flush=True)
