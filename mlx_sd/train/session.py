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
from ..core.errors import InputError
from ..load import load
from ..pipeline import StableDiffusion
from . import results
from .checks import check_same, check_settings, check_token
from .data import dataset
from .files.base_model import BaseModel
from .files.training_record import TrainingRecord
from .kind_table import KINDS, Kind
from .kinds import distill, embedding
from .learning.examples import Captions
from .learning.kind_settings import (
    ControlSettings,
    EmbeddingSettings,
    LoraSettings,
    UNetSettings,
)
from .learning.objective import Objective
from .learning.optimizers import Group, GroupedOptimizer
from .learning.settings import TrainSettings
from .learning.trainer import Rates, Step, Trainer
from .parallel.ranks import RankLost, Ranks
from .pictures import Pictures, hint_file
from .record import training_record
from .results import Result
from .run import checkpoint
from .run.folder import CHECKPOINTS, RunFolder
from .run.unwritten import UnwrittenFolder

BETAS = (0.9, 0.999)
SAMPLE_STEPS = 20
PLOT_SECONDS = 30.0
DISPLAY = ("save_every", "sample_every", "sample_prompts", "cache")  # settings that change nothing that is learned


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
    every step. force: replaces a result that is there. ranks: the processes that train together, of which the first
    alone reads and writes files of the run.
    """

    kind: str
    settings: TrainSettings
    out: Path
    folder: Path | None = None
    resume: bool = False
    force: bool = False
    tensorboard: bool = False
    show: Callable[[Progress], None] = field(default=lambda progress: None)
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
        data = dataset.read(settings.data, caption=settings.caption)
        for line in data.warnings:
            warnings.warn(line, stacklevel=2)
        if isinstance(settings, EmbeddingSettings):
            check_token(settings.token, data)
        hints: list[Path] = []
        if isinstance(settings, ControlSettings):
            folder_of_hints = Path(settings.data) / settings.images
            hints = [hint_file(folder_of_hints, example.path) for example in data.examples]
        model = _load(settings)
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
        model = getattr(learner, "model", model)
        trainer = self._trainer(kind, learner, model)
        folder_kind = UnwrittenFolder if ranks.rank else RunFolder
        with folder_kind(folder, settings, resume=self.resume, display=DISPLAY, tensorboard=self.tensorboard) as run:
            if (state := run.latest()) is not None:
                if state.record.get("data") != data.fingerprint:
                    raise InputError(f"the pictures or captions in {settings.data} have changed; begin a new run")
                trainer.restore(state.step, state.arrays)
            trainer.share(ranks)
            if not settings.random_crop:
                pictures.encode_all(ranks)
            sample = partial(self._sample, model, learner, run, data)
            self._learn(trainer, pictures, run, {"data": data.fingerprint}, sample)
            record = training_record(settings, kind.rate(settings), data, pictures, started)
            if ranks.rank == 0:
                Result(base, model).write(learner, self.out, record, trainer.averages, force=self.force or self.resume)
        return self.out

    def _trainer(self, kind: Kind, learner: Any, model: Model) -> Trainer[Any]:
        settings = self.settings
        rate = settings.rate or kind.rate(settings)
        decay = kind.weight_decay if settings.weight_decay is None else settings.weight_decay
        text_rate = settings.text_rate if isinstance(settings, LoraSettings) else None
        groups = [Group("layers.text_encoder", text_rate / rate)] if text_rate is not None else []
        half = model.dtype if model.dtype != mx.float32 and kind.folder(settings) else None
        decay_of_averages = settings.average if isinstance(settings, UNetSettings) else None
        if isinstance(learner, distill.Distillation):
            decay_of_averages = learner.average_decay
        trainer: Trainer[Any] = Trainer(
            learner.learned,
            learner.loss,
            GroupedOptimizer(settings.optimizer, decay, BETAS, groups),
            Rates(rate, settings.steps, settings.schedule, settings.warmup),
            clip=settings.clip or None,
            average_decay=decay_of_averages,
            average_over_ranks=self.ranks.average,
            compute_dtype=half,
            hint=_hint(model, rate, kind.rate(settings)),
        )
        if isinstance(learner, distill.Distillation) and decay_of_averages is not None:
            learner.follow(lambda: trainer.averages)
        return trainer

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
        if trainer.step == 0:
            first = ranks.mean(trainer.losses(fixed)) if settings.validate_every else None
            run.log.write(0, validation=first)
            if samples:
                sample()
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
            line = f"step {trainer.step} is saved; go on with --resume"
            raise type(error)(f"{error}; {line}" if isinstance(error, RankLost) else line) from None

    def _sample(self, model: Model, learner: Any, run: RunFolder, data: dataset.Dataset) -> None:
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
            folder = self._written(model, learner, run.path / "sample")
            model.networks_beside.clear()
            examples = [data.examples[i % len(data.examples)] for i in range(len(prompts))]
            hints = Path(settings.data) / settings.images
            controls = [[(folder, hint_file(hints, example.path))] for example in examples]
        sd = StableDiffusion(model)
        images = [
            sd.generate(prompt, controls=control, **options).images[0]
            for prompt, control in zip(prompts, controls, strict=True)
        ]
        run.samples.write(run.log.step, images, prompts)
        mx.clear_cache()

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


def _hint(model: Model, rate: float, usual: float) -> str:
    """Returns what is likely wrong where a loss is not finite, as the end of a sentence."""
    causes = []
    if model.dtype == mx.float16:
        causes.append("float16 overflows: --dtype bfloat16")
    if rate > 10 * usual:
        causes.append(f"the learning rate {rate:g} is large: {usual:g} is usual")
    return f" ({'; '.join(causes) or 'a smaller --rate, or --clip 1'}); the last checkpoint stays"
