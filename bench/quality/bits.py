"""Mixed bits against uniform ones: python -m bench bits --model tiny.

For the bytes of uniform palettes of 3, 4 and 6 bits: PSNR of the UNet's output with uniform palettes and with the bits
that `python -m coreml bits` gives to each layer, on inputs of prompts, seeds and timesteps that the search did not see,
and PSNR of whole pictures. `--shapes sdxl` measures instead, on random weights, how long a search takes and how much
memory; the generations before it, whose inputs it measures, are not counted.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_unflatten

from coreml.compression import bits, networks, schemes, search, sensitivity
from coreml.compression.schemes import Compressor
from mlx_sd import StableDiffusion
from mlx_sd.checkpoint.model_folder import build, shapes
from mlx_sd.core import command
from mlx_sd.networks.unet import UNet

from .. import arguments, models, process, results
from ..machine import describe
from . import fidelity

# None of them is in `bits.PROMPTS`.
PROMPTS = (
    "a blue tent on the left on yellow sand, under a sunset sky",
    "a snowman in the center on white snow, under a clear day sky",
    "a sailboat with red sails on the right on the blue sea, under a stormy sky",
    "a cactus in the center in a sandy desert, a night sky",
    "a pine tree on the right on green grass, snowy mountains, under a bright blue sky",
    "a blue lighthouse on the left on a calm sea, a large sun on the right",
    "a dog in a field of flowers",
    "a wooden boat on a lake, autumn",
)
SIZES = (3, 4, 6)
STEPS, SEED = 8, 1000
_PICTURES = 4  # of the prompts above
_EXAMPLES = """examples:
  python -m bench bits --model tiny --json bench/results/bits-tiny-cpu.json
  python -m bench bits --shapes sdxl --latents 16 --json bench/results/bits-sdxl-cpu.json
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    p = arguments.parser("bits", __doc__, _EXAMPLES)
    p.add_argument("--model", default="tiny", help="as python -m mlx_sd.generate takes it")
    p.add_argument("--inputs", type=int, default=64, help="rows of the UNet's input that are compared")
    p.add_argument("--pictures", type=int, default=_PICTURES, help="pictures that are compared")
    p.add_argument("--shapes", choices=tuple(models.UNETS), help="measure a search on random weights of these shapes")
    p.add_argument("--latents", type=int, default=16, help="a side, with --shapes")
    arguments.add_json(p)
    options = p.parse_args(argv)
    measure = _measure_search if options.shapes else _measure
    return command.run("bench bits", lambda: results.report(measure(options) | {"machine": describe()}, options.json))


def _measure(options: argparse.Namespace) -> results.Results:
    sd = StableDiffusion.load(options.model, "float32")
    plain = networks.weights_of(sd.unet)
    sizes = {name: array.size for name, array in plain.items()}
    clock = time.perf_counter()
    calibration = sensitivity.spread(list(sensitivity.trajectory(sd, bits.PROMPTS, bits.STEPS, bits.SEED)), bits.INPUTS)
    sensitivities = sensitivity.measure(sd.unet, calibration)
    seconds = time.perf_counter() - clock
    rows = calibration[0].x.shape[0]
    inputs = sensitivity.spread(list(sensitivity.trajectory(sd, PROMPTS, STEPS, SEED)), -(-options.inputs // rows))
    expected, pictures = outputs(sd.unet, inputs), _pictures(sd, options.pictures)
    settings = []
    for uniform in SIZES:
        selected = bits.search(sizes, sensitivities, search.budget(sizes, uniform))
        mixed = schemes.MixedBits(
            sd.model.hash, {n: c.bits for n, c in selected.items()}, schemes.parse("int8"), uniform
        )
        forms: dict[str, Compressor] = {
            "uniform": schemes.compressor(f"palettize{uniform}", "unet"),
            "mixed": mixed.compressor("unet"),
        }
        for name, compressor in forms.items():
            bytes_ = networks.compress(sd.unet, compressor)
            settings.append(
                {
                    "bits": uniform,
                    "form": name,
                    "bytes": bytes_,
                    "noise_pred_psnr": round(psnr(outputs(sd.unet, inputs), expected), 2),
                    "picture_psnr": [
                        round(fidelity.psnr(a, b), 2)
                        for a, b in zip(_pictures(sd, options.pictures), pictures, strict=True)
                    ],
                }
            )
            sd.unet.update(tree_unflatten(list(plain.items())))
        counts = {str(n): sum(c.bits == n for c in selected.values()) for n in (*schemes.PALETTE_BITS, search.PLAIN)}
        settings[-1]["layers"] = counts
    return {
        "model": options.model,
        "weights": sum(sizes.values()),
        "inputs": len(inputs) * rows,
        "measured_on": {"inputs": len(calibration) * rows, "seconds": round(seconds, 1)},
        "settings": settings,
    }


def outputs(unet: UNet, inputs: Sequence[sensitivity.Inputs]) -> list[np.ndarray]:
    """Returns the UNet's predictions for inputs, float32."""
    return [np.array(x.run(unet)) for x in inputs]


def psnr(arrays: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    """Returns the PSNR of predictions over all inputs together, with the largest expected number as peak."""
    peak = max(float(np.abs(array).max()) for array in expected)
    return fidelity.psnr(np.stack(arrays), np.stack(expected), peak)


def _pictures(sd: StableDiffusion, count: int) -> list[np.ndarray]:
    return [
        np.asarray(sd.generate(prompt, seed=SEED + i, steps=20).images[0], np.float64)
        for i, prompt in enumerate(PROMPTS[:count])
    ]


def _measure_search(options: argparse.Namespace) -> results.Results:
    call = f"bits.search_of({options.shapes!r}, {options.latents})"
    usage = process.run(f"import json; from bench.quality import bits; print(json.dumps({call}))")
    measured: results.Results = {"model": f"{options.shapes}, random weights", "latents": options.latents}
    timings: results.Results = json.loads(usage.output)
    return measured | timings | {"process_seconds": usage.seconds, "peak_bytes": usage.peak_bytes}


def search_of(name: str, side: int) -> dict[str, Any]:
    """Measures a search on random weights of full-size shapes; returns its seconds and the bytes for each size."""
    unet: Any = build("unet", models.UNETS[name], name)
    mx.random.seed(0)
    for parameter, shape in shapes(unet).items():
        scale = float(np.sqrt(np.prod(shape[1:]) or 1))
        unet.update(tree_unflatten([(parameter, mx.random.normal(shape) / scale)]))
        mx.eval(unet.parameters())
    inputs = [_random_input(unet, side) for _ in range(bits.INPUTS // 2)]
    sizes = {parameter: array.size for parameter, array in networks.weights_of(unet).items()}
    seconds: dict[str, float] = {}

    def timed(step: str, function: Callable[[], Any]) -> Any:
        """Runs a step and notes its seconds."""
        clock = time.perf_counter()
        value = function()
        seconds[step] = round(time.perf_counter() - clock, 1)
        return value

    sensitivities = timed("measure", lambda: sensitivity.measure(unet, inputs))
    options = timed(
        "palettes",
        lambda: {n: search.choices(size, sensitivities[n], schemes.PALETTE_BITS) for n, size in sizes.items()},
    )
    totals = {}
    for uniform in SIZES:
        limit = search.budget(sizes, uniform)
        selected = timed(f"allocate {uniform}", lambda limit=limit: search.allocate(options, limit))  # type: ignore[misc]
        totals[str(uniform)] = {"limit": limit, "bytes": sum(choice.bytes for choice in selected.values())}
    return {"weights": sum(sizes.values()), "layers": len(sizes), "seconds": seconds, "sizes": totals}


def _random_input(unet: Any, side: int) -> sensitivity.Inputs:
    config = unet.config
    context = max(block.context for block in (*config.down, *config.up))
    keywords = {}
    if config.added_time_dims:
        pooled = config.added_inputs - 6 * config.added_time_dims
        keywords = {"text_embeds": mx.random.normal((2, pooled)), "time_ids": mx.full((2, 6), 8.0 * side)}
    x = mx.random.normal((1, side, side, config.in_channels))
    timestep = mx.broadcast_to(mx.random.randint(0, 1000, (1,)).astype(mx.float32), (2,))
    return sensitivity.Inputs(mx.concatenate([x, x]), timestep, mx.random.normal((2, 77, context)), keywords)


if __name__ == "__main__":
    sys.exit(main())
