"""Core ML packages of a controlled UNet and of control networks compute what MLX does, by the names of Apple's code."""

import json
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from convert.files.diffusers_names import diffusers_name
from coreml import drive, export, info, packages, verify
from coreml.__main__ import main
from coreml.control_networks import package_name
from coreml.interpret.package import Package
from coreml.package_set import PackageSet
from mlx_sd import Control, DeepCache, StableDiffusion
from mlx_sd.cli import generate
from mlx_sd.core.errors import InputError
from tests.support import controls, upscalers
from tests.support.exports import CONTROL, SMALL, UNET_AND_TEXT, leave_out
from tests.support.families import distance

pytestmark = pytest.mark.filterwarnings("ignore:in . evaluations little repeats itself:UserWarning")

ONLY = (*UNET_AND_TEXT, "text_encoder_2", CONTROL)
STEPS = {"steps": 5, "guidance": 5.0, "seed": 3, "output": "latent"}
# additional_residual_0, ... of SMALL with pictures of 64 x 64, as Apple's code has them
RESIDUALS = [(2, 32, 8, 8), (2, 32, 8, 8), (2, 32, 4, 4), (2, 64, 4, 4), (2, 64, 4, 4)]
STEP = {"sample": (2, 4, 8, 8), "timestep": (2,), "encoder_hidden_states": (2, 32, 1, 77)}


def ports(numbers) -> dict[str, tuple[int, ...]]:
    return {f"additional_residual_{i}": RESIDUALS[i] for i in numbers}


def sizes(saved: dict) -> dict[str, tuple[int, ...]]:
    return {name: tuple(shape) for name, (shape, _) in saved.items()}


def floats(rng, shapes) -> dict[str, np.ndarray]:
    return {name: rng.standard_normal(size, dtype=np.float32) for name, size in shapes.items()}


@pytest.fixture
def small(exported, control_network) -> Path:
    """SMALL in float32, whole and cut, with a control network called Small."""
    options = {"dtype": "float32", "attention": "original", "control": (control_network(SMALL),)}
    return exported(SMALL, ONLY, **options)


def check_every_package(folder: Path, sd: StableDiffusion) -> set[str]:
    checks = [check for chain in verify.chains(folder) for check in verify.verify(chain, sd)]
    assert max(check.error for check in checks if check.arithmetic == "float32") <= 1e-5
    return {f"{check.package}:{check.function}" for check in checks}


@pytest.mark.slow
def test_every_package_computes_what_its_network_computes(small, model):
    names = check_every_package(small, model(SMALL))
    unets = {f"ControlledUnet{end}:main" for end in ("", "Chunk1", "Chunk2")}
    assert names == unets | {"TextEncoder:main", "Small:main", "SmallShallow:main", "SmallImage:main"}


INTERFACES = {
    "ControlledUnet": (STEP | ports(range(5)), {"noise_pred": (2, 4, 8, 8)}),
    "ControlledUnetChunk1": (STEP | ports(range(1, 5)), {"deep_feature": (2, 32, 8, 8)}),
    "ControlledUnetChunk2": (STEP | {"deep_feature": (2, 32, 8, 8)} | ports([0]), {"noise_pred": (2, 4, 8, 8)}),
    "controlnet/Small": (STEP | {"controlnet_cond": (2, 3, 64, 64)}, ports(range(5))),
    "controlnet/deepcache/SmallShallow": (STEP | {"image_features": (1, 32, 8, 8)}, ports([0])),
    "controlnet/deepcache/SmallImage": ({"controlnet_cond": (1, 3, 64, 64)}, {"image_features": (1, 32, 8, 8)}),
}


def test_interfaces_are_those_of_apples_code(small):
    assert sorted(path.name for path in small.glob("Unet*")) == []
    for name, (inputs, outputs) in INTERFACES.items():
        saved = Package.load(small / f"{name}.mlpackage")
        assert list(sizes(saved.inputs()).items()) == list(inputs.items()), name
        assert list(sizes(saved.outputs()).items()) == list(outputs.items()), name


def test_the_cut_unet_and_the_cut_network_are_the_whole_ones(small):
    """And residuals of the size of a skip move the output by a tenth and more."""
    rng = np.random.default_rng(0)
    feeds = floats(rng, STEP | ports(range(5)))
    saved = {path.stem: Package.load(path) for path in small.rglob("*.mlpackage")}
    full = saved["ControlledUnet"].run(feeds)["noise_pred"]
    deep = saved["ControlledUnetChunk1"].run({n: feeds[n] for n in INTERFACES["ControlledUnetChunk1"][0]})
    outer = {n: (feeds | deep)[n] for n in INTERFACES["ControlledUnetChunk2"][0]}
    assert distance(saved["ControlledUnetChunk2"].run(outer)["noise_pred"], full) <= 1e-6
    plain = saved["ControlledUnet"].run(feeds | {name: 0 * feeds[name] for name in ports(range(5))})["noise_pred"]
    assert distance(plain, full) >= 0.1
    image = rng.random((2, 3, 64, 64), dtype=np.float32)
    image[1] = image[0]
    step = {name: feeds[name] for name in STEP}
    full = saved["Small"].run(step | {"controlnet_cond": image})
    features = saved["SmallImage"].run({"controlnet_cond": image[:1]})
    shallow = saved["SmallShallow"].run(step | features)
    assert shallow.keys() == {"additional_residual_0"}
    assert distance(shallow["additional_residual_0"], full["additional_residual_0"]) <= 1e-6


@pytest.mark.slow
def test_pictures_with_control_are_those_of_mlx(small, model, control_network):
    sd, packaged, image = model(SMALL), StableDiffusion(drive.load(small)), controls.image()
    settings = STEPS | {"deepcache": DeepCache(2)}
    plain = sd.generate("a tent", **settings).latents
    assert distance(packaged.generate("a tent", **settings).latents, plain) <= 1e-4
    for extra in ({}, {"guess_mode": True}):
        span = {"scale": 0.8, "end": 0.7}
        expected = sd.generate("a tent", controls=[Control(control_network(SMALL), image, **span)], **settings, **extra)
        for name in ("Small", control_network(SMALL)):
            result = packaged.generate("a tent", controls=[Control(name, image, **span)], **settings, **extra)
            assert distance(result.latents, expected.latents) <= 1e-4
            assert result.full == expected.full < result.evaluations
        assert distance(expected.latents, plain) >= 0.1


def test_a_cached_step_runs_the_first_stages_alone(small, monkeypatch):
    packaged, ran, run = StableDiffusion(drive.load(small)), [], PackageSet.run
    monkeypatch.setattr(PackageSet, "run", lambda self, role, *a: ran.append(role) or run(self, role, *a))
    settings = STEPS | {"steps": 4, "sampler": "euler", "deepcache": DeepCache(2)}
    packaged.generate("a tent", controls=[("Small", controls.image())], **settings)
    evaluation = ["control:Small", "unet_deep", "unet_shallow", "control_shallow:Small", "unet_shallow"]
    assert [role for role in ran if role != "text_encoder"] == ["control_image:Small", *evaluation * 2]
    macs = {name: p["functions"]["main"]["macs"] for name, p in info.read(small)["packages"].items()}
    assert macs["controlnet/deepcache/SmallShallow"] < 0.05 * macs["controlnet/Small"]


def test_info_json_has_the_networks_and_the_manifest_their_files(small, control_network):
    content = info.read(small)
    assert content["options"]["control"] == [control_network(SMALL)]
    entry = content["controls"]["Small"]
    assert (entry["model"], entry["mode"]) == (control_network(SMALL), None) and len(entry["hash"]) == 12
    assert content["roles"]["64x64"]["control_shallow:Small"] == [["controlnet/deepcache/SmallShallow", "main"]]
    assert {"controlnet/Small.mlpackage/Manifest.json"} < content["files"].keys()
    assert any("additional_residual_0" in line for line in content["how"])


REFUSED = {
    "Other:image.png": "the packages hold no control network Other; --control takes one of Small (",
    "Small@depth:image.png": "the packages hold no control network Small",
    "Small:nowhere.png": "nowhere.png does not exist",
    "Small:wide.png": "is not the shape of a picture of 64 x 64",
}


@pytest.mark.parametrize("text", REFUSED)
def test_a_control_that_a_set_cannot_follow_is_one_line(text, small, tmp_path, capfd):
    controls.image().save(tmp_path / "image.png")
    controls.image(size=(128, 64)).save(tmp_path / "wide.png")
    model_name, _, file = text.partition(":")
    arguments = ["a tent", "--coreml", str(small), "--output", str(tmp_path / "x.png")]
    assert generate.main([*arguments, "--control", f"{model_name}:{tmp_path / file}"]) == 2
    err = capfd.readouterr().err
    assert REFUSED[text] in err and err.count("\n") == 1 and not (tmp_path / "x.png").exists()


@pytest.mark.slow
def test_a_set_without_control_networks_says_so(exported):
    packaged = StableDiffusion(drive.load(exported("small float32")))
    with pytest.raises(InputError, match="hold no control network; export them with --control"):
        packaged.generate("a tent", controls=[("Small", controls.image())], **STEPS)


def test_names_of_packages_are_those_of_apples_converter(tmp_path):
    assert package_name("lllyasviel/sd-controlnet-canny") == "LllyasvielSdControlnetCanny"
    assert package_name("lllyasviel/control_v11p_sd15_canny") == "LllyasvielControlV11PSd15Canny"
    (tmp_path / "my edges").mkdir()
    (tmp_path / "union-1.0.safetensors").touch()
    assert package_name(str(tmp_path / "my edges")) == "MyEdges"
    assert package_name(str(tmp_path / "union-1.0.safetensors"), "depth") == "Union1.0Depth"


MISTAKES = {
    ("sd1", "--control {union}"): "the ControlNet {union} is for SDXL, and",
    ("sdxl", "--control {union}"): "{union} is a union, whose image shows one of openpose, depth",
    ("sdxl", "--control {union}@tile"): "shows one of openpose, depth",
    ("sd1", "--control {sd1}@depth"): "{sd1} is for one kind of images and has no modes; leave @depth out",
    ("sd1", "--control {sd1} --control {sd1}"): "have packages of one name, Sd1; rename one",
    ("sd1", "--control {sdxl} --format coreai"): "the ControlNet {sdxl} is for SDXL, and",
}


@pytest.mark.parametrize("case", MISTAKES, ids=" ".join)
def test_a_network_that_does_not_fit_is_one_line_and_leaves_nothing(case, family, control_network, tmp_path, capfd):
    if "coreai" in case[1]:
        pytest.importorskip("coreai", reason="the extra coreai is not installed")
    names = {name: control_network(name) for name in ("sd1", "sdxl", "union")}
    arguments = [
        "--model",
        family(case[0]).model.name,
        "--out",
        str(tmp_path / "out"),
        *case[1].format(**names).split(),
    ]
    assert main(arguments) == 2
    err = capfd.readouterr().err
    assert MISTAKES[case].format(**names) in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_upscaler_takes_no_control_network(shapes, control_network, tmp_path, capfd):
    model = upscalers.write(shapes, tmp_path / "x4")
    arguments = ["--model", str(model), "--out", str(tmp_path / "out"), "--control", control_network("sd1")]
    assert main(arguments) == 2
    assert "control networks are for Stable Diffusion 1, Stable Diffusion 2, SDXL" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_files_of_others_in_the_folder_stay_and_old_networks_go(family, control_network, tmp_path, monkeypatch):
    """Apple's code takes every name in controlnet: an old network beside a new UNet would be worse than none."""
    out = tmp_path / "out"
    (out / "controlnet/Mine.mlmodelc").mkdir(parents=True)
    leave_out(monkeypatch, (CONTROL,))
    monkeypatch.setattr(packages.package, "write", lambda *arguments: arguments[-1].mkdir() or {})
    monkeypatch.setattr(packages.package, "write_metadata", lambda *_: None)
    arguments = ["--model", family("sd1").model.name, "--out", str(out), "--unet", "chunks"]
    assert main([*arguments, "--control", control_network("sd1")]) == 0
    networks = sorted(path.relative_to(out).as_posix() for path in out.glob("controlnet/**/*.mlpackage"))
    ends = ("Sd1", "deepcache/Sd1Image", "deepcache/Sd1Shallow")
    assert networks == [f"controlnet/{end}.mlpackage" for end in ends]
    assert main([*arguments, "--control", control_network("sd1")]) == 2
    assert main([*arguments, "--force"]) == 0
    assert [path.name for path in (out / "controlnet").iterdir()] == ["Mine.mlmodelc"]


# ------------------------------------------------------------------------------------------------ other exports

SLOW = {
    "sd2v": ("sd2v", {"attention": "original"}),
    "sdxl-small": ("sdxl", {"attention": "split-einsum", "unets": ("full",)}),
    "another branch, one row": (SMALL, {"attention": "original", "branch": 2, "batch": 1, "unets": ("chunks",)}),
    "functions": (
        SMALL,
        {"attention": "fused", "unets": ("functions",), "target": "iOS18", "sizes": ((64, 64), (64, 128))},
    ),
    "halves": (SMALL, {"attention": "original", "unets": ("halves",)}),
}
KIND = {"sdxl-small": "sdxl-small", "another branch, one row": SMALL, "functions": SMALL, "halves": SMALL}


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_every_form_of_an_export_computes_and_drives(name, exported, model, control_network):
    family, options = SLOW[name]
    network = control_network(KIND.get(name, name))
    folder = exported(family, ONLY, dtype="float32", control=(network,), **options)
    check_every_package(folder, model(family))
    entry = Control(network, controls.image(), 1.5)
    controls.check_driven(model(family), StableDiffusion(drive.load(folder)), entry, STEPS, options.get("branch", 0))


@pytest.mark.slow
def test_the_network_of_a_unet_that_paints_sees_the_latents_alone(exported, model, control_network):
    network = control_network("sd1", "edges", layers_per_block=1)
    options = {"attention": "original", "unets": ("full",), "dtype": "float32", "control": (network,)}
    folder = exported("inpaint9", ("unet", CONTROL), **options)
    samples = [
        Package.load(folder / f"{name}.mlpackage").inputs()["sample"][0]
        for name in ("ControlledUnet", "controlnet/Edges")
    ]
    assert [tuple(shape) for shape in samples] == [(2, 9, 8, 8), (2, 4, 8, 8)]
    check_every_package(folder, model("inpaint9"))


POOLED = {"global_pool_conditions": True, "controlnet_conditioning_channel_order": "bgr"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ("pooled", "union"))
def test_networks_that_pool_and_unions_are_packages_too(name, exported, model, control_network):
    """Pooled residuals have whole shapes in packages; a union's packages are of one mode each."""
    family = "sd1" if name == "pooled" else "sdxl"
    network = control_network("sd1", "pooled", **POOLED) if name == "pooled" else control_network("union")
    texts = (network,) if name == "pooled" else (f"{network}@depth", f"{network}@openpose")
    options = {"attention": "original", "unets": ("chunks",), "dtype": "float32"}
    folder = exported(family, ONLY, control=texts, **options)
    check_every_package(folder, model(family))
    sd, packaged = model(family), StableDiffusion(drive.load(folder))
    image = controls.image(size=packaged.model.sizes[0])
    settings = STEPS | dict(zip(("width", "height"), packaged.model.sizes[0], strict=True))
    for text, stem in zip(texts, packaged.model.packaged_controls, strict=True):
        path, _, mode = text.partition("@")
        expected = sd.generate("a tent", controls=[Control(path, image, mode=mode or None)], **settings).latents
        for entry in (Control(stem, image), Control(path, image, mode=mode or None)):
            assert distance(packaged.generate("a tent", controls=[entry], **settings).latents, expected) <= 1e-3
    if name == "union":
        with pytest.raises(InputError, match="UnionDepth was exported for images of depth, not canny"):
            packaged.generate("a tent", controls=[Control("UnionDepth", image, maker="canny")], **settings)


@pytest.mark.slow
def test_weights_that_are_differences_are_added_to_the_unets(exported, model, control_network, tmp_path):
    sd, source = model(SMALL), Path(control_network(SMALL))
    tensors = mx.load(str(source / "diffusion_pytorch_model.safetensors"))
    stored = mx.load(str(sd.model.folder / "unet.safetensors"))
    own = {diffusers_name("unet", sd.unet.names, name): array for name, array in stored.items()}
    shared = own.keys() & tensors.keys()
    assert len(shared) > 50
    for name in shared:
        weight = own[name].transpose(0, 3, 1, 2) if own[name].ndim == 4 else own[name]
        tensors[name] = tensors[name] - weight.reshape(tensors[name].shape)
    tensors["difference"] = mx.array([1.0])
    mx.save_safetensors(str(tmp_path / "delta.safetensors"), tensors)
    network = str(tmp_path / "delta.safetensors")
    folder = exported(SMALL, (CONTROL,), dtype="float32", attention="original", unets=("full",), control=(network,))
    check_every_package(folder, sd)


@pytest.mark.slow
def test_networks_are_compressed_and_cut_as_the_unet_is(exported, model, control_network, monkeypatch):
    options = {"unets": ("full",), "attention": "original", "control": (control_network(SMALL),)}
    plain = exported(SMALL, (CONTROL,), dtype="float32", **options)
    monkeypatch.setattr(packages, "GIGABYTE", 400_000)
    folder = exported(SMALL, (CONTROL,), split=True, compress="int8", **options)
    content = info.read(folder)
    parts = ["controlnet/SmallPart1", "controlnet/SmallPart2"]
    assert list(content["packages"]) == parts
    assert content["roles"]["64x64"]["control:Small"] == [[name, "main"] for name in parts]
    sizes = [sum(p["bytes"] for p in info.read(f)["packages"].values()) for f in (plain, folder)]
    assert sizes[1] < 0.5 * sizes[0]
    (chain,) = verify.chains(folder)
    checks = list(verify.verify(chain, model(SMALL)))
    assert {check.output for check in checks} == ports(range(5)).keys()
    assert min(check.psnr for check in checks) > 30  # int8


@pytest.mark.slow
def test_a_picture_with_control_comes_out_of_packages(exported, control_network, tmp_path):
    folder = exported(SMALL, (), attention="split-einsum", unets=("chunks",), control=(control_network(SMALL),))
    controls.image().save(tmp_path / "image.png")
    options = [
        "--seed",
        "0",
        "--steps",
        "4",
        "--deepcache",
        "2",
        "--control",
        f"Small:{tmp_path / 'image.png'}:0.8:0-1",
    ]
    for name in ("a", "b"):
        assert main(["drive", str(folder), "a tent", *options, "--output", str(tmp_path / f"{name}.png")]) == 0
    assert generate.main(["--from-image", str(tmp_path / "a.png"), "--output", str(tmp_path / "again.png")]) == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.slow
def test_verify_finds_networks_that_have_moved(small, model, control_network, tmp_path, capfd):
    moved = tmp_path / "elsewhere"
    shutil.copytree(control_network(SMALL), moved)
    package = str(small / "controlnet/deepcache/SmallShallow.mlpackage")
    assert main(["verify", package, "--model", model(SMALL).model.name, "--control", str(moved), "--json"]) == 0
    assert {check["output"] for check in json.loads(capfd.readouterr().out)} == {"additional_residual_0"}
    arguments = ["--model", model(SMALL).model.name, "--control", str(moved), "--control", str(moved)]
    assert main(["verify", package, *arguments]) == 2
    assert "made from 1 control networks, and --control names 2" in capfd.readouterr().err


def test_nothing_is_converted_for_a_pair_that_does_not_fit(family, control_network, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a model was resolved")

    monkeypatch.setattr(export.resolve, "model_folder", refuse)
    arguments = ["--model", family("sd1").model.name, "--control", control_network("sdxl")]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
