"""Assets of Core AI with control: the functions of the UNet take residuals, and control networks compute them."""

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("coreai", reason="the extra coreai is not installed")

from coreml import asset_checks, drive, info
from coreml.__main__ import main
from coreml.coreai.runtime import Runtime
from mlx_sd import Control, DeepCache, StableDiffusion
from tests.support import controls
from tests.support.exports import CONTROL, CORE_AI, SMALL, UNET_AND_TEXT, leave_out
from tests.support.families import distance

pytestmark = pytest.mark.filterwarnings("ignore:in . evaluations little repeats itself:UserWarning")

ONLY = (*UNET_AND_TEXT, "text_encoder_2", CONTROL)
STEPS = {"steps": 5, "guidance": 5.0, "seed": 3, "output": "latent"}
RESIDUALS = [f"additional_residual_{i}" for i in range(5)]


@pytest.fixture
def small(exported, control_network) -> Path:
    """SMALL in float32, with a control network called Small."""
    return exported(SMALL, ONLY, dtype="float32", attention="fused", control=(control_network(SMALL),), **CORE_AI)


@pytest.fixture(scope="module")
def runtimes() -> Iterator[Callable[[Path], Runtime]]:
    """runtimes(path) is an asset that is loaded, once for all tests."""
    load = functools.cache(Runtime)
    loaded: list[Runtime] = []

    def start(path: Path) -> Runtime:
        loaded.append(load(path))
        return loaded[-1]

    yield start
    for runtime in loaded:
        runtime.close()


def check_every_function(folder: Path, sd: StableDiffusion) -> set[tuple[str, str]]:
    content, paths = asset_checks.content_of(folder)
    checks = list(asset_checks.run(content, paths, sd.model.name, False, lambda line: None))
    assert max(check.error for check in checks) <= 1e-5
    return {(check.package, check.function) for check in checks}


def test_every_function_computes_what_its_network_computes(small, model):
    functions = {(p, f) for p, d in info.read(small)["packages"].items() for f in d["functions"]}
    assert check_every_function(small, model(SMALL)) == functions
    assert {("controlnet/Small", name) for name in ("main", "shallow", "image")} < functions


@pytest.mark.slow
def test_ports_stand_in_one_order_in_all_functions(small, runtimes):
    step = ["sample", "timestep", "encoder_hidden_states"]
    unet, control = (runtimes(small / f"{name}.aimodel") for name in ("Unet", "controlnet/Small"))
    inputs = {name: list(f["inputs"]) for name, f in unet.functions.items()}
    assert inputs["main"] == inputs["full"] == step + RESIDUALS
    assert inputs["shallow"] == [*step, "deep_feature", RESIDUALS[0]]
    assert {name: list(f["inputs"]) for name, f in control.functions.items()} == {
        "main": [*step, "controlnet_cond"],
        "shallow": [*step, "image_features"],
        "image": ["controlnet_cond"],
    }
    outputs = {name: sorted(f["outputs"]) for name, f in control.functions.items()}
    assert outputs == {"main": RESIDUALS, "shallow": RESIDUALS[:1], "image": ["image_features"]}
    outputs, inputs = control.functions["main"]["outputs"], unet.functions["main"]["inputs"]
    assert all(outputs[name] == inputs[name] for name in RESIDUALS)


@pytest.mark.slow
def test_shallow_with_residuals_is_full_exactly(small, runtimes):
    unet, control = (runtimes(small / f"{name}.aimodel") for name in ("Unet", "controlnet/Small"))
    rng = np.random.default_rng(0)
    ports = {n: p for f in (control, unet) for n, p in f.functions["main"]["inputs"].items()}
    feeds = {name: rng.standard_normal(shape).astype(dtype) for name, (shape, dtype) in ports.items()}
    image = np.abs(feeds["controlnet_cond"][:1])

    def run(runtime: Runtime, function: str, arrays: dict) -> dict[str, np.ndarray]:
        return runtime.run(function, {name: arrays[name] for name in runtime.functions[function]["inputs"]})

    arrays = feeds | {"controlnet_cond": np.concatenate([image, image])}
    arrays |= run(control, "image", {"controlnet_cond": image})
    arrays |= run(control, "main", arrays)
    outer = run(control, "shallow", arrays)
    assert outer.keys() == {RESIDUALS[0]} and np.array_equal(outer[RESIDUALS[0]], arrays[RESIDUALS[0]])
    full = run(unet, "full", arrays)
    shallow = run(unet, "shallow", arrays | {"deep_feature": full["deep_feature"]} | outer)
    assert np.array_equal(shallow["noise_pred"], full["noise_pred"])
    zeros = run(unet, "full", arrays | {name: 0 * arrays[name] for name in RESIDUALS})
    assert distance(full["noise_pred"], zeros["noise_pred"]) >= 0.1


@pytest.mark.slow
def test_pictures_with_control_are_those_of_mlx(small, model, control_network):
    sd, packaged, image = model(SMALL), StableDiffusion(drive.load(small)), controls.image()
    settings = STEPS | {"deepcache": DeepCache(2)}
    plain = sd.generate("a tent", **settings).latents
    assert distance(packaged.generate("a tent", **settings).latents, plain) <= 1e-4
    expected = sd.generate("a tent", controls=[(control_network(SMALL), image, 0.8)], **settings).latents
    assert distance(packaged.generate("a tent", controls=[("Small", image, 0.8)], **settings).latents, expected) <= 1e-4
    assert distance(expected, plain) >= 0.1


@pytest.mark.slow
def test_apples_package_gets_no_metadata_json_and_the_export_says_why(family, control_network, tmp_path, capfd, small):
    assert not (small / "metadata.json").exists()
    out = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        leave_out(patch, ("unet",))
        arguments = ["--model", family("sd1").model.name, "--out", str(out), "--format", "coreai", "--unet", "full"]
        assert main([*arguments, "--control", control_network("sd1")]) == 0
    assert "it feeds no residuals of control networks" in capfd.readouterr().out
    assert json.loads((out / "info.json").read_text())["controls"].keys() == {"Sd1"}


def test_one_asset_of_a_network_is_checked_alone(small, model):
    content, paths = asset_checks.content_of(small / "controlnet/Small.aimodel")
    assert paths.keys() == {"controlnet/Small"}
    checks = list(asset_checks.run(content, paths, model(SMALL).model.name, False, lambda line: None))
    assert {check.function for check in checks} == {"main", "shallow", "image"}


SLOW = {
    "sd2v, sizes": ("sd2v", "sd2v", {"attention": "original", "sizes": ((64, 64), (64, 128))}),
    "union": ("sdxl", "union", {"attention": "split-einsum"}),
    "branch, row, state": (SMALL, SMALL, {"attention": "fused", "branch": 2, "batch": 1, "stateful": True}),
    "whole": (SMALL, SMALL, {"attention": "fused", "unets": ("full",)}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_every_form_of_an_export_computes_and_drives(name, exported, model, control_network):
    family, kind, options = SLOW[name]
    network = control_network(kind) + ("@depth" if kind == "union" else "")
    folder = exported(family, ONLY, dtype="float32", control=(network,), **(CORE_AI | options))
    check_every_function(folder, model(family))
    model_name, _, mode = network.partition("@")
    entry = Control(model_name, controls.image(), 1.5, mode=mode or None)
    controls.check_driven(model(family), StableDiffusion(drive.load(folder)), entry, STEPS, options.get("branch", 0))


@pytest.mark.slow
def test_float16_is_off_by_what_rounding_costs_and_its_twin_is_controlled(
    exported, model, control_network, monkeypatch
):
    folder = exported(SMALL, ONLY, dtype="float16", attention="fused", control=(control_network(SMALL),), **CORE_AI)
    content, paths = asset_checks.content_of(folder)
    name = model(SMALL).model.name
    lines: list[str] = []
    errors = [c.error for c in asset_checks.run(content, paths, name, False, lines.append)]
    assert 1e-5 < max(errors) <= 5e-3
    leave_out(monkeypatch, ONLY)
    monkeypatch.setattr(asset_checks, "PATIENCE", asset_checks.predicted(content, paths) / 2)
    checks = list(asset_checks.run(content, paths, name, False, lines.append))
    assert "twins of 32x32" in lines[-1]
    assert ("controlnet/Small", "shallow") in {(check.package, check.function) for check in checks}
    assert max(check.error for check in checks) <= 5e-3
