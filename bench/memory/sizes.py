"""Bytes and multiplications of Core ML packages and Core AI assets at full size: python -m bench sizes.

No weights are needed and nothing is computed: the recorded graph of a package names the parameters that it reads. The
functions of an asset share them.
"""

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from coreml.lowering.graph import record
from coreml.plan import Item, Options, defaults, plan
from mlx_sd.checkpoint.model_folder import TEXT, build
from mlx_sd.core import command
from mlx_sd.networks.graph import Graph

from .. import arguments, markdown, results
from ..machine import describe
from ..models import NAMES, TEXTS, UNETS, VAE, sized

COMPRESSIONS = {"uncompressed": 16, "int8": 8, "palettize8": 8, "palettize6": 6, "palettize4": 4}  # bits a weight
COLUMNS = ("uncompressed", "int8", "palettize6", "palettize4")
BRANCHES = 4  # DeepCache branches of each UNet, from the outermost
INTERVALS = (3, 5)
SMALLEST = 2048  # numbers in a weight that is compressed


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    p = arguments.parser("sizes", __doc__)
    arguments.add_json(p)
    output = p.parse_args(argv).json
    return command.run("bench sizes", lambda: _sizes(output))


def _sizes(output: Path | None) -> None:
    values = {"models": {model: measure(model) for model in NAMES}, "machine": describe()}
    if output:
        results.write(output, values)
    print(f"{packages_table(values)}\n\n{formats_table(values)}\n\n{branches_table(values)}")


def measure(model: str) -> results.Results:
    """Counts bytes and multiplications of a model's packages at its own picture size, guided (a batch of two)."""
    texts = dict(zip(TEXT, TEXTS[model], strict=False))
    networks = {part: build(part, config, part) for part, config in {**texts, "unet": UNETS[model], "vae": VAE}.items()}
    options = Options(unets=("full", "chunks"))
    items = plan(networks, options, model)
    graphs = {item.name: _graph(item, networks) for item in items}
    assets = {item.name: _asset_counts(item, networks) for item in plan(networks, defaults("coreai"), model)}
    branches = []
    for branch in range(BRANCHES):
        chunks = plan({**networks, "unet": build("unet", UNETS[model], "unet")}, replace(options, branch=branch), model)
        deep, shallow = (next(item for item in chunks if item.name == name) for name in ("UnetChunk1", "UnetChunk2"))
        feature = deep.functions["main"].spec.outputs[0]
        branches.append(
            {
                "branch": branch,
                "deep": _counts(_graph(deep, networks)),
                "shallow": _counts(_graph(shallow, networks)),
                "feature_bytes": math.prod(feature.shape) * feature.dtype.size,
            }
        )
    (size,) = {entry.size for item in items for entry in item.functions.values() if entry.size}
    packages = {name: _counts(graph) for name, graph in graphs.items()}
    return {"size": size, "packages": packages, "assets": assets, "branches": branches}


def _graph(item: Item, networks: dict[str, Any]) -> Graph:
    return record(item.functions["main"].spec, networks[item.part])


def _counts(graph: Graph) -> results.Results:
    sizes = {compression: weight_bytes(graph, compression) for compression in COMPRESSIONS}
    return {"bytes": sizes, "macs": graph.macs()}


def _asset_counts(item: Item, networks: dict[str, Any]) -> results.Results:
    """Returns the bytes of an asset, whose functions share weights, and the multiplications of each function."""
    graphs = {name: record(entry.spec, networks[item.part]) for name, entry in item.functions.items()}
    sizes = {compression: weight_bytes(graphs.values(), compression) for compression in COMPRESSIONS}
    return {"bytes": sizes, "macs": {name: graph.macs() for name, graph in graphs.items()}}


def weight_bytes(graphs: Graph | Iterable[Graph], compression: str) -> int:
    """Returns the bytes of the weights that a graph, or several of one network, read in one of COMPRESSIONS.

    Only large weights of convolutions and linears are compressed; each brings its palette, or a scale for each output.
    """
    parameters: dict[str, tuple[Sequence[int], int, bool]] = {}  # shape, bytes of a number, whether it is compressed
    for graph in [graphs] if isinstance(graphs, Graph) else graphs:
        large = {
            node.inputs[1]
            for node in graph.nodes
            if node.op in ("conv2d", "linear") and math.prod(graph.shapes[node.inputs[1]]) >= SMALLEST
        }
        for value in {name for node in graph.nodes for name in node.inputs} & graph.parameters.keys():
            parameters[graph.parameters[value]] = (graph.shapes[value], graph.dtypes[value].size, value in large)
    total = 0
    for shape, size, compressed in parameters.values():
        if compression == "uncompressed" or not compressed:
            total += math.prod(shape) * size
        else:
            bits = COMPRESSIONS[compression]
            extra = shape[0] if compression == "int8" else 1 << bits  # scales, or entries of the palette
            total += math.ceil(math.prod(shape) * bits / 8) + extra * size
    return total


def packages_table(values: results.Results) -> str:
    """Returns a Markdown table with a row for each package."""
    rows = [
        [
            sized(model, measurement["size"]) if name == "TextEncoder" else "",
            f"`{name}`",
            *(_megabytes(package["bytes"][column]) for column in COLUMNS),
            f"{package['macs'] / 1e9:,.{0 if package['macs'] > 1e10 else 1}f}",
        ]
        for model, measurement in values["models"].items()
        for name, package in measurement["packages"].items()
    ]
    return markdown.table(["model", "package", *(f"{column}, MB" for column in COLUMNS), "GMACs"], rows, left=2)


def formats_table(values: results.Results) -> str:
    """Returns a Markdown table with the weights of a whole folder of each format: what an app downloads."""
    rows = []
    for model, measurement in values["models"].items():
        packages = {name: package for name, package in measurement["packages"].items() if name != "Unet"}
        for label, folder in (("Core ML, `--unet chunks`", packages), ("Core AI", measurement["assets"])):
            cells = [_megabytes(sum(part["bytes"][column] for part in folder.values())) for column in COLUMNS]
            rows.append([NAMES[model] if folder is packages else "", label, *cells])
    return markdown.table(["model", "all files", *(f"{column}, MB" for column in COLUMNS)], rows, left=2)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.{0 if size > 1e7 else 1}f}"


def branches_table(values: results.Results) -> str:
    """Returns a Markdown table with a row for each DeepCache branch of each model."""
    rows = []
    for model, measurement in values["models"].items():
        full = measurement["packages"]["Unet"]["macs"]
        for branch in measurement["branches"]:
            deep, shallow = branch["deep"]["macs"], branch["shallow"]["macs"]
            rows.append(
                [
                    NAMES[model] if branch["branch"] == 0 else "",
                    str(branch["branch"]),
                    f"{branch['deep']['bytes']['uncompressed'] / 1e6:,.0f}",
                    f"{branch['shallow']['bytes']['uncompressed'] / 1e6:,.1f}",
                    f"{branch['feature_bytes'] / 1e6:.1f}",
                    f"{shallow / full:.1%}",
                    f"{(deep + shallow) / full:.1%}",
                    *(f"{n * full / (deep + n * shallow):.2f}" for n in INTERVALS),
                ]
            )
    head = ["model", "branch", "`UnetChunk1`, MB", "`UnetChunk2`, MB", "`deep_feature`, MB", "cached step", "refresh"]
    return markdown.table([*head, *(f"interval {n}" for n in INTERVALS)], rows, left=2)


if __name__ == "__main__":
    sys.exit(main())
