"""The README's picture, six prompts with and without DeepCache: python -m bench showcase docs/landscapes.png."""

import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from mlx_sd import DeepCache, StableDiffusion
from mlx_sd.core import command
from mlx_sd.core.files import atomic_file

PROMPTS = (
    "a red tent in the center on green grass, under a clear day sky",
    "a sailboat with blue sails on the left on the blue sea, a large sun on the right, under a sunset sky",
    "a house with a yellow roof on the right on white snow, snowy mountains, a small moon on the left, a night sky",
    "a cactus on the left in a sandy desert, rocky mountains, a large sun in the center, a clear day sky",
    "a pine tree on the left and a blue roofed house on the right on green grass, clouds, under a stormy sky",
    "a pink lighthouse in the center on a calm sea, white clouds, under a bright blue sky",
)
POLICIES = (None, DeepCache(3), DeepCache(5))
SEED = 3


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    p = command.Parser(prog="python -m bench showcase", description=__doc__)
    p.add_argument("output", type=Path, help="the PNG to write")
    output = p.parse_args(argv).output
    return command.run("bench showcase", lambda: _show(output))


def _show(output: Path) -> None:
    """One row a policy, one column a prompt."""
    sd = StableDiffusion.load("tiny")
    rows = [sd.generate(PROMPTS, seed=SEED, batch=len(PROMPTS), deepcache=policy).images for policy in POLICIES]
    width, height = rows[0][0].size
    sheet = Image.new("RGB", (width * len(PROMPTS), height * len(rows)))
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            sheet.paste(image, (x * width, y * height))
    with atomic_file(output) as f:
        sheet.save(f, format="PNG")


if __name__ == "__main__":
    sys.exit(main())
