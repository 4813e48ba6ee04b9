"""Quality of pictures with DeepCache and T-GATE: PSNR, SSIM, CLIP score, FID, Inception Score: python -m bench quality.

Every prompt is painted from the same seeds by the full loop and by each other one. PSNR and SSIM of pictures and the
root mean square error of final latents are against the full loop. The Frechet distance is to the full loop's pictures
and to those of a folder; with --inception it is FID. Distances between few pictures are biased upwards: compare them
only at the same number of pictures, and with the distance between two sets of true pictures.

For the embedded checkpoint the features are those of the small CLIP that trained its text encoder, with no download.
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
from mlx_sd.core.errors import InputError
from mlx_sd.ranks.exchange import Ranks
from mlx_sd.request import Request

from .. import arguments, dealing, prompts, results
from ..machine import use
from ..speed.loops import Loop
from . import fidelity, scores
from .extractors import Clip, Extractor, FeatureCache, Inception
from .gallery import Gallery
from .landscapes import TinyClip

_EXAMPLES = """examples:
  python -m bench quality --prompts prompts.txt --loop 3 --loop 5/tgate:10 --json quality.json
  python -m bench quality --model stable-diffusion-v1-5/stable-diffusion-v1-5 --prompts coco.txt --device gpu \\
    --steps 50 --loop 3 --loop 5 --clip openai/clip-vit-large-patch14 --inception --reference coco/val2017
  mlx.launch -n 4 -- python -m bench quality --prompts prompts.txt --count 20 --steps 4
"""
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    p, as_of = arguments.parser("quality", __doc__, _EXAMPLES), "as of python -m mlx_sd.generate"
    p.add_argument("--model", default="tiny", help="as python -m mlx_sd.generate takes it")
    p.add_argument("--prompts", type=Path, required=True, metavar="FILE", help="one prompt a line")
    p.add_argument("--loop", action="append", default=[], help="N, tgate:GATE or N/tgate:GATE, beside the full loop")
    p.add_argument("--count", type=int, default=1, help="pictures of each prompt, with seeds one after the other")
    p.add_argument("--seed", type=int, default=0, help="of the first")
    p.add_argument("--steps", type=int, help=as_of)
    p.add_argument("--guidance", type=float, help=as_of)
    p.add_argument("--sampler", help=as_of)
    p.add_argument("--width", type=int, help=as_of)
    p.add_argument("--height", type=int, help=as_of)
    p.add_argument("--batch", type=int, default=1, help="pictures through the UNet together")
    p.add_argument("--dtype", choices=tuple(DTYPES), help=as_of)
    p.add_argument("--device", choices=("cpu", "gpu"), help="default: MLX's")
    p.add_argument("--clip", metavar="MODEL", help="CLIP score, by a CLIP of the hub or of a folder")
    p.add_argument("--inception", action="store_true", help="FID and Inception Score (pytorch-fid; a download)")
    p.add_argument("--reference", type=Path, metavar="FOLDER", help="pictures to measure the distance to")
    p.add_argument("--work", type=Path, default=Path("quality-work"), metavar="DIR", help="pictures made so far")
    arguments.add_json(p)
    options = p.parse_args(argv)
    return dealing.run("quality", lambda ranks: _quality(options, ranks))


def _quality(options: argparse.Namespace, ranks: Ranks) -> None:
    use(options.device)
    texts, reference = _prompts(options.prompts), _reference(options) if ranks.rank == 0 else []
    loops = list(dict.fromkeys([Loop(), *map(Loop.parse, options.loop)]))
    _check(options, len(texts) * options.count)
    judges = ranks.rank == 0
    inception = Inception() if options.inception and judges else None
    clip = Clip(options.clip) if options.clip and judges else None
    sd = StableDiffusion.load(options.model, options.dtype)
    settings = {name: getattr(options, name) for name in ("steps", "guidance", "sampler", "width", "height")}
    seeds = range(options.seed, options.seed + options.count)
    gallery = Gallery(sd, texts, seeds, options.work, options.batch, Request(**settings), ranks)
    dealing.check_same(ranks, sd, (texts, seeds, options.batch, gallery.settings, sd.model.dtype, loops))
    for loop in loops:
        gallery.check(loop)
    with tqdm(total=len(loops) * len(gallery), unit="picture", disable=not sys.stderr.isatty()) as bar:
        for loop in loops:
            for count in gallery.make(loop):
                bar.update(count)
    machine = dealing.machine(ranks)
    if not judges:
        return
    tiny_clip = TinyClip() if options.model == "tiny" else None
    cache = FeatureCache(options.work / "features")
    comparison = Comparison(gallery, cache, inception or tiny_clip, clip or tiny_clip, reference)
    results.report(comparison.measure(loops) | machine, options.json)


def _prompts(path: Path) -> list[str]:
    texts = prompts.read(path)
    for i, text in enumerate(texts):
        if text in texts[:i]:
            raise InputError(f"{path}: {text!r} is there twice; raise --count for more pictures of a prompt")
    return texts


def _reference(options: argparse.Namespace) -> list[Path]:
    """The pictures of --reference, none without it."""
    folder = options.reference
    if folder is None:
        return []
    if not options.inception and options.model != "tiny":
        raise InputError("--reference is what the FID is measured to; add --inception")
    if not folder.is_dir():
        raise InputError(f"--reference {folder}: there is no such folder")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if len(paths) < 2:
        raise InputError(f"--reference {folder}: a covariance needs 2 pictures, here are {len(paths)} of {SUFFIXES}")
    return paths


def _check(options: argparse.Namespace, pictures: int) -> None:
    if options.count < 1 or options.batch < 1:
        raise InputError(f"--count and --batch must be at least 1, not {options.count} and {options.batch}")
    minimum, measure = 1, ""
    if options.inception:
        minimum, measure = scores.SPLITS, f"the Inception Score, a mean over {scores.SPLITS} splits,"
    elif options.model == "tiny":
        minimum, measure = 2, "a covariance"
    if pictures < minimum:
        raise InputError(f"{measure} needs at least {minimum} pictures, not {pictures}; add prompts or raise --count")
    if options.work.exists() and not options.work.is_dir():
        raise InputError(f"--work {options.work} is not a folder")
    if options.json and not options.json.parent.is_dir():
        raise InputError(f"--json {options.json}: there is no folder {options.json.parent}")


class Comparison:
    """Measures the loops of a gallery against its full loop and against reference pictures."""

    def __init__(
        self,
        gallery: Gallery,
        cache: FeatureCache,
        extractor: Extractor | None = None,
        clip: Clip | TinyClip | None = None,
        reference: Sequence[Path] = (),
    ):
        """Takes a gallery whose pictures are all made.

        extractor: of the features that Frechet distances compare; clip: for the CLIP score; reference: picture files.
        """
        self.gallery, self.cache, self.extractor, self.clip = gallery, cache, extractor, clip
        self.reference = reference

    def measure(self, loops: Sequence[Loop]) -> results.Results:
        """Measures the loops; spreads are over pictures."""
        model, gallery = self.gallery.sd.model, self.gallery
        if self.extractor:
            self._warn_of_few_pictures(self.extractor)
        return {
            "model": model.name,
            "model_hash": model.hash,
            "dtype": str(model.dtype).rpartition(".")[2],
            **gallery.shared_settings,
            "prompts": len(gallery.prompts),
            "seeds": [gallery.seeds.start, gallery.seeds.stop - 1],
            "pictures": len(gallery),
            "reference_pictures": len(self.reference),
            "frechet_by": self.extractor and self.extractor.name,
            "clip_score_by": self.clip and self.clip.name,
            "loops": [
                {
                    "loop": str(loop),
                    **self.cost(loop),
                    **self.errors(loop),
                    **self.clip_score(loop),
                    **self.distances(loop),
                }
                for loop in loops
            ],
        }

    def cost(self, loop: Loop) -> results.Results:
        """Returns the evaluations of the network, the number of full ones, and the seconds of a picture."""
        pictures = self.gallery.metadata(loop)
        spreads = {name: spread([picture[name] for picture in pictures]) for name in ("full_evaluations", "seconds")}
        return {"evaluations": pictures[0]["evaluations"], **spreads}

    def errors(self, loop: Loop) -> results.Results:
        """Returns PSNR, SSIM and errors of latents against the full loop; nothing for the full loop itself."""
        if loop == Loop():
            return {}
        pairs = list(zip(self.gallery.pixels(loop), self.gallery.pixels(Loop()), strict=True))
        return {
            "psnr": spread([fidelity.psnr(*pair) for pair in pairs]),
            "ssim": spread([fidelity.ssim(*pair) for pair in pairs]),
            "latent_rms": spread(fidelity.rms(self.gallery.latents(loop), self.gallery.latents(Loop()))),
        }

    def clip_score(self, loop: Loop) -> results.Results:
        """Returns the CLIP score with the prompts; nothing without a CLIP."""
        if not self.clip:
            return {}
        images, texts = self.cache.features(self.clip, self.gallery.paths(loop)), self.clip.texts(self.gallery.prompts)
        return {"clip_score": round(scores.clip_score(images, np.tile(texts, (len(self.gallery.seeds), 1))), 2)}

    def distances(self, loop: Loop) -> results.Results:
        """Returns Frechet distances, and the Inception Score of Inception's features; nothing without an extractor."""
        if not self.extractor:
            return {}
        values: results.Results = {}
        features = self.cache.features(self.extractor, self.gallery.paths(loop))
        fitted = scores.statistics(features)
        if loop != Loop():
            full = scores.statistics(self.cache.features(self.extractor, self.gallery.paths(Loop())))
            values["frechet_to_full"] = round(scores.frechet(fitted, full), 3)
        if self.reference:
            reference = self.cache.statistics(self.extractor, self.reference)
            values["frechet_to_reference"] = round(scores.frechet(fitted, reference), 3)
        if isinstance(self.extractor, Inception):
            mean, deviation = scores.inception_score(self.extractor.classes(features))
            values["inception_score"] = {"mean": round(mean, 3), "deviation": round(deviation, 3)}
        return values

    def _warn_of_few_pictures(self, extractor: Extractor) -> None:
        dims = self.cache.features(extractor, self.gallery.paths(Loop())).shape[1]
        fewest = min(len(self.gallery), len(self.reference) or len(self.gallery))
        if fewest <= dims:
            warnings.warn(
                f"a covariance of {dims} features wants {dims + 1} pictures, and there are {fewest}: distances are "
                "biased upwards, and compare only with those of as many",
                stacklevel=2,
            )


def spread(values: Iterable[float]) -> dict[str, float | None]:
    """Returns median, minimum and maximum; None for infinity, the PSNR of a picture with itself."""
    ordered = np.sort(np.asarray(list(values), np.float64))
    numbers = {"median": float(np.median(ordered)), "min": float(ordered[0]), "max": float(ordered[-1])}
    return {name: round(value, 5) if np.isfinite(value) else None for name, value in numbers.items()}


if __name__ == "__main__":
    sys.exit(main())
