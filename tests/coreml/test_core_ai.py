"""Assets of Core AI compute in Apple's own runtime what MLX computes, for every family and in every form."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

pytest.importorskip("coreai", reason="the extra coreai is not installed")

from coreml import asset_checks, assets, drive, export, info
from coreml.__main__ import main
from coreml.coreai.emitter import Emitter
from coreml.coreai.runtime import Runtime, check
from coreml.lowering.lower import CAST
from coreml.plan import Options
from mlx_sd import DeepCache, StableDiffusion
from mlx_sd.cli import generate
from tests.support.effort import slow_but
from tests.support.exports import CORE_AI, SMALL, UNET_AND_TEXT, check_replaced_by_force_alone, leave_out

ROOT = Path(__file__).parent.parent.parent
pytestmark = pytest.mark.filterwarnings("ignore:in . evaluations little repeats itself:UserWarning")

# Every family in float32, and between them every form; SMALL has one of everything, and is quick.
FORMS = {
    "small fused": (SMALL, {"attention": "fused"}),
    "sd2v": ("sd2v", {"attention": "original"}),
    "sdxl": ("sdxl", {"attention": "split-einsum"}),
    "inpaint9": ("inpaint9", {"attention": "fused"}),
    "another branch, one row": (SMALL, {"attention": "fused", "branch": 1, "batch": 1}),
}


def checks(folder: Path, sd: StableDiffusion, **options):
    content, paths = asset_checks.content_of(folder)
    return list(asset_checks.run(content, paths, sd.model.name, options.get("full", False), lambda line: None))


@pytest.mark.parametrize("name", slow_but(("small fused",), FORMS))
def test_every_function_computes_what_its_network_computes(name, exported, model):
    """And shallow fed with full's deep feature is full, exactly: a difference is an error of the checks themselves."""
    family, options = FORMS[name]
    folder = exported(family, dtype="float32", **CORE_AI, **options)
    results = checks(folder, model(family))
    assert max(check.error for check in results) <= 1e-5
    functions = {(check.package, check.function) for check in results}
    assert {("Unet", "main"), ("Unet", "full"), ("Unet", "shallow"), ("VAEDecoder", "main")} < functions
    assert functions == {(p, f) for p, d in info.read(folder)["packages"].items() for f in d["functions"]}


# Apple's CPU runtime adds up products of matrices in float16, in an order that depends on the processor: at most
# 5.03e-3 was measured on one (the refiner, in the form for GPUs), 6.43e-3 on another (SDXL, in the same form).
ROUNDING = 1e-2
ROUNDED = [(SMALL, "split-einsum"), ("sdxl", "fused"), ("refiner", "fused")]


@pytest.mark.slow
@pytest.mark.parametrize("pair", slow_but(((SMALL, "split-einsum"), ("refiner", "fused")), ROUNDED), ids=" ".join)
def test_float16_is_off_by_what_rounding_costs(pair, exported, model):
    name, form = pair
    only = ("unet",) if name == "refiner" else ()
    folder = exported(name, only, dtype="float16", attention=form, **CORE_AI)
    errors = [check.error for check in checks(folder, model(name))]
    assert 1e-5 < max(errors) <= ROUNDING  # below, it would not be float16


@pytest.mark.slow
def test_what_the_form_for_gpus_loses_in_float16_is_lost_in_the_sums_of_the_cpu_runtime(model, tmp_path, monkeypatch):
    """With products of matrices that are added up in float32, the rest as it is, the refiner is off by half as much.

    Neither softmax, activations nor norms in float32 change anything.
    """
    product = Emitter.matmul

    def exact(self, x, y, transpose_x=False, transpose_y=False):
        single = [self.cast(v, "fp32") if v.dtype == np.float16 else v for v in (x, y)]
        return self.cast(product(self, *single, transpose_x, transpose_y), CAST[x.dtype])

    def here(command, input, **_):
        answer = assets.write_here(json.loads(input))
        return subprocess.CompletedProcess(command, 0, json.dumps(answer).encode(), b"")

    options = Options("float16", "fused", **CORE_AI)
    with monkeypatch.context() as patch:
        leave_out(patch, ("unet",))
        patch.setattr(Emitter, "matmul", exact)
        patch.setattr(assets.subprocess, "run", here)
        export.export(model("refiner").model.name, tmp_path / "out", options, report=lambda line: None)
    errors = [check.error for check in checks(tmp_path / "out", model("refiner"))]
    assert 1e-5 < max(errors) <= 3e-3  # MLX's own float16 is off by 2.2e-3


@pytest.mark.slow
def test_shallow_with_the_feature_of_full_is_full_exactly(exported):
    folder = exported(SMALL, dtype="float32", attention="fused", **CORE_AI)
    runtime, rng = Runtime(folder / "Unet.aimodel"), np.random.default_rng(0)
    ports = runtime.functions["full"]["inputs"]
    feeds = {n: rng.standard_normal(shape).astype(dtype) for n, (shape, dtype) in ports.items()}
    full = runtime.run("full", feeds)
    main = runtime.run("main", feeds)
    shallow = runtime.run("shallow", feeds | {"deep_feature": full["deep_feature"]})
    assert main.keys() == shallow.keys() == {"noise_pred"}
    assert np.array_equal(shallow["noise_pred"], full["noise_pred"])
    assert np.array_equal(main["noise_pred"], full["noise_pred"])
    other = runtime.run("shallow", feeds | {"deep_feature": full["deep_feature"] + 1})
    assert not np.array_equal(other["noise_pred"], full["noise_pred"])
    runtime.close()


def test_functions_of_the_unet_share_their_weights(exported):
    folder = exported(SMALL, dtype="float32", attention="fused", **CORE_AI)
    one = exported(SMALL, ("unet",), dtype="float32", attention="fused", **(CORE_AI | {"unets": ("full",)}))
    three, alone = (f.joinpath("Unet.aimodel/main.mlirb").stat().st_size for f in (folder, one))
    assert info.read(one)["packages"]["Unet"]["functions"].keys() == {"main"}
    assert alone < three < 1.15 * alone


@pytest.mark.slow
def test_several_sizes_are_functions_of_one_asset(exported, model):
    sizes = ((64, 64), (64, 128))
    folder = exported(SMALL, UNET_AND_TEXT, dtype="float32", attention="fused", sizes=sizes, **CORE_AI)
    functions = info.read(folder)["packages"]["Unet"]["functions"]
    assert list(functions) == ["main", "full", "shallow", "main_64x128", "full_64x128", "shallow_64x128"]
    assert functions["main"]["inputs"]["sample"]["shape"] == [2, 4, 8, 8]
    assert functions["main_64x128"]["inputs"]["sample"]["shape"] == [2, 4, 16, 8]
    assert max(check.error for check in checks(folder, model(SMALL))) <= 1e-5
    sd, packaged = model(SMALL), StableDiffusion(drive.load(folder))
    options = {"steps": 3, "width": 64, "height": 128, "deepcache": DeepCache(2), "output": "latent", "seed": 0}
    expected, latents = (s.generate("a red tent", **options).latents for s in (sd, packaged))
    assert mx.abs(latents - expected).max() / mx.abs(expected).max() < 1e-3


@pytest.mark.slow
def test_the_deep_feature_as_a_state_is_the_plain_one(exported, model):
    folder = exported(SMALL, ("unet",), dtype="float32", attention="fused", stateful=True, **CORE_AI)
    refresh = info.read(folder)["packages"]["Unet"]["functions"]["refresh"]
    assert refresh["states"] == ["deep_feature"] and refresh["outputs"].keys() == {"noise_pred"}
    runtime, rng = Runtime(folder / "Unet.aimodel"), np.random.default_rng(0)
    feeds = {n: rng.standard_normal(s).astype(d) for n, (s, d) in runtime.functions["full"]["inputs"].items()}
    shape, dtype = runtime.functions["refresh"]["states"]["deep_feature"]
    plain = runtime.run("full", feeds)
    stateful = runtime.run("refresh", feeds | {"deep_feature": np.zeros(shape, dtype)}, states=["deep_feature"])
    assert all(np.array_equal(plain[name], stateful[name]) for name in ("noise_pred", "deep_feature"))
    runtime.close()
    assert "refresh" in {check.function for check in checks(folder, model(SMALL))}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attention", "scheme"),
    [("fused", "palettize4"), ("fused", "int8"), ("split-einsum", "int4:32"), ("fused", "sparse50")],
)
def test_compressed_weights_are_smaller_and_near(attention, scheme, exported, model):
    """Against the float32 network; the constants themselves are tested one by one."""
    plain, compressed = (
        exported(SMALL, ("unet",), dtype="float32", attention=attention, compress=compress, **CORE_AI)
        for compress in (None, scheme)
    )
    sizes = [(folder / "Unet.aimodel/main.mlirb").stat().st_size for folder in (plain, compressed)]
    assert sizes[1] < 0.7 * sizes[0]
    assert info.read(compressed)["compression"] == {"name": scheme}
    errors = [check.error for check in checks(compressed, model(SMALL))]
    assert 1e-4 < max(errors) < (0.7 if scheme == "sparse50" else 0.5)  # of random weights, half dropped are missed


# ------------------------------------------------------------------------------------------------ the loop


@pytest.mark.parametrize("name", slow_but((SMALL,), (SMALL, "sdxl")))
def test_the_loop_of_an_app_is_the_loop_of_mlx(name, exported, model):
    sd = model(name)
    folder = exported(name, dtype="float32", attention="fused", **CORE_AI)
    packaged = StableDiffusion(drive.load(folder))
    options = {"steps": 6, "guidance": 5.0, "seed": 3, "deepcache": DeepCache(3), "output": "latent"}
    expected, result = (s.generate("a red tent", "a dark sky", **options) for s in (sd, packaged))
    assert result.full == expected.full < result.evaluations
    assert mx.abs(result.latents - expected.latents).max() / mx.abs(expected.latents).max() <= 1e-3
    image = sd.generate("a red tent", steps=1, seed=0).images[0]
    assert mx.abs(packaged.encode(image) - sd.encode(image)).max().item() < 1e-4


@pytest.mark.slow
def test_drive_is_generate_with_the_folder(exported, tmp_path, capfd):
    folder = exported(SMALL, dtype="float32", attention="fused", **CORE_AI)
    options = ["--steps", "2", "--seed", "0"]
    assert main(["drive", str(folder), "a tent", *options, "--output", str(tmp_path / "a.png")]) == 0
    out, err = capfd.readouterr()
    assert "Apple's CPU runtime on Linux, one thread: about" in err
    assert "ODIE" not in out + err  # what native code prints
    assert generate.main(["a tent", "--coreml", str(folder), *options, "--output", str(tmp_path / "b.png")]) == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_the_process_of_an_asset_imports_no_mlx(exported):
    asset = exported(SMALL, dtype="float32", attention="fused", **CORE_AI) / "TextEncoder.aimodel"
    code = (
        "import runpy, sys; runpy.run_path(sys.argv.pop(), run_name='__main__');"
        "sys.exit(any(name.split('.')[0] in ('mlx', 'mlx_sd', 'coreml') for name in sys.modules))"
    )
    command = [sys.executable, "-c", code, asset, ROOT / "coreml/coreai/child.py"]
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert done.returncode == 0 and b'"functions"' in done.stdout


def test_a_process_that_hangs_is_one_line(exported, monkeypatch):
    from mlx_sd.core.errors import Failure

    asset = exported(SMALL, dtype="float32", attention="fused", **CORE_AI) / "TextEncoder.aimodel"
    runtime = Runtime(asset)
    os.kill(runtime._process.pid, 19)  # SIGSTOP
    runtime._patience = 0.2
    with pytest.raises(Failure, match="did not run main within"):
        runtime.run("main", {"input_ids": np.zeros((1, 77), np.int32)})
    assert runtime._process.poll() is not None


@pytest.mark.slow
def test_large_float16_is_checked_by_a_twin_that_is_quicker(exported, model, monkeypatch):
    folder = exported(SMALL, ("unet",), dtype="float16", attention="fused", sizes=((128, 128),), **CORE_AI)
    leave_out(monkeypatch, ("unet",))
    content, paths = asset_checks.content_of(folder)
    lines: list[str] = []
    monkeypatch.setattr(asset_checks, "PATIENCE", asset_checks.predicted(content, paths) / 2)
    results = list(asset_checks.run(content, paths, model(SMALL).model.name, False, lines.append))
    assert "twins of 32x32" in lines[1]
    assert {check.function for check in results} == {"main", "full", "shallow"}
    assert max(check.error for check in results) <= 5e-3
    assert all(math.isfinite(check.psnr) for check in results)


# ------------------------------------------------------------------------------------------------ the folder


def test_the_content_of_info_json_is_in_every_asset(exported):
    folder = exported(SMALL, dtype="float32", attention="fused", **CORE_AI)
    content = info.read(folder)
    for name in content["packages"]:
        inside = check(folder / f"{name}.aimodel")
        assert inside["roles"] == content["roles"] and inside["alphas_cumprod"] == content["alphas_cumprod"]
        assert inside["packages"][name]["sha256"] == content["packages"][name]["sha256"]


@pytest.mark.slow
def test_an_earlier_export_is_replaced_by_force_alone_and_what_is_the_users_stays(family, tmp_path, monkeypatch, capfd):
    out = tmp_path / "out"
    (out / "tokenizer").mkdir(parents=True)
    (out / "tokenizer/mine.txt").write_text("mine")
    (out / "mine.aimodel").mkdir()
    leave_out(monkeypatch, ("text_encoder",))
    monkeypatch.setattr(export, "_write_beside_assets", _without_unet(export._write_beside_assets))
    arguments = ["--model", family("sd1").model.name, "--out", str(out), "--format", "coreai"]
    check_replaced_by_force_alone(arguments, out, capfd)
    assert (out / "tokenizer/mine.txt").read_text() == "mine" and (out / "mine.aimodel").is_dir()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


def _without_unet(write):
    """Without an asset of the UNet there is nothing that metadata.json could say of it."""

    def beside(*arguments):
        from coreml import stock

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stock, "obstacle", lambda *_: "this test has left out the UNet")
            write(*arguments)

    return beside


def test_a_full_disk_leaves_nothing(family, tmp_path, monkeypatch, capfd):
    """coreai-core ends its process there: no exception reaches it, and nothing cleans up."""
    leave_out(monkeypatch, ("text_encoder",))
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\nulimit -f 64\ntrap '' XFSZ\nexec '{sys.executable}' \"$@\"\n")
    script.chmod(0o755)
    monkeypatch.setattr(assets, "_FULL", "File too large")  # how a limit of this test is named
    monkeypatch.setattr(assets.sys, "executable", str(script))
    arguments = ["--model", family("sd1").model.name, "--out", str(tmp_path / "out"), "--format", "coreai"]
    assert main(arguments) == 1
    assert "no space is left; nothing was written" in capfd.readouterr().err
    monkeypatch.setattr(export.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1000, 990, 10))
    assert main(arguments) == 2
    assert "GB free" in capfd.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["python"]


@pytest.mark.parametrize(
    ("options", "words"),
    (
        (("--unet", "chunks"), "--unet chunks is of Core ML"),
        (("--target", "iOS18"), "Core AI is of OS27"),
        (("--split",), "--split is of Core ML"),
        (("--stateful", "--unet", "full"), "--stateful is of DeepCache's functions"),
        (("--branch", "12"), "there is no branch 12"),
        (("--width", "65"), "multiples of"),
    ),
)
def test_options_that_do_not_go_together_are_refused(options, words, tmp_path, capfd):
    assert main(["--format", "coreai", "--out", str(tmp_path / "out"), *options]) == 2
    err = capfd.readouterr().err
    assert words in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_info_json_says_which_function_does_what(exported):
    content = json.loads((exported(SMALL, dtype="float32", attention="fused", **CORE_AI) / "info.json").read_text())
    assert content["format"] == "mlx-sd Core AI"
    assert content["roles"]["64x64"]["unet_full"] == [["Unet", "full"]]
    assert content["roles"]["64x64"]["unet"] == [["Unet", "main"]]
    assert content["roles"]["any"]["text_encoder"] == [["TextEncoder", "main"]]
    ports = {n: p["dtype"] for n, p in content["packages"]["TextEncoder"]["functions"]["main"]["inputs"].items()}
    assert ports == {"input_ids": "int32"}
