"""Apple's coreai-models loads the folder of an export: each of its requirements, and a folder that does not meet it.

`load` reads a folder as the Swift code of `StableDiffusionPipeline.load(from:)` does (August 2026).
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

pytest.importorskip("coreai", reason="the extra coreai is not installed")

from coreml import info, stock
from coreml.coreai.asset import Function, write
from coreml.coreai.coreai_core import AIModelAsset
from coreml.lowering.graph import record
from coreml.lowering.interfaces import FunctionSpec, port
from tests.support.effort import slow_but
from tests.support.exports import CORE_AI, SMALL

_TYPES = {"float16", "float32"}


class Refused(Exception):
    """What the Swift code throws."""


def need(condition: bool, words: str) -> None:
    if not condition:
        raise Refused(words)


def functions(asset: Path) -> dict[str, tuple[list, list]]:
    """Inputs and outputs of every function, as the runtime describes them, in the order of its positions."""
    summary = AIModelAsset.load(asset).summary(include_statistics=False)
    return {
        name: ([_port(*p) for p in summary.function_inputs(name)], [_port(*p) for p in summary.function_outputs(name)])
        for name in summary.function_names
    }


def _port(name: str, kind: str) -> tuple[str, tuple[int, ...], str]:
    """Name, shape and type of a port, which is described as NDArray(Float32, 2x4x8x8) or alike."""
    dtype, *sizes = re.findall(r"[A-Za-z]+\d+|\d+", kind.removeprefix("NDArray"))
    return name, tuple(map(int, sizes)), dtype.lower()


def load(folder: Path) -> dict[str, Any]:
    need((folder / "metadata.json").is_file(), "no metadata.json")
    metadata = json.loads((folder / "metadata.json").read_text())
    need(metadata.get("metadata_version") == "0.2", "another version")
    need(metadata.get("kind") == "diffusion", "not of diffusion")
    need(isinstance(metadata.get("name"), str), "no name")
    need({"assets", "diffusion"} <= metadata.keys(), "no assets or diffusion")
    need(metadata["diffusion"]["type"] == "stable-diffusion", "no pipeline of this type")
    need(metadata["diffusion"]["prediction_type"] in ("epsilon", "v_prediction"), "unknown prediction")
    need({"text_encoder", "unet", "vae_decoder"} <= metadata["assets"].keys(), "an asset is not declared")
    assets = {role: folder / name for role, name in metadata["assets"].items()}
    for role, asset in assets.items():
        need(AIModelAsset.is_valid(asset), f"{role} is no asset")
    vocabulary = next((f for f in (folder / "tokenizer", folder) if (f / "vocab.json").is_file()), None)
    need(vocabulary is not None and (vocabulary / "merges.txt").is_file(), "no tokenizer")
    need(isinstance(json.loads((vocabulary / "vocab.json").read_text()), dict), "the vocabulary is no dictionary")
    need((vocabulary / "merges.txt").read_text().startswith("#version"), "merges without a head")

    main = {role: functions(asset).get("main") for role, asset in assets.items()}
    need(all(main.values()), "an asset without main")
    inputs, outputs = main["text_encoder"]
    need([p[1:] for p in inputs] == [((1, 77), "int32")], "ids are int32 of (1, 77), and nothing else")
    contexts = [shape for _, shape, _ in outputs if len(shape) == 3]
    need(len(contexts) == 1, "the context is the one output of rank 3")
    inputs, outputs = main["unet"]
    need(len(inputs) == 3, "by position: sample, timestep, context")
    (_, sample, _), (_, timestep, _), (_, context, _) = inputs
    need(len(sample) == 4 and sample[:2] == (2, 4) and timestep == (2,), "both texts in one batch")
    need(context == (2, *contexts[0][1:]), "the context is (2, tokens, channels)")
    need(len(outputs) == 1 and outputs[0][1] == sample, "one output, like the sample")
    need({p[2] for p in (*inputs, *outputs)} <= _TYPES, "floats")
    side = metadata["diffusion"]["image_size"]
    need(sample[2] == sample[3] and side == 8 * sample[2], "configMismatch")
    inputs, outputs = main["vae_decoder"]
    need([p[1] for p in inputs] == [(1, 4, *sample[2:])] and [p[1] for p in outputs] == [(1, 3, side, side)], "decoder")
    if "vae_encoder" in main:
        inputs, outputs = main["vae_encoder"]
        need([p[1] for p in inputs] == [(1, 3, side, side)] and outputs[0][1] == (1, 8, *sample[2:]), "encoder")
    return metadata


def scan(folder: Path) -> dict[str, str]:
    """The roles of assets by their names, as where there is no metadata.json; a name that fits two is an error."""
    names = {"textencoder": "text_encoder", "unet": "unet", "transformer": "unet", "vaedecoder": "vae_decoder"}
    roles: dict[str, str] = {}
    for asset in sorted(folder.glob("*.aimodel")):
        for word, role in names.items():
            if word in asset.stem.lower():
                need(role not in roles, f"two assets for {role}")
                roles[role] = asset.name
    return roles


@pytest.fixture(scope="module")
def exports(exported) -> Callable[[str], Path]:
    forms = {
        "small": (SMALL, {"dtype": "float32", "attention": "fused"}),
        "float16": (SMALL, {"dtype": "float16", "attention": "split-einsum"}),
        "sd1": ("sd1", {"dtype": "float32", "attention": "fused"}),
    }
    return lambda name: exported(forms[name][0], **CORE_AI, **forms[name][1])


@pytest.mark.slow
@pytest.mark.parametrize("name", slow_but(("small", "float16"), ("small", "float16", "sd1")))
def test_apples_package_loads_an_export(name, exports):
    metadata = load(exports(name))
    content = info.read(exports(name))
    assert metadata["diffusion"]["image_size"] == 64
    assert metadata["diffusion"]["decoder_scale_factor"] == content["latents"]["scaling_factor"]
    assert metadata["diffusion"]["prediction_type"] == content["prediction"]
    assert scan(exports(name)).keys() == {"text_encoder", "unet", "vae_decoder"}


def in_metadata(change: Callable[[dict], object]) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        content = json.loads((folder / "metadata.json").read_text())
        change(content)
        (folder / "metadata.json").write_text(json.dumps(content))

    return spoil


def swapped(a: str, b: str) -> Callable[[Path], object]:
    """Puts one asset in the place of another."""

    def spoil(folder: Path) -> None:
        shutil.rmtree(folder / f"{a}.aimodel")
        shutil.copytree(folder / f"{b}.aimodel", folder / f"{a}.aimodel")

    return spoil


Ports = dict[str, tuple[tuple[int, ...], mx.Dtype]]
IDS: Ports = {"input_ids": ((1, 77), mx.int32)}
CONTEXT: Ports = {"last_hidden_state": ((1, 77, 32), mx.float32)}
STEP: Ports = {
    "sample": ((2, 4, 8, 8), mx.float32),
    "timestep": ((2,), mx.float32),
    "encoder_hidden_states": ((2, 77, 32), mx.float32),
}
NOISE: Ports = {"noise_pred": ((2, 4, 8, 8), mx.float32)}


def written(name: str, inputs: Ports, outputs: Ports, function: str = "main") -> Callable[[Path], object]:
    """Writes an asset with these ports in the place of one; each output is the first number of the first input."""

    def call(_, x, *others):
        first = x.reshape(-1)[:1]
        return tuple(mx.zeros(s, t) + first.reshape((1,) * len(s)).astype(t) for s, t in outputs.values())

    def spoil(folder: Path) -> None:
        path = folder / f"{name}.aimodel"
        shutil.rmtree(path)
        ins, outs = (tuple(port(n, *p) for n, p in ports.items()) for ports in (inputs, outputs))
        spec = FunctionSpec(name, "unet", call, ins, outs, "", mx.float32)
        graph = record(spec, nn.Module())
        write({function: Function(spec, graph)}, {}.__getitem__, "original", path)

    return spoil


MUTATIONS: dict[str, tuple[Callable[[Path], object], str]] = {
    "metadata.json": (lambda f: (f / "metadata.json").unlink(), "no metadata.json"),
    "version": (in_metadata(lambda m: m.update(metadata_version="1.0")), "another version"),
    "kind": (in_metadata(lambda m: m.update(kind="llm")), "not of diffusion"),
    "name": (in_metadata(lambda m: m.pop("name")), "no name"),
    "diffusion": (in_metadata(lambda m: m.pop("diffusion")), "no assets or diffusion"),
    "type": (in_metadata(lambda m: m["diffusion"].update(type="stable-diffusion-xl")), "no pipeline"),
    "prediction": (in_metadata(lambda m: m["diffusion"].update(prediction_type="sample")), "unknown prediction"),
    "declared": (in_metadata(lambda m: m["assets"].pop("unet")), "not declared"),
    "asset": (lambda f: shutil.rmtree(f / "Unet.aimodel"), "unet is no asset"),
    "bytecode": (lambda f: (f / "VAEDecoder.aimodel/main.mlirb").unlink(), "vae_decoder is no asset"),
    "vocabulary": (lambda f: (f / "tokenizer/vocab.json").unlink(), "no tokenizer"),
    "merges": (lambda f: (f / "tokenizer/merges.txt").unlink(), "no tokenizer"),
    "size": (in_metadata(lambda m: m["diffusion"].update(image_size=512)), "configMismatch"),
    "ids": (swapped("TextEncoder", "VAEDecoder"), "ids are int32"),
    "decoder": (swapped("VAEDecoder", "VAEEncoder"), "decoder"),
    "encoder": (swapped("VAEEncoder", "VAEDecoder"), "encoder"),
    "unet": (swapped("Unet", "VAEDecoder"), "by position"),
    "vocabulary is a list": (lambda f: (f / "tokenizer/vocab.json").write_text("[]"), "no dictionary"),
    "merges have no head": (lambda f: cut_head(f / "tokenizer/merges.txt"), "without a head"),
    "no main": (written("TextEncoder", IDS, CONTEXT, "encode"), "an asset without main"),
    "no context": (written("TextEncoder", IDS, {"y": ((1, 32), mx.float32)}), "the one output of rank 3"),
    "two contexts": (written("TextEncoder", IDS, CONTEXT | {"y": ((1, 77, 32), mx.float32)}), "the one output of rank"),
    "context by channels": (
        written("Unet", STEP | {"encoder_hidden_states": ((2, 32, 1, 77), mx.float32)}, NOISE),
        "tokens, channels",
    ),
    "context of one text": (
        written("Unet", STEP | {"encoder_hidden_states": ((1, 77, 32), mx.float32)}, NOISE),
        "tokens, channels",
    ),
    "context of another width": (
        written("Unet", STEP | {"encoder_hidden_states": ((2, 77, 48), mx.float32)}, NOISE),
        "tokens, channels",
    ),
    "two outputs": (written("Unet", STEP, NOISE | {"deep_feature": ((2, 32, 8, 8), mx.float32)}), "one output"),
    "a timestep of int32": (written("Unet", STEP | {"timestep": ((2,), mx.int32)}, NOISE), "floats"),
}


def cut_head(merges: Path) -> None:
    merges.write_text(merges.read_text().partition("\n")[2])


def test_an_asset_that_is_written_here_is_loaded(exports, tmp_path):
    """The ports of the mutations above are right but for what each changes."""
    folder = Path(shutil.copytree(exports("small"), tmp_path / "folder"))
    written("TextEncoder", IDS, CONTEXT)(folder)
    written("Unet", STEP, NOISE)(folder)
    load(folder)


@pytest.mark.parametrize("name", ("MyTextEncoder", "unet_2", "Transformer", "VAEDecoderTiny"))
def test_two_assets_for_one_role_are_refused_by_a_scan(name, exports, tmp_path):
    folder = Path(shutil.copytree(exports("small"), tmp_path / "folder"))
    scan(folder)
    (folder / f"{name}.aimodel").mkdir()
    with pytest.raises(Refused, match="two assets for"):
        scan(folder)


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_folder_that_does_not_meet_a_requirement_is_refused(name, exports, tmp_path):
    spoil, words = MUTATIONS[name]
    folder = Path(shutil.copytree(exports("small"), tmp_path / "folder"))
    load(folder)
    spoil(folder)
    with pytest.raises(Refused, match=words):
        load(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    ({"batch": 1}, pytest.param({"sizes": ((64, 128),)}, marks=pytest.mark.slow)),
    ids=("one row", "not square"),
)
def test_a_folder_that_cannot_be_loaded_has_no_metadata(options, exported):
    folder = exported(SMALL, dtype="float32", attention="fused", **CORE_AI, **options)
    assert not (folder / "metadata.json").exists()
    (folder / "metadata.json").write_text(json.dumps(stock.metadata("x", info.read(folder))))
    try:
        with pytest.raises(Refused, match=r"both texts|configMismatch"):
            load(folder)  # so it is right that there was none
    finally:
        (folder / "metadata.json").unlink()


@pytest.mark.parametrize("name", slow_but(("inpaint9",), ("inpaint9", "sdxl")))
def test_models_without_a_pipeline_of_apples_are_named(name, model):
    networks = {"unet": model(name).unet, "vae": model(name).vae}
    words = {"inpaint9": "paints into images", "sdxl": "no pipeline for SDXL"}[name]
    assert words in (stock.obstacle(networks, {}) or "")
