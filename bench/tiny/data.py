"""The training pictures: one scene per index, drawn by every core into one array file."""

from __future__ import annotations

import multiprocessing
import random
import shutil
import signal
from pathlib import Path

import numpy as np

from .progress import Progress
from .scenes import Scene, render, sample_scene
from .stages import Plan, RecipeError

SIZE = 128
FIRST_SEED = 10_000_000  # scene i has seed FIRST_SEED + i; smaller seeds are never trained on
SPARE_BYTES = 1 << 30  # room for latents, training states and the checkpoint


def training_scene(index: int) -> Scene:
    """The scene of training picture `index`."""
    return sample_scene(random.Random(FIRST_SEED + index))


def training_scenes(count: int) -> list[Scene]:
    """The scenes of the first `count` training pictures; cheap enough to be drawn anew by each stage."""
    return [training_scene(index) for index in range(count)]


def load_images(plan: Plan) -> np.ndarray:
    """The training pictures on disk, uint8 (count, SIZE, SIZE, 3); RecipeError if the count differs."""
    images = np.load(plan.result("data"), mmap_mode="r")
    if len(images) != plan.scenes:
        raise RecipeError(
            f"{plan.directory} was begun with --scenes {len(images)}, not {plan.scenes}: "
            "keep that number or choose another DIR"
        )
    return images


def draw_images(plan: Plan, out: Path) -> None:
    """Paint all training pictures into the array file `out`."""
    needed = plan.scenes * SIZE * SIZE * 3 + SPARE_BYTES
    free = shutil.disk_usage(out.parent).free
    if free < needed:  # a mapped file on a full disk ends in a bus error, not in an exception
        raise RecipeError(f"{out.parent} has {free / 1e9:.1f} GB free; {needed / 1e9:.1f} GB are needed")
    images = np.lib.format.open_memmap(out, "w+", np.uint8, (plan.scenes, SIZE, SIZE, 3))
    # Workers ignore Ctrl-C: the parent ends them, and one line is printed instead of one traceback each.
    pool = multiprocessing.get_context("spawn").Pool(plan.threads, signal.signal, (signal.SIGINT, signal.SIG_IGN))
    with pool, Progress("data", plan.scenes, " pictures") as progress:
        for index, image in enumerate(pool.imap(_paint, range(plan.scenes), chunksize=50)):
            images[index] = image
            if index % 100 == 99 or index + 1 == plan.scenes:
                progress.show(index + 1)
    images.flush()


def _paint(index: int) -> np.ndarray:
    return np.asarray(render(training_scene(index), SIZE))
