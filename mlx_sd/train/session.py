"""A training from its settings to its result: model, pictures, steps, checkpoints, losses, samples."""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx

from ..checkpoint.model import Model, default_dtype
from ..core.errors import Failure, InputError
from ..load import load
from ..pipeline import StableDiffusion
from ..ranks.exchange import RankLost, Ranks
from . import results
from .checks import check_model, check_same, check_settings, check_token
from .data import dataset
from .files.base_model import BaseModel
from .files.training_record import TrainingRecord
from .idle_networks import IdleNetworks
from .kind_table import KINDS
from .kinds import embedding
from .learning.examples import Captions
from .learning.kind_settings import ControlSettings, EmbeddingSettings, LoraSettings
from .learning.objective import Objective
from .learning.settings import TrainSettings
from .learning.trainer import Step, Trainer
from .memory.plan import MemoryPlan
from .pictures import Pictures, hint_file, hint_folder
from .planning import plan_of
from .record import training_record
from .results import Result
from .run import checkpoint
from .run.folder import CHECKPOINTS, RunFolder
from .run.unwritten import UnwrittenFolder
from .trainers import trainer_of

SAMPLE_STEPS = 20
PLOT_SECONDS = 30.0
_LEARNING = "the network that learns"  # a name that no file has
# Settings that change nothing that is learned
DISPLAY = ("save_every", "sample_every", "sample_prompts", "cache", "keep_encoders")


class Progress(NamedTuple):
    """The numbers that are shown while training."""

    step: int
    steps: int
    numbers: Step
    validation: float | None
    seconds: float  # of this step


@dataclass
class Session:
    """One training; `run` does all of it.

    kind: a name of `KINDS`. out: the result. folder: of the run, beside the result by default. show: is called after
    every step. planned: is called with the memory of a step before anything is loaded; None counts none. force:
    replaces a result that is there. ranks: the processes that train together, of which the first alone reads and writes
    files of the run.
    """

    kind: str
    settings: TrainSettings
    out: Path
    folder: Path | None = None
    resume: bool = False
    force: bool = False
    tensorboard: bool = False
    show: Callable[[Progress], None] = field(default=lambda progress: None)
    planned: Callable[[MemoryPlan], None] | None = None
    ranks: Ranks = field(default_factory=Ranks)

    def run(self) -> Path:
        """Trains, writes the result and returns its path.

        Raises InputError before anything expensive where settings, data or paths do not fit, Failure where the loss is
        not finite; the last checkpoint then stays, and `resume` goes on from it.
        """
        kind, settings, ranks, started = KINDS[self.kind], self.settings, self.ranks, time.time()
        settings.check()
        check_settings(settings, ranks.size)
        if ranks.rank == 0:
            results.check_out(self.out, folder=kind.folder(settings), force=self.force or self.resume)
        folder = self.folder or self.out.with_name(f"{self.out.name}-training")
        data = self._data()
        hints: list[Path] = []
        if isinstance(settings, ControlSettings):
            hints = [hint_file(hint_folder(settings), example.path) for example in data.examples]
        plan = self._planned(data)
        model = _load(settings)
        check_model(model)
        check_same(ranks, data, hints, model)
        base = None if kind.folder(settings) else BaseModel.of(model)
        cache = Path(settings.cache) if settings.cache else None
        captions = Captions(model, [example.caption for example in data.examples], cache)
        objective = Objective.of(
            model.scheduler, settings.snr_gamma, settings.noise_offset, settings.input_perturbation
        )
        pictures = Pictures(model, data, settings, objective, cache)
        goes_on = self.resume and bool(checkpoint.steps(folder / CHECKPOINTS))
        learner = kind.build(model, settings, captions, objective, pictures, goes_on)
        idle = IdleNetworks(model, settings, replaced=hasattr(learner, "model"))
        model = getattr(learner, "model", model)
        trainer = trainer_of(kind, settings, learner, model, ranks.average)
        folder_kind = UnwrittenFolder if ranks.rank else RunFolder
        with folder_kind(folder, settings, resume=self.resume, display=DISPLAY, tensorboard=self.tensorboard) as run:
            if (state := run.latest()) is not None:
                if state.record.get("data") != data.fingerprint:
                    raise InputError(f"the pictures or captions in {settings.data} have changed; begin a new run")
                trainer.restore(state.step, state.arrays)
            trainer.share(ranks)
            if not settings.random_crop:
                pictures.encode_all(ranks)
            captions.encode_all()
            idle.unload()
            sample = partial(self._sample, model, learner, run, data, idle)
            if trainer.step == 0:
                self._begin(trainer, pictures, run, plan, sample)
            self._learn(trainer, pictures, run, {"data": data.fingerprint}, sample)
            record = training_record(settings, kind.rate(settings), data, pictures, started)
            if ranks.rank == 0:
                Result(base, model).write(learner, self.out, record, trainer.averages, force=self.force or self.resume)
        return self.out

    def plan(self) -> MemoryPlan:
        """Returns the memory that a step needs; no weight is loaded. Raises InputError as `run` does, and Failure."""
        self.settings.check()
        check_settings(self.settings, self.ranks.size)
        return plan_of(self.kind, self.settings, self._data())

    def _data(self) -> dataset.Dataset:
        settings = self.settings
        data = dataset.read(settings.data, caption=settings.caption)
        for line in data.warnings:
            warnings.warn(line, stacklevel=3)
        if isinstance(settings, EmbeddingSettings):
            check_token(settings.token, data)
        return data

    def _planned(self, data: dataset.Dataset) -> MemoryPlan | None:
        """Counts the memory of a step and tells of it, with a warning where the machine has less."""
        if self.planned is None or self.ranks.rank:
            return None
        try:
            plan = plan_of(self.kind, self.settings, data)
        except Failure as error:  # no reason not to compute what MLX does not record
            warnings.warn(str(error), stacklevel=3)
            return None
        self.planned(plan)
        if not plan.fits:
            warnings.warn(plan.advice(self.settings), stacklevel=3)
        return plan

    def _begin(
        self,
        trainer: Trainer[Any],
        pictures: Pictures,
        run: RunFolder,
        plan: MemoryPlan | None,
        sample: Callable[[], None],
    ) -> None:
        """Writes the log's line before the first step, and makes its sample pictures."""
        settings, ranks = self.settings, self.ranks
        fixed = pictures.validation(ranks.rank, ranks.size)
        first = ranks.mean(trainer.losses(fixed)) if settings.validate_every else None
        if run.log.step < 0:  # a run that was killed before its first checkpoint has the line
            run.log.write(0, validation=first, others=plan.numbers() if plan else None)
        if settings.sample_every and ranks.rank == 0:
            sample()

    def _learn(
        self,
        trainer: Trainer[Any],
        pictures: Pictures,
        run: RunFolder,
        record: dict[str, Any],
        sample: Callable[[], None],
    ) -> None:
        """Takes the steps that are left, and keeps the folder of the run up to date."""
        settings, ranks = self.settings, self.ranks
        fixed, samples = pictures.validation(ranks.rank, ranks.size), settings.sample_every if ranks.rank == 0 else 0
        plotted, saved = time.monotonic(), trainer.step
        try:
            while trainer.step < settings.steps:
                start = time.monotonic()
                numbers = trainer.run(pictures.step(trainer.step, ranks.rank, ranks.size))
                step = trainer.step
                seconds, last = time.monotonic() - start, step == settings.steps
                due = settings.validate_every and (step % settings.validate_every == 0 or last)
                validation = ranks.mean(trainer.losses(fixed)) if due else None
                run.log.write(
                    step,
                    loss=numbers.loss,
                    lr=numbers.rate,
                    grad_norm=numbers.gradient_norm,
                    seconds=seconds,
                    validation=validation,
                )
                self.show(Progress(step, settings.steps, numbers, validation, seconds))
                if samples and (step % samples == 0 or last):
                    sample()
                if step % settings.save_every == 0 or last:
                    run.save(step, trainer.state(), record)
                    saved = step
                if last or time.monotonic() - plotted > PLOT_SECONDS:
                    run.plot()
                    plotted = time.monotonic()
        except (KeyboardInterrupt, RankLost) as error:
            if trainer.step > saved:
                run.save(trainer.step, trainer.state(), record)
            run.plot()
            if ranks.rank:
                raise
            line = f"step {trainer.step} is saved; go on with --resume"
            raise type(error)(f"{error}; {line}" if isinstance(error, RankLost) else line) from None

    def _sample(self, model: Model, learner: Any, run: RunFolder, data: dataset.Dataset, idle: IdleNetworks) -> None:
        """Makes the sample pictures of a step with what was learned so far."""
        settings = self.settings
        prompts = list(settings.sample_prompts) or list(dict.fromkeys(e.caption for e in data.examples))[:2]
        options: dict[str, Any] = {"steps": SAMPLE_STEPS, "seed": settings.seed, "prompt_style": "plain"}
        if settings.resolution:
            options |= dict(zip(("width", "height"), settings.resolution, strict=True))
        if isinstance(learner, embedding.TextualInversion):
            options["embeddings"] = [(self._written(model, learner, run.path / "sample.safetensors"), learner.token)]
        controls: list[Any] = [None] * len(prompts)
        if isinstance(settings, ControlSettings):
            model.learning_controls[_LEARNING] = learner.network
            examples = [data.examples[i % len(data.examples)] for i in range(len(prompts))]
            controls = [[(_LEARNING, hint_file(hint_folder(settings), example.path))] for example in examples]
        sd = StableDiffusion(model)
        images = [
            sd.generate(prompt, controls=control, **options).images[0]
            for prompt, control in zip(prompts, controls, strict=True)
        ]
        run.samples.write(run.log.step, images, prompts)
        idle.unload()

    @staticmethod
    def _written(model: Model, learner: Any, path: Path) -> Path:
        """Writes what was learned so far, and returns its path."""
        Result(None, model, "float32").write(learner, path, TrainingRecord())
        return path


def _load(settings: TrainSettings) -> Model:
    quantize = settings.quantize if isinstance(settings, LoraSettings) else None
    dtype = settings.dtype or ("float32" if default_dtype() == mx.float32 else "bfloat16")
    model = load(settings.model, dtype, quantize=quantize)
    if dtype == "float16":
        warnings.warn("gradients vanish in float16; --dtype bfloat16 is as fast, and has its range", stacklevel=2)
    return model
