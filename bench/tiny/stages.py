"""The stages of the recipe, in order, and the runner that makes each result once and atomically."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


class RecipeError(Exception):
    """Raised for input that the recipe cannot use; the message is one line for the user."""


@dataclass(frozen=True)
class Stage:
    """One step: `entry`, module:function, is called as function(plan, out) to write the result at `out`."""

    name: str
    entry: str
    result: str
    needs: tuple[str, ...]
    minutes: float | None  # training time on two cores; None: runs until it is through
    summary: str


STAGES = (
    Stage("tokenizer", "tokenizer:train", "tokenizer", (), None, "byte pairs, learned from captions"),
    Stage("vae", "vae:train", "vae", (), 60, "autoencoder, on crops about things"),
    Stage("scale", "vae:scale", "scale.json", ("vae",), None, "measure the scale of the latents"),
    Stage("clip", "clip:train", "clip", ("tokenizer",), 8, "text encoder, against an image tower: the judge"),
    Stage("unet", "unet:train", "unet", ("tokenizer", "clip", "scale"), 300, "denoiser and text encoder together"),
    Stage("decoder", "vae:train_decoder", "decoder", ("vae",), 20, "decoder alone"),
    Stage(
        "export",
        "export:write",
        "checkpoint",
        ("tokenizer", "scale", "unet", "decoder"),
        None,
        "write the checkpoint in half precision",
    ),
    Stage("judge", "export:write_judge", "judge", ("tokenizer", "clip"), None, "write the judge in half precision"),
    Stage("class-latents", "classes:encode", "class_latents", ("export",), None, "pictures of one thing each, encoded"),
    Stage("class-unet", "classes:train", "class_unet", ("export", "class-latents"), 30, "class-conditional denoiser"),
    Stage(
        "class-export",
        "classes:write",
        "classes",
        ("export", "class-unet"),
        None,
        "write the class-conditional checkpoint",
    ),
    Stage("vq", "vq:train", "vq", (), 25, "autoencoder of tokens"),
    Stage("tokens", "tokens:encode", "tokens", ("vq",), None, "pictures, encoded as tokens"),
    Stage("token-unet", "tokens:train", "token_unet", ("tokens",), 85, "denoiser of tokens"),
    Stage("token-export", "tokens:write", "token_model", ("vq", "token-unet"), None, "write the token model"),
)
OUTSIDE_WORK = ("export", "judge", "class-export", "token-export")  # stages whose results lie beside `work`
BY_NAME = {stage.name: stage for stage in STAGES}


@dataclass(frozen=True)
class Plan:
    """What each stage needs: the folder, scenes of an epoch, minutes and threads, and a checkpoint to start from.

    first_epoch: number of the denoiser's first epoch; each has its own scenes.
    """

    directory: Path
    scenes: int
    minutes: dict[str, float]
    threads: int
    start: Path | None = None
    first_epoch: int = 0

    def result(self, name: str) -> Path:
        """Returns where the result of stage `name` is, or will be; only checkpoints lie outside `work`."""
        parent = self.directory if name in OUTSIDE_WORK else self.directory / "work"
        return parent / BY_NAME[name].result

    def resume_file(self, name: str) -> Path:
        """Returns the file of the unfinished training of stage `name`."""
        return self.directory / "work" / f"{name}.resume"


def run(plan: Plan, names: Iterable[str]) -> None:
    """Make the results of the stages `names` unless they exist; RecipeError if one cannot be made."""
    for name in names:
        if plan.result(name).exists():
            say(f"{name}: {plan.result(name)} is there")
        else:
            _make(plan, BY_NAME[name])
        plan.resume_file(name).unlink(missing_ok=True)


def _make(plan: Plan, stage: Stage) -> None:
    missing = [need for need in stage.needs if not plan.result(need).exists()]
    if missing:
        raise RecipeError(f"{stage.name} needs the results of {', '.join(missing)}: run without --only first")
    say(f"{stage.name}: {stage.summary}")
    result = plan.result(stage.name)
    partial = result.with_name(result.name + ".partial")
    discard(partial)
    module, function = stage.entry.split(":")
    # Imported only now: PyTorch is slow to load, and skipped stages do not need it.
    getattr(importlib.import_module(f"bench.tiny.{module}"), function)(plan, partial)
    partial.rename(result)


def discard(path: Path) -> None:
    """Remove a file or folder that a killed run may have left."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def say(line: str) -> None:
    """Prints one line about the progress to standard error."""
    print(line, file=sys.stderr, flush=True)
