"""The training pictures: scenes drawn by lot, new ones in every epoch, painted by every core."""

from __future__ import annotations

import itertools
import multiprocessing
import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.pool import Pool
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Generic, TypeVar

import numpy as np

from .painting import BODY_RADII, CANVAS, SIDES
from .scenes import BODY_HEIGHTS, BODY_WANDER, Scene, caption, render, sample_scene
from .things import COLOURLESS

SIZE = 256
CELL = 8  # pixels a side under one latent, and under one number of a mask
FIRST_SEED = 10_000_000  # scene i has seed FIRST_SEED + i; smaller seeds are never trained on
SEEDS_PER_EPOCH = 100_000
SCENES_PER_TASK = 16
KEPT = (0.15, 0.25, 0.45, 0.25)  # share of the scenes kept, by their number of things, balloons among them
HARD = {"sailboat": 1.6, "lighthouse": 1.5, "snowman": 1.5, "cactus": 1.4}  # times as often kept are scenes with one
DIM = {"night": 1.8, "stormy": 1.5}  # and those with colours in dim light, where orange, red and pink are near
GREEN = 1.5  # and those with a green thing on green grass or before green hills
_DIFFERENCE = 24  # sum over RGB of what a thing changes in a pixel that it covers, more than


@dataclass(frozen=True)
class Pictures:
    """Scenes and their pictures in one shape: images uint8 (n, h, w, 3), masks float32 (n, h / CELL, w / CELL).

    A mask holds the share of each cell's pixels that things cover.
    """

    scenes: tuple[Scene, ...]
    images: np.ndarray
    masks: np.ndarray


def training_scene(index: int) -> Scene:
    """The scene of training picture `index`."""
    return sample_scene(random.Random(FIRST_SEED + index))


def training_scenes(count: int) -> list[Scene]:
    """The scenes of the first `count` training pictures."""
    return [training_scene(index) for index in range(count)]


def epoch_scenes(epoch: int) -> Iterator[Scene]:
    """Yields the scenes of an epoch: two things, and what is hard, are more frequent than `sample_scene` draws them."""
    for index in itertools.count(epoch * SEEDS_PER_EPOCH):
        scene = training_scene(index)
        if random.Random(index).random() < share_kept(scene):
            yield scene


def share_kept(scene: Scene) -> float:
    """Returns which share of the scenes like this one is trained on, in (0, 1] or above, where all are."""
    things = [(thing.kind, thing.color) for thing in scene.things]
    if scene.balloon:
        things.append(("balloon", scene.balloon.color))
    share = KEPT[len(things)]
    share *= max((HARD.get(kind, 1) for kind, _ in things), default=1)
    if any(kind not in COLOURLESS for kind, _ in things):
        share *= DIM.get(scene.sky, 1)
    green_behind = scene.ground == "meadow" or scene.mountains == "green hills"
    if green_behind and any(kind in COLOURLESS or color == "green" for kind, color in things):
        share *= GREEN
    return share


def first_scenes(epoch: int, count: int) -> list[Scene]:
    """Returns the first `count` scenes of an epoch."""
    return list(itertools.islice(epoch_scenes(epoch), count))


def trained_caption(scene: Scene, rng: random.Random, held_out: frozenset[str]) -> str:
    """Returns a caption of the scene that is none of those held out for measurements."""
    while (text := caption(scene, rng)) in held_out:
        pass
    return text


def workers(processes: int) -> Pool:
    """Starts processes that leave Ctrl-C to the one that trains; a context manager."""
    return multiprocessing.get_context("spawn").Pool(processes, signal.signal, (signal.SIGINT, signal.SIG_IGN))


class Painter:
    """Paints scenes in several processes; a context manager.

    Pictures lie in files of the folder: thousands of small arrays would break up the memory of the training process,
    which made each step ten times as slow.
    """

    def __init__(self, processes: int, folder: Path) -> None:
        self.pool = workers(processes)
        self.folder = folder

    def __enter__(self) -> Painter:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        self.pool.terminate()

    def paint(self, scenes: list[Scene], width: int = SIZE, height: int = SIZE) -> Pictures:
        """Returns the pictures of scenes and the masks of their things."""
        cells = height // CELL, width // CELL
        with TemporaryDirectory(dir=self.folder, prefix="pictures-") as folder:
            paths = Path(folder, "images.npy"), Path(folder, "masks.npy")
            images = np.lib.format.open_memmap(paths[0], "w+", np.uint8, (len(scenes), height, width, 3))
            masks = np.lib.format.open_memmap(paths[1], "w+", np.float32, (len(scenes), *cells))
            starts = range(0, len(scenes), SCENES_PER_TASK)
            tasks = [(paths, start, scenes[start : start + SCENES_PER_TASK]) for start in starts]
            self.pool.starmap(_paint_into, tasks, chunksize=1)
            return Pictures(tuple(scenes), images, masks)  # the arrays outlive their files' names


def _paint_into(paths: tuple[Path, Path], start: int, scenes: list[Scene]) -> None:
    images, masks = (np.load(path, mmap_mode="r+") for path in paths)
    height, width = images.shape[1:3]
    for index, scene in enumerate(scenes, start):
        images[index], masks[index] = paint_one(scene, width, height)


def paint_one(scene: Scene, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the picture of a scene, uint8 (h, w, 3), and the mask of its things, (h / CELL, w / CELL).

    The part of the sky where the sun or the moon may stand counts as a thing: small ones were dented or blurred.
    """
    image = np.asarray(render(scene, width, height))
    bare = np.asarray(render(replace(scene, things=(), balloon=None), width, height))
    covered = np.abs(image.astype(np.int16) - bare).sum(-1) > _DIFFERENCE
    if scene.body:
        covered[body_area(scene, width, height)] = True
    cells = covered.reshape(height // CELL, CELL, width // CELL, CELL)
    return image, cells.mean((1, 3), dtype=np.float32)


def body_area(scene: Scene, width: int, height: int) -> tuple[slice, slice]:
    """Returns the rows and columns of a picture that the sun or the moon of its scene may touch."""
    unit = min(width, height) / CANVAS
    reach_down, reach_right = BODY_RADII[scene.body_size] * unit, (BODY_RADII[scene.body_size] + BODY_WANDER) * unit
    middle = SIDES[scene.body_side] * width
    top, bottom = (share * height for share in BODY_HEIGHTS)
    rows = slice(max(0, round(top - reach_down)), round(bottom + reach_down))
    return rows, slice(max(0, round(middle - reach_right)), round(middle + reach_right))


T = TypeVar("T")


class Epochs(Generic[T]):
    """What `draw(number)` returns for the epoch of a training step; it is drawn again when training resumes."""

    def __init__(self, draw: Callable[[int], T], steps: int) -> None:
        self.draw, self.steps = draw, steps
        self.current: tuple[int, T] | None = None

    def at(self, step: int) -> T:
        """Returns the epoch of a step, drawing it if the step before belonged to another."""
        number = step // self.steps
        if self.current is None or self.current[0] != number:
            self.current = None  # frees the epoch before
            self.current = number, self.draw(number)
        return self.current[1]
