"""The README's picture, six prompts with and without DeepCache: python -m bench showcase docs/landscapes.png."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from mlx_sd import DeepCache, StableDiffusion
from mlx_sd.core import command
from mlx_sd.core.files import atomic_file

from .. import arguments
from ..prompts import SHOWCASE, SHOWCASE_SEED

POLICIES = (None, DeepCache(3), DeepCache(5))
SAMPLER = "dpmpp_2m"  # without fresh noise, of which every fifth full step would leave traces


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    p = arguments.parser("showcase", __doc__)
    p.add_argument("output", type=Path, help="the PNG to write")
    output = p.parse_args(argv).output
    return command.run("bench showcase", lambda: _showcase(output))


def _showcase(output: Path) -> None:
    """One row a policy, one column a prompt."""
    sd = StableDiffusion.load("tiny")
    settings: dict[str, Any] = {"sampler": SAMPLER, "seed": SHOWCASE_SEED, "batch": len(SHOWCASE)}
    rows = [sd.generate(SHOWCASE, deepcache=policy, **settings).images for policy in POLICIES]
    width, height = rows[0][0].size
    sheet = Image.new("RGB", (width * len(SHOWCASE), height * len(rows)))
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            sheet.paste(image, (x * width, y * height))
    with atomic_file(output) as f:
        sheet.save(f, format="PNG")


if __name__ == "__main__":
    sys.exit(main())
