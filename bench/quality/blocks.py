"""Pictures in blocks: work that long measurements store in a folder, block by block, and do not do again.

A block is 16 pictures of as many prompts of the embedded checkpoint's domain, always from the same first noise. Its
latents, features and pictures are one .npz file in the folder of --work; runs may share the folder.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from mlx_sd.core.files import atomic_file
from mlx_sd.core.parser import Parser
from mlx_sd.ranks.exchange import Ranks

from .. import dealing

BLOCK = 16

Arrays = dict[str, NDArray[Any]]  # each (16, ...), by name


def add_arguments(p: Parser, images: int, work: str) -> None:
    """Adds --images, --work and --so-far, with default values of the first two."""
    p.add_argument(
        "--images", type=int, default=images, help=f"pictures a point, a multiple of {BLOCK}, default {images}"
    )
    p.add_argument("--work", type=Path, default=Path(work), metavar="DIR", help="folder of finished blocks")
    p.add_argument("--so-far", action="store_true", help="make no more pictures; only points that have all of them")


def check_images(p: Parser, images: int, most: int) -> None:
    """Ends with one line and exit code 2 for a number of pictures that is no multiple of a block, or above `most`."""
    if images < BLOCK or images % BLOCK:
        p.error(f"--images must be a multiple of {BLOCK}, not {images}")
    if images > most:
        p.error(f"--images must be at most {most}, the captions of the measure, not {images}")


def scenes(block: int) -> range:
    """Returns the seeds of a block's prompts."""
    return range(block * BLOCK, (block + 1) * BLOCK)


def noises(block: int, side: int) -> Callable[[], mx.array]:
    """Returns what draws the next noise of a block, (16, side, side, 4): the first latents, then that of each step."""
    stream = np.random.RandomState(block)
    return lambda: mx.array(stream.standard_normal((BLOCK, side, side, 4)).astype(np.float32))


def parts(seeds: range) -> Iterator[range]:
    """Divides seeds into ranges of at most a block."""
    return (seeds[i : i + BLOCK] for i in range(0, len(seeds), BLOCK))


def make(ranks: Ranks, jobs: Mapping[Path, Callable[[], Mapping[str, Any]]]) -> Iterator[int]:
    """Computes and writes the blocks whose files do not exist, and yields the number of blocks that each step adds.

    jobs: what computes the block of a file. ranks: share the work; the files are those of rank 0.
    """
    paths = list(jobs)
    missing = dealing.agree(ranks, [i for i, path in enumerate(paths) if not path.exists()])
    yield len(paths) - len(missing)
    for i, arrays in zip(missing, dealing.deal(ranks, missing, lambda i: jobs[paths[i]]()), strict=True):
        if ranks.rank == 0:
            _write(paths[i], arrays)
        yield 1


def finish(ranks: Ranks, jobs: Mapping[Path, Callable[[], Mapping[str, Any]]], so_far: bool) -> None:
    """Computes the blocks that are missing, as `make` does, behind a bar; so_far: computes none."""
    with tqdm(total=len(jobs), unit="block", disable=not sys.stderr.isatty()) as bar:
        for number in [] if so_far else make(ranks, jobs):
            bar.update(number)


def load(path: Path, compute: Callable[[], Mapping[str, Any]]) -> Arrays:
    """Reads the arrays of a file; computes and writes them first if it does not exist."""
    if not path.exists():
        _write(path, compute())
    with np.load(path) as stored:
        return dict(stored)


def _write(path: Path, arrays: Mapping[str, Any]) -> None:
    """Writes the arrays of a block, all or nothing."""
    content: dict[str, Any] = {name: np.array(array) for name, array in arrays.items()}
    with atomic_file(path) as f:
        np.savez(f, **content)


def concatenate(blocks: list[Arrays]) -> Arrays:
    """Joins the arrays of blocks, name by name."""
    return {name: np.concatenate([arrays[name] for arrays in blocks]) for name in blocks[0]}
