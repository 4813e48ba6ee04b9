"""The run of python -m mlx_sd.generate: plan, model, then picture by picture."""

import argparse
import time
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import count, groupby
from pathlib import Path
from typing import Any

import mlx.core as mx
from PIL import Image

from .. import conditions, jobs, metadata, sheet
from ..completion import speed_words, unguided_words
from ..core import interrupt
from ..core.errors import Failure, InputError, Interrupted
from ..core.version import VERSION
from ..generation import Result
from ..jobs import Claim, State
from ..pipeline import StableDiffusion
from ..request import MODEL_FIELDS, Request
from . import explain, grid, models, prompt_list, replay
from .animation import StepImages
from .grid import Grid
from .plan import Draft, Plan
from .progress import Progress
from .prompt_list import Template
from .report import Report
from .targets import exists

_CHUNK = 64  # pictures whose requests are in memory together


def make(arguments: argparse.Namespace, name: str) -> None:
    """Makes the pictures of a command line; name: of the command, in front of each line on the standard error."""
    replayed = replay.request_of(arguments)
    templates = prompt_list.templates_of(arguments, replayed)
    if arguments.explain_prompt:
        print("\n".join(explain.lines_of(templates)))
        return
    sheets = None
    if arguments.grid is not None:
        sheets, templates = grid.of(arguments, templates)
        grid.check_replaceable(sheets, arguments.overwrite)
        arguments.output = f"{sheets.folder}/"
    plan = Plan(arguments, templates)
    for line in prompt_list.remarks_of(templates) if arguments.from_image is None else ():
        warnings.warn(line, stacklevel=2)
    if arguments.batch > len(plan.drafts) == 1:
        several = f"--count {arguments.batch} makes {arguments.batch}"
        warnings.warn(
            f"--batch is how many pictures go through the UNet together; there is one, {several}", stacklevel=2
        )
    run = _Run(arguments, name, replayed, plan)
    try:
        # Settings that need another model are made model by model.
        for _, members in groupby(plan.drafts, lambda draft: _model_key(draft.template)):
            run.make(list(members))
        if sheets is not None:
            run.make_sheet(sheets)
    except KeyboardInterrupt:
        raise Interrupted(run.report.way_on()) from None
    except Failure as error:
        raise Failure(f"{error}{run.report.so_far()}") from None
    finally:
        run.close()


class _Run:
    """The run of one command."""

    def __init__(self, arguments: argparse.Namespace, name: str, replayed: Request, plan: Plan):
        self._arguments, self._replayed, self._plan = arguments, replayed, plan
        self.progress = Progress(len(plan.drafts), arguments.quiet)
        self.report = Report(arguments, name, plan, self.progress)
        self._claims: deque[tuple[Draft, Claim]] = deque()  # of the batch in work
        self._folders: set[Path] = set()
        self._noted: set[str] = set()

    def close(self) -> None:
        """Gives free what is claimed, and prints what was made as JSON where that was asked for."""
        while self._claims:
            self._claims.popleft()[1].release()
        self.progress.close()
        self.report.close()

    def make(self, drafts: Sequence[Draft]) -> None:
        """Makes the pictures of one model."""
        clock = time.perf_counter()
        first = drafts[0].template.request
        for request in {_images(draft.template.request): draft.template.request for draft in drafts}.values():
            replay.check_images(self._replayed, request)  # before the model is loaded
        sd, refiner = models.load(self._arguments, first)
        self.report.loaded(time.perf_counter() - clock)
        self._decide(sd, refiner, drafts)
        self.report.planned(drafts)
        for draft in drafts:
            if draft.state is State.DONE:
                jobs.sweep(draft.target)
        pending = [draft for draft in drafts if draft.state is not State.DONE]
        if not pending:
            return
        steps = StepImages(sd, self._plan.animation)

        def progress(evaluation: int, evaluations: int, denoised: mx.array) -> None:
            """Moves the bars on and shows the step."""
            if evaluation == 1:
                self.report.begins()
            self.progress.step(evaluation, evaluations, len(self._claims))
            steps.add([draft.target for draft, _ in self._claims], evaluation, denoised)

        for chunk in _chunks(pending, max(_CHUNK, self._arguments.batch)):
            requests = [draft.job.request for draft in chunk]
            batch, accept = self._arguments.batch, lambda i, chunk=chunk: self._claim(chunk[i])
            for result in sd.stream(requests, batch=batch, refiner=refiner, callback=progress, accept=accept):
                for image, request in zip(result.images, result.requests, strict=True):
                    self._save(image, request, result, steps)

    def make_sheet(self, grid: Grid) -> None:
        """Writes the sheet of --grid, whose pictures are there by now."""
        names = {cell.name: cell.places for cell in grid.cells}
        pictures = {names[draft.template.output or ""]: draft.target for draft in self._plan.drafts}
        missing = sheet.write(grid.sheet, grid.axes, pictures)
        if missing:
            self.report.note(
                f"{len(missing)} of {len(pictures)} pictures are not there yet, so the sheet is grey there"
            )
        self.report.sheet(grid.sheet)

    def _decide(self, sd: StableDiffusion, refiner: StableDiffusion | None, drafts: Sequence[Draft]) -> None:
        """Completes the requests, which says what is wrong with them, and decides their targets."""
        shared: Request | None = None
        completed: Request | None = None
        for template, members in groupby(drafts, lambda draft: draft.template):
            group = list(members)
            request = replay.without_hashes(template.request.with_values(seed=group[0].picture.seed))
            request = replay.fitted(self._arguments, request, sd.model)
            settings = request.with_values(prompt=None, class_label=None, seed=None)
            try:
                if completed is None or settings != shared:
                    networks = sd.model, refiner.model if refiner else None
                    lines = replay.changes(self._arguments, self._replayed, template.request, *networks)
                    shared, completed = settings, sd.complete(request)
                    lines = [*lines, *replay.changes_beside(self._arguments, self._replayed, completed)]
                    if refiner:
                        completed = completed.with_values(refiner_hash=refiner.model.hash)
                    if request.speed:
                        lines = [*lines, speed_words(sd.model, request.speed, completed)]
                    remarks = [*replay.remarks(self._arguments, sd.model), *unguided_words(completed)]
                    self._note([*lines, *remarks, *models.time_words(sd.model, completed)])
                request = completed.with_subject(conditions.check_subject(sd.model, request))
            except InputError as error:
                raise (error if template.where is None else InputError(f"{template.where}: {error}")) from None
            for draft in group:
                self._plan.decide(draft, request)
                if self._arguments.lossless and metadata.is_lossy(draft.target):
                    raise InputError(f"--lossless: {draft.target} cannot be without loss; choose .webp or .png")

    def _note(self, lines: Sequence[str]) -> None:
        """Prints lines about a replayed picture, each once in the run."""
        for line in lines:
            if line not in self._noted:
                self._noted.add(line)
                self.report.note(line)

    def _claim(self, draft: Draft) -> bool:
        """Claims the target of a draft; False where another process makes it, or has made it by now."""
        while True:
            self._make_folder(draft.target.parent)
            claim = jobs.claim(draft.target)
            if claim is not None and self._plan.is_free(draft):
                self._claims.append((draft, claim))
                return True
            if claim is not None:
                claim.release()
            if self._plan.resumes(draft) and (claim is None or jobs.state(draft.job) is State.DONE):
                self.report.elsewhere()
                return False
            if not self._plan.is_numbered(draft):
                raise Failure(f"another process is writing {draft.target}; choose another name")
            self._plan.number(draft)

    def _make_folder(self, folder: Path) -> None:
        """Makes the folder of a target once: one that vanishes later is not made again."""
        if folder in self._folders:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Failure(f"{folder} cannot be made: {error.strerror}") from None
        self._folders.add(folder)

    def _save(self, image: Image.Image, request: Request, result: Result, steps: StepImages) -> None:
        """Writes the next picture of the batch, and its animation."""
        draft, claim = self._claims[0]
        clock = time.perf_counter()
        settings: dict[str, Any] = request.to_json() | {metadata.VERSION_KEY: VERSION}
        with interrupt.deferred():
            if draft.state is State.BROKEN:
                self.report.note(f"{draft.target} was damaged or edited; it is {_set_aside(draft.target)} now")
            recorded = settings if self._arguments.metadata else None
            metadata.save(image, draft.target, recorded, lossless=self._arguments.lossless)
            moving = steps.finish(draft.target, image)
            self._claims.popleft()
            claim.release()
            self.report.add(draft, settings, moving, result, time.perf_counter() - clock)


def _model_key(template: Template) -> tuple[Any, ...]:
    return tuple(getattr(template.request, name) for name in MODEL_FIELDS)


def _images(request: Request) -> tuple[str, ...]:
    return str(request.init_image), str(request.mask), *(str(control.image) for control in request.controls)


def _chunks(drafts: Sequence[Draft], size: int) -> Iterator[Sequence[Draft]]:
    return (drafts[i : i + size] for i in range(0, len(drafts), size))


def _set_aside(path: Path) -> Path:
    """Renames a file to the first of NAME.broken.png, NAME.broken.2.png, ... that is free, and returns that."""
    stem = f"{path.stem}.broken"
    for i in count(1):
        free = path.with_name(f"{stem}{'' if i == 1 else f'.{i}'}{path.suffix}")
        if not exists(free):
            break
    try:
        return path.rename(free)
    except OSError as error:
        raise Failure(f"{path} cannot be renamed: {error.strerror}") from None
