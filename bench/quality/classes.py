"""How good the pictures of the embedded classes are, each beside true ones of its class: python -m bench classes."""

import itertools
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_sd import StableDiffusion
from mlx_sd.core import command

from .. import results
from ..machine import describe
from ..tiny.scenes import LABELS, label, render, sample_scene
from . import landscapes, scores

_REFERENCE = 200  # true pictures of each class that others are compared with
_STEPS, _BATCH = 25, 10


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    p = command.Parser(prog="python -m bench classes", description=__doc__)
    p.add_argument("--model", default="tiny-classes", help="default: tiny-classes")
    p.add_argument("--guidance", type=float, action="append", help="may be repeated, default 1 and 3")
    p.add_argument("--count", type=int, default=50, help="pictures of each class, default 50")
    p.add_argument("--json", type=Path, metavar="FILE", help="write the results there, too")
    arguments = p.parse_args(argv)
    scales = arguments.guidance or [1.0, 3.0]
    return command.run("bench classes", lambda: _run(arguments.model, scales, arguments.count, arguments.json))


def _run(model: str, scales: list[float], count: int, path: Path | None) -> None:
    sd = StableDiffusion.load(model, "float32")
    scorer = landscapes.Scorer(sd)
    known = {name: scorer.images(true_pictures(kind, _REFERENCE, 0)) for kind, name in enumerate(LABELS)}
    judge = Judge(known)
    floor = {name: scorer.images(true_pictures(kind, count, _REFERENCE)) for kind, name in enumerate(LABELS)}
    found = {"model": model, "hash": sd.model.hash, "steps": _STEPS, "count": count, "reference": _REFERENCE}
    runs = [{"made": "true", **judge.of(floor)}]
    for scale in scales:
        made = {}
        for name in LABELS:
            how: dict[str, Any] = {"steps": _STEPS, "guidance": scale, "count": count, "batch": _BATCH}
            images = sd.generate(classes=name, **how).images
            made[name] = scorer.images(mx.array(np.stack([np.asarray(i, np.float32) for i in images]) / 127.5 - 1))
        runs.append({"made": f"guidance {scale:g}", **judge.of(made)})
    results.report(found | {"runs": runs, "machine": describe()}, path)


def true_pictures(kind: int, count: int, skip: int) -> mx.array:
    """(count, 128, 128, 3) in [-1, 1] of a class, of scenes that were never trained on, after the first `skip`."""
    scenes = (sample_scene(random.Random(seed)) for seed in itertools.count())
    chosen = itertools.islice((scene for scene in scenes if label(scene) == kind), skip, skip + count)
    return mx.array(np.stack([np.asarray(render(scene), np.float32) for scene in chosen])) / 127.5 - 1


class Judge:
    """Compares pictures of each class with true ones, in the features of the small CLIP."""

    def __init__(self, known: dict[str, scores.Features]):
        """known: features of true pictures by class. Classes are told apart as Gaussians of one covariance."""
        self._known = {name: scores.statistics(features) for name, features in known.items()}
        self._together = scores.statistics(np.concatenate([*known.values()]))
        self._means = np.stack([one.mean for one in self._known.values()])
        within = np.concatenate([features - features.mean(0) for features in known.values()]).astype(np.float64)
        self._inverse = np.linalg.pinv(np.cov(within, rowvar=False))

    def of(self, made: dict[str, scores.Features]) -> dict[str, Any]:
        """The Frechet distance to true ones, together and by class, and the share recognised as of their class."""
        distances = {n: scores.frechet(scores.statistics(f), self._known[n]) for n, f in made.items()}
        recognised = {n: float((self._nearest(f) == list(self._known).index(n)).mean()) for n, f in made.items()}
        together = scores.statistics(np.concatenate([*made.values()]))
        return {
            "frechet_together": round(scores.frechet(together, self._together), 2),
            "frechet": {name: round(value, 2) for name, value in distances.items()},
            "recognised": {name: round(value, 3) for name, value in recognised.items()},
        }

    def _nearest(self, features: scores.Features) -> NDArray[np.intp]:
        away = features[:, None].astype(np.float64) - self._means
        nearest: NDArray[np.intp] = np.einsum("nci,ij,ncj->nc", away, self._inverse, away).argmin(1)
        return nearest


if __name__ == "__main__":
    sys.exit(main())
