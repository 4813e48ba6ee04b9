"""Recordings of exported sets of every form: `recordings/CASE`, for tests of Swift's pipeline and its back ends."""

import json
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from coreml import export
from coreml.coreai import availability
from coreml.kit import picture
from coreml.kit.selection import Selection
from coreml.plan import Options, defaults
from mlx_sd import StableDiffusion, conditions
from mlx_sd.core.errors import InputError
from mlx_sd.core.files import read_json
from mlx_sd.resolve import model_folder
from mlx_sd.reuse import deepcache
from tests.support import controls, exports, families, kit_reader
from tests.support.exports import SMALL
from tests.support.swift_goldens.recorder import record, write_json, write_replays

_PROMPT, _NEGATIVE = "a red tent on green grass, under a (clear:1.2) sky", "blurry, dark"
_SIZE = (64, 64)
_GOLDENS = Path(__file__).parents[2] / "goldens"
_CONTROLS = ("Edges", "Depth")


@dataclass(frozen=True)
class Set:
    """An exported set; options: of `plan.Options`, beside those of the format."""

    checkpoint: str
    options: Mapping[str, Any]
    kit: bool = False
    controls: int = 0

    @property
    def core_ai(self) -> bool:
        """Returns whether it is of Core AI."""
        return self.options.get("format") == "coreai"


@dataclass(frozen=True)
class Case:
    """A picture that is recorded; values: other arguments of `StableDiffusion.generate`."""

    set: str
    values: Mapping[str, Any] = field(default_factory=dict)
    prompt: str = _PROMPT
    negative: str | None = _NEGATIVE


_CHUNKS = {"unets": ("chunks",), "attention": "original"}
_FLOAT32 = {**_CHUNKS, "dtype": "float32"}
_FUNCTIONS = {"target": "iOS18", "unets": ("functions",), "attention": "original", "sizes": (_SIZE, (64, 128))}
SETS = {
    "tiny": Set("tiny", {"unets": ("chunks",), "sizes": (_SIZE,)}, kit=True),
    "inpainting": Set("inpaint9", _FLOAT32),
    "batch 1": Set(SMALL, {**_CHUNKS, "batch": 1}),
    "functions": Set(SMALL, _FUNCTIONS),
    "halves": Set(SMALL, {"unets": ("halves",), "attention": "original"}),
    "sdxl": Set("sdxl", {"unets": ("chunks",), "target": "iOS17"}),
    "sd2v": Set("sd2v", {"unets": ("full",), "attention": "fused", "target": "iOS18"}),
    "control": Set(SMALL, _FLOAT32, controls=1),
    "controls": Set(SMALL, _CHUNKS, controls=2),
    "core ai": Set(SMALL, {"format": "coreai", "dtype": "float32"}),
    "core ai float16": Set(SMALL, {"format": "coreai"}),
    "core ai stateful": Set(SMALL, {"format": "coreai", "dtype": "float32", "stateful": True, "batch": 1}),
    "core ai control": Set(SMALL, {"format": "coreai", "dtype": "float32"}, controls=1),
}
_STEPS = {"steps": 6, "seed": 42, "sampler": "dpmpp_2m"}
_CACHED = {**_STEPS, "deepcache": "3:0"}
_FEW = {"steps": 4, "seed": 7}
_FEW_CACHED = {**_FEW, "deepcache": "2:0"}

# The order is that of their weight for those who wait for them.
CASES = {
    "text_to_image": Case("tiny", _STEPS),
    "deepcache": Case("tiny", _CACHED),
    "image_to_image": Case("tiny", {**_STEPS, "image": True, "strength": 0.6}),
    "inpainting": Case("tiny", {**_STEPS, "image": True, "mask": True, "strength": 0.75}),
    "inpainting_deepcache": Case("tiny", {**_CACHED, "image": True, "mask": True, "strength": 1.0}),
    "self_check": Case("tiny", prompt=picture.PROMPT, negative=picture.NEGATIVE),
    "deepcache_forecast": Case("tiny", {**_STEPS, "steps": 8, "deepcache": "2:0+forecast1"}),
    "deepcache_nonuniform": Case("tiny", {**_STEPS, "steps": 8, "deepcache": "nonuniform:3"}),
    "fresh_noise": Case("tiny", {**_STEPS, "sampler": "euler_ancestral", "rng": "torch"}),
    "two_evaluations": Case("tiny", {**_FEW, "sampler": "heun", "schedule": "karras", "rng": "cuda"}),
    "unguided": Case("tiny", {**_FEW, "guidance": 1.0}),
    "no_negative": Case("tiny", {**_FEW, "guidance_rescale": 0.7}, negative=None),
    "inpainting_network": Case("inpainting", {**_FEW_CACHED, "image": True, "mask": True}),
    "batch_1": Case("batch 1", _FEW_CACHED),
    "functions": Case("functions", {**_FEW_CACHED, "width": 64, "height": 128}),
    "halves": Case("halves", _FEW),
    "sdxl": Case("sdxl", {**_FEW, "crop": (8, 0), "original_size": (96, 64)}, negative=None),
    "sdxl_deepcache": Case("sdxl", _FEW_CACHED),
    "sd2v": Case("sd2v", _FEW),
    "control": Case("control", {**_FEW, "controls": (0.8,)}),
    "control_deepcache": Case("control", {**_FEW_CACHED, "controls": (0.8,)}),
    "control_unused": Case("control", _FEW_CACHED),
    "control_guess": Case("control", {**_FEW, "controls": (1.0,), "guess_mode": True}),
    "controls": Case("controls", {**_FEW, "controls": (0.5, 0.9)}),
    "controls_deepcache": Case("controls", {**_FEW_CACHED, "controls": (0.5, 0.9)}),
    "core_ai": Case("core ai", _FEW),
    "core_ai_deepcache": Case("core ai float16", _CACHED),
    "core_ai_forecast": Case("core ai", {**_STEPS, "deepcache": "2:0+forecast1"}),
    "core_ai_refresh": Case("core ai stateful", _FEW_CACHED),
    "core_ai_control": Case("core ai control", {**_FEW_CACHED, "controls": (0.8,)}),
}


def write(folder: Path, names: tuple[str, ...] = tuple(CASES)) -> None:
    """Records every case into recordings/CASE; those of Core AI only where coreai-core is installed."""
    with tempfile.TemporaryDirectory() as text, _cache(Path(text)), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a few steps are enough here
        exported: dict[str, Path] = {}
        for name in names:
            case = CASES[name]
            if SETS[case.set].core_ai and not _has_core_ai():
                continue
            if case.set not in exported:
                exported[case.set] = _export(SETS[case.set], Path(text) / case.set)
            out = folder / "recordings" / name
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir(parents=True)
            home = exported[case.set]
            also = partial(evaluate_golden, home / "kit") if name == "self_check" else lambda sd: None
            record(home, out, _values(name, case, home), case.prompt, case.negative, also)
            if name == "core_ai_refresh":
                _refresh(out)
            if name != "self_check":
                shutil.rmtree(out / "kit", ignore_errors=True)


def _values(name: str, case: Case, export: Path) -> dict[str, Any]:
    """Returns the arguments of `generate`, with their pictures."""
    values = dict(case.values)
    if name == "self_check":
        golden = read_json(export / "kit/picture/picture.json")
        table = read_json(export / "kit" / golden["table"])
        values |= {name: table[name] for name in ("sampler", "schedule", "steps", "deepcache")}
        values |= {"seed": golden["seed"], "guidance": golden["guidance"], "rng": golden["generator"]}
    if "image" in values:
        values["image"] = controls.image("init", _SIZE)
    if "mask" in values:
        values["mask"] = _mask()
    if "controls" in values:
        networks = zip(_CONTROLS, values["controls"], strict=False)
        values["controls"] = [(name, controls.image(name, _SIZE), scale) for name, scale in networks]
    return values


def evaluate_golden(kit: Path, sd: StableDiffusion) -> None:
    """Runs the UNet on the latents of a kit's golden picture, with deep features of its own."""
    golden = read_json(kit / "picture/picture.json")
    table = read_json(kit / golden["table"])
    latents = kit_reader.array(kit / "picture", golden["arrays"]["latents"])
    request = picture.request_of(sd, table, deepcache.parse(table["deepcache"]), (golden["width"], golden["height"]))
    inputs = conditions.conditions_of(sd.model, [request])
    features: dict[int, mx.array] = {}
    for i, row in enumerate(table["rows"]):
        x = mx.array(latents[i].transpose(1, 2, 0)[None])
        deep = None if row["full"] else sum(weight * features[j] for j, weight in row["deep"])
        rows = mx.broadcast_to(x, (2, *x.shape[1:]))
        _, features[i] = sd.unet(rows, mx.array(row["timestep"]), inputs.context, deep=deep, **inputs.keywords)


def _mask() -> Image.Image:
    """Returns a mask with a soft edge: a disc to paint in."""
    y, x = np.mgrid[: _SIZE[1], : _SIZE[0]]
    distance = np.hypot(x - 30, y - 36)
    return Image.fromarray(np.clip(255 * (22 - distance) / 6, 0, 255).astype(np.uint8))


def _export(exported: Set, home: Path) -> Path:
    """Exports a set below `home`; returns its folder."""
    home.mkdir()
    checkpoint = _checkpoint(exported.checkpoint, home / "checkpoint")
    networks = []
    for name in _CONTROLS[: exported.controls]:
        path = home / name
        config = exports.control_config(exported.checkpoint)
        networks.append(str(controls.write_folder(path, config, controls.weights(config, name))))
    format = exported.options.get("format", "coreml")
    values = {**vars(defaults(format)), **exported.options, "control": tuple(networks)}
    selection = Selection(("dpmpp_2m",), ("karras",), (6,), ("3:0",)) if exported.kit else None
    export.export(checkpoint, home / "set", Options(**values), report=lambda line: None, kit=selection)
    return home / "set"


def _checkpoint(name: str, path: Path) -> str:
    """Writes a tiny checkpoint where it is not the embedded one; returns what --model takes."""
    if name == "tiny":
        return name
    shapes = json.loads((_GOLDENS / "shapes.json").read_text(encoding="utf-8"))
    family = "sd1" if name == SMALL else name
    families.write_folder(family, shapes[family], path)
    if name == SMALL:
        exports.write_small(model_folder(str(path)), path.with_name(SMALL))
        return str(path.with_name(SMALL))
    return str(path)


def _refresh(folder: Path) -> None:
    """Makes the runs of `full` runs of `refresh`, which writes the deep feature in place."""
    content, runs = read_json(folder / "info.json"), json.loads((folder / "recording.json").read_text(encoding="utf-8"))
    for run in runs:
        if run["role"] == "unet_full":
            run["function"], run["role"] = "refresh", "unet_refresh"
    for asset in folder.glob("*.aimodel"):
        shutil.rmtree(asset)
    write_json(folder / "recording.json", runs)
    write_replays(folder, content, runs)


def _has_core_ai() -> bool:
    try:
        availability.check()
    except InputError:
        return False
    return True


@contextmanager
def _cache(home: Path) -> Iterator[None]:
    """Has a cache of its own while the block runs, with the embedded checkpoint's preview, which takes seconds."""
    shutil.copytree(_GOLDENS / "previews", home / "cache" / "previews")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLX_SD_CACHE", str(home / "cache"))
        yield
