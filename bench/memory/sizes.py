"""Bytes and multiplications of every Core ML package at full size, from its graph alone: python -m bench sizes.

No weights are needed and nothing is computed: a package's graph names the parameters that it reads.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from coreml.lowering.graph import Graph, record
from coreml.plan import Item, Options, plan
from mlx_sd.checkpoint.model_folder import TEXT, build
from mlx_sd.core import command

from .. import results
from ..machine import describe
from ..models import TEXTS, UNETS, VAE

NAMES = {"sd15": "SD 1.5", "sd21": "SD 2.1", "sdxl": "SDXL"}
WAYS = {"uncompressed": 16, "int8": 8, "palettize8": 8, "palettize6": 6, "palettize4": 4}  # bits of a large weight
SHOWN = ("uncompressed", "int8", "palettize6", "palettize4")
BRANCHES = 4  # of each UNet, from the outermost
INTERVALS = (3, 5)
SMALLEST = 2048  # numbers in a weight that is compressed


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    p = command.Parser(
        prog="python -m bench sizes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    output = p.parse_args(argv).json
    return command.run("bench sizes", lambda: _sizes(output))


def _sizes(output: Path | None) -> None:
    found = {"models": {model: measure(model) for model in NAMES}, "machine": describe()}
    if output:
        results.write(output, found)
    print(f"{packages_table(found)}\n\n{branches_table(found)}")


def measure(model: str) -> results.Results:
    """Of one of NAMES at its own picture size, for guidance in one batch of two."""
    texts = dict(zip(TEXT, TEXTS[model], strict=False))
    networks = {part: build(part, config, part) for part, config in {**texts, "unet": UNETS[model], "vae": VAE}.items()}
    options = Options(unets=("full", "chunks"))
    items = plan(networks, options, model)
    graphs = {item.name: _graph(item, networks) for item in items}
    branches = []
    for branch in range(BRANCHES):
        chunks = plan({**networks, "unet": build("unet", UNETS[model], "unet")}, replace(options, branch=branch), model)
        deep, shallow = (next(item for item in chunks if item.name == name) for name in ("UnetChunk1", "UnetChunk2"))
        feature = deep.functions["main"].spec.outputs[0]
        branches.append(
            {
                "branch": branch,
                "deep": _told(_graph(deep, networks)),
                "shallow": _told(_graph(shallow, networks)),
                "feature_bytes": math.prod(feature.shape) * feature.dtype.size,
            }
        )
    (size,) = {entry.size for item in items for entry in item.functions.values() if entry.size}
    return {"size": size, "packages": {name: _told(graph) for name, graph in graphs.items()}, "branches": branches}


def _graph(item: Item, networks: dict[str, Any]) -> Graph:
    return record(item.functions["main"].spec, networks[item.part])


def _told(graph: Graph) -> results.Results:
    return {"bytes": {way: weight_bytes(graph, way) for way in WAYS}, "macs": graph.macs()}


def weight_bytes(graph: Graph, way: str) -> int:
    """Bytes of the weights that a graph reads, stored in one of WAYS.

    Only large weights of convolutions and linears are compressed; each brings its palette, or a scale for each output.
    """
    large = {
        node.inputs[1]
        for node in graph.nodes
        if node.op in ("conv2d", "linear") and math.prod(graph.shapes[node.inputs[1]]) >= SMALLEST
    }
    total = 0
    for value in {name for node in graph.nodes for name in node.inputs} & graph.parameters.keys():
        shape, size = graph.shapes[value], graph.dtypes[value].size
        if way == "uncompressed" or value not in large:
            total += math.prod(shape) * size
        else:
            more = shape[0] if way == "int8" else 1 << WAYS[way]
            total += math.ceil(math.prod(shape) * WAYS[way] / 8) + more * size
    return total


def packages_table(measured: results.Results) -> str:
    """Markdown: a row for each package."""
    rows = [
        [
            f"{NAMES[model]}, {'x'.join(map(str, told['size']))}" if name == "TextEncoder" else "",
            f"`{name}`",
            *(f"{found['bytes'][way] / 1e6:,.{0 if found['bytes'][way] > 1e7 else 1}f}" for way in SHOWN),
            f"{found['macs'] / 1e9:,.{0 if found['macs'] > 1e10 else 1}f}",
        ]
        for model, told in measured["models"].items()
        for name, found in told["packages"].items()
    ]
    return _markdown(["model", "package", *(f"{way}, MB" for way in SHOWN), "GMACs"], rows)


def branches_table(measured: results.Results) -> str:
    """Markdown: a row for each DeepCache branch of each model."""
    rows = []
    for model, told in measured["models"].items():
        full = told["packages"]["Unet"]["macs"]
        for found in told["branches"]:
            deep, shallow = found["deep"]["macs"], found["shallow"]["macs"]
            rows.append(
                [
                    NAMES[model] if found["branch"] == 0 else "",
                    str(found["branch"]),
                    f"{found['deep']['bytes']['uncompressed'] / 1e6:,.0f}",
                    f"{found['shallow']['bytes']['uncompressed'] / 1e6:,.1f}",
                    f"{found['feature_bytes'] / 1e6:.1f}",
                    f"{shallow / full:.1%}",
                    f"{(deep + shallow) / full:.1%}",
                    *(f"{n * full / (deep + n * shallow):.2f}" for n in INTERVALS),
                ]
            )
    head = ["model", "branch", "`UnetChunk1`, MB", "`UnetChunk2`, MB", "`deep_feature`, MB", "cached step", "refresh"]
    return _markdown([*head, *(f"interval {n}" for n in INTERVALS)], rows)


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---" if i < 2 else "---:" for i in range(len(head))], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
