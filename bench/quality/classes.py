"""Quality of the embedded class-conditional checkpoint, beside true pictures of each class: python -m bench classes."""

import argparse
import itertools
import random
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_sd import StableDiffusion
from mlx_sd.ranks.exchange import Ranks
from mlx_sd.request import Request

from .. import arguments, dealing, results
from ..tiny.scenes import LABELS, label, render, sample_scene
from . import scores
from .landscapes import TinyClip

_REFERENCE = 200  # true pictures of each class that pictures are compared with
_STEPS, _BATCH = 25, 10


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    p = arguments.parser("classes", __doc__)
    p.add_argument("--model", default="tiny-classes", help="default: tiny-classes")
    p.add_argument("--guidance", type=float, action="append", help="may be repeated, default 1 and 3")
    p.add_argument("--count", type=int, default=50, help="pictures of each class, default 50")
    arguments.add_json(p)
    options = p.parse_args(argv)
    return dealing.run("classes", lambda ranks: _classes(options, ranks))


def _classes(options: argparse.Namespace, ranks: Ranks) -> None:
    sd, count = StableDiffusion.load(options.model, "float32"), options.count
    guidances = options.guidance or [1.0, 3.0]
    dealing.check_same(ranks, sd, (count, guidances))
    pictures = {guidance: pictures_of(sd, guidance, count, ranks) for guidance in guidances}
    machine = dealing.machine(ranks)
    if ranks.rank:
        return
    clip = TinyClip()
    reference = {name: clip.images(true_pictures(index, _REFERENCE, 0)) for index, name in enumerate(LABELS)}
    comparison = ClassComparison(reference)
    held_out = {name: clip.images(true_pictures(index, count, _REFERENCE)) for index, name in enumerate(LABELS)}
    runs = [{"made": "true", **comparison.measure(held_out)}]
    for guidance, of_class in pictures.items():
        features = {name: clip.images(mx.array(pixels / 127.5 - 1)) for name, pixels in of_class.items()}
        runs.append({"made": f"guidance {guidance:g}", **comparison.measure(features)})
    model = {"model": options.model, "hash": sd.model.hash, "steps": _STEPS, "count": count, "reference": _REFERENCE}
    results.report(model | {"runs": runs} | machine, options.json)


def pictures_of(
    sd: StableDiffusion, guidance: float, count: int, ranks: Ranks | None = None
) -> dict[str, NDArray[np.float32]]:
    """Makes pictures (count, H, W, 3) of each class with the seeds from 0; pixels are from 0 to 255."""
    request = Request(steps=_STEPS, guidance=guidance)
    requests = [request.with_values(class_label=name, seed=seed) for name in LABELS for seed in range(count)]
    batches = dealing.make(ranks or Ranks(), sd, requests, _BATCH)
    pixels = np.concatenate([batch.pixels for batch in batches]).astype(np.float32)
    return dict(zip(LABELS, np.split(pixels, len(LABELS)), strict=True))


def true_pictures(index: int, count: int, skip: int) -> mx.array:
    """Paints (count, 128, 128, 3) in [-1, 1] of a class, of scenes not trained on, after the first `skip`."""
    scenes = (sample_scene(random.Random(seed)) for seed in itertools.count())
    of_class = itertools.islice((scene for scene in scenes if label(scene) == index), skip, skip + count)
    return mx.array(np.stack([np.asarray(render(scene, 128), np.float32) for scene in of_class])) / 127.5 - 1


class ClassComparison:
    """Compares pictures of each class with true ones, in the features of the small CLIP."""

    def __init__(self, reference: Mapping[str, scores.Features]):
        """Fits the true pictures' features, by class; classes are recognised as Gaussians of one covariance."""
        self._classes = {name: scores.statistics(features) for name, features in reference.items()}
        self._all = scores.statistics(np.concatenate([*reference.values()]))
        self._means = np.stack([fitted.mean for fitted in self._classes.values()])
        within = np.concatenate([features - features.mean(0) for features in reference.values()]).astype(np.float64)
        self._inverse = np.linalg.pinv(np.cov(within, rowvar=False))

    def measure(self, classes: Mapping[str, scores.Features]) -> dict[str, Any]:
        """Returns Frechet distances to true pictures, of all and by class, and the share recognised as their class."""
        names = list(self._classes)
        distances = {n: scores.frechet(scores.statistics(f), self._classes[n]) for n, f in classes.items()}
        recognised = {n: float((self._nearest(f) == names.index(n)).mean()) for n, f in classes.items()}
        fitted = scores.statistics(np.concatenate([*classes.values()]))
        return {
            "frechet_together": round(scores.frechet(fitted, self._all), 2),
            "frechet": {name: round(value, 2) for name, value in distances.items()},
            "recognised": {name: round(value, 3) for name, value in recognised.items()},
        }

    def _nearest(self, features: scores.Features) -> NDArray[np.intp]:
        difference = features[:, None].astype(np.float64) - self._means
        nearest: NDArray[np.intp] = np.einsum("nci,ij,ncj->nc", difference, self._inverse, difference).argmin(1)
        return nearest


if __name__ == "__main__":
    sys.exit(main())
