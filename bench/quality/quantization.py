"""Loss of quality with `--quantize` on the embedded checkpoint: python -m bench quantization.

The same prompts and seeds with each setting against float32 without it: PSNR of the pictures, and of the final latents
with their largest magnitude as peak.
"""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from mlx.utils import tree_flatten

from mlx_sd import StableDiffusion

from .. import arguments, results
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
    return arguments.run_measurement("quantization", __doc__, _measure, argv)


def _measure() -> results.Results:
    reference_pictures, reference_latents, _ = _generate(None)
    settings = []
    for setting in _SETTINGS:
        pictures, latents, sizes = _generate(setting)
        pairs = zip(pictures, reference_pictures, strict=True), zip(latents, reference_latents, strict=True)
        picture_psnr = [round(fidelity.psnr(a, b), 2) for a, b in pairs[0]]
        latent_psnr = [round(fidelity.psnr(a, b, float(np.abs(b).max())), 2) for a, b in pairs[1]]
        settings.append({"quantize": setting, "picture_psnr": picture_psnr, "latent_psnr": latent_psnr, "bytes": sizes})
    return {
        "model": f"tiny, float32, {_STEPS} steps",
        "prompts": _PROMPTS,
        "bytes": _sizes(StableDiffusion.load("tiny", "float32")),
        "settings": settings,
    }


def _generate(quantize: str | None) -> tuple[list[np.ndarray], list[np.ndarray], dict[str, int]]:
    """Pictures and latents of all prompts, the i-th with seed i, and bytes of the networks."""
    sd = StableDiffusion.load("tiny", "float32", quantize=quantize)
    generated = [sd.generate(prompt, steps=_STEPS, seed=seed) for seed, prompt in enumerate(_PROMPTS)]
    pictures = [np.asarray(result.images[0], np.float64) for result in generated]
    return pictures, [np.array(result.latents, np.float64) for result in generated], _sizes(sd)


def _sizes(sd: StableDiffusion) -> dict[str, int]:
    networks: dict[str, Any] = {"unet": sd.unet, "text_encoder": sd.model.text_encoders[0]}
    sizes = {}
    for part, network in networks.items():
        parameters: Any = tree_flatten(network.parameters())
        sizes[part] = sum(array.nbytes for _, array in parameters)
    return sizes


if __name__ == "__main__":
    sys.exit(main())
