"""Quality against evaluations of the network, for every solver, on the embedded checkpoint: python -m bench solvers.

Against the solution of the same flow from the same first latents in 200 steps: the root mean square error of the final
latents, for solvers without fresh noise (with it, there is no one limit). A picture may turn into another one, so what
is told is the median over pictures. Against true pictures: the Frechet distance of CLIP features, and how near as many
true ones are; and the CLIP score with the prompts (bench.scores).

What is computed is kept in --work, block by block of 16 pictures, and not computed again; runs may share it.
"""

import argparse
import hashlib
import statistics
import sys
from collections.abc import Iterator, Sequence
from functools import cache, cached_property
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from mlx_sd import StableDiffusion
from mlx_sd.core import command
from mlx_sd.core.files import atomic_file
from mlx_sd.sampling import loop, samplers
from mlx_sd.sampling.table import Table

from .. import results
from ..machine import describe
from . import fidelity, landscapes, scores

_EXAMPLES = """examples:
  python -m bench solvers --json solvers.json
  python -m bench solvers --images 64 --work work --json solvers.json
  python -m bench figure solvers.json solvers.png
"""
EVALUATIONS = (5, 6, 8, 10, 15, 20, 30, 50)
GUIDANCES = (1.0, 7.5)
REFERENCE, REFERENCE_STEPS = "dpmpp_2m", 200
BLOCK = 16
# Scenes of prompts have the seeds from 0; distances are to as many true pictures, from the first of these seeds, and
# the rest, in sets of as many as a point has, say what is near.
TRUE, FIRST_TRUE, FIRST_OTHER = 2048, 1_000_000, 2_000_000
OTHER = 1024


class Point(NamedTuple):
    """A solver with a number of steps."""

    sampler: str
    steps: int
    table: Table

    @property
    def noisy(self) -> bool:
        return any(row.fresh_noise for row in self.table.rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    p = command.Parser(
        prog="python -m bench solvers",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--images", type=int, default=BLOCK, help=f"pictures a point, a multiple of {BLOCK}, its default")
    p.add_argument("--guidance", type=float, action="append", help="default 1 and 7.5")
    p.add_argument("--work", type=Path, default=Path("solvers-work"), metavar="DIR", help="what is computed so far")
    p.add_argument("--so-far", action="store_true", help="make no more pictures; only points that have all of them")
    p.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    arguments = p.parse_args(argv)
    if arguments.images < BLOCK or arguments.images % BLOCK:
        p.error(f"--images must be a multiple of {BLOCK}, not {arguments.images}")
    return command.run("bench solvers", lambda: _solvers(arguments))


def _solvers(arguments: argparse.Namespace) -> None:
    arguments.work.mkdir(parents=True, exist_ok=True)
    guidances = arguments.guidance or GUIDANCES
    bench = Bench(arguments.work)
    jobs = [(block, g) for block in range(arguments.images // BLOCK) for g in guidances]
    every = bench.points()
    with tqdm(total=len(jobs) * len(every), unit="point", disable=not sys.stderr.isatty()) as bar:
        for block, guidance in [] if arguments.so_far else jobs:
            for point in every:
                bench.cell(point, guidance, block)
                bar.update()
    found = bench.results(every, guidances, arguments.images) | {"machine": describe()}
    if arguments.json:
        results.write(arguments.json, found)
    else:
        results.report(found, None)


class Bench:
    """The embedded checkpoint, and the folder of what was computed with it."""

    def __init__(self, work: Path):
        self.work = work
        self.sd = StableDiffusion.load("tiny", "float32")
        self.scorer = landscapes.TinyClip(self.sd)

    def points(self) -> list[Point]:
        """The reference, and every solver at every number of evaluations that it can have, on its own schedule."""
        found = [self.point(REFERENCE, REFERENCE_STEPS)]
        for sampler, evaluations in product(samplers.names(), EVALUATIONS):
            made = (self.point(sampler, steps) for steps in range(evaluations, 0, -1))
            point = next(point for point in made if len(point.table.rows) <= evaluations)
            if point not in found:
                found.append(point)
        return found

    def point(self, sampler: str, steps: int, schedule: str | None = None) -> Point:
        """A solver on a schedule, by default its own on this checkpoint."""
        scheduler = self.sd.model.scheduler
        table = samplers.table(scheduler, *samplers.choose(scheduler, sampler, schedule), steps)
        # diffusers' Euler family multiplies the first latent by a little less than one; here all begin alike.
        return Point(sampler, steps, table._replace(noise_scale=1.0))

    def cell(self, point: Point, guidance: float, block: int) -> dict[str, NDArray[np.float32]]:
        """Final latents (16, h, w, C) and the features of their pictures, of one block."""
        path = self._path(point, guidance, block)
        if not path.exists():
            latents = self._latents(point.table, guidance, block)
            features = self.scorer.images(self.sd.decode(latents))
            with atomic_file(path) as f:
                np.savez(f, latents=np.array(latents), features=features)
        with np.load(path) as kept:
            return dict(kept)

    def _path(self, point: Point, guidance: float, block: int) -> Path:
        # By what the table says to five digits: methods that agree, as Heun's and EDM's without churn do, share theirs.
        name = hashlib.sha256(repr(_rounded(point.table)).encode()).hexdigest()[:16]
        return self.work / f"{name}-g{guidance:g}-{block}.npz"

    def _latents(self, table: Table, guidance: float, block: int) -> mx.array:
        texts = landscapes.captions(scenes(block))
        predict = self.sd.predictor(texts, None, self.sd.settings(guidance=guidance))
        stream = np.random.RandomState(block)
        side = self.sd.unet.config.sample_size

        def normal() -> mx.array:
            return mx.array(stream.standard_normal((BLOCK, side, side, 4)).astype(np.float32))

        return loop.run(table, predict, normal(), normal)

    # ------------------------------------------------------------------------------------------ results

    def results(self, points: Sequence[Point], guidances: Sequence[float], images: int) -> dict[str, Any]:
        """All that was measured, of the points of which all blocks are there."""
        blocks = range(images // BLOCK)
        whole = [
            (guidance, point)
            for guidance, point in product(guidances, points)
            if all(self._path(point, guidance, block).exists() for block in blocks)
        ]
        return {
            "model": "tiny",
            "schedule": samplers.choose(self.sd.model.scheduler, REFERENCE)[1],
            "reference": f"{REFERENCE}, {REFERENCE_STEPS} steps",
            "images": images,
            "true_images": TRUE,
            "other_true": self.near(images),
            "true": self.worth(self._true(range(images))),
            "true_through_autoencoder": self.worth(self._through(images)),
            "points": [
                {"guidance": guidance, "sampler": point.sampler, "steps": point.steps}
                | {"evaluations": len(point.table.rows)}
                | self.score(point, guidance, images)
                for guidance, point in whole
            ],
        }

    def near(self, images: int) -> dict[str, Any]:
        """How far as many true pictures are: the least, the median and the most of some sets."""
        others = self._true(range(FIRST_OTHER, FIRST_OTHER + OTHER))
        sets = [others[i : i + images] for i in range(0, OTHER - images + 1, images)]
        found = sorted(self._distance(features) for features in sets)
        return {"sets": len(sets), "frechet": _rounded((found[0], statistics.median(found), found[-1]), 3)}

    def score(self, point: Point, guidance: float, images: int) -> dict[str, Any]:
        """Error against the reference, None where there is fresh noise, Frechet distance and CLIP score."""
        found = self._all(point, guidance, images)
        solution = self._all(self.point(REFERENCE, REFERENCE_STEPS), guidance, images)["latents"]
        errors = fidelity.rms(found["latents"], solution)
        error = None if point.noisy else round(float(np.median(errors)), 5)
        return {"rmse": error} | self.worth(found["features"])

    def worth(self, features: scores.Features) -> dict[str, float]:
        """Frechet distance of pictures of the first prompts, and their CLIP score."""
        return {
            "frechet": round(self._distance(features), 3),
            "clip_score": round(scores.clip_score(features, self._texts(len(features))), 2),
        }

    @cache  # noqa: B019 - there is one bench
    def _texts(self, images: int) -> scores.Features:
        return self.scorer.texts(landscapes.captions(range(images)))

    def _distance(self, features: scores.Features) -> float:
        return scores.frechet(scores.statistics(features), self._reference)

    @cached_property
    def _reference(self) -> scores.Statistics:
        return scores.statistics(self._true(range(FIRST_TRUE, FIRST_TRUE + TRUE)))

    def _all(self, point: Point, guidance: float, images: int) -> dict[str, NDArray[np.float32]]:
        cells = [self.cell(point, guidance, block) for block in range(images // BLOCK)]
        return {name: np.concatenate([cell[name] for cell in cells]) for name in cells[0]}

    def _true(self, seeds: range) -> scores.Features:
        path = self.work / f"true-{seeds.start}-{seeds.stop}.npy"
        if not path.exists():
            features = np.concatenate([self.scorer.images(landscapes.paintings(part)) for part in _parts(seeds)])
            with atomic_file(path) as f:
                np.save(f, features)
        kept: scores.Features = np.load(path)
        return kept

    def _through(self, images: int) -> scores.Features:
        """Features of true pictures as the autoencoder gives them back: what no sampler can better."""
        features = []
        for part in _parts(range(images)):
            mean, _ = self.sd.vae.encode(landscapes.paintings(part))
            features.append(self.scorer.images(self.sd.decode(self.sd.vae.scale(mean))))
        return np.concatenate(features)


def scenes(block: int) -> range:
    """Seeds of a block's prompts."""
    return range(block * BLOCK, (block + 1) * BLOCK)


def _parts(seeds: range) -> Iterator[range]:
    return (seeds[i : i + BLOCK] for i in range(0, len(seeds), BLOCK))


def _rounded(value: Any, digits: int = 5) -> Any:
    """Numbers, in tuples or not, to so many digits."""
    if isinstance(value, tuple):
        return tuple(_rounded(v, digits) for v in value)
    return round(value, digits) if isinstance(value, float) else value


if __name__ == "__main__":
    sys.exit(main())
