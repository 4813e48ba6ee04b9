"""Which pictures a run makes, and where: the drafts of a command line, and the states of their targets."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import jobs, seeds
from ..core.errors import InputError
from ..core.files import is_folder
from ..differences import differences
from ..jobs import Job, State
from ..prompts.wildcards import expand
from ..request import Request
from . import animation
from .inputs import Inputs
from .prompt_list import Template
from .targets import Names, Picture, Targets, exists

_NOWHERE = Path()
_MOST = 1_000_000  # pictures of a run, whose list takes about a gigabyte


@dataclass
class Draft:
    """A picture of the run: what it is called after, its settings, and its target once that is decided."""

    template: Template
    picture: Picture
    target: Path = _NOWHERE
    state: State = State.MISSING
    replaces: bool = False  # whether the target is a file that may be replaced

    @property
    def job(self) -> Job:
        """The request and the target."""
        values = {"prompt": self.picture.prompt, "seed": self.picture.seed}
        return Job(self.picture.request.with_values(**values), self.target)


class Plan:
    """The drafts of a run; their names are decided by `decide` when their requests are complete."""

    def __init__(
        self, arguments: argparse.Namespace, templates: Sequence[Template], draw: Callable[[int], int] = seeds.draw
    ):
        """draw: as `seeds.draw`, where the user names no seed."""
        self._arguments = arguments
        self.drafts, self.drawn_seed = _drafts(templates, arguments.batch, draw)
        self.several = len(self.drafts) > 1
        self._main = Targets(arguments.output, len(templates), len(self.drafts))
        self._own = {id(t): self._targets_of_line(t) for t in templates if t.output is not None}
        self._names, self._inputs = Names(), Inputs(arguments, _distinct(templates))
        self.animation = animation.plan(arguments.preview, arguments.animate, self.several, arguments.preview_method)
        if arguments.animate:
            self._inputs.check(Path(arguments.animate), "--animate")
        for draft in self.drafts:  # before anything is loaded, as far as the names are known
            targets = self._targets(draft)
            if not (targets.is_numbered or targets.needs_completed):
                path = targets.path(draft.picture)
                self._check(draft, path)
                if not self.resumes(draft):
                    self._check_steps(path)

    @property
    def folder(self) -> Path:
        """The folder that --output names, or in which the pictures of a pattern lie."""
        return self._main.folder

    def decide(self, draft: Draft, completed: Request) -> None:
        """Decides target and state of a draft, whose settings are those of a completed request.

        Raises InputError where the target is an input, the target of another picture of the run, or a file that must
        not be replaced.
        """
        draft.picture = draft.picture._replace(request=completed)
        targets = self._targets(draft)
        path = targets.path(draft.picture)
        if targets.is_numbered:
            self.number(draft, path)
        elif not self._names.take(path):
            raise InputError(
                f"{_option(draft)} {path} would be the name of several pictures; put {{seed}} or {{number}} into it"
            )
        else:
            draft.target = path
            self._check(draft, path)
            draft.state = self._state_of_name(draft)
            if draft.state is not State.DONE:
                self._check_steps(path)

    def number(self, draft: Draft, path: Path | None = None) -> None:
        """Decides the target of a draft, whose name is chosen here, so that nothing is replaced."""
        path = self._targets(draft).path(draft.picture) if path is None else path
        beside = (animation.BESIDE,) if self._arguments.animate == "" else ()

        def usable(candidate: Path) -> bool:
            """Returns whether a name is free, or has the picture already."""
            draft.target, draft.state, draft.replaces = candidate, State.MISSING, self._arguments.overwrite
            if self._arguments.overwrite or not exists(candidate, beside):
                return True
            if self.resumes(draft):
                draft.state = jobs.state(draft.job)
                draft.replaces = draft.state is State.MISSING and exists(candidate)  # an empty file
            return draft.state in (State.DONE, State.BROKEN) or draft.replaces

        draft.target = self._names.number(path, usable)
        if not self.animation.is_empty:  # the picture itself replaces nothing
            self._check(draft, draft.target)
            if draft.state is not State.DONE:
                self._check_steps(draft.target)

    def is_free(self, draft: Draft) -> bool:
        """Returns whether nothing was written to the target of a draft since that was decided."""
        if draft.state is State.BROKEN:
            return jobs.state(draft.job) is State.BROKEN
        return draft.replaces or not exists(draft.target)

    def is_numbered(self, draft: Draft) -> bool:
        """Returns whether the name of a draft is chosen here."""
        return self._targets(draft).is_numbered

    def resumes(self, draft: Draft) -> bool:
        """Returns whether a picture that is there already is left as it is."""
        arguments = self._arguments
        named = arguments.output is not None or draft.template.output is not None
        return named and (self.several or arguments.prompts is not None) and not arguments.overwrite

    def _state_of_name(self, draft: Draft) -> State:
        """Returns the state of a target that the user has named; InputError where it must not be replaced."""
        target = draft.target
        if not exists(target):
            return State.MISSING
        if is_folder(target):
            raise InputError(f"{_option(draft)} {target} is a folder; choose another name")
        draft.replaces = True
        if self._arguments.overwrite:
            return State.MISSING
        request = jobs.recorded(target)
        if request is None and target.stat().st_size:
            raise InputError(
                f"{target} exists and does not say that mlx-sd made it; choose another name, or --overwrite replaces it"
            )
        if request is None or not self.resumes(draft):
            return State.MISSING
        state = jobs.state(draft.job)
        if state is State.OTHER:
            difference = _difference(request, draft.job.request)
            advice = f"{self._seed_to_go_on(draft, request)}choose another name, or --overwrite replaces it"
            raise InputError(f"{target} was made with other settings ({difference}); {advice}")
        return state

    def _seed_to_go_on(self, draft: Draft, recorded: Request) -> str:
        """Returns the way to go on with pictures of a seed that was drawn earlier, where all but the seed agrees."""
        picture = draft.picture
        if self.drawn_seed is None or draft.template.request.seed is not None or recorded.seed is None:
            return ""
        prompt = (
            expand(draft.template.request.prompt or "", recorded.seed) if draft.template.wildcards else picture.prompt
        )
        request = picture.request.with_values(prompt=prompt, seed=recorded.seed)
        seed = recorded.seed - (picture.seed - self.drawn_seed)
        return f"--seed {seed} goes on with it; or " if seed >= 0 and jobs.same_picture(recorded, request) else ""

    def _check(self, draft: Draft, path: Path) -> None:
        """Raises InputError where the files of a picture would replace an input or each other."""
        option = _option(draft)
        self._inputs.check(path, option)
        for file in self._steps(path):
            self._inputs.check(file, "--preview")
        if (moving := self.animation.animation(path)) is not None:
            if moving == path:
                raise InputError(f"--animate {moving}: is the picture itself")
            self._inputs.check(moving, "--animate")

    def _check_steps(self, path: Path) -> None:
        """Raises InputError where step images or the animation of a picture would replace a file that is neither."""
        if self._arguments.overwrite:
            return
        for file in self._steps(path):
            animation.check_replaceable(file, "--preview")
        if (moving := self.animation.animation(path)) is not None:
            animation.check_replaceable(moving, "--animate")

    def _steps(self, path: Path) -> Sequence[Path]:
        """Returns the files that are where step images of a picture will be."""
        folder = self.animation.folder
        return () if folder is None else self._inputs.steps(folder, path.stem)

    def _targets(self, draft: Draft) -> Targets:
        return self._own.get(id(draft.template), self._main)

    def _targets_of_line(self, template: Template) -> Targets:
        """Returns the names of a line's own output, which is in --output where that is a folder."""
        output = template.output or ""
        below = self._main.is_numbered and self._arguments.output is not None and not Path(output).is_absolute()
        if below:
            output = f"{self._arguments.output.rstrip('/')}/{output}"
        try:
            return Targets(output, 1, template.pictures, makes_folder=below)
        except InputError as error:
            raise InputError(f"{template.where}: {error}") from None


def _drafts(templates: Sequence[Template], batch: int, draw: Callable[[int], int]) -> tuple[list[Draft], int | None]:
    """Returns a draft for each picture, and the seed that was drawn for those that name none."""
    counts = [template.pictures for template in templates]
    if min(counts) < 1 or batch < 1:
        raise InputError(f"count and batch must be at least 1, not {min(counts)} and {batch}")
    if sum(counts) > _MOST:
        raise InputError(f"one run makes at most {_MOST} pictures, not {sum(counts)}; go on with another --seed")
    drawn = None
    drafts: list[Draft] = []
    for line, template in enumerate(templates, 1):
        request, seed = template.request, template.request.seed
        if seed is None:
            seed = drawn = draw(max(counts)) if drawn is None else drawn
        last = seed + template.pictures - 1
        if last > seeds.HIGHEST:
            where = "" if template.where is None else f"{template.where}: "
            raise InputError(f"{where}seeds must be from 0 to {seeds.HIGHEST}, not {seed} to {last}")
        for i in range(seed, last + 1):
            prompt = request.prompt
            if template.wildcards and prompt is not None:
                prompt = expand(prompt, i)
            drafts.append(Draft(template, Picture(request, request.class_label, prompt, i, len(drafts) + 1, line)))
    return drafts, drawn


def _distinct(templates: Sequence[Template]) -> Iterator[Request]:
    """Yields requests that differ in more than prompt, class and seed."""
    previous = None
    for template in templates:
        settings = template.request.with_values(prompt=None, class_label=None, seed=None)
        if settings != previous:
            yield template.request
        previous = settings


def _difference(first: Request, second: Request) -> str:
    """Returns up to three settings in which two requests differ, with their values."""
    pairs = differences(first.to_json(), second.to_json())
    shown = [f"{name} {before!r}, here {now!r}" for name, before, now in pairs[:3]]
    return "; ".join(shown + (["..."] if len(pairs) > len(shown) else []))


def _option(draft: Draft) -> str:
    return "--output" if draft.template.output is None else f"{draft.template.where}: output"
