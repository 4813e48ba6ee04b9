"""Mixed bits against uniform ones: python -m bench bits --model tiny.

For the bytes of uniform palettes of 3, 4 and 6 bits: PSNR of the UNet's output with uniform palettes and with the bits
that `python -m coreml bits` gives to each layer, on inputs of prompts, seeds and timesteps that the search did not see,
and PSNR of whole pictures. --picture FILE is a sheet of them: a row for each prompt; in the columns the weights as they
are, then uniform and mixed bits at 3, 4 and 6. `--shapes sdxl` measures instead, on random weights, how long a search
takes, how much memory, and the bytes of an asset of Core AI that is written with its result. Of the generations before
a search it counts the evaluations of the UNet, on random inputs, not the text encoders.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import numpy as np
from mlx.utils import tree_unflatten
from PIL import Image

from coreml import assets
from coreml.compression import bits, networks, schemes, search, sensitivity
from coreml.compression.schemes import Compressor
from coreml.coreai import availability
from coreml.plan import defaults, plan
from mlx_sd import StableDiffusion
from mlx_sd.checkpoint import model_folder
from mlx_sd.core import command
from mlx_sd.core.files import atomic_file
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
WRITTEN = 4  # bits of the asset that is written with --shapes
STEPS, SEED = 8, 1000
_PICTURES, _PICTURE_STEPS = 4, 20  # of the prompts above
_EXAMPLES = """examples:
  python -m bench bits --model tiny --picture docs/pictures/bits.png --json bench/results/bits-tiny-cpu.json
  python -m bench bits --shapes sdxl --latents 16 --json bench/results/bits-sdxl-cpu.json
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    p = arguments.parser("bits", __doc__, _EXAMPLES)
    p.add_argument("--model", default="tiny", help="as python -m mlx_sd.generate takes it")
    p.add_argument("--inputs", type=int, default=64, help="rows of the UNet's input that are compared")
    p.add_argument("--pictures", type=int, default=_PICTURES, help="pictures that are compared")
    p.add_argument("--picture", type=arguments.results_file, metavar="FILE", help="a sheet of these pictures, PNG")
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
    columns = [pictures]
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
            columns.append(_pictures(sd, options.pictures))
            settings.append(
                {
                    "bits": uniform,
                    "form": name,
                    "bytes": bytes_,
                    "noise_pred_psnr": round(psnr(outputs(sd.unet, inputs), expected), 2),
                    "picture_psnr": [round(fidelity.psnr(a, b), 2) for a, b in zip(columns[-1], pictures, strict=True)],
                }
            )
            sd.unet.update(tree_unflatten(list(plain.items())))
        counts = {str(n): sum(c.bits == n for c in selected.values()) for n in (*schemes.PALETTE_BITS, search.PLAIN)}
        settings[-1]["layers"] = counts
    if options.picture:
        _save(columns, options.picture)
    return {
        "model": options.model,
        "model_hash": sd.model.hash,
        "weights": sum(sizes.values()),
        "inputs": len(inputs) * rows,
        "pictures": {"seed": SEED, "steps": _PICTURE_STEPS, "prompts": PROMPTS[: options.pictures]},
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
        np.asarray(sd.generate(prompt, seed=SEED + i, steps=_PICTURE_STEPS).images[0], np.float64)
        for i, prompt in enumerate(PROMPTS[:count])
    ]


def _save(columns: Sequence[Sequence[np.ndarray]], path: Path) -> None:
    """Writes a sheet of pictures (H, W, 3) of equal size, each sequence a column."""
    sheet = np.concatenate([np.concatenate(column) for column in columns], axis=1)
    with atomic_file(path) as f:
        Image.fromarray(sheet.astype(np.uint8)).save(f, format="PNG", optimize=True)


def _measure_search(options: argparse.Namespace) -> results.Results:
    availability.check()  # not after half an hour
    with models.temporary(options.shapes) as folder:
        file = folder.with_suffix(".json")
        call = f"bits.search_of({str(folder)!r}, {options.latents}, {str(file)!r})"
        searched = process.run(f"import json; from bench.quality import bits; print(json.dumps({call}))")
        print(searched.output, file=sys.stderr, flush=True)
        call = f"bits.written({str(folder)!r}, {str(file)!r})"
        written = process.run(f"import json; from bench.quality import bits; print(json.dumps({call}))")
    measured: results.Results = {"model": f"{models.NAMES[options.shapes]}, random weights", "latents": options.latents}
    measured |= json.loads(searched.output)
    measured |= {"process_seconds": searched.seconds, "peak_bytes": searched.peak_bytes}
    return measured | {"written": json.loads(written.output)}


def search_of(folder: str, side: int, file: str) -> dict[str, Any]:
    """Measures a search on the UNet of a model folder; returns its seconds and the bytes for each of SIZES.

    side: of the latents. file: is written with the bits of each layer at the bytes of WRITTEN bits, as --compress takes
    it.
    """
    about = model_folder.read_model_json(Path(folder))
    seconds: dict[str, float] = {}

    def timed(step: str) -> AbstractContextManager[None]:
        """Notes the seconds of a block."""
        return _timed(seconds, step)

    with timed("load"):
        unet = _float32_unet(Path(folder), about)
    evaluations = len(bits.PROMPTS) * bits.STEPS
    with timed("generations"):
        x = _random_input(unet, side)
        for _ in range(evaluations):
            mx.eval(x.run(unet))
    inputs = [_random_input(unet, side) for _ in range(bits.INPUTS)]
    sizes = {parameter: array.size for parameter, array in networks.weights_of(unet).items()}
    with timed("measure"):
        sensitivities = sensitivity.measure(unet, inputs)
    with timed("palettes"):
        options = {n: search.choices(size, sensitivities[n], schemes.PALETTE_BITS) for n, size in sizes.items()}
    totals = {}
    for uniform in SIZES:
        limit = search.budget(sizes, uniform)
        with timed(f"allocate {uniform}"):
            selected = search.allocate(options, limit)
        totals[str(uniform)] = {"limit": limit, "bytes": sum(choice.bytes for choice in selected.values())}
        if uniform == WRITTEN:
            content = bits.describe(folder, model_folder.model_hash(about), selected, uniform, limit)
            Path(file).write_text(json.dumps(content), encoding="utf-8")
    return {
        "weights": sum(sizes.values()),
        "layers": len(sizes),
        "evaluations": {"generations": evaluations, "measured": len(inputs), "rows": 2},
        "seconds": seconds,
        "search_seconds": round(sum(seconds.values()), 1),
        "sizes": totals,
    }


def written(folder: str, file: str) -> dict[str, Any]:
    """Writes the UNet of a model folder as an asset of Core AI with the bits in a file; returns its bytes and seconds.

    The asset has the function main alone, in float16; the peak is that of the process that writes it.
    """
    about = model_folder.read_model_json(Path(folder))
    parts = {part: model_folder.build(part, config, part) for part, config in about["networks"].items()}
    options = replace(defaults("coreai"), unets=("full",), compress=file)
    item = next(item for item in plan(parts, options, folder) if item.part == "unet")
    clock = time.perf_counter()
    with tempfile.TemporaryDirectory() as home:
        bytes_ = assets.write(item, Path(folder), options, Path(home), folder)["bytes"]
    seconds = round(time.perf_counter() - clock, 1)
    return {"bits": WRITTEN, "bytes": bytes_, "seconds": seconds, "peak_bytes": process.children_peak()}


@contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    clock = time.perf_counter()
    yield
    seconds[step] = round(time.perf_counter() - clock, 1)


def _float32_unet(folder: Path, about: dict[str, Any]) -> UNet:
    """Reads the UNet of a model folder, one parameter at a time."""
    unet: Any = model_folder.build("unet", about["networks"]["unet"], str(folder))
    for name, tensor in model_folder.network_tensors(folder, "unet", about["version"]).items():
        array = tensor.read().astype(mx.float32)
        mx.eval(array)
        unet.update(tree_unflatten([(name, array)]))
    return cast(UNet, unet)


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
