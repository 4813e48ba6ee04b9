"""Caching beside pruning and distillation, on the embedded checkpoint: python -m bench distillation.

The checkpoint as it is, with DeepCache, in fewer steps, pruned and trained again, as a smaller network from scratch
(BK-SDM's shape), and as a student of few steps (TCD). All trainings are the project's own, on the same drawn pictures,
with the same number of steps and pictures in a step. Each method has the same captions and seeds. Truth is by the rules
of bench truth, the Frechet distance is to true pictures of the same captions.

Trained checkpoints and pictures are kept in --work: a run may be stopped at any time. Several ranks deal out the
pictures of each step, so that a step has others than in one process, and trained networks differ.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from mlx_sd import StableDiffusion
from mlx_sd.core.errors import InputError
from mlx_sd.cost import cost_of
from mlx_sd.ranks.exchange import Ranks
from mlx_sd.request import MODEL, Request
from mlx_sd.train.kind_table import KINDS
from mlx_sd.train.run import settings_file
from mlx_sd.train.session import Session

from .. import arguments, dealing, results
from ..adapters import drawing
from ..quality import blocks, scores
from ..quality.landscapes import TinyClip
from ..quality.quality import spread
from ..quality.truth_judge import Share, judge
from ..tiny.claims import COUNT, Claim, claims
from .methods import METHODS, TRAININGS, Method

_EXAMPLES = """examples:
  python -m bench distillation --work work --json distillation.json
  python -m bench distillation --work trial --steps 4 --batch 2 --pictures 16 --captions 16
  mlx.launch -n 2 -- python -m bench distillation --work work --json distillation.json
"""
SEEDS = range(9_000_000, 9_400_000)  # of the scenes that are learned from, which no adapter and no measure has
MOST_PICTURES = 200_000  # a scene whose caption says nothing is not drawn
_BATCH = 8  # pictures through the UNet together


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    p = arguments.parser("distillation", __doc__, _EXAMPLES)
    p.add_argument("--work", type=Path, default=Path("distillation-work"), metavar="DIR", help="what was made so far")
    p.add_argument("--pictures", type=int, default=2048, help="drawn pictures that all trainings share")
    p.add_argument("--steps", type=int, default=1500, help="steps of each training")
    p.add_argument("--batch", type=int, default=8, help="pictures of a step")
    p.add_argument("--captions", type=int, default=COUNT, help=f"pictures of each method, default {COUNT}")
    p.add_argument("--seed", type=int, default=0, help="of the trainings, and of the first picture of each method")
    arguments.add_json(p)
    options = p.parse_args(argv)
    return dealing.run("distillation", lambda ranks: _distillation(options, ranks))


def _distillation(options: argparse.Namespace, ranks: Ranks) -> None:
    if not 2 <= options.captions <= COUNT:
        raise InputError(f"--captions must be from 2 to {COUNT}, not {options.captions}")
    for name in ("pictures", "steps", "batch"):
        if getattr(options, name) < 1:
            raise InputError(f"--{name} must be at least 1, not {getattr(options, name)}")
    if options.pictures > MOST_PICTURES:
        raise InputError(f"--pictures must be at most {MOST_PICTURES}, not {options.pictures}")
    if options.batch % ranks.size:
        raise InputError(f"--batch must be a multiple of the {ranks.size} ranks, not {options.batch}")
    if options.work.exists() and not options.work.is_dir():
        raise InputError(f"--work {options.work} is not a folder")
    trainings = Trainings(options.work, options.pictures, options.steps, options.batch, options.seed, ranks)
    costs = {name: trainings.make(name) for name in TRAININGS}
    selection = claims()[: options.captions]
    clip, true = TinyClip(), None
    measured = []
    for method in METHODS:
        model = str(trainings.folder(method.training)) if method.training else MODEL
        pictures = Pictures(options.work, method, model, selection, options.seed, ranks)
        if ranks.rank:
            continue
        images, seconds = pictures.stored()
        true = true or scores.statistics(clip.pictures([claim.true_picture(images[0].width) for claim in selection]))
        features, texts = clip.pictures(images), clip.texts([claim.caption for claim in selection])
        verdicts = [judge(image, claim) for image, claim in zip(images, selection, strict=True)]
        measured.append(
            {
                "name": method.name,
                "settings": method.settings,
                "training": method.training,
                "macs": pictures.macs,
                "seconds": spread(seconds),
                "truth": Share(sum(verdict.true for verdict in verdicts), len(verdicts)).to_json(),
                "frechet": round(scores.frechet(scores.statistics(features), true), 3),
                "clip_score": round(scores.clip_score(features, texts), 2),
            }
        )
    machine = dealing.machine(ranks)
    if ranks.rank == 0:
        drawn = {"pictures": options.pictures, "steps": options.steps, "batch": options.batch}
        values = {"model": MODEL, "captions": len(selection), "seed": options.seed, "training": drawn | {"cost": costs}}
        results.report(values | {"methods": measured} | machine, options.json)


class Trainings:
    """The trained checkpoints, each made when it is asked for and kept in a folder."""

    def __init__(self, work: Path, pictures: int, steps: int, batch: int, seed: int, ranks: Ranks) -> None:
        sd = StableDiffusion.load(MODEL, "float32")
        request = sd.complete(Request(prompt="", seed=0))
        side = request.width
        assert side is not None  # of a completed request
        self.work, self.ranks, data = work, ranks, work / f"pictures-{pictures}"
        self.settings: dict[str, Any] = {"data": str(data), "steps": steps, "seed": seed}
        self.settings |= {"batch": batch // ranks.size, "accumulate": ranks.size}  # which ranks deal out
        self.settings |= {"schedule": "cosine", "validate_every": 0, "cache": str(work / "cache")}
        self._name = f"{pictures}-{steps}-{batch}-{seed}"
        if ranks.rank == 0:
            work.mkdir(parents=True, exist_ok=True)
            if not data.is_dir():
                drawing.write(data, drawing.world, SEEDS, pictures, side)
        ranks.share_text("")  # the others wait for the pictures

    def folder(self, name: str) -> Path:
        """Returns where the checkpoint of a training is, or will be."""
        return self.work / f"{name.replace(' ', '-').replace(',', '').replace('%', '')}-{self._name}"

    def make(self, name: str) -> dict[str, float]:
        """Trains, unless that is done, and returns what it cost: its seconds, those of earlier tries not counted."""
        training, folder = TRAININGS[name], self.folder(name)
        record = folder / "cost.json"
        if record.is_file():
            return {"seconds": results.read(record)["seconds"]}
        settings = KINDS[training.kind].settings().with_values(**self.settings | training.settings)
        start = time.monotonic()
        run = folder.with_name(f"{folder.name}-training")
        with tqdm(desc=name, total=settings.steps, unit="step", disable=not sys.stderr.isatty()) as bar:

            def show(progress: Any) -> None:
                """Moves the progress bar on."""
                bar.update(progress.step - bar.n)

            resume = bool(dealing.agree(self.ranks, (run / settings_file.NAME).is_file()))
            Session(training.kind, settings, folder, run, resume=resume, show=show, ranks=self.ranks).run()
        cost = {"seconds": round(time.monotonic() - start, 1)}
        if self.ranks.rank == 0:
            results.write(record, cost)
        self.ranks.share_text("")
        return cost


class Pictures:
    """The pictures of one method, made a few together; these and their seconds are kept in a folder of rank 0."""

    def __init__(
        self, work: Path, method: Method, model: str, selection: Sequence[Claim], seed: int, ranks: Ranks
    ) -> None:
        self._sd = StableDiffusion.load(model, "float32")
        requests = [Request(prompt=c.caption, seed=seed + i, **method.settings) for i, c in enumerate(selection)]
        dealing.check_same(ranks, self._sd, (seed, len(selection), method))
        cost = cost_of(self._sd.model, requests[0])
        assert cost is not None  # no method decides by the picture what it computes
        self.macs = cost.macs
        folder = work / f"{self._sd.model.hash}-{method.name.replace(' ', '-').replace(',', '')}-{seed}"
        if ranks.rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
        parts = [requests[i : i + _BATCH] for i in range(0, len(requests), _BATCH)]
        # Pictures of a shorter last part were computed together with others than those of a whole one.
        self._jobs = {
            folder / f"{i * _BATCH:05}-{len(part)}.npz": partial(self._make, part) for i, part in enumerate(parts)
        }
        with tqdm(desc=method.name, total=len(parts), unit="batch", disable=not sys.stderr.isatty()) as bar:
            for count in blocks.make(ranks, self._jobs):
                bar.update(count)

    def stored(self) -> tuple[list[Image.Image], NDArray[np.float32]]:
        """Returns the pictures and the seconds of each, on rank 0."""
        arrays = blocks.concatenate([blocks.load(*job) for job in self._jobs.items()])
        return [Image.fromarray(pixels) for pixels in arrays["pixels"]], arrays["seconds"]

    def _make(self, requests: Sequence[Request]) -> dict[str, Any]:
        (batch,) = dealing.make(Ranks(), self._sd, requests, len(requests))
        return {"pixels": batch.pixels, "seconds": np.full(len(requests), batch.cost["seconds"], np.float32)}


if __name__ == "__main__":
    sys.exit(main())
