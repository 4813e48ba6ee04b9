"""The bars of a run on a terminal: one of the picture in work, and one of all pictures with the time that is left."""

import sys
from typing import TYPE_CHECKING, NoReturn, TextIO

if TYPE_CHECKING:
    from tqdm import tqdm

_STEPS = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_inv_fmt}]"
_PICTURES = "{desc} {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}]"


class Progress:
    """Shows how far a run of `pictures` is, from its first step on; nothing in a pipe, and nothing if it is quiet."""

    def __init__(self, pictures: int, quiet: bool = False):
        self._pictures, self._done, self._skipped = pictures, 0, 0
        self._shown = not quiet and sys.stderr.isatty()
        self._steps: tqdm[NoReturn] | None = None
        self._all: tqdm[NoReturn] | None = None

    def step(self, evaluation: int, evaluations: int, batch: int) -> None:
        """Moves the bars on by one evaluation of a batch of pictures."""
        if not self._shown:
            return
        if self._steps is None:
            from tqdm import tqdm  # here because a run without a terminal needs none

            self._steps = tqdm(unit="step", bar_format=_STEPS, leave=self._pictures == 1)
            if self._pictures > 1:
                self._all = tqdm(total=self._pictures, bar_format=_PICTURES, position=1, initial=self._skipped)
                self._describe()
        if evaluation == 1:
            self._steps.reset(total=evaluations)
            last = self._done + batch
            numbers = f"{last}" if batch == 1 else f"{self._done + 1}-{last}"
            self._steps.set_description_str(f"{numbers}/{self._pictures}")
        self._steps.update()
        if self._all is not None:
            self._all.update(batch / evaluations)

    def finish(self) -> None:
        """Counts a picture that is finished."""
        self._done += 1
        self._describe()

    def skip(self, pictures: int) -> None:
        """Counts pictures that are not made, which is no progress in time."""
        self._done += pictures
        self._skipped += pictures
        if self._all is not None:
            self._all.initial += pictures
            self._all.update(pictures)
            self._describe()

    def _describe(self) -> None:
        if self._all is not None:
            self._all.set_description_str(f"all {self._done}/{self._pictures}")

    def print(self, line: str, file: TextIO | None = None) -> None:
        """Prints a line above the bars, on the standard output or another file."""
        file = sys.stdout if file is None else file
        if self._steps is None:
            print(line, file=file)
        else:
            self._steps.write(line, file=file)

    def close(self) -> None:
        """Leaves the bars as they are."""
        for bar in (self._steps, self._all):
            if bar is not None:
                bar.close()
