"""Quality against evaluations of the network, for every solver, on the embedded checkpoint: python -m bench solvers.

The reference is the solution of the same flow from the same first latents in 200 steps: the root mean square error of
the final latents is measured for solvers without fresh noise (with it, there is no one limit). Two solvers may turn the
same latents into different pictures, so the error reported is the median over pictures. The prompts are the first
captions of the truth measure: rules on pixels say how many come true, and they give the CLIP score
(bench/quality/scores.py). True pictures give the Frechet distance of CLIP features, and the distance of as many true
pictures of these captions. Pictures have 128 pixels along each side, half of the checkpoint's own.

Finished blocks of 16 pictures are stored in --work and not computed again; runs may share it.
"""

import argparse
import hashlib
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from PIL import Image

from mlx_sd import StableDiffusion
from mlx_sd.ranks.exchange import Ranks
from mlx_sd.request import GUIDANCE_EMBEDDED, Request
from mlx_sd.sampling import loop, samplers
from mlx_sd.sampling.table import Table

from .. import arguments, dealing, results
from ..tiny.claims import COUNT, claims
from . import blocks, fidelity, landscapes, scores
from .truth_judge import Share, judge

_EXAMPLES = """examples:
  python -m bench solvers --json solvers.json
  python -m bench solvers --images 64 --work work --json solvers.json
"""
EVALUATIONS = (5, 10, 20)
GUIDANCES = (1.0, GUIDANCE_EMBEDDED)
SIDE = 128  # pixels: these comparisons take hours as it is
REFERENCE, REFERENCE_STEPS = "dpmpp_2m", 200
# Frechet distances are to so many true pictures. True pictures of the measure's captions, in sets of as many as a point
# has, give the distance of true pictures.
TRUE = 2048


class Point(NamedTuple):
    """A solver with a number of steps, and its table on the embedded checkpoint."""

    sampler: str
    steps: int
    table: Table

    @property
    def noisy(self) -> bool:
        """Tells whether the solver adds fresh noise on its way."""
        return any(row.fresh_noise for row in self.table.rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    p = arguments.parser("solvers", __doc__, _EXAMPLES)
    blocks.add_arguments(p, blocks.BLOCK, "solvers-work")
    p.add_argument("--guidance", type=float, action="append", help="default 1 and 3")
    arguments.add_json(p)
    options = p.parse_args(argv)
    blocks.check_images(p, options.images, COUNT)
    return dealing.run("solvers", lambda ranks: _solvers(options, ranks))


def _solvers(options: argparse.Namespace, ranks: Ranks) -> None:
    if ranks.rank == 0:
        options.work.mkdir(parents=True, exist_ok=True)
    guidances = options.guidance or GUIDANCES
    comparison = SolverComparison(options.work, SIDE)
    points, count = comparison.points(), range(options.images // blocks.BLOCK)
    dealing.check_same(ranks, comparison.sd, (points, guidances, count))
    jobs = dict(comparison.job(point, guidance, block) for block in count for guidance in guidances for point in points)
    blocks.finish(ranks, jobs, options.so_far)
    machine = dealing.machine(ranks)
    if ranks.rank:
        return
    values = comparison.results(points, guidances, options.images) | machine
    if options.json:
        results.write(options.json, values)
    else:
        results.report(values, None)


class SolverComparison:
    """Compares solvers on the embedded checkpoint; finished blocks are stored in a folder."""

    def __init__(self, work: Path, side: int | None = None):
        """side: pixels along each side of the pictures; None is the checkpoint's own."""
        self.work = work
        self.sd = StableDiffusion.load("tiny", "float32")
        self.clip = landscapes.TinyClip()
        self.side = side or self.sd.unet.config.sample_size * self.sd.vae.config.downsampling

    def points(self) -> list[Point]:
        """Returns the reference, and every solver at every number of evaluations it can have, on its own schedule."""
        points = [self.point(REFERENCE, REFERENCE_STEPS)]
        for sampler, evaluations in product(samplers.names(), EVALUATIONS):
            candidates = (self.point(sampler, steps) for steps in range(evaluations, 0, -1))
            point = next(point for point in candidates if len(point.table.rows) <= evaluations)
            if point not in points:
                points.append(point)
        return points

    def point(self, sampler: str, steps: int, schedule: str | None = None) -> Point:
        """Returns a solver on a schedule, by default its own on this checkpoint."""
        scheduler = self.sd.model.scheduler
        table = samplers.table(scheduler, *samplers.choose(scheduler, sampler, schedule), steps)
        # diffusers' Euler family multiplies the first latent by a little less than one; here all begin alike.
        return Point(sampler, steps, table._replace(noise_scale=1.0))

    def block(self, point: Point, guidance: float, block: int) -> blocks.Arrays:
        """Returns of one block the final latents (16, h, w, C), the pictures' features, and which are true."""
        return blocks.load(*self.job(point, guidance, block))

    def job(self, point: Point, guidance: float, block: int) -> tuple[Path, Callable[[], Mapping[str, Any]]]:
        """Returns the file of one block, and what computes its arrays."""
        return self._path(point, guidance, block), partial(self._compute, point.table, guidance, block)

    def _compute(self, table: Table, guidance: float, block: int) -> Mapping[str, Any]:
        latents = self._latents(table, guidance, block)
        return {"latents": latents} | self.judged(self.sd.decode(latents), block)

    def judged(self, pixels: mx.array, block: int) -> dict[str, Any]:
        """Returns the features of a block's pictures (16, h, w, 3) in [-1, 1], and which are true to their captions."""
        pictures = np.array(mx.round((mx.clip(pixels, -1, 1) + 1) * 127.5).astype(mx.uint8))
        pairs = zip(pictures, blocks.scenes(block), strict=True)
        true = [judge(Image.fromarray(picture), claims()[number]).true for picture, number in pairs]
        return {"features": self.clip.images(pixels), "true": np.array(true)}

    def _path(self, point: Point, guidance: float, block: int) -> Path:
        # Named by the table's numbers to five digits: equal methods, as Heun's and EDM's without churn, share blocks.
        name = hashlib.sha256(repr(_rounded(point.table)).encode()).hexdigest()[:16]
        return self.work / f"{name}-{self.side}-g{guidance:g}-{block}.npz"

    def _latents(self, table: Table, guidance: float, block: int) -> mx.array:
        texts = [claims()[number].caption for number in blocks.scenes(block)]
        request = self.sd.complete(Request(prompt="", seed=0, guidance=guidance))
        predict = self.sd.predictor([request.with_values(prompt=text) for text in texts])
        normal = blocks.noises(block, self.side // self.sd.vae.config.downsampling)
        return loop.run(table, predict, normal(), normal)

    # ------------------------------------------------------------------------------------------ results

    def results(self, points: Sequence[Point], guidances: Sequence[float], images: int) -> dict[str, Any]:
        """Returns the results of all points whose blocks are all finished."""
        count = range(images // blocks.BLOCK)
        finished = [
            (guidance, point)
            for guidance, point in product(guidances, points)
            if all(self._path(point, guidance, block).exists() for block in count)
        ]
        return {
            "model": "tiny",
            "schedule": samplers.choose(self.sd.model.scheduler, REFERENCE)[1],
            "reference": f"{REFERENCE}, {REFERENCE_STEPS} steps",
            "size": self.side,
            "images": images,
            "true_images": TRUE,
            "other_true": self.distances_of_true_pictures(images),
            "true": self.picture_scores(self._claimed[:images]),
            "true_through_autoencoder": self.picture_scores(self._through_autoencoder(images)),
            "points": [
                {"guidance": guidance, "sampler": point.sampler, "steps": point.steps}
                | {"evaluations": len(point.table.rows)}
                | self.measure(point, guidance, images)
                for guidance, point in finished
            ],
        }

    def distances_of_true_pictures(self, images: int) -> dict[str, Any]:
        """Returns the least, median and greatest Frechet distance of sets of as many true pictures of captions."""
        features = self._claimed
        sets = [features[i : i + images] for i in range(0, len(features) - images + 1, images)]
        distances = sorted(map(self._distance, sets))
        spread = (distances[0], statistics.median(distances), distances[-1])
        return {"sets": len(sets), "frechet": _rounded(spread, 3)}

    def measure(self, point: Point, guidance: float, images: int) -> dict[str, Any]:
        """Returns the error against the reference, None with fresh noise, Frechet distance, CLIP score and truth."""
        arrays = self._all(point, guidance, images)
        solution = self._all(self.point(REFERENCE, REFERENCE_STEPS), guidance, images)["latents"]
        errors = fidelity.rms(arrays["latents"], solution)
        error = None if point.noisy else round(float(np.median(errors)), 5)
        return {"rmse": error} | self.picture_scores(arrays["features"]) | share_true(arrays)

    def picture_scores(self, features: scores.Features) -> dict[str, float]:
        """Returns the Frechet distance and the CLIP score of pictures of the first prompts."""
        return {
            "frechet": round(self._distance(features), 3),
            "clip_score": round(scores.clip_score(features, self._texts(len(features))), 2),
        }

    @cache  # noqa: B019 - one comparison a process
    def _texts(self, images: int) -> scores.Features:
        return self.clip.texts([claim.caption for claim in claims()[:images]])

    def _distance(self, features: scores.Features) -> float:
        return scores.frechet(scores.statistics(features), self._reference)

    @cached_property
    def _reference(self) -> scores.Statistics:
        return scores.statistics(self._true(range(landscapes.FIRST_TRUE, landscapes.FIRST_TRUE + TRUE)))

    @cached_property
    def _claimed(self) -> scores.Features:
        """Features of a true picture of each caption of the measure."""
        parts = blocks.parts(range(COUNT))
        return np.concatenate([self.clip.images(_true_pictures(part, self.side)) for part in parts])

    def _all(self, point: Point, guidance: float, images: int) -> blocks.Arrays:
        return blocks.concatenate([self.block(point, guidance, block) for block in range(images // blocks.BLOCK)])

    def _true(self, seeds: range) -> scores.Features:
        """Features of true pictures."""
        path = self.work / f"true-{seeds.start}-{seeds.stop}-{self.side}.npz"
        features: scores.Features = blocks.load(
            path, lambda: {"features": landscapes.true_features(self.clip, seeds, self.side)}
        )["features"]
        return features

    def _through_autoencoder(self, images: int) -> scores.Features:
        """Features of true pictures after encoding and decoding: what no sampler can exceed."""
        features = []
        for part in blocks.parts(range(images)):
            mean, _ = self.sd.vae.encode(_true_pictures(part, self.side))
            features.append(self.clip.images(self.sd.decode(self.sd.vae.scale(mean))))
        return np.concatenate(features)


def share_true(arrays: blocks.Arrays) -> dict[str, Any]:
    """Returns the share of pictures that are true to their captions, as results hold it."""
    return {"truth": Share(int(arrays["true"].sum()), len(arrays["true"])).to_json()}


def _true_pictures(numbers: range, side: int) -> mx.array:
    """Returns true pictures (N, side, side, 3) in [-1, 1] of captions of the measure."""
    painted = [np.asarray(claims()[number].true_picture(side), np.float32) for number in numbers]
    return mx.array(np.stack(painted)) / 127.5 - 1


def _rounded(value: Any, digits: int = 5) -> Any:
    """Numbers, in tuples or not, to so many digits."""
    if isinstance(value, tuple):
        return tuple(_rounded(v, digits) for v in value)
    return round(value, digits) if isinstance(value, float) else value


if __name__ == "__main__":
    sys.exit(main())
