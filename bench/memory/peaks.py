"""Memory of a picture with and without --low-memory, counted from shapes: python -m bench peaks.

Each network's evaluation is recorded as a graph whose arrays are never computed, and its buffers are counted in MLX's
order of evaluation, with the weights that are in memory beside them, as `python -m mlx_sd.train --plan` counts a step.
Counted is what a GPU needs, which has kernels for convolutions and attention that unfold nothing.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn

from mlx_sd.checkpoint.model import DTYPES, Model
from mlx_sd.core import command
from mlx_sd.load import outline
from mlx_sd.memory import BYTES_PER_PIXEL, size_of
from mlx_sd.networks import ops, quantization
from mlx_sd.train.memory.buffers import GPU, Device, peak
from mlx_sd.train.memory.network_arrays import NetworkArrays
from mlx_sd.train.memory.outlines import networks_of
from mlx_sd.train.memory.tracing import Recorder, record

from .. import arguments, markdown, models, results
from ..machine import describe
from ..models import FULL_SIZES

WEIGHTS = {"float16": None, "8 bits": "8", "4 bits": "4"}
FILE = "memory-peaks.json"  # of the counts, among the results
SMALL_MAC = 5.3e9  # bytes that a GPU may take on a Mac of 8 GB; assumed
_TOKENS, _TIME_IDS = 77, 6  # SDXL is told three pairs of a height and a width


class Phases(NamedTuple):
    """The bytes in memory at the peak of each part of the work on one picture."""

    encode: int  # of the prompt
    denoise: int  # a whole evaluation of the UNet, with guidance
    decode: int


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    p = arguments.parser("peaks", __doc__, "example:\n  python -m bench peaks --json bench/results/memory-peaks.json\n")
    p.add_argument("--model", choices=tuple(FULL_SIZES), help="one model alone (default: all)")
    arguments.add_json(p)
    options = p.parse_args(argv)
    return command.run("bench peaks", lambda: _count(options))


def _count(options: argparse.Namespace) -> None:
    values = count_all([options.model] if options.model else FULL_SIZES)
    if options.json:
        results.write(options.json, values)
    print(table(values))


def count_all(names: Iterable[str] = FULL_SIZES) -> results.Results:
    """Returns the counted bytes of models at their sizes, with float16 weights and with quantized ones."""
    counted: dict[str, Any] = {}
    for name in names:
        for label, quantize in WEIGHTS.items():
            model = outline_of(name, quantize)
            entry = counted.setdefault(name, {}).setdefault(label, {})
            entry["weights"] = {part: size_of(network) for part, network in networks_of(model).items()}
            entry["all"] = phases(model, FULL_SIZES[name], False)._asdict()
            entry["low_memory"] = phases(model, FULL_SIZES[name], True)._asdict()
    return {"counted": counted, "small_mac_bytes": SMALL_MAC, "machine": describe()}


def outline_of(name: str, quantize: str | None, dtype: str = "float16") -> Model:
    """Returns a model of `bench.models` whose weights are never computed; quantize: as `--quantize` takes it."""
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home, name)
        models.write_outline(name, folder)
        model = outline(str(folder))
    assert model is not None
    for part, network in networks_of(model).items():
        if scheme := (quantization.parse(quantize) if quantize else {}).get(part):
            quantization.replace_layers(network, scheme)
        upcast = part == "vae" and model.vae.config.force_upcast
        network.set_dtype(mx.float32 if upcast else DTYPES[dtype])
    return replace(model, dtype=DTYPES[dtype], quantization=quantize)


def phases(model: Model, size: tuple[int, int], low_memory: bool, device: Device = GPU) -> Phases:
    """Returns the peaks of one guided picture of (width, height) pixels.

    low_memory: each network has its weights in memory only while it works, rows go one by one, and tiles are small.
    """
    everything = sum(map(size_of, networks_of(model).values()))

    def total(network: nn.Module, run: Callable[..., Any], beside: int = 0) -> int:
        """Returns the peak of a network's evaluation with the weights of the others; beside: of those that stay."""
        inputs = NetworkArrays([network])

        def evaluate(_: Recorder, **arrays: mx.array) -> list[mx.array]:
            """Returns the outputs of the network."""
            with inputs.replaced(arrays):
                outputs = run(network)
            return list(outputs) if isinstance(outputs, tuple) else [outputs]

        with ops.as_on_gpu() if device is GPU else nullcontext():
            graph = record(evaluate, inputs.arrays)
        counted: int = peak(graph, None, device=device).total
        return counted + (beside if low_memory else everything - size_of(network))

    encoders, config, rows = model.text_encoders, model.unet.config, 1 if low_memory else 2
    ids = mx.zeros((2, _TOKENS), mx.int32)  # of the prompt and the negative one
    encode = [
        total(encoder, lambda e: e(ids).last, sum(size_of(other) for other in encoders if other is not encoder))
        for encoder in encoders
    ]
    factor = model.vae.config.downsampling
    latents = mx.zeros((rows, *(side // factor for side in reversed(size)), 4), model.dtype)
    context = mx.zeros((rows, _TOKENS, sum(encoder.config.width for encoder in encoders)), model.dtype)
    keywords = {}
    if config.added_time_dims is not None:
        pooled = config.added_inputs - _TIME_IDS * config.added_time_dims
        keywords = {"text_embeds": mx.zeros((rows, pooled), model.dtype), "time_ids": mx.zeros((rows, _TIME_IDS))}
    denoise = total(model.unet, lambda unet: unet(latents, mx.array(500.0), context, **keywords))
    longer, scaled = max(size), latents[:1].astype(model.vae.dtype)
    tile = model.vae.tile(longer, model.vae.tile_in_low_memory(longer) if low_memory else None)
    # Tiles are evaluated one by one, so the largest array is one tile's; the whole picture is there beside it.
    part = scaled[:, : tile // factor, : tile // factor] if tile else scaled
    decode = total(model.vae, lambda vae: vae.decode(part)) + (BYTES_PER_PIXEL * size[0] * size[1] if tile else 0)
    return Phases(max(encode), denoise, decode)


def table(values: results.Results) -> str:
    """Returns the Markdown table of the guide, in GB."""
    rows = []
    for name, by_weights in values["counted"].items():
        for label, entry in by_weights.items():
            most = {key: max(entry[key].values()) for key in ("all", "low_memory")}
            unet = entry["weights"]["unet"]
            rows.append(
                [
                    models.sized(name, FULL_SIZES[name]) if label == "float16" else "",
                    label,
                    *(f"{value / 1e9:.1f} GB" for value in most.values()),
                    f"{most['low_memory'] / unet:.2f}",
                    "yes" if most["low_memory"] <= values["small_mac_bytes"] else "no",
                ]
            )
    head = ["model", "UNet's weights", "without", "--low-memory", "over the UNet's weights", "within 5.3 GB"]
    return markdown.table(head, rows)


def section(folder: Path) -> str:
    """Returns the table of a folder of results, for `python -m bench report`."""
    return table(results.read(folder / FILE))


if __name__ == "__main__":
    sys.exit(main())
