"""What `--quantize` costs in quality on the embedded checkpoint: python -m bench quantization.

The same prompts and seeds with each setting against float32 without: PSNR of the pictures, and of the final latents
over their own largest value.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mlx.utils import tree_flatten

from mlx_sd import StableDiffusion
from mlx_sd.core import command

from .. import results
from ..machine import describe
from . import fidelity

_PROMPTS = (
    "a red tent in the center on green grass, under a clear day sky",
    "a sailboat with blue sails on the left on the blue sea, under a sunset sky",
    "a snowman on white snow, a night sky",
    "a green cactus on the right on yellow sand, under a stormy sky",
)
_SETTINGS = ("8:32", "8:64", "8:128", "4:32", "4:64", "4:128", "unet=8,text_encoder=8", "unet=4,text_encoder=4")
_STEPS = 25


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    p = command.Parser(
        prog="python -m bench quantization", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    arguments = p.parse_args(argv)
    return command.run("bench quantization", lambda: _quantization(arguments.json))


def _quantization(output: Path | None) -> None:
    pictures, latents, _ = _made(None)
    settings = []
    for setting in _SETTINGS:
        ours, final, sizes = _made(setting)
        picture = [round(fidelity.psnr(*pair), 2) for pair in zip(ours, pictures, strict=True)]
        latent = [round(fidelity.psnr(a, b, float(np.abs(b).max())), 2) for a, b in zip(final, latents, strict=True)]
        settings.append({"quantize": setting, "picture_psnr": picture, "latent_psnr": latent, "bytes": sizes})
    found = {
        "model": f"tiny, float32, {_STEPS} steps",
        "prompts": _PROMPTS,
        "bytes": _sizes(StableDiffusion.load("tiny", "float32")),
        "settings": settings,
    }
    results.report(found | {"machine": describe()}, output)


def _made(quantize: str | None) -> tuple[list[np.ndarray], list[np.ndarray], dict[str, int]]:
    """Pictures and latents of all prompts, the i-th with seed i, and bytes of the networks."""
    sd = StableDiffusion.load("tiny", "float32", quantize=quantize)
    made = [sd.generate(prompt, steps=_STEPS, seed=seed) for seed, prompt in enumerate(_PROMPTS)]
    pictures = [np.asarray(result.images[0], np.float64) for result in made]
    return pictures, [np.array(result.latents, np.float64) for result in made], _sizes(sd)


def _sizes(sd: StableDiffusion) -> dict[str, int]:
    networks: dict[str, Any] = {"unet": sd.unet, "text_encoder": sd.model.text_encoders[0]}
    found = {}
    for part, network in networks.items():
        parameters: Any = tree_flatten(network.parameters())
        found[part] = sum(array.nbytes for _, array in parameters)
    return found


if __name__ == "__main__":
    sys.exit(main())
