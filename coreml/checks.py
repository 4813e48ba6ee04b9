"""What the checks of packages and assets share: inputs as of a real generation, and the comparison with MLX."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_sd import StableDiffusion
from mlx_sd.checkpoint.model_folder import TEXT

from .lowering.interfaces import FunctionSpec, is_xl

_PROMPT, _SEED, _TIMESTEP = "a photo of a red tent on green grass", 0, 481


@dataclass(frozen=True)
class Check:
    """One output of one function, computed by a package, compared with MLX."""

    package: str
    function: str
    output: str
    arithmetic: str  # "float32", "rounded to float16" or "Core ML"
    error: float  # the largest difference over the largest number
    psnr: float  # dB, relative to the largest number

    def to_json(self) -> dict[str, Any]:
        """Returns the check as `--json` prints it."""
        return {
            "package": self.package,
            "function": self.function,
            "output": self.output,
            "how": self.arithmetic,
            "error": self.error,
            "psnr": self.psnr,
        }


def line(check: Check) -> str:
    """Returns one check as a line for a terminal."""
    place = f"{check.package}{'' if check.function == 'main' else ':' + check.function} {check.output}"
    return f"{place:48} {check.arithmetic:20} PSNR {check.psnr:6.1f} dB   max error {check.error:.1e}"


def networks(sd: StableDiffusion) -> dict[str, Any]:
    """Returns the networks of a loaded model by their names."""
    return {"unet": sd.unet, "vae": sd.vae, **dict(zip(_texts(sd), sd.model.text_encoders, strict=True))}


def _texts(sd: StableDiffusion) -> tuple[str, ...]:
    """Returns the names of a model's text encoders; the refiner of SDXL has the second alone."""
    count = len(sd.model.text_encoders)
    return TEXT[1:] if is_xl(sd.model.family) and count == 1 else TEXT[:count]


def inputs_of(sd: StableDiffusion, specs: Mapping[str, FunctionSpec], spec: FunctionSpec) -> list[mx.array]:
    """Returns the inputs of a function as a step in the middle of a generation would give them."""
    rng = np.random.default_rng(_SEED)
    tokenizer = dict(zip(_texts(sd), sd.model.tokenizers, strict=True)).get(spec.part, sd.model.tokenizers[0])
    context, pooled = sd.encode_prompt(_PROMPT, chunks=1)
    arrays = {
        "input_ids": mx.array(tokenizer.chunks(_PROMPT)[:1]),
        "timestep": mx.array([_TIMESTEP]),
        "encoder_hidden_states": context,
        "text_embeds": pooled,
    }
    inputs: list[mx.array] = []
    for port in spec.inputs:
        noise = mx.array(rng.standard_normal(port.shape, dtype=np.float32))
        value = arrays.get(port.name)
        if port.name == "time_ids":
            height, width = (side * sd.vae.config.downsampling for side in spec.inputs[0].shape[1:3])
            value = mx.array([height, width, 0, 0, height, width][: port.shape[1]])
        elif port.name == "z":
            value = sd.vae.unscale(noise)
        elif port.name in ("x", "image"):
            value = mx.clip(noise / 2, -1, 1)
        elif port.name == "deep_feature":
            role = "unet_deep" if "unet_deep" in specs else "unet_full"
            value = specs[role].call(sd.unet, *inputs)[-1]
        inputs.append(mx.broadcast_to(noise if value is None else value, port.shape).astype(port.network_dtype))
    return inputs


def compare(
    package: str, function: str, output: str, arithmetic: str, array: np.ndarray, expected: np.ndarray
) -> Check:
    """Compares an output with what MLX computes, relative to the largest number."""
    largest = float(np.abs(expected).max())
    difference = array.astype(np.float64) - expected
    rms = float(np.sqrt((difference**2).mean()))
    psnr = 20 * math.log10(largest / rms) if rms else math.inf
    return Check(package, function, output, arithmetic, float(np.abs(difference).max()) / largest, psnr)
