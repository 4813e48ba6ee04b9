"""Model folders of every older version of the format load, and compute what they did."""

import hashlib
import json

import mlx.core as mx
import pytest
from safetensors.numpy import load_file, save_file

from convert import __main__ as command
from mlx_sd import StableDiffusion
from tests.support import families

UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def model(original, tmp_path):
    assert command.main(["--model", str(original), "--out", str(tmp_path / "model")]) == 0
    return tmp_path / "model"


def edit(model, change):
    values = json.loads((model / "model.json").read_text())
    change(values)
    (model / "model.json").write_text(json.dumps(values))


def verify(model, capsys):
    capsys.readouterr()
    assert command.main(["--verify", str(model)]) == 0
    return capsys.readouterr().out


def rewrite_unet_as_before_version_3(model):
    """Gives the UNet's parameters the names that they had in versions 1 and 2, and records the new file's hash."""
    file = model / "unet.safetensors"
    renamed = (
        ("down.stages.0.0.", "inputs.0.0.conv."),
        ("down.stages.", "inputs."),
        ("middle.layers.", "middle."),
        ("up.stages.", "outputs."),
        ("embedding.timestep.", "time."),
    )

    def before(name):
        return next((old + name.removeprefix(new) for new, old in renamed if name.startswith(new)), name)

    save_file({before(name): array for name, array in load_file(file).items()}, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    edit(model, lambda values: values["files"].update({file.name: digest}))


def test_a_folder_of_version_1_still_loads_and_says_that_it_has_no_hashes(model, capsys):
    rewrite_unet_as_before_version_3(model)
    edit(model, lambda values: (values.update(version=1), values.pop("files")))
    assert "but written before files were hashed" in verify(model, capsys)
    StableDiffusion.load(model, "float32")


def test_a_folder_of_version_2_computes_the_same_and_goes_back_to_diffusers(model, original, tmp_path, capsys):
    unet = StableDiffusion.load(model, "float32").unet
    rewrite_unet_as_before_version_3(model)
    edit(model, lambda values: values.update(version=2))
    assert "6 files as written" in verify(model, capsys)
    inputs = {key: mx.array(value) for key, value in families.unet_inputs(families.FAMILIES["sd1"]["unet"]).items()}
    assert mx.array_equal(StableDiffusion.load(model, "float32").unet(**inputs)[0], unet(**inputs)[0])
    assert command.main(["--model", str(model), "--out", str(tmp_path / "back"), "--to", "diffusers"]) == 0
    source, back = load_file(original / UNET), load_file(tmp_path / "back" / UNET)
    assert source.keys() == back.keys() and all((source[name] == back[name]).all() for name in source)
