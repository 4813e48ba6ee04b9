"""X/Y grids: pictures over the values of one or two settings, and one sheet of them when the last has ended.

What belongs to a sheet lies in a file beside the journal until the sheet is written, so that a restart loses none.
"""

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ... import grid, sheet
from ...core.errors import Failure, InputError
from ...core.files import atomic_file
from ...grid import Axis
from ...request import SETTINGS, Request, pictures_of
from ..jobs.job import Origin, State, StudioJob
from ..pictures.picture_record import written
from ..requests.parts import Parts
from ..requests.submission import FieldError, read_request

_SIDES = ("x", "y")
_MOST_VALUES = 32  # along a side
_LONGEST = 200  # characters of a value


class Sheets:
    """The grids that are being made; `submit` and `ended` may be called in any thread."""

    def __init__(self, studio: Parts):
        self._studio = studio
        self._folder = studio.hidden / "grids"

    def submit(self, values: Mapping[str, Any], sides: object, origin: Origin) -> list[StudioJob]:
        """Accepts the pictures of a grid, all or none, which are kept; raises FieldError, QueueFull and Failure.

        values: a client's settings. sides: {"x": {"setting", "values"}, "y": ...}, y may be left out.
        """
        axes = read_axes(sides)
        cells = grid.cells(axes)
        requests = pictures_of([self._request(values, axes, cell.places) for cell in cells], 1, 1)
        jobs = self._studio.queue.submit(requests, origin, keep=True)
        record = {
            "name": f"{time.strftime('%Y%m%d-%H%M%S')}-grid-{jobs[0].group[:8]}.png",
            "axes": [{"name": axis.name, "field": axis.field, "texts": axis.texts} for axis in axes],
            "cells": [
                {"places": cell.places, "job": job.id, "target": job.target}
                for cell, job in zip(cells, jobs, strict=True)
            ],
        }
        try:
            self._folder.mkdir(exist_ok=True)
            with atomic_file(self._path(jobs[0].group)) as file:
                file.write(json.dumps(record).encode())
        except OSError as error:
            self._studio.queue.cancel_group(jobs[0].group)
            raise Failure(f"the grid cannot be remembered: {error.strerror}; nothing is made") from None
        return jobs

    def ended(self, job: StudioJob) -> None:
        """Notices the end of a job, in the background; the last of a grid makes its sheet."""
        self._later(job.group)

    def start(self) -> None:
        """Looks for grids that an earlier start has not finished."""
        with suppress(OSError):
            for path in sorted(self._folder.glob("*.json")):
                self._later(path.stem)

    def write(self, group: str) -> str | None:
        """Writes the sheet of a grid if all its jobs have ended, in the gallery's thread; returns its name.

        Pictures that failed or were cancelled are grey; without any picture there is no sheet.
        """
        path = self._path(group)
        try:
            record = json.loads(path.read_bytes())
            axes = [Axis(a["name"], a["field"], tuple(a["texts"]), tuple(a["texts"])) for a in record["axes"]]
            cells = [(tuple(cell["places"]), cell["job"], cell["target"]) for cell in record["cells"]]
            name = str(record["name"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):  # damaged: there is nothing to go on with
            path.unlink(missing_ok=True)
            return None
        pictures: dict[tuple[int, ...], Path] = {}
        for places, id, target in cells:
            job = self._studio.queue.get(id)
            if job is not None and not job.state.is_end:
                return None
            ready = job is None or job.state is State.DONE
            file = self._studio.folder / ((job and job.target) or target)
            pictures[places] = file if ready else self._folder / "none"
        ready_files = [file for file in pictures.values() if file.is_file()]
        if ready_files:
            with suppress(OSError, Failure):  # the disk is full: the pictures are there, and the sheet is not
                sheet.write(self._studio.folder / name, axes, pictures)
        path.unlink(missing_ok=True)
        self._studio.gallery.update(name)
        return name if ready_files else None

    def _later(self, group: str) -> None:
        if self._path(group).exists():
            with suppress(RuntimeError):  # the server ends: the next start looks again
                self._studio.gallery.submit(self.write, group)

    def _path(self, group: str) -> Path:
        return self._folder / f"{group}.json"

    def _request(self, values: Mapping[str, Any], axes: tuple[Axis, ...], places: tuple[int, ...]) -> Request:
        """Returns the request of a cell; FieldError names the side whose value makes no sense."""
        changed, request = dict(values), None
        for side, axis, place in zip(_SIDES, axes, places, strict=False):
            try:
                if axis.field is None:
                    texts = {name: changed.get(name) for name in ("prompt", "negative")}
                    changed |= grid.replaced(texts, axis.texts[0], axis.texts[place])
                else:
                    changed[SETTINGS[axis.field].key or axis.field] = axis.values[place]
                request = read_request(self._studio, changed)
            except InputError as error:
                raise FieldError(f"{axis.name} {axis.texts[place]}: {error}", f"grid.{side}") from None
        assert request is not None  # there is one side at least
        return request


def read_axes(sides: object) -> tuple[Axis, ...]:
    """Returns the axes of a grid as a client gives it; FieldError names the side that makes no sense."""
    if not isinstance(sides, Mapping) or "x" not in sides or sides.keys() - {*_SIDES}:
        raise FieldError('a grid is {"x": {"setting": NAME, "values": [...]}, "y": ...}; y may be left out', "grid")
    axes = [_axis(sides[side], f"grid.{side}") for side in _SIDES if sides.get(side) is not None]
    if len({axis.name for axis in axes}) < len(axes):
        raise FieldError(f"both sides of the grid change {axes[0].name}; choose another setting for one", "grid.y")
    return tuple(axes)


def _axis(side: object, where: str) -> Axis:
    name = side.get("setting") if isinstance(side, Mapping) else None
    values = side.get("values") if isinstance(side, Mapping) else None
    if not isinstance(name, str) or not isinstance(values, list) or not 1 <= len(values) <= _MOST_VALUES:
        raise FieldError(f"a side of a grid has a setting and 1 to {_MOST_VALUES} values", where)
    try:
        field = grid.field_of(name, "setting of a grid")
    except InputError as error:
        raise FieldError(str(error), where) from None
    texts = tuple("default" if value is None else _text(value) for value in values)
    if any(len(text) > _LONGEST for text in texts):
        raise FieldError(f"a value of a grid has at most {_LONGEST} characters", where)
    if field is None and not all(isinstance(value, str) and value for value in values):
        raise FieldError("the values that replace each other in the prompt are texts", where)
    return Axis(name, field, texts, tuple(values))


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else written(value)
