"""What the checks of packages and assets share: inputs as of a real generation, and the comparison with MLX."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from mlx_sd import StableDiffusion
from mlx_sd.controls import load_network
from mlx_sd.core.errors import InputError

from .control_networks import ControlSource
from .lowering.control_functions import CONDITION
from .lowering.interfaces import RESIDUAL, FunctionSpec, Port, networks, texts
from .lowering.token_functions import TIME, TOKEN_GRID
from .plan import Options, plan

_PROMPT, _SEED, _TIMESTEP = "a photo of a red tent on green grass", 0, 481
_TIME = 0.481  # of tokens


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


def inputs_of(sd: StableDiffusion, specs: Mapping[str, FunctionSpec], spec: FunctionSpec) -> list[mx.array]:
    """Returns the inputs of a function as a step in the middle of a generation would give them."""
    rng = np.random.default_rng(_SEED)
    tokenizer = dict(zip(texts(sd.model), sd.model.tokenizers, strict=True)).get(spec.part, sd.model.tokenizers[0])
    context, pooled = sd.encode_prompt(_PROMPT, chunks=1)
    arrays = {
        "input_ids": mx.array(tokenizer.chunks(_PROMPT)[:1]),
        "timestep": mx.array([_TIMESTEP]),
        "encoder_hidden_states": context,
        "text_embeds": pooled,
        TIME: mx.array([_TIME]),
    }
    inputs: list[mx.array] = []
    for port in spec.inputs:
        if port.name.startswith(RESIDUAL):
            inputs.append(_residual(port))
            continue
        noise = mx.array(rng.standard_normal(port.shape, dtype=np.float32))
        value = arrays.get(port.name)
        if port.name == "time_ids":
            height, width = (side * sd.vae.config.downsampling for side in spec.inputs[0].shape[1:3])
            value = mx.array([height, width, 0, 0, height, width][: port.shape[1]])
        elif port.name == TOKEN_GRID:
            value = mx.array(rng.integers(_states(sd, spec), size=port.shape))
        elif port.name == "z":
            value = sd.vae.unscale(noise)
        elif port.name in ("x", "image"):
            value = mx.clip(noise / 2, -1, 1)
        elif port.name == CONDITION:
            value = mx.clip(noise[:1] / 4 + 0.5, 0, 1)
        elif port.name == "deep_feature":
            deep = specs["unet_deep" if "unet_deep" in specs else "unet_full"]
            value = deep.call(networks(sd.model)["unet"], *inputs, *map(_residual, deep.inputs[len(inputs) :]))[-1]
        inputs.append(mx.broadcast_to(noise if value is None else value, port.shape).astype(port.network_dtype))
    return inputs


def _states(sd: StableDiffusion, spec: FunctionSpec) -> int:
    """Returns how many different tokens a function takes: the UNet a mask too, the decoder those of the codebook."""
    assert sd.model.tokens, "the function is of this model"
    corruption = sd.model.tokens.corruption
    return corruption.states if spec.part == "unet" else corruption.tokens


def _residual(port: Port) -> mx.array:
    """Returns a residual that moves the UNet's output; of one skip it is the same for all functions."""
    rng = np.random.default_rng((_SEED, int(port.name.removeprefix(RESIDUAL))))
    return mx.array(rng.standard_normal(port.shape, dtype=np.float32)).astype(port.network_dtype)


def specs_of(sd: StableDiffusion, options: Options, controls: Sequence[ControlSource] = ()) -> dict[str, FunctionSpec]:
    """Returns what the functions of an export of this model and of these control networks compute, by role."""
    items = plan(networks(sd.model), options, sd.model.name, controls)
    return {entry.role: entry.spec for item in items for entry in item.functions.values()}


class Evaluation(NamedTuple):
    """One run of a function: its inputs as they are stored, and the outputs that MLX computes from them."""

    spec: FunctionSpec
    feeds: dict[str, np.ndarray]
    expected: dict[str, np.ndarray]


def evaluation(
    sd: StableDiffusion,
    specs: Mapping[str, FunctionSpec],
    role: str,
    path: Path,
    controls: Sequence[ControlSource] = (),
) -> Evaluation:
    """Evaluates the function of a role in MLX; InputError, which names the package `path`, where the model has none."""
    if role not in specs:
        raise InputError(f"{path} is a {role}, which the model {sd.model.name} does not have")
    spec = specs[role]
    inputs = inputs_of(sd, specs, spec)
    source = next((source for source in controls if source.part == spec.part), None)
    network = load_network(source.model, sd.model) if source else networks(sd.model)[spec.part]
    outputs = spec.call(network, *inputs)
    feeds = {port.name: port.store(x) for port, x in zip(spec.inputs, inputs, strict=True)}
    expected = {port.name: np.array(y.astype(mx.float32)) for port, y in zip(spec.outputs, outputs, strict=True)}
    return Evaluation(spec, feeds, expected)


def compare(
    package: str, function: str, output: str, arithmetic: str, array: np.ndarray, expected: np.ndarray
) -> Check:
    """Compares an output with what MLX computes, relative to the largest number."""
    largest = float(np.abs(expected).max())
    difference = array.astype(np.float64) - expected
    rms = float(np.sqrt((difference**2).mean()))
    psnr = 20 * math.log10(largest / rms) if rms else math.inf
    return Check(package, function, output, arithmetic, float(np.abs(difference).max()) / largest, psnr)
