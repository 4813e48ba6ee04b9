"""How the worker makes a job: the model, the picture step by step, the file. Only the worker's thread imports this."""

import gc
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import mlx.core as mx
from PIL import Image

from ... import jobs, metadata, request_model
from ...core.errors import Failure, InputError
from ...jobs import Job
from ...pipeline import StableDiffusion
from ...request import MODEL_FIELDS, Request
from ..jobs.job import StudioJob
from ..requests.limits import LIMITS
from ..requests.parts import Parts
from ..requests.shown import shown_text
from ..requests.submission import FieldError, field_of
from .calls import Calls
from .model_state import ModelState
from .previews import Previews


class _Cancelled(Exception):
    """The job was cancelled; raised between two evaluations."""


class _Stopped(Exception):
    """The server stops; raised between two evaluations."""


class Maker:
    """Makes jobs with one model at a time in memory; created and used in the worker's thread alone."""

    def __init__(self, studio: Parts, calls: Calls, stopping: Event, model: ModelState):
        """calls: answered between evaluations. stopping: set when the server stops. model: kept up to date."""
        self._studio, self._queue = studio, studio.queue
        self._calls, self._stopping, self._model = calls, stopping, model
        self._key: tuple[Any, ...] | None = None
        self._loaded: tuple[StableDiffusion, StableDiffusion | None] | None = None
        self.previews = Previews(studio.events)
        self.evaluated = 0.0  # seconds of all evaluations so far
        self._decoding = 0.0  # seconds of decoding for each pixel, as measured last
        self._size: tuple[int | None, int | None] | None = None
        self.cache: dict[Any, Any] = {}  # of functions that the worker is called with

    # ------------------------------------------------------------------------------------------------ the model

    def prepare(self) -> None:
        """Loads the default model before anybody asks for it; what is wrong with it is said when it is asked for."""
        try:
            self.model(Request(model=self._studio.default_model.source))
        except (InputError, Failure, RuntimeError, OSError, MemoryError) as error:
            self._studio.events.publish(
                {"type": "model", "state": "failed", "name": None, "error": shown_text(str(error))}
            )

    def model(self, request: Request) -> tuple[StableDiffusion, StableDiffusion | None]:
        """Returns the model of a request and its refiner; another one is dropped from memory first."""
        key = tuple(getattr(request, name) for name in MODEL_FIELDS)
        if self._loaded is not None and key == self._key:
            return self._loaded
        request_model.check(request)
        self._drop()
        name = self._studio.catalog.title_of(request.model)
        self._model.loading, self._model.loaded = name, None
        self._studio.events.publish({"type": "model", "state": "loading", "name": name})
        try:
            sd = request_model.load(request, low_memory=self._studio.low_memory)
            sd.model = replace(sd.model, name=self._studio.catalog.recorded(request.model))
            self._loaded = sd, request_model.load_refiner(request, self._studio.low_memory)
            self._key, self._model.loaded = key, name
        finally:
            self._model.loading = None
            state = "failed" if self._loaded is None else "ready"
            self._studio.events.publish({"type": "model", "state": state, "name": name})
        return self._loaded

    def _drop(self) -> None:
        """Gives the memory of the model free."""
        self._loaded = self._key = self._model.loaded = None
        self.previews.forget()
        gc.collect()
        mx.clear_cache()

    def close(self) -> None:
        """Ends MLX's streams of this thread, without which the process can abort at its end."""
        self._drop()
        mx.synchronize()
        mx.clear_streams()

    # ------------------------------------------------------------------------------------------------ a job

    def make(self, job: StudioJob) -> None:
        """Makes the picture of a job, or says in the job why not."""
        try:
            self._make(job)
        except _Cancelled:
            self._queue.cancelled(job)
        except _Stopped:
            self._queue.put_back(job)
        except FieldError as error:
            self._fail(job, str(error), error.field)
        except (InputError, Failure) as error:
            self._fail(job, str(error), field_of(str(error)))
        except MemoryError:
            self._fail(job, "there is not enough memory for this picture; make it smaller, or close programs")
        except (RuntimeError, ValueError, OSError) as error:  # of MLX, and of files that vanish
            reason = str(error).strip().splitlines()
            self._fail(job, f"the picture could not be made: {reason[0] if reason else type(error).__name__}")

    def _fail(self, job: StudioJob, message: str, field: str | None = None) -> None:
        self._queue.failed(job, shown_text(message, (self._studio.folder,)), field)

    def prepare_previews(self) -> None:
        """Prepares previews for the model in memory; stops as soon as something else is to be done."""
        if self._loaded is None:
            return
        with suppress(_Stopped):
            self.previews.prepare(self._loaded[0], self._check_idle)

    def _check_idle(self) -> None:
        self._calls.answer(self)
        if self._stopping.is_set() or self._queue.order:
            raise _Stopped

    def _make(self, job: StudioJob) -> None:
        self._check(job)
        sd, refiner = self.model(job.request)
        self._check(job)
        completed = sd.complete(job.request)
        if refiner is not None:
            completed = completed.with_values(refiner_hash=refiner.model.hash)
        job.completed = completed
        _check_size(completed)
        target = self._target(job, completed)
        if target is not None and jobs.state(Job(completed, target)) is jobs.State.DONE:  # before an earlier end
            self._finish(job, target)
            return
        if self._size != (completed.width, completed.height):
            mx.clear_cache()  # blocks of another size would only be kept
            self._size = completed.width, completed.height
        clock = _Clock(self._decoding * (completed.width or 0) * (completed.height or 0))
        self.previews.begin(sd)

        def step(evaluation: int, evaluations: int, denoised: mx.array) -> None:
            """Follows each evaluation: the job is cancelled here, and shown."""
            self._check(job)
            before = clock.total
            left = clock.left(evaluation, evaluations)
            self.evaluated += clock.total - before
            self._queue.progress(job, evaluation, evaluations, left)
            self.previews.show(job, denoised, clock.total)
            self._calls.answer(self)
            clock.go_on()

        for result in sd.stream([job.request], refiner=refiner, callback=step):
            (image,), (request,), (phases,) = result.images, result.requests, result.phases
            self._decoding = phases.decode / max((request.width or 1) * (request.height or 1), 1)
            self._check(job)
            self._save(job, image, request, target, result.calls_of(0))

    def _check(self, job: StudioJob) -> None:
        """Raises where the job was cancelled, or the server stops."""
        if job.stop.is_set():
            raise _Cancelled
        if self._stopping.is_set():
            raise _Stopped

    def _target(self, job: StudioJob, completed: Request) -> Path | None:
        """Returns the file that a job is saved as, None where it is not kept; a name that is taken gets a number."""
        if job.target is None:
            return None
        target = self._studio.folder / job.target
        number = 1
        while jobs.state(Job(completed, target)) in (jobs.State.OTHER, jobs.State.BROKEN):
            number += 1
            target = self._studio.folder / f"{Path(job.target).stem}-{number}.png"
        return target

    def _save(
        self, job: StudioJob, image: Image.Image, request: Request, target: Path | None, calls: int | None
    ) -> None:
        settings = metadata.with_facts(self._recorded(request.to_json()), calls)
        if target is None:
            self._queue.done(job, metadata.encoded(image, settings))
        else:
            metadata.save(image, target, settings)
            _sync(target)
            self._finish(job, target)

    def _finish(self, job: StudioJob, target: Path) -> None:
        self._studio.gallery.add(target.name)
        self._queue.done(job, target=target.name)

    def _recorded(self, value: Any) -> Any:
        """Returns settings in which a picture that was sent has its name alone: its path means nothing later."""
        if isinstance(value, Mapping):
            return {key: self._recorded(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._recorded(inner) for inner in value]
        if isinstance(value, str) and value.startswith(f"{self._studio.hidden}/"):
            return Path(value).name
        return value


class _Clock:
    """The seconds that evaluations take, without what is done between them, and those that are left."""

    def __init__(self, decoding: float):
        self.total = 0.0
        self._decoding, self._start, self._first = decoding, time.perf_counter(), 0.0

    def left(self, evaluation: int, evaluations: int) -> float | None:
        """Returns the seconds that are left after an evaluation; None after the first, which pays for more."""
        seconds = time.perf_counter() - self._start
        self.total += seconds
        if evaluation == 1:
            self._first = self.total
            return None
        mean = (self.total - self._first) / (evaluation - 1)
        return mean * (evaluations - evaluation) + self._decoding

    def go_on(self) -> None:
        """Begins the next evaluation."""
        self._start = time.perf_counter()


def _sync(target: Path) -> None:
    """Waits until a file and its name are on the disk: only then does the journal say that the job is done."""
    for path in (target, target.parent):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _check_size(completed: Request) -> None:
    """Raises FieldError where the picture that a request means here is too large."""
    pixels = (completed.width or 0) * (completed.height or 0)
    if completed.hires:
        pixels = round(pixels * completed.hires.scale**2)
    if pixels > LIMITS.enlarged_pixels:
        field = "hires" if completed.hires else "init_image" if completed.init_image else "width"
        raise FieldError(
            f"this would be a picture of {pixels} pixels, and at most {LIMITS.enlarged_pixels} are made here; make it "
            "smaller",
            field,
        )
