"""The stages of an adapter: data, training, measure. Each result is made once, and a killed run goes on."""

from __future__ import annotations

import shlex
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_sd.core.embedded import EMBEDDED, TINY
from mlx_sd.core.errors import InputError
from mlx_sd.core.files import TEMPORARY, check_writable, sha256
from mlx_sd.load import load
from mlx_sd.prompts.tokenizer import Tokenizer
from mlx_sd.train.run import checkpoint, log
from mlx_sd.train.run.folder import CHECKPOINTS
from mlx_sd.train.session import Progress as Step
from mlx_sd.train.session import Session

from .. import results
from ..tiny.progress import Progress
from ..tiny.scenes import GROUNDS, SKY_PHRASES, THING_PHRASES
from ..tiny.stages import say
from . import drawing
from .recipes import RECIPES, Recipe
from .subject import Subject

MARK = "recipe.json"  # in the folder of the results: what it was begun with


@dataclass(frozen=True)
class Plan:
    """What all stages need.

    out: the folder of the adapters. model: the checkpoint as it was named, source: so that every folder finds it,
    hash: of its weights, side: of its pictures, in pixels. seed: the edition.
    """

    out: Path
    model: str
    source: str
    hash: str
    side: int
    seed: int
    recipes: dict[str, Recipe]

    def work(self, recipe: Recipe) -> Path:
        """Returns the folder of an adapter's data, training and measured pictures."""
        return self.out / "work" / recipe.name

    def mark(self) -> dict[str, Any]:
        """Returns what decides all adapters and figures in the folder."""
        recipes = {name: recipe.to_json() for name, recipe in self.recipes.items()}
        return {"adapters of": self.hash, "seed": self.seed, "recipes": recipes}


def plan(out: Path, model: str, seed: int, smoke: bool) -> Plan:
    """Checks what the command was given; InputError for another world, another folder or an unknown edition."""
    if not 0 <= seed < drawing.EDITIONS:
        raise InputError(f"--seed {seed}: editions are numbered from 0 to {drawing.EDITIONS - 1}")
    check_out(out)
    source = str(Path(model).resolve()) if model not in EMBEDDED and Path(model).exists() else model
    loaded = load(source, "float32")
    _check_world(model, loaded.tokenizers)
    side = loaded.unet.config.sample_size * loaded.vae.config.downsampling
    recipes = {name: recipe.smoke() if smoke else recipe for name, recipe in RECIPES.items()}
    return Plan(out.resolve(), model, source, loaded.hash, side, seed, recipes)


def check_out(out: Path) -> None:
    """Raises InputError where a folder holds something else than adapters of this recipe, or cannot be written."""
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; name a folder")
    if out.is_dir() and not (out / MARK).is_file():
        strange = sorted(path.name for path in out.iterdir() if not TEMPORARY.fullmatch(path.name))
        if strange:
            raise InputError(f"--out {out} holds {strange[0]!r} and no adapters; choose an empty folder or a new one")
    check_writable(out, "--out")


def begin(work: Plan) -> None:
    """Marks the folder as that of a plan; InputError where it was begun with another one."""
    mark = work.out / MARK
    if not mark.exists():
        work.out.mkdir(parents=True, exist_ok=True)
        results.write(mark, work.mark())
        return
    before = results.read(mark)
    for name, label in (("adapters of", "--model"), ("seed", "--seed"), ("recipes", "recipe (or --smoke)")):
        if before.get(name) != work.mark()[name]:
            raise InputError(f"--out {work.out} was begun with another {label}; choose another folder")


def make(work: Plan, recipe: Recipe) -> dict[str, Any]:
    """Makes an adapter and its figures, or what is missing of them, and returns these."""
    data, adapter = work.work(recipe) / "data", work.out / recipe.file
    command = recipe.command(work.source, str(data), str(adapter), work.seed)
    if not data.exists():
        clock = _begin(recipe, f"drawing {recipe.pictures} pictures")
        numbers = drawing.seeds(work.seed, list(work.recipes).index(recipe.name))
        drawing.write(data, recipe.draw, numbers, recipe.pictures, work.side)
        _end(recipe, "drawn", clock)
    if not adapter.exists():
        clock = _begin(recipe, f"{recipe.steps} steps of training, {recipe.summary}")
        _train(recipe, command, adapter, work.work(recipe) / "training")
        _end(recipe, "trained", clock)
    file = work.work(recipe) / "figures.json"
    digest = sha256(adapter)
    if not file.exists() or results.read(file).get("sha256") != digest:
        clock = _begin(recipe, f"measuring with {recipe.captions} captions")
        results.write(file, {"sha256": digest, **_measured(work, recipe, adapter)})
        _end(recipe, "measured", clock)
    say(f"{recipe.name}: {adapter} is there, and its figures")
    steps = log.read(work.work(recipe) / "training" / log.NAME)
    measured = {name: value for name, value in results.read(file).items() if name != "version"}
    shown = recipe.command(work.model, f"work/{recipe.name}/data", recipe.file, work.seed)
    return {
        "adapter": recipe.name,
        "command": shlex.join(["python", "-m", "mlx_sd.train", *shown]),
        **{name: getattr(recipe, name) for name in ("pictures", "steps", "captions", "sampling")},
        "bytes": adapter.stat().st_size,
        "limit_bytes": recipe.limit,
        "small": adapter.stat().st_size <= recipe.limit,
        "training_seconds": round(sum(step.get("seconds") or 0.0 for step in steps), 1),
        **measured,
    }


def _train(recipe: Recipe, command: list[str], adapter: Path, folder: Path) -> None:
    """Trains an adapter as the trainer's command line does; an unfinished training goes on from its last checkpoint."""
    goes_on = bool(checkpoint.steps(folder / CHECKPOINTS))
    if not goes_on and folder.is_dir():
        shutil.rmtree(folder)
    with Progress(f"{recipe.name}, training", recipe.steps, " steps") as progress:

        def show(step: Step) -> None:
            """Shows the losses of a step."""
            fixed = "" if step.validation is None else f", at fixed noise {step.validation:.4f}"
            progress.show(step.step, f"loss {step.numbers.loss:.4f}{fixed}")

        Session(recipe.kind, recipe.settings(command), adapter, folder, resume=goes_on, show=show).run()
    mx.clear_cache()


def _measured(work: Plan, recipe: Recipe, adapter: Path) -> dict[str, Any]:
    folder = work.work(recipe) / "pictures"
    subject = Subject(work.source, adapter, folder, recipe.captions, recipe.sampling, work.side)
    measured = recipe.measure(subject)
    mx.clear_cache()
    return {"figures": measured.figures, "works": measured.works}


def _begin(recipe: Recipe, line: str) -> float:
    say(f"{recipe.name}: {line}")
    return time.monotonic()


def _end(recipe: Recipe, verb: str, clock: float) -> None:
    say(f"{recipe.name}: {verb} in {time.monotonic() - clock:.0f} s")


def _check_world(name: str, tokenizers: tuple[Tokenizer, ...]) -> None:
    """Raises InputError where a checkpoint reads the words of the world otherwise than the embedded one."""
    phrases = [*sum(SKY_PHRASES.values(), ()), *sum(THING_PHRASES.values(), ())]
    phrases += [phrase for ground in GROUNDS.values() for phrase in ground.phrases]
    embedded = Tokenizer.load(TINY / "tokenizer")
    if len(tokenizers) != 1 or any(tokenizers[0].ids(phrase) != embedded.ids(phrase) for phrase in phrases):
        raise InputError(
            f"--model {name} is of another world than the embedded checkpoint, whose adapters these are; "
            "leave it out, or name a checkpoint that python -m bench tiny has made"
        )
