"""An export computes what the network computes, in the shape that apps expect, and replaces nothing by accident."""

import errno
import shutil
from pathlib import Path

import numpy as np
import pytest

from convert.__main__ import main as convert
from coreml import asset_checks, export, info, packages, stock, verify
from coreml.__main__ import main
from coreml.interpret.package import Package
from coreml.mil import package
from coreml.plan import Options
from mlx_sd import StableDiffusion
from tests.support import adapters
from tests.support.effort import slow_but
from tests.support.exports import CORE_AI, FORMS, SMALL, UNET_AND_TEXT, check_replaced_by_force_alone, leave_out


# One form holds every theorem; the others are other networks and widths of the same.
@pytest.fixture(
    params=[f if f in ("sd1 float16", "small float32") else pytest.param(f, marks=pytest.mark.slow) for f in FORMS]
)
def form(request) -> str:
    return request.param


@pytest.fixture
def folder(form, exported) -> Path:
    return exported(form)


def test_every_package_computes_what_its_network_computes(form, folder, model):
    sd, exact = model(FORMS[form][0]), "float32" in form
    for chain in verify.chains(folder):
        for check in verify.verify(chain, sd):
            assert check.psnr > 60, check  # Apple asks for 35
            assert check.error <= (1e-4 if exact else 5e-3), check


def test_nothing_has_more_than_four_axes(folder):
    for path in folder.glob("*.mlpackage"):
        for operation in Package.load(path).operations():
            assert all(len(t.shape) <= 4 for t in operation.outputs.values()), (path.name, operation.name)


# Apple's Swift code finds everything by these names, shapes and types (sd1: 8 x 8 latents of 64 x 64 pixels).
STEP = {"sample": (2, 4, 8, 8), "timestep": (2,), "encoder_hidden_states": (2, 32, 1, 77)}
INTERFACES = {
    "TextEncoder": ({"input_ids": (1, 77)}, {"last_hidden_state": (1, 77, 32), "pooled_outputs": (1, 32)}),
    "Unet": (STEP, {"noise_pred": (2, 4, 8, 8)}),
    "UnetChunk1": (STEP, {"deep_feature": (2, 32, 8, 8)}),
    "UnetChunk2": (STEP | {"deep_feature": (2, 32, 8, 8)}, {"noise_pred": (2, 4, 8, 8)}),
    "VAEDecoder": ({"z": (1, 4, 8, 8)}, {"image": (1, 3, 64, 64)}),
    "VAEEncoder": ({"x": (1, 3, 64, 64)}, {"latent": (1, 8, 8, 8)}),
}


@pytest.mark.parametrize("name", INTERFACES)
def test_interfaces_are_those_of_apples_code(name, exported):
    saved = Package.load(exported("sd1 float16") / f"{name}.mlpackage")
    inputs, outputs = INTERFACES[name]
    assert {n: shape for n, (shape, _) in saved.inputs().items()} == inputs
    assert {n: shape for n, (shape, _) in saved.outputs().items()} == outputs
    for n, (_, dtype) in {**saved.inputs(), **saved.outputs()}.items():
        assert dtype == (np.float16 if n in (*STEP, "deep_feature", "z", "x") else np.float32), n


@pytest.mark.slow
def test_sdxl_takes_sizes_and_pooled_text_too(exported):
    folder = exported("sdxl float16")
    assert {"time_ids", "text_embeds"} < Package.load(folder / "Unet.mlpackage").inputs().keys()
    for name in ("TextEncoder", "TextEncoder2"):
        assert Package.load(folder / f"{name}.mlpackage").outputs().keys() == {"hidden_embeds", "pooled_outputs"}
    # This VAE overflows float16.
    assert Package.load(folder / "VAEDecoder.mlpackage").inputs()["z"][1] == np.float32


# Operations of sd1's UNet in each form: more is a loss, and less means that this budget is out of date.
BUDGETS = {
    "original": {"conv": 257, "matmul": 64, "softmax": 32, "transpose": 0, "einsum": 0, "layer_norm": 109},
    "split-einsum": {"conv": 257, "matmul": 0, "softmax": 128, "transpose": 31, "einsum": 256, "layer_norm": 109},
}


@pytest.mark.parametrize("attention", [pytest.param("original", marks=pytest.mark.slow), "split-einsum"])
def test_operations_are_within_budget(attention, exported):
    form = {"original": "sd1 float32", "split-einsum": "sd1 float16"}[attention]
    kinds = Package.load(exported(form) / "Unet.mlpackage").kinds()
    assert {kind: kinds[kind] for kind in BUDGETS[attention]} == BUDGETS[attention]
    assert kinds["linear"] == 24  # of the embedded time alone: all others are convolutions
    assert {"original": 1166, "split-einsum": 1550}[attention] == kinds.total()


def test_the_time_is_in_float32_and_the_rest_is_not(exported):
    saved = Package.load(exported("sd1 float16") / "Unet.mlpackage")
    for operation in saved.operations():
        if operation.kind in ("sin", "cos"):
            assert {t.dtype for t in operation.outputs.values()} == {"fp32"}
        if operation.kind in ("conv", "layer_norm", "einsum", "linear"):
            assert {t.dtype for t in operation.outputs.values()} == {"fp16"}


def test_chunk_after_chunk_is_the_whole_unet(exported):
    """What Apple's code does with two chunks, in an app that does not know DeepCache."""
    folder = exported("small float32")
    rng = np.random.default_rng(0)
    feeds = {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in STEP.items()}
    full = Package.load(folder / "Unet.mlpackage").run(feeds)["noise_pred"]
    first = Package.load(folder / "UnetChunk1.mlpackage").run(feeds)
    second = Package.load(folder / "UnetChunk2.mlpackage").run(feeds | first)["noise_pred"]
    assert np.abs(second - full).max() <= 1e-6 * np.abs(full).max()


# ------------------------------------------------------------------------------------------------ other packages


@pytest.mark.slow
def test_several_functions_share_their_weights(functions, exported):
    options = {"target": "iOS18", "unets": ("full",), "attention": "original"}
    unet = exported(SMALL, ("unet",), **options) / "Unet.mlpackage"
    weights, alone = (
        (path / "Data/com.apple.CoreML/weights/weight.bin").stat().st_size
        for path in (functions / "UnetFunctions.mlpackage", unet)
    )
    assert weights <= 1.02 * alone
    assert package.size(unet) > weights  # four programs and one set of weights


@pytest.mark.slow
def test_every_function_of_every_size_computes_what_its_network_computes(functions, model):
    checks = [check for chain in verify.chains(functions) for check in verify.verify(chain, model(SMALL))]
    assert min(check.psnr for check in checks) > 60
    names = {check.function for check in checks if check.package == "UnetFunctions"}
    assert names == {"full_64x64", "shallow_64x64", "full_64x128", "shallow_64x128"}


@pytest.mark.slow
def test_halves_compute_the_whole_unet_one_after_the_other(halves, model):
    chains = [chain for chain in verify.chains(halves) if chain[0][1]["piece"] != [1, 1]]
    assert [[path.stem for path, _ in chain] for chain in chains] == [["UnetChunk1", "UnetChunk2"]]
    assert max(check.error for check in verify.verify(chains[0], model(SMALL))) <= 1e-4


@pytest.mark.slow
def test_a_package_above_the_limit_is_cut_into_parts_below_it(exported, model, monkeypatch):
    monkeypatch.setattr(packages, "GIGABYTE", 500_000)
    folder = exported(SMALL, ("unet",), split=True, unets=("chunks",), attention="original", compress="int8")
    content = info.read(folder)
    parts = [name for name in content["packages"] if name.startswith("UnetChunk1")]
    assert parts == ["UnetChunk1Part1", "UnetChunk1Part2"]
    assert content["roles"]["64x64"]["unet_deep"] == [[name, "main"] for name in parts]
    checks = [check for chain in verify.chains(folder) for check in verify.verify(chain, model(SMALL))]
    assert min(check.psnr for check in checks) > 30  # int8


@pytest.mark.slow
def test_another_branch_and_batch_compute_what_the_network_computes(branch_2_batch_1, model):
    for chain in verify.chains(branch_2_batch_1):
        assert max(check.error for check in verify.verify(chain, model(SMALL))) <= 1e-4


@pytest.mark.parametrize("part", slow_but(("text_encoder",), UNET_AND_TEXT))
@pytest.mark.parametrize("format", slow_but(("coreml",), ("coreml", "coreai")))
def test_merged_adapters_are_in_the_packages(format, part, original, shapes, tmp_path, monkeypatch):
    """A model with a LoRA merged into it is exported; the same LoRA beside the layers is what it has to equal."""
    if format == "coreai":
        pytest.importorskip("coreai", reason="the extra coreai is not installed")
    factors = adapters.every_layer(shapes["sd1"], pick=adapters.attention)
    lora = str(adapters.save(tmp_path / "style.safetensors", adapters.kohya(factors)))
    merged, out = tmp_path / "merged", tmp_path / "out"
    assert convert(["--model", str(original), "--lora", f"{lora}:0.5", "--out", str(merged)]) == 0
    leave_out(monkeypatch, (part,))
    monkeypatch.setattr(stock, "obstacle", lambda *_: "this test leaves out networks")
    options = {"coreml": Options("float32", "original", unets=("full",)), "coreai": Options("float32", **CORE_AI)}
    content = export.export(str(merged), out, options[format], report=lambda line: None)
    assert [lora["scale"] for lora in content["model"]["loras"]] == [0.5]
    errors = {}
    sds = [StableDiffusion.load(original, "float32")]
    sds.append(StableDiffusion.load(original, "float32", loras=[(lora, 0.5)], lora_mode="runtime"))
    for sd in sds:
        errors[sd is sds[1]] = max(check.error for check in checks_of(format, out, sd, monkeypatch))
    assert errors[True] <= (1e-5 if format == "coreai" else 1e-4)
    assert errors[False] > 1e-2


def checks_of(format, folder, sd, monkeypatch):
    if format == "coreml":
        return [check for chain in verify.chains(folder) for check in verify.verify(chain, sd)]
    monkeypatch.setattr(asset_checks.StableDiffusion, "load", lambda *_: sd)
    return list(asset_checks.run(*asset_checks.content_of(folder), "merged", False, lambda line: None))


# ------------------------------------------------------------------------------------------------ the folder


def test_an_earlier_export_is_replaced_only_by_force(family, tmp_path, monkeypatch, capfd):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    leave_out(monkeypatch, ("text_encoder",))
    arguments = ["--model", family("sd1").model.name, "--out", str(out)]
    check_replaced_by_force_alone(arguments, out, capfd)
    assert (out / "mine.txt").read_text() == "mine"


def test_packages_of_an_earlier_export_do_not_stay_behind(family, tmp_path, monkeypatch):
    """An app that finds UnetChunk1 runs it: an old one beside a new Unet would be worse than none."""
    out = tmp_path / "out"
    leave_out(monkeypatch, ("unet",))
    # What is in a package does not matter here, but that there is one.
    monkeypatch.setattr(package, "write", lambda *arguments: arguments[-1].mkdir() or {})
    monkeypatch.setattr(package, "write_metadata", lambda *_: None)
    arguments = ["--model", family("sd1").model.name, "--out", str(out)]
    assert main([*arguments, "--unet", "chunks"]) == 0
    assert sorted(p.stem for p in out.glob("Unet*")) == ["UnetChunk1", "UnetChunk2"]
    assert main([*arguments, "--unet", "full", "--force"]) == 0
    assert sorted(p.stem for p in out.glob("Unet*")) == ["Unet"]


def test_a_full_disk_leaves_nothing(family, tmp_path, monkeypatch, capfd):
    leave_out(monkeypatch, ("text_encoder",))
    arguments = ["--model", family("sd1").model.name, "--out", str(tmp_path / "out")]

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(package, "write", full)
    assert main(arguments) == 1
    assert "no space" in capfd.readouterr().err
    monkeypatch.setattr(export.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1000, 990, 10))
    assert main(arguments) == 2
    assert "GB free" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []
