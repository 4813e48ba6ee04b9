"""How good pictures are with each way of reuse: drift, CLIP score, FID, Inception Score: python -m bench quality.

Every prompt is painted from the same seeds by the full loop and by each other one. Drift is against the full loop: PSNR
and SSIM of pictures, root mean square of final latents. The Frechet distance is to the full loop's own pictures and to
those of a folder; with --inception it is FID. Distances between few pictures are biased upwards: they compare only at
one number of pictures, and above the floor that as many true ones set.

The embedded checkpoint is judged by the small CLIP that trained its text encoder, without any download.
"""

import argparse
import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mlx_sd import StableDiffusion
from mlx_sd.checkpoint.model import DTYPES
from mlx_sd.core import command
from mlx_sd.core.errors import InputError

from .. import prompts, results
from ..machine import describe, use
from ..speed.loops import Loop
from . import fidelity, scores
from .extractors import Clip, Inception, Judge, Judged
from .gallery import Gallery
from .landscapes import Scorer

_EXAMPLES = """examples:
  python -m bench quality --prompts prompts.txt --loop 3 --loop 5/tgate:10 --json quality.json
  python -m bench quality --model stable-diffusion-v1-5/stable-diffusion-v1-5 --prompts coco.txt --device gpu \\
    --steps 50 --loop 3 --loop 5 --clip openai/clip-vit-large-patch14 --inception --reference coco/val2017
"""
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    p = command.Parser(
        prog="python -m bench quality",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--model", default="tiny", help="as python -m mlx_sd.generate takes it")
    p.add_argument("--prompts", type=Path, required=True, metavar="FILE", help="one prompt a line")
    p.add_argument("--loop", action="append", default=[], help="N, tgate:GATE or N/tgate:GATE, beside the full loop")
    p.add_argument("--count", type=int, default=1, help="pictures of each prompt, with seeds one after the other")
    p.add_argument("--seed", type=int, default=0, help="of the first")
    p.add_argument("--steps", type=int)
    p.add_argument("--guidance", type=float)
    p.add_argument("--sampler")
    p.add_argument("--width", type=int)
    p.add_argument("--height", type=int)
    p.add_argument("--batch", type=int, default=1, help="pictures through the UNet together")
    p.add_argument("--dtype", choices=tuple(DTYPES))
    p.add_argument("--device", choices=("cpu", "gpu"), help="default: MLX's")
    p.add_argument("--clip", metavar="MODEL", help="CLIP score, by a CLIP of the hub or of a folder")
    p.add_argument("--inception", action="store_true", help="FID and Inception Score (pytorch-fid; a download)")
    p.add_argument("--reference", type=Path, metavar="FOLDER", help="pictures to measure the distance to")
    p.add_argument("--work", type=Path, default=Path("quality-work"), metavar="DIR", help="pictures made so far")
    p.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    arguments = p.parse_args(argv)
    return command.run("bench quality", lambda: _quality(arguments))


def _quality(arguments: argparse.Namespace) -> None:
    use(arguments.device)
    texts, reference = _prompts(arguments.prompts), _reference(arguments)
    loops = list(dict.fromkeys([Loop(), *map(Loop.parse, arguments.loop)]))
    _check(arguments, len(texts) * arguments.count)
    looks, words = Inception() if arguments.inception else None, Clip(arguments.clip) if arguments.clip else None
    sd = StableDiffusion.load(arguments.model, arguments.dtype)
    settings = {name: getattr(arguments, name) for name in ("steps", "guidance", "sampler", "width", "height")}
    seeds = range(arguments.seed, arguments.seed + arguments.count)
    gallery = Gallery(sd, texts, seeds, arguments.work, arguments.batch, **settings)
    for loop in loops:
        gallery.check(loop)
    own = Scorer(sd) if arguments.model == "tiny" else None
    with tqdm(total=len(loops) * len(gallery), unit="picture", disable=not sys.stderr.isatty()) as bar:
        for loop in loops:
            for made in gallery.make(loop):
                bar.update(made)
    bench = Bench(gallery, Judged(arguments.work / "judged"), looks or own, words or own, reference)
    results.report(bench.measured(loops) | {"machine": describe()}, arguments.json)


def _prompts(path: Path) -> list[str]:
    texts = prompts.read(path)
    for i, text in enumerate(texts):
        if text in texts[:i]:
            raise InputError(f"{path}: {text!r} is there twice; raise --count for more pictures of a prompt")
    return texts


def _reference(arguments: argparse.Namespace) -> list[Path]:
    """The pictures of the folder given, none without one."""
    folder = arguments.reference
    if folder is None:
        return []
    if not arguments.inception and arguments.model != "tiny":
        raise InputError("--reference is what the FID is measured to; add --inception")
    if not folder.is_dir():
        raise InputError(f"--reference {folder}: there is no such folder")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if len(found) < 2:
        raise InputError(f"--reference {folder}: a covariance needs 2 pictures, here are {len(found)} of {SUFFIXES}")
    return found


def _check(arguments: argparse.Namespace, pictures: int) -> None:
    if arguments.count < 1 or arguments.batch < 1:
        raise InputError(f"--count and --batch must be at least 1, not {arguments.count} and {arguments.batch}")
    least, what = 1, ""
    if arguments.inception:
        least, what = scores.SPLITS, f"the Inception Score, a mean over {scores.SPLITS} splits,"
    elif arguments.model == "tiny":
        least, what = 2, "a covariance"
    if pictures < least:
        raise InputError(f"{what} needs at least {least} pictures, not {pictures}; add prompts or raise --count")
    if arguments.work.exists() and not arguments.work.is_dir():
        raise InputError(f"--work {arguments.work} is not a folder")
    if arguments.json and not arguments.json.parent.is_dir():
        raise InputError(f"--json {arguments.json}: there is no folder {arguments.json.parent}")


class Bench:
    """Loops of which all pictures are there, and who judges them; the full loop is what others drift from."""

    def __init__(
        self,
        gallery: Gallery,
        judged: Judged,
        looks: Judge | None = None,
        words: Clip | Scorer | None = None,
        reference: Sequence[Path] = (),
    ):
        """looks: whose features distances are of. words: who knows prompts, too. reference: pictures to be near to."""
        self.gallery, self.judged, self.looks, self.words, self._true = gallery, judged, looks, words, reference

    def measured(self, loops: Sequence[Loop]) -> results.Results:
        """All that can be measured; spreads are over pictures."""
        model, made = self.gallery.sd.model, self.gallery
        if self.looks:
            self._warn(self.looks)
        return {
            "model": model.name,
            "model_hash": model.hash,
            "dtype": str(model.dtype).rpartition(".")[2],
            **made.about,
            "prompts": len(made.prompts),
            "seeds": [made.seeds.start, made.seeds.stop - 1],
            "pictures": len(made),
            "reference_pictures": len(self._true),
            "frechet_by": self.looks and self.looks.name,
            "clip_score_by": self.words and self.words.name,
            "loops": [
                {"loop": str(loop), **self.cost(loop), **self.drifted(loop), **self.fit(loop), **self.distance(loop)}
                for loop in loops
            ],
        }

    def cost(self, loop: Loop) -> results.Results:
        """Evaluations of the network, how many of them were full, and seconds of a picture."""
        costs = self.gallery.costs(loop)
        spreads = {name: spread([cost[name] for cost in costs]) for name in ("full_evaluations", "seconds")}
        return {"evaluations": costs[0]["evaluations"], **spreads}

    def drifted(self, loop: Loop) -> results.Results:
        """From the full loop: nothing to say of itself."""
        if loop == Loop():
            return {}
        pairs = list(zip(self.gallery.pixels(loop), self.gallery.pixels(Loop()), strict=True))
        return {
            "psnr": spread([fidelity.psnr(*pair) for pair in pairs]),
            "ssim": spread([fidelity.ssim(*pair) for pair in pairs]),
            "latent_rms": spread(fidelity.rms(self.gallery.latents(loop), self.gallery.latents(Loop()))),
        }

    def fit(self, loop: Loop) -> results.Results:
        """CLIP score with the prompts."""
        if not self.words:
            return {}
        seen, said = self.judged.features(self.words, self.gallery.paths(loop)), self.words.texts(self.gallery.prompts)
        return {"clip_score": round(scores.clip_score(seen, np.tile(said, (len(self.gallery.seeds), 1))), 2)}

    def distance(self, loop: Loop) -> results.Results:
        """Frechet distances, and the Inception Score where the judge has classes."""
        if not self.looks:
            return {}
        found: results.Results = {}
        features, full = (self.judged.features(self.looks, self.gallery.paths(one)) for one in (loop, Loop()))
        fitted = scores.statistics(features)
        if loop != Loop():
            found["frechet_to_full"] = round(scores.frechet(fitted, scores.statistics(full)), 3)
        if self._true:
            true = self.judged.statistics(self.looks, self._true)
            found["frechet_to_reference"] = round(scores.frechet(fitted, true), 3)
        if isinstance(self.looks, Inception):
            mean, deviation = scores.inception_score(self.looks.classes(features))
            found["inception_score"] = {"mean": round(mean, 3), "deviation": round(deviation, 3)}
        return found

    def _warn(self, looks: Judge) -> None:
        dims = self.judged.features(looks, self.gallery.paths(Loop())).shape[1]
        fewest = min(len(self.gallery), len(self._true) or len(self.gallery))
        if fewest <= dims:
            warnings.warn(
                f"a covariance of {dims} features wants {dims + 1} pictures, and there are {fewest}: distances are "
                "biased upwards, and compare only with those of as many",
                stacklevel=2,
            )


def spread(values: Iterable[float]) -> dict[str, float | None]:
    """Median, least and most; None for what is infinite: the PSNR of a picture with itself."""
    known = np.sort(np.asarray(list(values), np.float64))
    told = {"median": float(np.median(known)), "min": float(known[0]), "max": float(known[-1])}
    return {name: round(value, 5) if np.isfinite(value) else None for name, value in told.items()}


if __name__ == "__main__":
    sys.exit(main())
