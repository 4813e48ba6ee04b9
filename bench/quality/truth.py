"""The share of captions that come true, by rules on pixels, of the embedded checkpoint: python -m bench truth.

The captions name one or two things with their colours and sides, the sky, the ground, the sun or the moon. The same
500 captions and seeds serve every model and setting, so that two runs are compared in pairs.
"""

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from mlx_sd import StableDiffusion
from mlx_sd.core.errors import InputError
from mlx_sd.core.files import atomic_file, check_writable
from mlx_sd.ranks.exchange import Ranks
from mlx_sd.request import MODEL, Request

from .. import arguments, dealing, results
from ..machine import describe
from ..tiny.claims import COUNT, Claim, claims, swapped
from .truth_judge import Verdict, judge, shares

_EXAMPLES = """examples:
  python -m bench truth --json truth.json --sheet false.png
  python -m bench truth --captions 100 --deepcache 3
  python -m bench truth --rules
  mlx.launch -n 4 -- python -m bench truth --steps 10 --json truth.json"""
_NUMBERS = {"steps": int, "width": int, "height": int, "guidance": float, "adaptive_guidance": float}
_NUMBERS |= {"unconditional_refresh": int, "temperature": float}
_TEXTS = ("sampler", "schedule", "deepcache", "tgate", "guidance_interval", "speed", "quantize")
_CELL, _COLUMNS = 128, 8  # of the contact sheet


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    p = arguments.parser("truth", __doc__, _EXAMPLES)
    p.add_argument("--model", default=MODEL, help=f"a checkpoint of the embedded world, default {MODEL}")
    p.add_argument("--captions", type=int, default=COUNT, help=f"the first N captions, default all {COUNT}")
    p.add_argument("--seed", type=int, default=0, help="of the first caption's picture; the next takes one more")
    p.add_argument("--batch", type=int, default=8, help="pictures computed together, default 8")
    p.add_argument("--rules", action="store_true", help="judge true pictures, and true pictures of changed captions")
    p.add_argument("--sheet", type=Path, metavar="PNG", help="write a contact sheet of the pictures that are not true")
    for name, kind in {**_NUMBERS, **dict.fromkeys(_TEXTS, str)}.items():
        p.add_argument(f"--{name.replace('_', '-')}", type=kind, help="as of python -m mlx_sd.generate")
    arguments.add_json(p)
    options = p.parse_args(argv)
    return dealing.run("truth", lambda ranks: _truth(options, ranks))


def _truth(options: argparse.Namespace, ranks: Ranks) -> None:
    if not 1 <= options.captions <= COUNT or options.batch < 1:
        raise InputError(f"--captions must be from 1 to {COUNT}, and --batch at least 1")
    if options.sheet and ranks.rank == 0:
        check_writable(options.sheet.parent, "--sheet", must_exist=True)
    selection = claims()[: options.captions]
    if options.rules:
        if ranks.rank == 0:
            measured = rules_measured(selection, options.width or 256, options.height or options.width or 256)
            results.report(measured | {"machine": describe()}, options.json)
        return
    settings = {name: value for name in (*_NUMBERS, *_TEXTS) if (value := getattr(options, name)) is not None}
    sd = StableDiffusion.load(options.model, "float32", quantize=settings.pop("quantize", None))
    dealing.check_same(ranks, sd, (options.captions, options.seed, options.batch, settings))
    pictures, machine = pictures_of(sd, selection, options.seed, options.batch, settings, ranks), dealing.machine(ranks)
    if ranks.rank:
        return
    verdicts = [judge(picture, claim) for picture, claim in zip(pictures, selection, strict=True)]
    if options.sheet:
        with atomic_file(options.sheet) as file:
            _sheet(pictures, verdicts).save(file, "PNG")
    measured = {"model": options.model, "hash": sd.model.hash, "captions": len(selection)}
    measured |= {"seed": options.seed, "settings": settings, "size": list(pictures[0].size)}
    measured |= {"shares": shares(zip(selection, verdicts, strict=True)), "true": [int(v.true) for v in verdicts]}
    measured["false"] = [claim.caption for claim, v in zip(selection, verdicts, strict=True) if not v.true]
    results.report(measured | machine, options.json)


def pictures_of(
    sd: StableDiffusion,
    selection: Sequence[Claim],
    seed: int,
    batch: int,
    settings: dict[str, Any],
    ranks: Ranks | None = None,
) -> list[Image.Image]:
    """Makes a picture of each caption; the picture of caption i has seed `seed` + i, whatever the batch."""
    requests = [Request(prompt=claim.caption, seed=seed + i, **settings) for i, claim in enumerate(selection)]
    pictures: list[Image.Image] = []
    with tqdm(desc="truth", total=len(requests), unit="picture", disable=not sys.stderr.isatty()) as bar:
        for together in dealing.make(ranks or Ranks(), sd, requests, batch):
            pictures += map(Image.fromarray, together.pixels)
            bar.update(len(together.indices))
    return pictures


def rules_measured(selection: Sequence[Claim], width: int, height: int) -> dict[str, Any]:
    """Returns shares of true pictures that the rules call true, and call true to changed captions."""
    pictures = [claim.true_picture(width, height) for claim in selection]
    verdicts = [judge(picture, claim) for picture, claim in zip(pictures, selection, strict=True)]
    changed = [swapped(claim, index) for index, claim in enumerate(selection)]
    wrong: dict[str, list[bool]] = {}
    for picture, (part, claim) in zip(pictures, changed, strict=True):
        wrong.setdefault(part, []).append(judge(picture, claim).true)
    accepted = {part: {"true": sum(values), "count": len(values)} for part, values in sorted(wrong.items())}
    return {
        "size": [width, height],
        "shares": shares(zip(selection, verdicts, strict=True)),
        "changed_captions": accepted,
    }


def _sheet(pictures: Sequence[Image.Image], verdicts: Sequence[Verdict]) -> Image.Image:
    """Returns the pictures that are not true, side by side in the order of the captions."""
    shown = [picture for picture, verdict in zip(pictures, verdicts, strict=True) if not verdict.true]
    rows = max(-(-len(shown) // _COLUMNS), 1)
    sheet = Image.new("RGB", (_COLUMNS * _CELL, rows * _CELL), (255, 255, 255))
    for (row, column), picture in zip(itertools.product(range(rows), range(_COLUMNS)), shown, strict=False):
        sheet.paste(picture.resize((_CELL, _CELL), Image.Resampling.LANCZOS), (column * _CELL, row * _CELL))
    return sheet


if __name__ == "__main__":
    sys.exit(main())
