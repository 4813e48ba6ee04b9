"""The documented bytes and multiplications of full-size packages are what writing a package gives."""

import json
from pathlib import Path

import numpy as np
import pytest

from bench.memory import sizes
from coreml.compression import schemes
from coreml.lowering.graph import record
from coreml.mil import emitter, package
from coreml.plan import Options, defaults, plan
from mlx_sd.checkpoint.model_folder import build
from mlx_sd.core.embedded import TINY
from tests.support.effort import slow_but

ROOT = Path(__file__).parents[3]
RESULTS = json.loads((ROOT / "bench/results/coreml_sizes.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def shallow():
    configs = {part: json.loads((TINY / part / "config.json").read_text()) for part in ("text_encoder", "unet", "vae")}
    networks = {part: build(part, config, part) for part, config in configs.items()}
    items = {item.name: item for item in plan(networks, Options(unets=("chunks",), branch=2), "tiny")}
    spec = items["UnetChunk2"].functions["main"].spec
    return spec, record(spec, networks["unet"])


@pytest.mark.parametrize("target", ["iOS16", "iOS18"])
@pytest.mark.parametrize("compression", slow_but(["uncompressed", "palettize4"], sizes.COMPRESSIONS))
def test_the_bytes_counted_are_those_written(shallow, compression, target, tmp_path):
    spec, graph = shallow
    rng = np.random.default_rng(0)
    shapes = {name: graph.shapes[value] for value, name in graph.parameters.items()}

    def read(name):
        return rng.standard_normal(shapes[name]).astype(np.float16)

    weight = emitter.weights(None if compression == "uncompressed" else compression, target)
    path = tmp_path / "UnetChunk2.mlpackage"
    package.write(spec, graph, read, weight, "split-einsum", target, path)
    written = (path / "Data/com.apple.CoreML/weights/weight.bin").stat().st_size
    used = {name for node in graph.nodes for name in node.inputs} & graph.parameters.keys()
    assert 0 <= written - sizes.weight_bytes(graph, compression) <= 160 * len(used)  # headers and alignment of 64 bytes


@pytest.mark.parametrize("compression", slow_but(["palettize4"], sizes.COMPRESSIONS))
def test_the_bytes_counted_of_an_asset_are_those_written(compression, tmp_path):
    """Its functions share weights, and each weight is counted once."""
    pytest.importorskip("coreai", reason="the extra coreai is not installed")
    from coreml.coreai import asset, constants

    configs = {part: json.loads((TINY / part / "config.json").read_text()) for part in ("text_encoder", "unet", "vae")}
    networks = {part: build(part, config, part) for part, config in configs.items()}
    item = next(item for item in plan(networks, defaults("coreai"), "tiny") if item.part == "unet")
    graphs = {name: record(entry.spec, networks["unet"]) for name, entry in item.functions.items()}
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.standard_normal(graph.shapes[value]).astype(np.float16)
        for graph in graphs.values()
        for value, name in graph.parameters.items()
    }
    functions = {name: asset.Function(item.functions[name].spec, graph) for name, graph in graphs.items()}
    compress = constants.compress(schemes.compressor(None if compression == "uncompressed" else compression, "unet"))
    path = tmp_path / "Unet.aimodel"
    written = asset.write(functions, arrays.__getitem__, defaults("coreai").attention, path, compress).bytes
    counted = sizes.weight_bytes(graphs.values(), compression)
    assert 0 <= written - counted <= 0.02 * counted + 10**6  # operations, and zeros beside the scales of int8


def test_the_documented_tables_are_the_measured_ones():
    page = (ROOT / "docs/guide/apps.md").read_text(encoding="utf-8")
    assert sizes.packages_table(RESULTS) in page
    assert sizes.formats_table(RESULTS) in page
    assert sizes.branches_table(RESULTS) in page


def test_the_deep_and_the_shallow_package_together_are_the_unet():
    for values in RESULTS["models"].values():
        unet = values["packages"]["Unet"]
        for branch in values["branches"]:
            assert unet["macs"] <= branch["deep"]["macs"] + branch["shallow"]["macs"] <= 1.2 * unet["macs"]
        outer = values["branches"][0]
        assert (outer["deep"], outer["shallow"]) == (values["packages"]["UnetChunk1"], values["packages"]["UnetChunk2"])
        for compression, size in unet["bytes"].items():
            assert size <= outer["deep"]["bytes"][compression] + outer["shallow"]["bytes"][compression] < 1.01 * size
