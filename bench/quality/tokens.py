"""Truth and quality against calls of the network, for every sampler of tokens: python -m bench tokens.

Every point makes pictures of the same captions of the embedded world, with the same seeds. Their truth is judged by
rules on pixels (bench/quality/truth.py). The Frechet distance of CLIP features is to the true pictures of all captions;
that of the first captions' true pictures, and of these through the autoencoder's tokens, stand beside it: the second is
what no sampler can exceed. Calls are the mean over the pictures, and so are multiply-accumulates of the UNet. The bound
on the code length of the true pictures' tokens says how much of them the network knows, whatever the sampler.

--continuous measures a checkpoint of latents beside it, in the steps of about as many
multiply-accumulates as points of the default sampler.

Finished blocks of 16 pictures are stored in --work and not computed again; runs may share it.
"""

import argparse
import hashlib
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from PIL import Image

from mlx_sd import StableDiffusion
from mlx_sd.conditions import conditions_of
from mlx_sd.core.errors import InputError
from mlx_sd.cost import cost_of
from mlx_sd.discrete import calls, schedules
from mlx_sd.discrete.bound import Predict, bits_per_token
from mlx_sd.discrete.corruption import Floats, Tokens
from mlx_sd.ranks.exchange import Ranks
from mlx_sd.request import Request

from .. import arguments, dealing, results
from ..tiny.claims import COUNT, claims
from . import blocks, landscapes, scores
from .quality import spread
from .truth_judge import Share, judge

IMAGES = 128
_EXAMPLES = """examples:
  python -m bench tokens --model models/tokens --json tokens.json
  python -m bench tokens --model models/tokens --images 64 --sampler maskgit --sampler dndm_k
  python -m bench tokens --model tiny-tokens --continuous tiny --json tokens.json
  mlx.launch -n 2 -- python -m bench tokens --model models/tokens"""


class Point(NamedTuple):
    """A sampler with its steps, and with its schedule where pictures are tokens."""

    sampler: str
    steps: int | None
    schedule: str | None = None
    deepcache: str | None = None


POINTS = (
    *(Point(name, steps) for steps in (4, 8, 12, 20, 50) for name in (calls.MASKGIT, calls.MASK_PREDICT)),
    *(Point(calls.DNDM_K, steps, "linear") for steps in (4, 8, 12, 20, 50)),
    *(Point(calls.DNDM, steps, schedule) for schedule in ("linear", schedules.BETA) for steps in (20, 50, 1000)),
    Point(calls.DNDM_C, None, "linear"),
    *(Point(calls.CHAIN, steps, "linear") for steps in (20, 50, 1000)),
    *(Point(calls.MASKGIT, 20, None, interval) for interval in ("2", "4")),
)
EQUAL = tuple(Point(calls.MASKGIT, steps) for steps in (8, 12, 20, 50))  # points that latents are compared with
CONTINUOUS = "dpmpp_2m"
_ROUNDS = 9  # of pictures whose calls are timed in turn
_BOUND_STEPS = 10  # of the bound's sum, for each picture


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    p = arguments.parser("tokens", __doc__, _EXAMPLES)
    p.add_argument("--model", required=True, help="a checkpoint of the embedded world whose pictures are tokens")
    p.add_argument("--sampler", action="append", choices=calls.NAMES, help="default: all")
    p.add_argument("--guidance", type=float, help="of tokens; default: the model's")
    p.add_argument("--continuous", metavar="MODEL", help="a checkpoint of that world whose pictures are latents")
    blocks.add_arguments(p, IMAGES, "tokens-work")
    arguments.add_json(p)
    options = p.parse_args(argv)
    blocks.check_images(p, options.images, COUNT)
    return dealing.run("tokens", lambda ranks: _tokens(options, ranks))


def _tokens(options: argparse.Namespace, ranks: Ranks) -> None:
    if ranks.rank == 0:
        options.work.mkdir(parents=True, exist_ok=True)
    comparison = TokenComparison(options.model, options.work, options.guidance, options.continuous)
    points = [point for point in POINTS if not options.sampler or point.sampler in options.sampler]
    points = [point for point in points if comparison.takes(point)]
    count = range(options.images // blocks.BLOCK)
    dealing.check_same(ranks, comparison.tokens.sd, (points, comparison.tokens.guidance, options.continuous, count))
    jobs = dict(measured.job(point, block) for block in count for measured, point in comparison.all_points(points))
    blocks.finish(ranks, jobs, options.so_far)
    machine = dealing.machine(ranks)
    if ranks.rank == 0:
        results.report(comparison.results(points, options.images) | machine, options.json)


class Measured:
    """The points of one checkpoint, whose finished blocks are stored in a folder."""

    def __init__(self, sd: StableDiffusion, clip: landscapes.TinyClip, work: Path, guidance: float | None = None):
        """guidance: None is the model's own."""
        self.sd, self.clip, self.work = sd, clip, work
        self.guidance = sd.complete(Request(prompt="", guidance=guidance)).guidance

    @property
    def side(self) -> int:
        """Returns the pixels along each side of its pictures."""
        return self.sd.unet.config.sample_size * self.sd.vae.config.downsampling

    def request(self, point: Point, seed: int) -> Request:
        """Returns the request of a point for the caption of a seed."""
        settings = {name: value for name, value in point._asdict().items() if value is not None}
        return Request(prompt=claims()[seed].caption, seed=seed, guidance=self.guidance, **settings)

    def macs_of_call(self, point: Point) -> float:
        """Returns the multiply-accumulates of a call, the mean over those of a picture."""
        cost = cost_of(self.sd.model, self.request(point, 0))
        assert cost is not None  # no point lets the picture decide
        return cost.macs / cost.evaluations

    def job(self, point: Point, block: int) -> tuple[Path, Callable[[], Mapping[str, Any]]]:
        """Returns the file of one block, and what computes its arrays."""
        name = hashlib.sha256(repr((self.sd.model.hash, tuple(point), self.guidance)).encode()).hexdigest()[:16]
        return self.work / f"{name}-{block}.npz", partial(self._compute, point, block)

    def _compute(self, point: Point, block: int) -> Mapping[str, Any]:
        seeds = blocks.scenes(block)
        together = list(self.sd.stream([self.request(point, seed) for seed in seeds], batch=1))
        pictures = [image for result in together for image in result.images]
        return {
            "features": self.clip.pictures(pictures),
            "true": np.array([judge(image, claims()[seed]).true for image, seed in zip(pictures, seeds, strict=True)]),
            "calls": np.array([result.evaluations for result in together], np.int32),
            "full": np.array([result.full for result in together], np.int32),
        }

    def finished(self, points: Sequence[Point], images: int) -> Iterator[tuple[Point, blocks.Arrays]]:
        """Yields the points whose blocks are all there, with their arrays."""
        for point in points:
            jobs = [self.job(point, block) for block in range(images // blocks.BLOCK)]
            if all(path.exists() for path, _ in jobs):
                yield point, blocks.concatenate([blocks.load(*job) for job in jobs])


class TokenComparison:
    """Compares samplers of tokens on a checkpoint of the embedded world, and with a checkpoint of latents."""

    def __init__(self, model: str, work: Path, guidance: float | None = None, continuous: str | None = None):
        """Loads the models; InputError where the pictures of the first are no tokens, or those of the other are."""
        clip, sd = landscapes.TinyClip(), StableDiffusion.load(model, "float32")
        if sd.model.tokens is None:
            raise InputError(
                f"bench tokens: the pictures of {model} are no tokens; bench solvers compares its samplers"
            )
        self.diffusion = sd.model.tokens
        self.tokens, self.continuous = Measured(sd, clip, work, guidance), None
        if continuous:
            beside = StableDiffusion.load(continuous, "float32")
            if beside.model.tokens is not None or beside.model.classes is not None:
                raise InputError(f"--continuous {continuous}: name one with prompts whose pictures are latents")
            self.continuous = Measured(beside, clip, work)

    def takes(self, point: Point) -> bool:
        """Tells whether the model has what a point needs: samplers that mask need a mask."""
        return point.sampler in self.diffusion.samplers

    def all_points(self, points: Sequence[Point]) -> Iterator[tuple[Measured, Point]]:
        """Yields points of tokens, then those of latents, each with its checkpoint."""
        yield from ((self.tokens, point) for point in points)
        if self.continuous:
            yield from ((self.continuous, point) for point in self.of_latents)

    @cached_property
    def of_latents(self) -> list[Point]:
        """Returns points of latents, each in the steps whose cost is the nearest to that of one of EQUAL."""
        assert self.continuous is not None
        a_step = self.continuous.macs_of_call(Point(CONTINUOUS, 1))
        costs = [point.steps * self.tokens.macs_of_call(point) for point in EQUAL if point.steps and self.takes(point)]
        return [Point(CONTINUOUS, steps) for steps in dict.fromkeys(max(1, round(cost / a_step)) for cost in costs)]

    # ------------------------------------------------------------------------------------------ results

    def results(self, points: Sequence[Point], images: int) -> dict[str, Any]:
        """Returns the results of all points whose blocks are all finished."""
        encoded = [self._encoded(picture) for picture in self._true[:images]]
        values: dict[str, Any] = {"images": images, "true_pictures": self._frechet(self._true_features[:images])}
        values |= {"through_tokens": self.through_tokens(encoded), "bits": self.bits(encoded)}
        values |= self._of_model(self.tokens, points, images)
        if self.continuous:
            values["continuous"] = self._of_model(self.continuous, self.of_latents, images)
            values["call_seconds"], values["continuous"]["call_seconds"] = self.call_seconds()
        return values

    def call_seconds(self) -> list[dict[str, float | None]]:
        """Returns the seconds of a call of tokens and of one of latents, run in turn: median, least and greatest."""
        assert self.continuous is not None
        compared = (self.tokens, Point(calls.MASKGIT, 4)), (self.continuous, Point(CONTINUOUS, 4))
        seconds: list[list[float]] = [[], []]
        for _ in range(_ROUNDS):
            for (measured, point), of_one in zip(compared, seconds, strict=True):
                (result,) = measured.sd.stream([measured.request(point, 0)], batch=1)
                of_one.append(sum(result.seconds) / result.evaluations)
        return [spread(of_one) for of_one in seconds]

    def _of_model(self, measured: Measured, points: Sequence[Point], images: int) -> dict[str, Any]:
        return {
            "model": measured.sd.model.name,
            "hash": measured.sd.model.hash,
            "size": measured.side,
            "guidance": measured.guidance,
            "points": [self._values(measured, *finished) for finished in measured.finished(points, images)],
        }

    def _values(self, measured: Measured, point: Point, arrays: blocks.Arrays) -> dict[str, Any]:
        """Returns a point with its calls, cost, truth and Frechet distance."""
        calls_of_a_picture = float(arrays["calls"].mean())
        return point._asdict() | {
            "calls": round(calls_of_a_picture, 2),
            "full_calls": round(float(arrays["full"].mean()), 2),
            "macs": round(calls_of_a_picture * measured.macs_of_call(point)),
            "truth": Share(int(arrays["true"].sum()), len(arrays["true"])).to_json(),
            "frechet": self._frechet(arrays["features"]),
        }

    def bits(self, encoded: Sequence[mx.array]) -> dict[str, float]:
        """Returns the bound of true pictures' tokens with their captions, in bits of one and of a channel of a pixel.

        The mean over the pictures, each with _BOUND_STEPS steps of the schedule; without guidance.
        """
        model = self.diffusion
        alphas, every = schedules.alphas(model.schedule, model.steps), max(1, model.steps // _BOUND_STEPS)
        sampled, rng = range(every // 2 + 1, model.steps + 1, every), np.random.default_rng(0)
        bounds = []
        for picture, claim in zip(encoded, claims(), strict=False):
            tokens = np.array(picture, np.int64)
            predict = self._prediction(claim.caption, tokens.shape)
            bounds.append(bits_per_token(predict, model.corruption, alphas, tokens.reshape(1, -1), rng, sampled)[0])
        of_token = float(np.mean(bounds))
        of_channel = of_token * tokens.size / (3 * self.tokens.side**2)
        codes = round(math.log2(model.corruption.tokens), 3)
        return {"per_token": round(of_token, 3), "per_channel": round(of_channel, 4), "codes": codes}

    def _prediction(self, caption: str, shape: tuple[int, ...]) -> Predict:
        """Returns what predicts the tokens of a picture of a caption, without guidance, as the bound asks for it."""
        sd, model = self.tokens.sd, self.diffusion
        context = conditions_of(sd.model, [sd.complete(Request(prompt=caption, seed=0, guidance=1.0))]).context

        def predict(x: Tokens, step: int, alpha: float) -> Floats:
            """Returns logarithms of probabilities (1, N, S) of tokens (1, N)."""
            time = mx.array(step / model.steps)
            scores = model.network(mx.array(x.reshape(shape).astype(np.int32)), time, context)[0]
            return model.corruption.over_states(np.array(scores, np.float64).reshape(1, x.shape[1], -1))

        return predict

    def _encoded(self, picture: Image.Image) -> mx.array:
        """Returns the tokens (1, h, w) of a picture."""
        vae = self.tokens.sd.model.vae
        return vae.tokens(vae.encode(mx.array(np.asarray(picture, np.float32))[None] / 127.5 - 1)[0])

    def through_tokens(self, encoded: Sequence[mx.array]) -> dict[str, Any]:
        """Returns truth and Frechet distance of the first true pictures' tokens, decoded."""
        decoded: list[Image.Image] = []
        for tokens in encoded:
            colours = self.tokens.sd.model.vae.decode_tokens(tokens)
            decoded.append(Image.fromarray(np.array(mx.clip(colours[0] * 127.5 + 128, 0, 255).astype(mx.uint8))))
        true = sum(judge(picture, claim).true for picture, claim in zip(decoded, claims(), strict=False))
        return {
            "truth": Share(true, len(encoded)).to_json(),
            "frechet": self._frechet(self.tokens.clip.pictures(decoded)),
        }

    def _frechet(self, features: scores.Features) -> float:
        return round(scores.frechet(scores.statistics(features), self._reference), 3)

    @cached_property
    def _reference(self) -> scores.Statistics:
        return scores.statistics(self._true_features)

    @cached_property
    def _true_features(self) -> scores.Features:
        return self.tokens.clip.pictures(self._true)

    @cached_property
    def _true(self) -> list[Image.Image]:
        return [claim.true_picture(self.tokens.side) for claim in claims()]


if __name__ == "__main__":
    sys.exit(main())
