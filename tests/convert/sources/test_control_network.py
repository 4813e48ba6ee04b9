"""ControlNets as others save them: folders, files of any names, differences, and files that hold a base model too."""

import json

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import save_file

from convert import __main__ as command
from convert.files.diffusers_names import diffusers_name
from convert.sources import hub_checkpoint
from mlx_sd import StableDiffusion
from tests.support import controls
from tests.support.effort import slow_but

FAMILY = {"sd1": "sd1", "sdxl": "sdxl", "sdxl-small": "sdxl"}
LATENTS = {"seed": 1, "steps": 2, "output": "latent"}


def picture(sd: StableDiffusion, source) -> mx.array:
    return sd.generate("a red tent", controls=[(source, controls.image())], **LATENTS).latents


def arrays(kind: str) -> tuple[dict, dict[str, np.ndarray]]:
    family, changes = controls.KINDS[kind]
    values = controls.config(family, **changes)
    return values, controls.weights(values)


def write(path, tensors, **metadata):
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, path, metadata or None)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("kind", slow_but(["sd1"], list(FAMILY)))
def test_a_file_of_any_names_is_the_folder_bit_for_bit(kind, family, tmp_path):
    sd, (values, weights) = family(FAMILY[kind]), arrays(kind)
    expected = picture(sd, controls.write_folder(tmp_path / "folder", values, weights))
    original = controls.original(weights, values)
    base = {"model.diffusion_model.input_blocks.0.0.weight": np.zeros((2, 2), np.float32)}
    base |= {"first_stage_model.decoder.conv_in.weight": base["model.diffusion_model.input_blocks.0.0.weight"]}
    files = {
        "original": original,
        "prefixed": {f"control_model.{name}": array for name, array in original.items()},
        "diffusers": weights,
        "with-base": {f"control_model.{name}": array for name, array in original.items()} | base,
        "bare-with-base": original | base,
    }
    for name, tensors in files.items():
        assert mx.array_equal(picture(sd, write(tmp_path / f"{name}.safetensors", tensors)), expected), name


def base_weights(sd: StableDiffusion) -> dict[str, np.ndarray]:
    """Those of the UNet in diffusers' names and order of axes."""
    weights = {}
    for parameter, array in mx.load(str(sd.model.folder / "unet.safetensors")).items():
        stored = np.asarray(array)
        name = diffusers_name("unet", sd.unet.names, parameter)
        weights[name] = stored.transpose(0, 3, 1, 2) if stored.ndim == 4 else stored
    return weights


def difference(a: mx.array, b: mx.array) -> float:
    return float(mx.abs(a - b).max() / mx.abs(b).max())


@pytest.mark.slow
def test_differences_are_added_to_the_base_s_weights(family, tmp_path):
    sd, (_, weights) = family("sd1"), arrays("sd1")
    expected, unet = picture(sd, write(tmp_path / "whole.safetensors", weights)), base_weights(sd)
    less = {name: array - unet[name].reshape(array.shape) if name in unet else array for name, array in weights.items()}
    assert sum(name in unet for name in weights) > 100
    file = write(tmp_path / "less.safetensors", less | {"difference": np.zeros(1, np.float32)})
    assert difference(picture(sd, file), expected) < 1e-4
    assert difference(picture(sd, write(tmp_path / "unmarked.safetensors", less)), expected) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("kind", slow_but(["sdxl"], ["sd1", "sdxl"]))
def test_a_control_lora_is_the_base_and_a_product_for_each_layer(kind, family, tmp_path):
    """Norms and biases are whole in these files, and so are the layers that the UNet lacks."""
    sd, (values, weights) = family(kind), arrays(kind)
    unet, random, pairs, complete = base_weights(sd), np.random.RandomState(2), {}, {}
    for name, array in weights.items():
        if name not in unet or array.ndim == 1:
            pairs[name] = complete[name] = array
            continue
        up, down = random.randn(array.shape[0], 3) / 3, random.randn(3, *array.shape[1:]) / np.sqrt(array[0].size)
        layer = name.removesuffix(".weight")
        shape = (*up.shape, 1, 1) if array.ndim == 4 else up.shape
        pairs |= {f"{layer}.up": up.reshape(shape).astype(np.float32), f"{layer}.down": down.astype(np.float32)}
        product = (up @ down.reshape(3, -1)).reshape(array.shape)
        complete[name] = (unet[name].reshape(array.shape) + product).astype(np.float32)
    marked = controls.original(pairs, values) | {"lora_controlnet": np.zeros(0, np.float32)}
    expected = picture(sd, write(tmp_path / "whole.safetensors", controls.original(complete, values)))
    assert difference(picture(sd, write(tmp_path / "pairs.safetensors", marked)), expected) < 1e-4


def test_the_name_of_a_file_tells_that_residuals_are_pooled(family, tmp_path):
    sd, (values, weights) = family("sd1"), arrays("sd1")
    folder = controls.write_folder(tmp_path / "folder", values | {"global_pool_conditions": True}, weights)
    file = write(tmp_path / "control_shuffle.safetensors", weights)
    assert mx.array_equal(picture(sd, file), picture(sd, folder))


def convert(capsys, *words) -> tuple[int, str]:
    code = command.main([str(word) for word in words])
    return code, capsys.readouterr().err


def test_it_is_converted_once_and_then_read_from_the_folder_and_verified(family, tmp_path, capsys):
    sd, (values, weights) = family("sd1"), arrays("sd1")
    folder = controls.write_folder(tmp_path / "folder", values, weights)
    assert convert(capsys, "--model", folder, "--out", tmp_path / "out", "--dtype", "float16")[0] == 0
    about = json.loads((tmp_path / "out/model.json").read_text())
    assert list(about["networks"]) == ["control"] and about["dtype"] == "float16"
    assert convert(capsys, "--verify", tmp_path / "out")[0] == 0
    code, err = convert(capsys, "--model", tmp_path / "out", "--to", "diffusers", "--out", tmp_path / "back")
    assert code == 2 and "a ControlNet is not written back" in err and not (tmp_path / "back").exists()
    a, b = picture(sd, tmp_path / "out"), picture(sd, folder)
    assert 0 < (mx.abs(a - b).max() / mx.abs(b).max()).item() < 0.05


SPOILT = {
    "missing": (
        lambda a: {n: x for n, x in a.items() if n != "controlnet_mid_block.bias"},
        "1 missing (controlnet_mid",
    ),
    "unexpected": (lambda a: a | {"extra.weight": np.zeros(1, np.float32)}, "1 unexpected (extra.weight)"),
    "half": (lambda a: {n: x for n, x in a.items() if "down_blocks" not in n}, "is a ControlNet, but not a whole one"),
    "type": (lambda a: a | {"conv_in.bias": np.zeros(32, np.float64)}, "conv_in.bias is of type F64"),
    "shape": (lambda a: a | {"conv_in.bias": np.zeros(5, np.float32)}, "1 of another shape (conv_in.bias"),
}


@pytest.mark.parametrize("form", ["file", "folder"])
@pytest.mark.parametrize("name", SPOILT)
def test_what_is_not_whole_is_one_line(name, form, tmp_path, capsys):
    values, weights = arrays("sd1")
    spoil, words = SPOILT[name]
    if form == "file":
        source = write(tmp_path / "control.safetensors", spoil(weights))
    else:
        source = controls.write_folder(tmp_path / "control", values, spoil(weights))
        words = "missing (" if name == "half" else words
    code, err = convert(capsys, "--model", source, "--out", tmp_path / "out")
    assert code == 2 and err.count("\n") == 1 and words in err, err
    assert not (tmp_path / "out").exists()


def test_options_of_whole_checkpoints_are_refused(tmp_path, capsys):
    values, weights = arrays("sd1")
    source = controls.write_folder(tmp_path / "control", values, weights)
    code, err = convert(capsys, "--model", source, "--out", tmp_path / "out", "--kind", "sd1")
    assert code == 2 and "--kind is of whole checkpoints" in err


def test_of_a_repository_config_and_the_best_weights_are_downloaded(monkeypatch, tmp_path):
    names = ["README.md", "config.json", "diffusion_pytorch_model.bin", "diffusion_pytorch_model.fp16.safetensors"]
    names += ["diffusion_pytorch_model.safetensors", "images/a.png"]

    def download(repository, select):
        selected = select(names)
        for name in selected:
            if "*" not in name:
                (tmp_path / name).write_text("{}")
        return tmp_path, selected

    monkeypatch.setattr(hub_checkpoint.hub, "download", download)
    assert hub_checkpoint.fetch("owner/canny", "fp16") == tmp_path
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "diffusion_pytorch_model.fp16.safetensors",
    ]
