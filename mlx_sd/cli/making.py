"""The run of python -m mlx_sd.generate: plan, model, then picture by picture."""

import argparse
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count, groupby
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx

from .. import conditions, jobs, metadata, sheet
from ..completion import distilled_words, speed_words, starting_point, unguided_words
from ..core import interrupt
from ..core.errors import Failure, InputError, Interrupted
from ..jobs import Claim, State
from ..pipeline import StableDiffusion
from ..predictor import pixel_size
from ..request import MODEL_FIELDS, Request
from ..result import Result
from ..token_plan import calls_words
from ..tuning import apply
from . import explain, grid, models, prompt_list, replay
from . import index as index_files
from .animation import StepImages
from .grid import Grid
from .index import Index
from .plan import Draft, Plan
from .progress import Progress
from .prompt_list import Template
from .report import Report
from .split import Lead
from .targets import exists

CHUNK = 64  # pictures whose requests are in memory together


class Order(NamedTuple):
    """What a command line asks for, read and checked as far as no model is needed."""

    arguments: argparse.Namespace
    name: str  # of the command, in front of each line on the standard error
    replayed: Request
    templates: Sequence[Template]
    grid: Grid | None
    lists: Index | None  # the files of --index


class Networks(NamedTuple):
    """The loaded model of some pictures."""

    sd: StableDiffusion
    refiner: StableDiffusion | None


def read(arguments: argparse.Namespace, name: str, together: bool = False) -> Order:
    """Reads a command line; name: of the command. together: of several ranks, which write an index into a folder."""
    index = index_files.of(arguments, together)
    replayed = replay.request_of(arguments)
    templates = prompt_list.templates_of(arguments, replayed)
    sheets = None
    if arguments.grid is not None:
        sheets, templates = grid.of(arguments, templates)
        grid.check_replaceable(sheets, arguments.overwrite)
        arguments.output = f"{sheets.folder}/"
    return Order(arguments, name, replayed, templates, sheets, index)


def explain_prompts(arguments: argparse.Namespace) -> None:
    """Prints how the prompts of a command line are read."""
    templates = prompt_list.templates_of(arguments, replay.request_of(arguments))
    print("\n".join(explain.lines_of(templates)))


def warn(arguments: argparse.Namespace, plan: Plan, templates: Sequence[Template]) -> None:
    """Warns of what a command line probably does not mean."""
    for line in prompt_list.remarks_of(templates) if arguments.from_image is None else ():
        warnings.warn(line, stacklevel=2)
    if arguments.batch > len(plan.drafts) == 1:
        several = f"--count {arguments.batch} makes {arguments.batch}"
        warnings.warn(
            f"--batch is how many pictures go through the UNet together; there is one, {several}", stacklevel=2
        )


def make(arguments: argparse.Namespace, name: str, lead: Lead | None = None) -> None:
    """Makes the pictures of a command line; name: of the command.

    lead: tells other ranks what to compute of them; None is one process alone.
    """
    if arguments.explain_prompt:
        explain_prompts(arguments)
        return
    order = read(arguments, name)
    plan = Plan(arguments, order.templates)
    warn(arguments, plan, order.templates)
    progress = Progress(len(plan.drafts), arguments.quiet)
    run = Run(order, plan, Report(arguments, name, plan, progress), progress, lead)
    try:
        # Settings that need another model are made model by model.
        for _, members in groupby(plan.drafts, lambda draft: model_key(draft.template)):
            run.make(list(members))
        run.summarize()
    except KeyboardInterrupt:
        raise Interrupted(run.report.way_on()) from None
    except Failure as error:
        error.args = (f"{error}{run.report.so_far()}",)
        raise
    finally:
        run.close()


class Run:
    """The pictures that this process makes of a command."""

    def __init__(self, order: Order, plan: Plan, report: Report, progress: Progress, lead: Lead | None = None):
        self._arguments, self._order, self._plan, self._lead = order.arguments, order, plan, lead or Lead()
        self.progress, self.report = progress, report
        self.claims: deque[tuple[Draft, Claim]] = deque()  # of the batch in work
        self._steps: tuple[StableDiffusion, StepImages] | None = None
        self._folders: set[Path] = set()
        self._noted: set[str] = set()

    def close(self) -> None:
        """Gives free what is claimed, and prints what was made as JSON where that was asked for."""
        self.release()
        self.progress.close()
        self.report.close()

    def release(self) -> None:
        """Gives free what is claimed."""
        while self.claims:
            self.claims.popleft()[1].release()

    def make(self, drafts: Sequence[Draft]) -> None:
        """Makes the pictures of one model."""
        networks = self.load(drafts)
        self.decide(networks, drafts)
        self.report.planned(drafts)
        jobs.sweep_temporary(draft.target for draft in drafts)
        for draft in drafts:
            if draft.state is State.DONE:
                jobs.sweep(draft.target)
        pending = [draft for draft in drafts if draft.state is not State.DONE]
        if pending:
            self._note(self._lead.words(networks.sd.model, pending[0].job.request))
        for chunk in chunks(pending, self._arguments.batch):
            self.stream(networks, chunk, partial(self._accept, chunk))

    def _accept(self, drafts: Sequence[Draft], i: int) -> bool:
        return self._claim(drafts[i])

    def load(self, drafts: Sequence[Draft], dtype: str | None = None) -> Networks:
        """Loads the model of some pictures, after their images were checked; dtype: where the request names none."""
        clock = time.perf_counter()
        for request in {_images(draft.template.request): draft.template.request for draft in drafts}.values():
            replay.check_images(self._order.replayed, request)  # before the model is loaded
            self._lead.check(request)
        request = drafts[0].template.request
        request = request.with_values(dtype=request.dtype or dtype)
        self._lead.load(request)
        networks = Networks(*models.load(self._arguments, request))
        self.report.loaded(time.perf_counter() - clock)
        return networks

    def stream(
        self,
        networks: Networks,
        drafts: Sequence[Draft],
        accept: Callable[[int], bool],
        watch: Callable[[], None] = lambda: None,
    ) -> None:
        """Makes those of some pictures that `accept` accepts and puts among the claims; watch: of each evaluation."""
        if self._steps is None or self._steps[0] is not networks.sd:
            self._steps = networks.sd, StepImages(networks.sd, self._plan.animation)
        steps = self._steps[1]

        def progress(evaluation: int, evaluations: int, denoised: mx.array) -> None:
            """Moves the bars on and shows the step."""
            watch()
            if evaluation == 1:
                self.report.begins()
            self.progress.step(evaluation, evaluations, len(self.claims))
            steps.add([draft.target for draft, _ in self.claims], evaluation, denoised)

        requests = [draft.job.request for draft in drafts]
        results = self._lead.stream(networks.sd, requests, self._arguments.batch, networks.refiner, progress, accept)
        for result in results:
            for picture in range(len(result.images)):
                self._save(picture, result, steps)

    def summarize(self) -> None:
        """Writes what shows the pictures together: the sheet of --grid, and the files of --index."""
        if self._order.grid is not None:
            self._make_sheet(self._order.grid)
        if self._order.lists is not None:
            for path in self._order.lists.write(self._plan.drafts):
                self.report.sheet(path)

    def _make_sheet(self, grid: Grid) -> None:
        """Writes the sheet of --grid, whose pictures are there by now."""
        names = {cell.name: cell.places for cell in grid.cells}
        pictures = {names[draft.template.output or ""]: draft.target for draft in self._plan.drafts}
        missing = sheet.write(grid.sheet, grid.axes, pictures)
        if missing:
            self.report.note(
                f"{len(missing)} of {len(pictures)} pictures are not there yet, so the sheet is grey there"
            )
        self.report.sheet(grid.sheet)

    def decide(self, networks: Networks, drafts: Sequence[Draft]) -> None:
        """Decides the targets of some pictures, whose requests are completed, which says what is wrong with them."""
        for group, request in self.completed(networks, drafts):
            for draft in group:
                self._plan.decide(draft, request)
                if self._arguments.lossless and metadata.is_lossy(draft.target):
                    raise InputError(f"--lossless: {draft.target} cannot be without loss; choose .webp or .png")
        if self._order.lists is not None:
            self._order.lists.check(drafts)

    def completed(self, networks: Networks, drafts: Sequence[Draft]) -> Iterator[tuple[list[Draft], Request]]:
        """Yields pictures of one template and their completed request; notes what is remarkable about it."""
        sd, refiner = networks
        shared: Request | None = None
        completed: Request | None = None
        for template, members in groupby(drafts, lambda draft: draft.template):
            group = list(members)
            request = replay.without_hashes(template.request.with_values(seed=group[0].picture.seed))
            request = replay.fitted(self._arguments, request, sd.model)
            settings = request.with_values(prompt=None, class_label=None, seed=None)
            try:
                if completed is None or settings != shared:
                    loaded = sd.model, refiner.model if refiner else None
                    lines = replay.changes(self._arguments, self._order.replayed, template.request, *loaded)
                    shared, completed = settings, sd.complete(request)
                    lines = [*lines, *replay.changes_beside(self._arguments, self._order.replayed, completed)]
                    if refiner:
                        completed = completed.with_values(refiner_hash=refiner.model.hash)
                    if request.speed:
                        lines = [*lines, speed_words(sd.model, request.speed, completed)]
                    remarks = [*replay.remarks(self._arguments, sd.model), *unguided_words(completed)]
                    remarks += distilled_words(sd.model, request, completed)
                    if self._arguments.verbose:
                        remarks.append(apply.words(sd.model, completed.tuning, pixel_size(completed)))
                    self._note([*lines, *remarks, *models.time_words(sd.model, completed)])
                request = completed.with_subject(conditions.check_subject(sd.model, request))
                self._lead.check_parts(sd.model, request)
                if sd.model.tokens:
                    seeded = [request.with_values(seed=draft.picture.seed) for draft in group]
                    self._note(calls_words(sd.model, seeded, starting_point(sd.model, request)))
            except InputError as error:
                raise (error if template.where is None else InputError(f"{template.where}: {error}")) from None
            yield group, request

    def _note(self, lines: Sequence[str]) -> None:
        """Prints lines about a replayed picture, each once in the run."""
        for line in lines:
            if line not in self._noted:
                self._noted.add(line)
                self.report.note(line)

    def _claim(self, draft: Draft) -> bool:
        """Claims the target of a draft; False where another process makes it, or has made it by now."""
        while True:
            self.make_folder(draft.target.parent)
            claim = jobs.claim(draft.target)
            if claim is not None and self._plan.is_free(draft):
                self.claims.append((draft, claim))
                return True
            if claim is not None:
                claim.release()
            if self._plan.resumes(draft) and (claim is None or jobs.state(draft.job) is State.DONE):
                self.report.elsewhere()
                return False
            if not self._plan.is_numbered(draft):
                raise Failure(f"another process is writing {draft.target}; choose another name")
            self._plan.number(draft)

    def make_folder(self, folder: Path) -> None:
        """Makes the folder of a target once: one that vanishes later is not made again."""
        if folder in self._folders:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Failure(f"{folder} cannot be made: {error.strerror}") from None
        self._folders.add(folder)

    def _save(self, picture: int, result: Result, steps: StepImages) -> None:
        """Writes the next picture of the batch, by its number in the result, and its animation."""
        draft, claim = self.claims[0]
        image, request = result.images[picture], result.requests[picture]
        clock = time.perf_counter()
        settings = metadata.with_facts(request.to_json(), result.calls_of(picture))
        recorded = settings if self._arguments.metadata else None
        with interrupt.deferred():
            before = partial(self.make_way, draft, claim)
            metadata.save(image, draft.target, recorded, lossless=self._arguments.lossless, before=before)
            moving = steps.finish(draft.target, image)
            self.report.add(draft, settings, moving, result, time.perf_counter() - clock)
            self.claims.popleft()
            claim.release()  # after the report: other ranks take it for a sign that it is there

    def make_way(self, draft: Draft, _claim: Claim) -> None:
        """Renames a damaged picture, into whose place a whole one comes now."""
        if draft.state is State.BROKEN and exists(draft.target):
            self.report.note(f"{draft.target} was damaged or edited; it is {_set_aside(draft.target)} now")


def model_key(template: Template) -> tuple[Any, ...]:
    """Returns the settings that decide which model makes the pictures of a template."""
    return tuple(getattr(template.request, name) for name in MODEL_FIELDS)


def _images(request: Request) -> tuple[str, ...]:
    return str(request.init_image), str(request.mask), *(str(control.image) for control in request.controls)


def chunks(drafts: Sequence[Draft], batch: int) -> Iterator[Sequence[Draft]]:
    """Yields some pictures at a time of one model's, which end a batch where they end."""
    size = max(CHUNK, batch)
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
