"""Core ML: what is exported computes what the network computes, in the shape that apps expect."""

import errno
import json
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from coreml import drive, export, info, package, verify
from coreml.__main__ import main
from coreml.compress import WAYS
from coreml.interpret import Package
from coreml.networks import UNetPackages
from coreml.operations import ATTENTIONS
from coreml.plan import Options
from mlx_sd import DeepCache, StableDiffusion
from mlx_sd.checkpoint.model_folder import build
from mlx_sd.cli import generate
from mlx_sd.core.errors import Failure, InputError
from tests.support import families
from tests.support.exports import exported, leave_out  # noqa: F401 - a fixture

EXPORTS = {  # the families and dtypes, and between them every form of attention
    "sd1 float32": ("sd1", {"dtype": "float32", "attention": "original"}),
    "sd1 float16": ("sd1", {"dtype": "float16", "attention": "split-einsum"}),
    "sd2 float16": ("sd2v", {"attention": "fused", "target": "iOS18", "unets": ("full",)}),
    "sdxl float16": ("sdxl", {"attention": "split-einsum", "target": "iOS17"}),
}


LOOP = ("unet", "text_encoder")  # what a loop needs that ends with latents


@pytest.fixture(params=EXPORTS)
def written(request, exported, family) -> tuple[Path, StableDiffusion, bool]:  # noqa: F811
    """A folder of packages, what it was made from, and whether it is exact."""
    name, options = EXPORTS[request.param]
    return exported(name, **options), family(name), options.get("dtype") == "float32"


def test_every_package_computes_what_its_network_computes(written):
    folder, sd, exact = written
    for chain in verify.chains(folder):
        for check in verify.verify(chain, sd):
            assert check.psnr > 60, check  # Apple asks for 35
            assert check.error <= (1e-4 if exact else 5e-3), check


def test_nothing_has_more_than_four_axes(written):
    for path in written[0].glob("*.mlpackage"):
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
def test_interfaces_are_those_of_apples_code(name, exported):  # noqa: F811
    saved = Package.load(exported("sd1", **EXPORTS["sd1 float16"][1]) / f"{name}.mlpackage")
    inputs, outputs = INTERFACES[name]
    assert {n: shape for n, (shape, _) in saved.inputs().items()} == inputs
    assert {n: shape for n, (shape, _) in saved.outputs().items()} == outputs
    for n, (_, dtype) in {**saved.inputs(), **saved.outputs()}.items():
        assert dtype == (np.float16 if n in (*STEP, "deep_feature", "z", "x") else np.float32), n


def test_sdxl_takes_sizes_and_pooled_text_beside(exported):  # noqa: F811
    folder = exported("sdxl", **EXPORTS["sdxl float16"][1])
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


@pytest.mark.parametrize("form", BUDGETS)
def test_operations_are_within_budget(form, exported):  # noqa: F811
    options = next(o for _, o in EXPORTS.values() if o["attention"] == form)
    kinds = Package.load(exported("sd1", **options) / "Unet.mlpackage").kinds()
    assert {kind: kinds[kind] for kind in BUDGETS[form]} == BUDGETS[form]
    assert kinds["linear"] == 24  # of the embedded time alone: all others are convolutions
    assert {"original": 1166, "split-einsum": 1550}[form] == kinds.total()


def test_the_time_is_in_float32_and_the_rest_is_not(exported):  # noqa: F811
    saved = Package.load(exported("sd1", **EXPORTS["sd1 float16"][1]) / "Unet.mlpackage")
    for operation in saved.operations():
        if operation.kind in ("sin", "cos"):
            assert {t.dtype for t in operation.outputs.values()} == {"fp32"}
        if operation.kind in ("conv", "layer_norm", "einsum", "linear"):
            assert {t.dtype for t in operation.outputs.values()} == {"fp16"}


def test_chunk_after_chunk_is_the_whole(exported):  # noqa: F811
    """What Apple's code does with two chunks, where nobody knows of DeepCache."""
    folder = exported("sd1", **EXPORTS["sd1 float32"][1])
    rng = np.random.default_rng(0)
    feeds = {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in STEP.items()}
    whole = Package.load(folder / "Unet.mlpackage").run(feeds)["noise_pred"]
    first = Package.load(folder / "UnetChunk1.mlpackage").run(feeds)
    second = Package.load(folder / "UnetChunk2.mlpackage").run(feeds | first)["noise_pred"]
    assert np.abs(second - whole).max() <= 1e-6 * np.abs(whole).max()


@pytest.mark.parametrize("name", ("sd1 float32", "sdxl float16"))
def test_the_loop_of_an_app_is_the_loop_of_mlx(name, exported, family):  # noqa: F811
    base, options = EXPORTS[name]
    sd, packaged = family(base), StableDiffusion(drive.load(exported(base, **options)))
    how = {"steps": 6, "guidance": 5.0, "seed": 3, "deepcache": DeepCache(3), "output": "latent"}
    wanted, got = (s.generate("a red tent", "a dark sky", **how) for s in (sd, packaged))
    assert got.full == wanted.full < got.evaluations
    difference = mx.abs(got.latents - wanted.latents).max() / mx.abs(wanted.latents).max()
    assert difference.item() <= (1e-3 if "float32" in name else 2e-2)


def test_pictures_are_encoded_and_decoded_by_packages(exported, family):  # noqa: F811
    sd = family("sd1")
    packaged = StableDiffusion(drive.load(exported("sd1", **EXPORTS["sd1 float32"][1])))
    image = sd.generate("a red tent", steps=1).images[0]
    latents = sd.encode(image)
    assert mx.abs(packaged.encode(image) - latents).max().item() < 1e-4
    assert mx.abs(packaged.decode(latents) - sd.decode(latents)).max().item() < 1e-3


def test_batches_that_do_not_fill_the_packages(exported, family):  # noqa: F811
    """Without guidance one row goes through packages for two; with it three pictures are six rows."""
    sd = family("sd1")
    packaged = StableDiffusion(drive.load(exported("sd1", **EXPORTS["sd1 float32"][1])))
    for how in ({"guidance": 1.0}, {"count": 3, "batch": 3}):
        wanted, got = (s.generate("a red tent", steps=2, output="latent", **how).latents for s in (sd, packaged))
        assert mx.abs(got - wanted).max().item() < 1e-3


# ------------------------------------------------------------------------------------------------ other packages


@pytest.fixture(scope="module")
def functions(exported) -> Path:  # noqa: F811
    """Two sizes in packages of several functions."""
    options = {"target": "iOS18", "unets": ("functions",), "attention": "original", "sizes": ((64, 64), (64, 128))}
    return exported("sd1", only=("unet", "text_encoder"), **options)


def test_several_functions_share_their_weights(functions, exported):  # noqa: F811
    whole = package.size(exported("sd1", **EXPORTS["sd1 float16"][1]) / "Unet.mlpackage")
    weights = functions / "UnetFunctions.mlpackage/Data/com.apple.CoreML/weights/weight.bin"
    alone = exported("sd1", **EXPORTS["sd1 float16"][1]) / "Unet.mlpackage/Data/com.apple.CoreML/weights/weight.bin"
    assert weights.stat().st_size <= 1.02 * alone.stat().st_size
    assert whole > weights.stat().st_size  # four programs beside one set of weights


def test_every_function_of_every_size_computes_what_its_network_computes(functions, family):
    checks = [check for chain in verify.chains(functions) for check in verify.verify(chain, family("sd1"))]
    assert min(check.psnr for check in checks) > 60
    found = {check.function for check in checks if check.package == "UnetFunctions"}
    assert found == {"full_64x64", "shallow_64x64", "full_64x128", "shallow_64x128"}


def test_functions_of_another_size_drive_the_loop(functions, family):
    sd, packaged = family("sd1"), StableDiffusion(drive.load(functions))
    how = {"steps": 3, "width": 64, "height": 128, "deepcache": DeepCache(2), "output": "latent"}
    wanted, got = (s.generate("a red tent", **how).latents for s in (sd, packaged))
    assert mx.abs(got - wanted).max() / mx.abs(wanted).max() < 2e-2
    with pytest.raises(InputError, match="64 x 64, 64 x 128"):
        packaged.generate("a red tent", width=128, height=128)


def test_halves_are_the_whole_one_after_the_other(exported, family):  # noqa: F811
    folder = exported("sd1", LOOP, dtype="float32", unets=("halves",), attention="original")
    chains = [chain for chain in verify.chains(folder) if chain[0][1]["piece"] != [1, 1]]
    assert [[path.stem for path, _ in chain] for chain in chains] == [["UnetChunk1", "UnetChunk2"]]
    assert max(check.error for check in verify.verify(chains[0], family("sd1"))) <= 1e-4
    with pytest.raises(InputError, match="piece"):
        list(verify.chains(folder / "UnetChunk1.mlpackage"))
    sd, packaged = family("sd1"), StableDiffusion(drive.load(folder))
    wanted, got = (s.generate("a tent", steps=2, output="latent").latents for s in (sd, packaged))
    assert mx.abs(got - wanted).max().item() < 1e-3
    with pytest.raises(InputError, match="DeepCache branch 0"):
        packaged.generate("a tent", deepcache=DeepCache(2))


def test_what_is_too_large_is_cut_until_it_is_not(exported, family, monkeypatch):  # noqa: F811
    monkeypatch.setattr(export, "GIGABYTE", 1_500_000)
    folder = exported("sd1", ("unet",), split=True, unets=("chunks",), attention="original", compress="int8")
    told = info.read(folder)
    parts = [name for name in told["packages"] if name.startswith("UnetChunk1")]
    assert parts == ["UnetChunk1Part1", "UnetChunk1Part2"]
    assert told["roles"]["64x64"]["unet_deep"] == [[name, "main"] for name in parts]
    checks = [check for chain in verify.chains(folder) for check in verify.verify(chain, family("sd1"))]
    assert min(check.psnr for check in checks) > 30  # int8


def test_another_branch_and_one_row_at_a_time(exported, family):  # noqa: F811
    folder = exported("sd1", LOOP, dtype="float32", unets=("chunks",), attention="original", batch=1, branch=4)
    for chain in verify.chains(folder):
        assert max(check.error for check in verify.verify(chain, family("sd1"))) <= 1e-4
    sd, packaged = family("sd1"), StableDiffusion(drive.load(folder))
    how = {"steps": 4, "deepcache": DeepCache(2, 4), "output": "latent"}
    wanted, got = (s.generate("a tent", **how).latents for s in (sd, packaged))
    assert mx.abs(got - wanted).max().item() < 1e-3


def test_info_tells_an_app_all_it_needs(exported):  # noqa: F811
    told = info.read(exported("sd1", **EXPORTS["sd1 float16"][1]))
    assert told["roles"]["64x64"]["unet_deep"] == [["UnetChunk1", "main"]]
    assert len(told["alphas_cumprod"]) == 1000 and told["prediction"] == "epsilon"
    macs = told["deepcache"]["macs"]
    assert macs["unet_shallow"] < macs["unet"] < macs["unet_deep"] + macs["unet_shallow"] < 1.01 * macs["unet"]
    for name, about in told["packages"].items():
        assert about["bytes"] == package.size(exported("sd1", **EXPORTS["sd1 float16"][1]) / f"{name}.mlpackage")


# ------------------------------------------------------------------------------------------------ mistakes

MISTAKES = {
    "--attention fused": "needs --target iOS18",
    "--unet functions": "need --target iOS18",
    "--unet chunks,halves": "the same names",
    "--unet some": "one of full, chunks, halves, functions",
    "--width 72 --height 64": "multiples of 64, not 72",
    "--size 64": "WIDTHxHEIGHT",
    "--size 64x64 --size 64x128": "add --unet functions",
    "--size 64x64 --size 64x64 --unet functions --target iOS18": "given twice",
    "--size 64x64 --width 64": "not both",
    "--branch 12": "no branch 12 in this UNet; it has 0 to 11",
    "--unet functions --target iOS18 --split": "cannot be split",
    "--model nowhere": "nowhere",
}


@pytest.mark.parametrize("flags", MISTAKES)
def test_mistakes_are_told_in_one_line_and_leave_nothing(flags, family, tmp_path, capfd):
    given = ["--model", family("sd1").model.name, "--out", str(tmp_path / "out"), *flags.split()]
    assert main(given) == 2
    told = capfd.readouterr().err
    assert MISTAKES[flags] in told and told.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_cannot_be_exported_is_named():
    upscaler = build("unet", families.UNETS["upscaler"], "unet/config.json")
    with pytest.raises(InputError, match="class embeddings"):
        UNetPackages(upscaler.config, 77, 0, 8, 8, 2, mx.float16, 1)


def test_what_is_there_is_replaced_only_by_force(family, tmp_path, monkeypatch, capfd):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    leave_out(monkeypatch, ("text_encoder",))
    given = ["--model", family("sd1").model.name, "--out", str(out)]
    assert main(given) == 0
    first = (out / "info.json").stat().st_mtime_ns
    assert main(given) == 2
    assert "--force" in capfd.readouterr().err
    assert (out / "info.json").stat().st_mtime_ns == first
    assert main([*given, "--force"]) == 0
    assert (out / "info.json").stat().st_mtime_ns > first
    assert (out / "mine.txt").read_text() == "mine"


def test_packages_of_an_export_before_do_not_stay_behind(family, tmp_path, monkeypatch):
    """An app that finds UnetChunk1 runs it: an old one beside a new Unet would be worse than none."""
    out = tmp_path / "out"
    leave_out(monkeypatch, ("unet",))
    given = ["--model", family("sd1").model.name, "--out", str(out), "--attention", "original"]
    assert main([*given, "--unet", "chunks"]) == 0
    assert main([*given, "--unet", "full", "--force"]) == 0
    assert sorted(p.stem for p in out.glob("Unet*")) == ["Unet"]


def test_a_full_disk_leaves_nothing(family, tmp_path, monkeypatch, capfd):
    leave_out(monkeypatch, ("text_encoder",))
    given = ["--model", family("sd1").model.name, "--out", str(tmp_path / "out")]

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(export.package, "write", full)
    assert main(given) == 1
    assert "no space" in capfd.readouterr().err
    monkeypatch.setattr(export.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1000, 990, 10))
    assert main(given) == 2
    assert "GB free" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------ command lines


def test_a_picture_comes_out_of_packages(exported, family, tmp_path, capfd):  # noqa: F811
    folder = exported("sd1", **EXPORTS["sd1 float16"][1])
    made = [tmp_path / "packages.png", tmp_path / "mlx.png", tmp_path / "again.png"]
    same = ["a red tent", "--steps", "4", "--deepcache", "2", "--output"]
    assert generate.main([*same, str(made[0]), "--coreml", str(folder)]) == 0
    assert generate.main([*same, str(made[1]), "--model", family("sd1").model.name]) == 0
    assert generate.main(["--from-image", str(made[0]), "--output", str(made[2])]) == 0
    pixels = [np.asarray(generate.picture.Image.open(path), np.float32) for path in made]
    assert np.abs(pixels[0] - pixels[1]).max() <= 6
    assert (pixels[0] == pixels[2]).all()


@pytest.mark.parametrize(
    ("flags", "told"),
    (
        (("--dtype", "float16"), "--dtype was decided"),
        (("--model", "tiny"), "--model was decided"),
        (("--width", "128"), "no other size"),
        (("--deepcache", "2:1"), "no DeepCache branch 1"),
        (("--freeu",), "leave out --freeu"),
        (("--deepcache", "adaptive:0.1"), "packages do not show their shallow features"),
        (("--clip-skip", "1"), "clip skip must be from 0 to 0"),
        (("--negative", "word " * 100), "prompt too long"),
    ),
)
def test_what_packages_cannot_do_is_told(flags, told, exported, tmp_path, capfd):  # noqa: F811
    folder = exported("sd1", **EXPORTS["sd1 float16"][1])
    assert generate.main(["a tent", "--coreml", str(folder), "--output", str(tmp_path / "x.png"), *flags]) == 2
    assert told in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_verify_says_what_holds_and_what_it_cannot_show(exported, family, capfd):  # noqa: F811
    path = exported("sd1", **EXPORTS["sd1 float16"][1]) / "UnetChunk2.mlpackage"
    assert main(["verify", str(path), "--model", family("sd1").model.name]) == 0
    told = capfd.readouterr().out
    assert "rounded to float16" in told and "PSNR" in told and "It cannot show" in told
    assert main(["verify", str(path), "--model", family("sd1").model.name, "--json"]) == 0
    checks = json.loads(capfd.readouterr().out)
    assert {check["how"] for check in checks} == {"float32", "rounded to float16"}


def test_verify_notices_a_package_that_is_wrong(exported, family, tmp_path, capfd):  # noqa: F811
    """A package with another model's numbers, one cut short, one of nobody knows whom."""
    source = exported("sd1", **EXPORTS["sd1 float16"][1]) / "UnetChunk2.mlpackage"
    path = Path(shutil.copytree(source, tmp_path / "UnetChunk2.mlpackage"))
    weights = path / "Data/com.apple.CoreML/weights/weight.bin"
    model = family("sd1").model.name
    numbers = weights.read_bytes()
    stored = np.array(family("sd1").unet.up.stages[-1][0].conv1.weight, np.float16).transpose(0, 3, 1, 2).tobytes()
    assert numbers.count(stored) == 1
    weights.write_bytes(numbers.replace(stored, bytes(len(stored))))
    assert main(["verify", str(path), "--model", model]) == 1
    assert "below 35" in capfd.readouterr().err
    weights.write_bytes(numbers[: len(numbers) // 2])
    assert main(["verify", str(path), "--model", model]) == 2
    assert capfd.readouterr().err.count("\n") == 1
    assert main(["verify", str(tmp_path), "--model", model]) == 2
    assert "info.json is missing" in capfd.readouterr().err


def test_verify_refuses_another_kind_of_model(exported, family, capfd):  # noqa: F811
    path = exported("sdxl", **EXPORTS["sdxl float16"][1]) / "TextEncoder2.mlpackage"
    assert main(["verify", str(path), "--model", family("sd1").model.name]) == 2
    assert "does not have" in capfd.readouterr().err


def test_choices_are_those_of_the_tables():
    assert set(ATTENTIONS) == {"split-einsum", "original", "fused"}
    assert set(WAYS) == {"palettize4", "palettize6", "palettize8", "int8"}
    with pytest.raises(InputError, match="float16, float32"):
        Options(dtype="bfloat16")
    assert issubclass(Failure, RuntimeError)
