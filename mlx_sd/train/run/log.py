"""The log of a run: one JSON line a step, which readers see at once, and which a resumed run goes on from."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...core.errors import InputError
from . import durable
from .tensorboard import TensorBoard

NAME = "log.jsonl"
_ADVICE = "free some space, and go on with --resume"


def read(path: Path) -> list[dict[str, Any]]:
    """Returns the lines of a log, also while a run writes it; [] where there is none.

    A torn line, which a crash of the machine leaves, is left out. InputError where the file cannot be read.
    """
    return [entry for entry in map(_entry, _lines(path)) if entry is not None]


class Log:
    """The log of a run, which goes on after a step."""

    def __init__(self, path: Path, step: int = 0, tensorboard: TensorBoard | None = None) -> None:
        """Opens a log to be gone on with; lines of later steps and torn ones are cut off first.

        step: the step after which the run goes on; 0 for a new run, which cuts off all lines but that of step 0.
        tensorboard: gets the same numbers.
        """
        self.path = path
        self.step = -1  # the last step that has a line
        self._tensorboard = tensorboard
        lines = [(line, entry["step"]) for line in _lines(path) if (entry := _entry(line)) and entry["step"] <= step]
        content = b"".join(line for line, _ in lines)
        self.step = max((number for _, number in lines), default=-1)
        with durable.one_line(path, _ADVICE):
            if not path.exists() or path.stat().st_size != len(content):
                durable.write(path, content)
            self._handle = os.open(path, os.O_WRONLY | os.O_APPEND)

    def write(
        self,
        step: int,
        *,
        loss: float | None = None,
        lr: float | None = None,
        grad_norm: float | None = None,
        seconds: float | None = None,
        validation: float | None = None,
        others: Mapping[str, float] | None = None,
    ) -> None:
        """Writes the line of a step, in one piece; Failure where the disk is full, and then nothing of it stays.

        Numbers that are None are left out. JSON has no NaN and no infinity: they are written as null. others: numbers
        of this kind of training alone, by name. seconds: the time that the step took; the only number that may differ
        when a run is repeated.
        """
        if step <= self.step:
            raise ValueError(f"step {step} comes after step {self.step} in the log")
        usual = {"loss": loss, "lr": lr, "grad_norm": grad_norm, "seconds": seconds, "validation": validation}
        if twice := (others or {}).keys() & {"step", *usual}:
            raise ValueError(f"{min(twice)!r} is a name of every log")
        numbers = {key: float(value) for key, value in (usual | dict(others or {})).items() if value is not None}
        finite = {key: value if math.isfinite(value) else None for key, value in numbers.items()}
        self._append((json.dumps({"step": step} | finite, allow_nan=False) + "\n").encode())
        self.step = step
        if self._tensorboard:
            self._tensorboard.write(step, numbers)

    def flush(self) -> None:
        """Waits until the disk has all lines, so that no checkpoint is newer than the log."""
        with durable.one_line(self.path, _ADVICE):
            durable.flush(self._handle)

    def close(self) -> None:
        """Closes the file; nothing can be written then."""
        os.close(self._handle)

    def _append(self, line: bytes) -> None:
        size = os.fstat(self._handle).st_size
        with durable.one_line(self.path, _ADVICE):
            try:
                while line:  # a disk that is nearly full takes a part, and refuses the next
                    line = line[os.write(self._handle, line) :]
            except BaseException:
                os.ftruncate(self._handle, size)
                raise


def _lines(path: Path) -> list[bytes]:
    """The lines that have an end."""
    try:
        return [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None


def _entry(line: bytes) -> dict[str, Any] | None:
    """The object of a line; None where it is none of a log."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) and type(entry.get("step")) is int else None
