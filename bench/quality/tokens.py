"""Truth and quality against calls of the network, for every sampler of tokens: python -m bench tokens.

Every point makes pictures of the same captions of the embedded world, with the same seeds. Their truth is judged by
rules on pixels (bench/quality/truth.py). The Frechet distance of CLIP features is to the true pictures of all captions;
that of the first captions' true pictures, and of these through the autoencoder's tokens, stand beside it: the second is
what no sampler can exceed. Calls are the mean over the pictures.

Finished blocks of 16 pictures are stored in --work and not computed again; runs may share it.
"""

import argparse
import hashlib
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from PIL import Image

from mlx_sd import StableDiffusion
from mlx_sd.core.errors import InputError
from mlx_sd.discrete import calls
from mlx_sd.ranks.exchange import Ranks
from mlx_sd.request import Request

from .. import arguments, dealing, results
from ..tiny.claims import COUNT, claims
from . import blocks, landscapes, scores
from .truth_judge import Share, judge

IMAGES = 128
_BETA = "beta:100,4"  # the authors' times of change of unconditional text, near the end of the corruption
_EXAMPLES = """examples:
  python -m bench tokens --model models/tokens --json tokens.json
  python -m bench tokens --model models/tokens --images 64 --sampler maskgit --sampler dndm_k
  mlx.launch -n 2 -- python -m bench tokens --model models/tokens"""


class Point(NamedTuple):
    """A sampler of tokens with its steps and its schedule."""

    sampler: str
    steps: int | None
    schedule: str | None = None
    deepcache: str | None = None


POINTS = (
    *(Point(name, steps) for steps in (4, 8, 12, 20, 50) for name in (calls.MASKGIT, calls.MASK_PREDICT)),
    *(Point(calls.DNDM_K, steps, "linear") for steps in (4, 8, 12, 20, 50, 1000)),
    *(Point(calls.DNDM, steps, schedule) for schedule in ("linear", _BETA) for steps in (20, 50, 1000)),
    Point(calls.DNDM_C, None, "linear"),
    *(Point(calls.CHAIN, steps, "linear") for steps in (20, 50, 1000)),
    *(Point(calls.MASKGIT, 20, None, interval) for interval in ("2", "4")),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    p = arguments.parser("tokens", __doc__, _EXAMPLES)
    p.add_argument("--model", required=True, help="a checkpoint of the embedded world whose pictures are tokens")
    p.add_argument("--sampler", action="append", choices=calls.NAMES, help="default: all")
    p.add_argument("--guidance", type=float, help="default: the model's")
    blocks.add_arguments(p, IMAGES, "tokens-work")
    arguments.add_json(p)
    options = p.parse_args(argv)
    blocks.check_images(p, options.images)
    if options.images > COUNT:
        p.error(f"--images must be at most {COUNT}, the captions of the measure, not {options.images}")
    return dealing.run("tokens", lambda ranks: _tokens(options, ranks))


def _tokens(options: argparse.Namespace, ranks: Ranks) -> None:
    if ranks.rank == 0:
        options.work.mkdir(parents=True, exist_ok=True)
    comparison = TokenComparison(options.model, options.work, options.guidance)
    points = [point for point in POINTS if not options.sampler or point.sampler in options.sampler]
    points = [point for point in points if comparison.takes(point)]
    count = range(options.images // blocks.BLOCK)
    dealing.check_same(ranks, comparison.sd, (points, comparison.guidance, count))
    jobs = dict(comparison.job(point, block) for block in count for point in points)
    blocks.finish(ranks, jobs, options.so_far)
    machine = dealing.machine(ranks)
    if ranks.rank == 0:
        results.report(comparison.results(points, options.images) | machine, options.json)


class TokenComparison:
    """Compares samplers of tokens on a checkpoint of the embedded world; finished blocks are stored in a folder."""

    def __init__(self, model: str, work: Path, guidance: float | None = None):
        """Loads the model; InputError where its pictures are no tokens. guidance: None is the model's own."""
        self.sd, self.work = StableDiffusion.load(model, "float32"), work
        if self.sd.model.tokens is None:
            raise InputError(
                f"bench tokens: the pictures of {model} are no tokens; bench solvers compares its samplers"
            )
        self.guidance = self.sd.complete(Request(prompt="", guidance=guidance)).guidance
        self.clip = landscapes.TinyClip()

    def takes(self, point: Point) -> bool:
        """Tells whether the model has what a point needs: samplers that mask need a mask."""
        assert self.sd.model.tokens is not None
        return point.sampler in self.sd.model.tokens.samplers

    def job(self, point: Point, block: int) -> tuple[Path, Callable[[], Mapping[str, Any]]]:
        """Returns the file of one block, and what computes its arrays."""
        name = hashlib.sha256(repr((self.sd.model.hash, tuple(point), self.guidance)).encode()).hexdigest()[:16]
        return self.work / f"{name}-{block}.npz", partial(self._compute, point, block)

    def _compute(self, point: Point, block: int) -> Mapping[str, Any]:
        settings = {name: value for name, value in point._asdict().items() if value is not None}
        seeds = blocks.scenes(block)
        requests = [
            Request(prompt=claims()[seed].caption, seed=seed, guidance=self.guidance, **settings) for seed in seeds
        ]
        together = list(self.sd.stream(requests, batch=1))
        pictures = [image for result in together for image in result.images]
        return {
            "features": self.clip.pictures(pictures),
            "true": np.array([judge(image, claims()[seed]).true for image, seed in zip(pictures, seeds, strict=True)]),
            "calls": np.array([result.evaluations for result in together], np.int32),
            "full": np.array([result.full for result in together], np.int32),
            "seconds": np.array([sum(result.seconds) for result in together], np.float32),
        }

    # ------------------------------------------------------------------------------------------ results

    def results(self, points: Sequence[Point], images: int) -> dict[str, Any]:
        """Returns the results of all points whose blocks are all finished."""
        count = range(images // blocks.BLOCK)
        finished = [point for point in points if all(self.job(point, block)[0].exists() for block in count)]
        return {
            "model": self.sd.model.name,
            "hash": self.sd.model.hash,
            "guidance": self.guidance,
            "images": images,
            "true_pictures": self._frechet(self.clip.pictures(self._true[:images])),
            "through_tokens": self.through_tokens(images),
            "points": [self.measure(point, images) for point in finished],
        }

    def measure(self, point: Point, images: int) -> dict[str, Any]:
        """Returns a point with its calls, truth, Frechet distance and seconds of a picture."""
        arrays = blocks.concatenate([blocks.load(*self.job(point, i)) for i in range(images // blocks.BLOCK)])
        return point._asdict() | {
            "calls": round(float(arrays["calls"].mean()), 2),
            "full_calls": round(float(arrays["full"].mean()), 2),
            "truth": Share(int(arrays["true"].sum()), images).to_json(),
            "frechet": self._frechet(arrays["features"]),
            "seconds": round(statistics.median(arrays["seconds"].tolist()), 3),
        }

    def through_tokens(self, images: int) -> dict[str, Any]:
        """Returns truth and Frechet distance of true pictures after they became tokens and pictures again."""
        decoded: list[Image.Image] = []
        for picture in self._true[:images]:
            pixels = mx.array(np.asarray(picture, np.float32))[None] / 127.5 - 1
            colours = self.sd.model.vae.decode_tokens(self.sd.model.vae.tokens(self.sd.model.vae.encode(pixels)[0]))
            decoded.append(Image.fromarray(np.array(mx.clip(colours[0] * 127.5 + 128, 0, 255).astype(mx.uint8))))
        true = sum(judge(picture, claim).true for picture, claim in zip(decoded, claims(), strict=False))
        return {"truth": Share(true, images).to_json(), "frechet": self._frechet(self.clip.pictures(decoded))}

    def _frechet(self, features: scores.Features) -> float:
        return round(scores.frechet(scores.statistics(features), self._reference), 3)

    @cached_property
    def _reference(self) -> scores.Statistics:
        return scores.statistics(self.clip.pictures(self._true))

    @cached_property
    def _true(self) -> list[Image.Image]:
        side = self.sd.unet.config.sample_size * self.sd.vae.config.downsampling
        return [claim.true_picture(side) for claim in claims()]


if __name__ == "__main__":
    sys.exit(main())
