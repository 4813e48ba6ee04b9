"""Packages of a model of tokens compute what its networks compute, and say what an app has to know of its tokens."""

import json
import shutil

import mlx.core as mx
import numpy as np
import pytest

from coreml import info, verify
from coreml.__main__ import main
from coreml.interpret.package import Package
from mlx_sd import DeepCache, StableDiffusion
from mlx_sd.cli import generate
from mlx_sd.core.errors import InputError
from mlx_sd.networks.tokens import TokenUNet
from tests.support import tokens
from tests.support.effort import slow_but
from tests.support.exports import SMALL, TOKENS

CODES, SIDE = tokens.TOKENS, tokens.SIDE
PIXELS = SIDE * tokens.FACTOR
# The quick one leaves out the text encoder, which is that of all models, and the UNet that is in one package.
QUICK = {"dtype": "float32", "attention": "original", "unets": ("chunks",), "only": ("unet", "vae")}
FORMS = {
    "quick": QUICK,
    "float32": {"dtype": "float32", "attention": "original"},
    "float16": {"dtype": "float16", "attention": "split-einsum"},
    "int8": {"dtype": "float16", "attention": "split-einsum", "compress": "int8", "unets": ("full",)},
    "halves": {"dtype": "float32", "attention": "original", "unets": ("halves",)},
    "another branch, one row": {"dtype": "float32", "attention": "original", "batch": 1, "branch": 1},
    "two sizes": {
        "dtype": "float16",
        "attention": "fused",
        "target": "iOS18",
        "unets": ("functions",),
        "sizes": ((PIXELS, PIXELS), (PIXELS, 2 * PIXELS)),
    },
}


@pytest.mark.parametrize("form", slow_but(("quick",), FORMS))
def test_every_package_computes_what_its_network_computes(form, exported, model):
    options = FORMS[form]
    checks = [
        check for chain in verify.chains(exported(TOKENS, **options)) for check in verify.verify(chain, model(TOKENS))
    ]
    assert min(check.psnr for check in checks) > (30 if form == "int8" else 60)
    if form != "int8":
        assert max(check.error for check in checks) <= (1e-4 if options["dtype"] == "float32" else 5e-3)
    assert {"log_probabilities", "image"} <= {check.output for check in checks}
    assert {check.function for check in checks if check.package == "UnetFunctions"} == (
        {f"{name}_{PIXELS}x{side}" for name in ("full", "shallow") for side in (PIXELS, 2 * PIXELS)}
        if form == "two sizes"
        else set()
    )


STEP = {
    "tokens": ((2, SIDE, SIDE), np.int32),
    "time": ((2,), np.float32),
    "encoder_hidden_states": ((2, 32, 1, 77), np.float32),
}
DEEP = {"deep_feature": ((2, 16, SIDE, SIDE), np.float32)}
PREDICTION = {"log_probabilities": ((2, CODES, SIDE, SIDE), np.float32)}
INTERFACES = {
    "Unet": (STEP, PREDICTION),
    "UnetChunk1": (STEP, DEEP),
    "UnetChunk2": (STEP | DEEP, PREDICTION),
    "VAEDecoder": (
        {"tokens": ((1, SIDE, SIDE), np.int32)},
        {"image": ((1, 3, PIXELS, PIXELS), np.float32)},
    ),
}


@pytest.mark.parametrize("form", slow_but(("quick",), ("quick", "float32")))
def test_inputs_are_tokens_and_nothing_encodes_pictures(form, exported):
    folder = exported(TOKENS, **FORMS[form])
    names = {path.stem for path in folder.glob("*.mlpackage")}
    assert names == INTERFACES.keys() - {"Unet"} if form == "quick" else INTERFACES.keys() | {"TextEncoder"}
    for name in names & INTERFACES.keys():
        package = Package.load(folder / f"{name}.mlpackage")
        assert (package.inputs(), package.outputs()) == INTERFACES[name], name


def test_shallow_with_the_feature_of_deep_is_the_whole_network_and_gives_probabilities(exported, model):
    folder, rng = exported(TOKENS, **QUICK), np.random.default_rng(0)
    feeds = {
        "tokens": rng.integers(CODES + 1, size=(2, SIDE, SIDE)).astype(np.int32),  # some are masked
        "time": np.array([0.25, 0.75], np.float32),
        "encoder_hidden_states": rng.standard_normal((2, 32, 1, 77), dtype=np.float32),
    }
    deep, shallow = (Package.load(folder / f"{name}.mlpackage") for name in ("UnetChunk1", "UnetChunk2"))
    feature = deep.run(feeds)
    result = shallow.run(feeds | feature)["log_probabilities"]
    grid, time, context = (mx.array(array) for array in feeds.values())
    expected, _ = model(TOKENS).model.tokens.network(grid, time, context[:, :, 0].transpose(0, 2, 1))
    assert np.abs(result - np.array(expected).transpose(0, 3, 1, 2)).max() < 1e-4
    assert np.abs(np.exp(result).sum(1) - 1).max() < 1e-5
    for changes in ({"deep_feature": feature["deep_feature"] + 1}, {"tokens": (feeds["tokens"] + 1) % CODES}):
        assert np.abs(shallow.run(feeds | feature | changes)["log_probabilities"] - result).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ("maskgit", "dndm"))
@pytest.mark.filterwarnings("ignore:in . evaluations little repeats itself:UserWarning")
def test_the_loop_of_an_app_makes_the_picture_of_mlx(sampler, exported, model, monkeypatch):
    """The same sampler, once on the network and once on packages, which run as `how` in info.json says."""
    folder, sd = exported(TOKENS, **FORMS["float32"]), model(TOKENS)
    names = {"deep": "UnetChunk1", "shallow": "UnetChunk2", "decoder": "VAEDecoder"}
    packages = {role: Package.load(folder / f"{name}.mlpackage") for role, name in names.items()}
    runs: list[str] = []

    def run(role: str, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        runs.append(role)
        return packages[role].run(feeds)

    def call(network, grid, time, context, *, deep=None, depth=1):
        feeds = {
            "tokens": np.array(grid),
            "time": np.full(len(grid), np.array(time), np.float32),
            "encoder_hidden_states": np.array(context).transpose(0, 2, 1)[:, :, None],
        }
        feature = run("deep", feeds)["deep_feature"] if deep is None else np.array(deep)
        scores = run("shallow", feeds | {"deep_feature": feature})["log_probabilities"]
        return mx.array(scores.transpose(0, 2, 3, 1)), mx.array(feature)

    options = {"sampler": sampler, "steps": 5, "seed": 2, "deepcache": DeepCache(2), "output": "latent"}
    expected = sd.generate("a red tent", **options).latents
    monkeypatch.setattr(TokenUNet, "__call__", call)
    latents = sd.generate("a red tent", **options).latents
    assert mx.array_equal(latents, expected)
    assert 0 < runs.count("deep") < runs.count("shallow")
    grid = np.array(sd.vae.tokens(latents)).astype(np.int32)
    image = run("decoder", {"tokens": grid})["image"].transpose(0, 2, 3, 1)
    assert np.abs(image - np.array(sd.vae.decode(latents))).max() < 1e-4


def test_info_json_says_how_tokens_are_made(exported):
    content = info.read(exported(TOKENS, **QUICK))
    assert content["tokens"] == {
        "codebook": CODES,
        "states": CODES + 1,
        "mask": CODES,
        "corruption": "absorbing",
        "schedule": "linear",
        "steps": 100,
        "factor": tokens.FACTOR,
        "sampler": "maskgit",
        "samplers": ["d3pm", "dndm", "dndm_k", "dndm_c", "mask_predict", "maskgit"],
    }
    assert not content.keys() & {"latents", "prediction", "alphas_cumprod"}
    assert content["roles"][f"{PIXELS}x{PIXELS}"].keys() == {"unet_deep", "unet_shallow", "vae_decoder"}
    assert content["deepcache"]["macs"]["unet_shallow"] < content["deepcache"]["macs"]["unet_deep"]
    assert any("log_probabilities" in line for line in content["how"])
    assert not any("noise_pred" in line or "sigma" in line for line in content["how"])


@pytest.mark.slow
def test_without_a_mask_there_are_fewer_samplers(tmp_path):
    checkpoint = tokens.write_folder(tmp_path / "tokens", tokens.MULTINOMIAL)
    assert main(["--model", str(checkpoint), "--out", str(tmp_path / "out"), "--unet", "full"]) == 0
    content = info.read(tmp_path / "out")
    about = content["tokens"]
    assert (about["states"], about["mask"], about["corruption"]) == (CODES, None, "multinomial")
    assert (about["sampler"], about["samplers"]) == ("dndm_k", ["d3pm", "dndm", "dndm_k", "dndm_c"])
    sd = StableDiffusion.load(checkpoint, "float32")
    checks = [check for chain in verify.chains(tmp_path / "out") for check in verify.verify(chain, sd)]
    assert min(check.psnr for check in checks) > 60


# ------------------------------------------------------------------------------------------------ wrong turns


@pytest.mark.parametrize(
    ("options", "words"),
    (
        (("--out", "out", "--control", "nowhere"), "control networks act on latents"),
        (("--out", "out", "--kit"), "leave --kit and --swift out"),
        (("--swift", "app"), "leave --kit and --swift out"),
        (("--out", "out", "--branch", "9"), "no branch 9 in this UNet; it has 0 to 3"),
        (("--out", "out", "--width", str(PIXELS + 4)), f"multiples of {2 * tokens.FACTOR}"),
        (("bits", "--out", "bits.json"), "bits are measured on latents"),
    ),
)
def test_what_has_no_meaning_for_tokens_is_refused_in_one_line(options, words, model, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert main([*options, "--model", str(model(TOKENS).model.name)]) == 2
    err = capfd.readouterr().err
    assert words in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_packages_of_tokens_are_of_no_other_model(exported, model, capfd):
    folder = exported(TOKENS, ("vae",), sizes=((64, 64),))
    assert main(["verify", str(folder), "--model", str(model(SMALL).model.name)]) == 2
    err = capfd.readouterr().err
    assert "VAEDecoder.mlpackage takes tokens, which" in err and err.count("\n") == 1


def test_parts_that_do_not_fit_together_are_one_line(tmp_path, capfd):
    checkpoint = tokens.write_folder(tmp_path / "tokens", {"vqvae": {"num_vq_embeddings": CODES - 1}})
    assert main(["--model", str(checkpoint), "--out", str(tmp_path / "out")]) == 2
    err = capfd.readouterr().err
    assert f"its UNet scores {CODES} tokens, and its codebook has {CODES - 1}" in err and err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["tokens"]


def test_packages_of_tokens_are_not_driven(exported, capfd):
    folder = str(exported(TOKENS, **QUICK))
    assert generate.main(["a tent", "--coreml", folder]) == 2
    err = capfd.readouterr().err
    assert "its pictures are tokens, of which --coreml has no sampler" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("field", "value", "words"),
    (
        ("codebook", None, "tokens.codebook must be a whole number"),
        ("mask", "24", "tokens.mask must be a whole number"),
        ("corruption", "gaussian", "tokens.corruption must be one of absorbing, multinomial"),
        ("samplers", [], "tokens.samplers must be a list of at least 1"),
        ("sampler", "euler", "tokens.sampler must be one of d3pm"),
    ),
)
def test_a_damaged_field_is_named(field, value, words, exported, tmp_path):
    shutil.copytree(exported(TOKENS, **QUICK), tmp_path / "out")
    content = json.loads((tmp_path / "out/info.json").read_text(encoding="utf-8"))
    content["tokens"][field] = value
    (tmp_path / "out/info.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError, match=words):
        info.read(tmp_path / "out")
