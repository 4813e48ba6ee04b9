"""A LoRA that fits in part is merged in part and said to be; by --lora-strict that is an error. LoRAs by name."""

import numpy as np
import pytest

from convert import __main__ as command
from convert.adapters.merge import open_adapters, plan_merge
from mlx_sd import StableDiffusion
from mlx_sd.checkpoint.lora import Lora
from mlx_sd.core.errors import InputError
from tests.support import adapters

TO_Q = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
STRANGE = [f"lora_unet_no_{i}" for i in range(5)]
PARTLY = r"2 of its 7 modules fit this model, others are left out: lora_unet_no_0, lora_unet_no_1, lora_unet_no_2 and 2"


def _lora(path, names, width=32):
    """A LoRA with modules of these names, of rank 2."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    shapes = {"lora_down": (2, width), "lora_up": (width, 2)}
    arrays = {
        f"{name}.{side}.weight": rng.standard_normal(shape).astype(np.float32) * 0.3
        for name in names
        for side, shape in shapes.items()
    }
    return adapters.save(path, arrays)


@pytest.fixture
def networks(family):
    sd = family("sd1")
    return {"unet": sd.unet, "text_encoder": sd.model.text_encoders[0]}


def test_what_fits_is_merged_and_the_rest_is_counted_and_named(networks, tmp_path):
    fitting = [TO_Q, TO_Q.replace("_q", "_v")]
    partly, wholly = _lora(tmp_path / "a.safetensors", fitting + STRANGE), _lora(tmp_path / "b.safetensors", fitting)
    with pytest.warns(UserWarning, match=PARTLY):
        merge = plan_merge(open_adapters([Lora(str(partly))]), networks)
    other = plan_merge(open_adapters([Lora(str(wholly))]), networks)
    parameter = "down.stages.1.1.blocks.0.attention1.q.weight"
    (name,) = [n for n in _parameters(networks["unet"]) if n.endswith("q.weight") and _changes(other, n, networks)]
    weight = _parameters(networks["unet"])[name]
    assert parameter.endswith("q.weight") and np.array_equal(merge("unet", name, weight), other("unet", name, weight))


def _parameters(network):
    from mlx.utils import tree_flatten

    return dict(tree_flatten(network.parameters()))


def _changes(merge, name, networks):
    weight = _parameters(networks["unet"])[name]
    return not np.array_equal(np.array(merge("unet", name, weight)), np.array(weight))


@pytest.mark.parametrize("strict", [False, True])
def test_one_of_which_nothing_fits_is_an_error(strict, networks, tmp_path):
    opened = open_adapters([Lora(str(_lora(tmp_path / "a.safetensors", STRANGE)))])
    with pytest.raises(InputError, match="none of its 5 modules is of a layer of this model: lora_unet_no_0"):
        plan_merge(opened, networks, strict)


def test_strictly_a_partial_match_is_an_error_and_names_the_family(networks, tmp_path):
    names = [TO_Q, "lora_unet_double_blocks_0_img_attn_proj"]
    opened = open_adapters([Lora(str(_lora(tmp_path / "a.safetensors", names)))])
    with pytest.raises(InputError, match=r"\(it is for Flux\): 1 of its 2 modules are of no layer"):
        plan_merge(opened, networks, strict=True)


def test_both_commands_warn_once_and_refuse_strictly(original, tmp_path, capsys, run):
    partly = _lora(tmp_path / "a.safetensors", [TO_Q, *STRANGE])
    words, strictly = "1 of its 6 modules fit this model", "5 of its 6 modules are of no layer of this model"
    convert = ["--model", str(original), "--lora", str(partly), "--out"]
    assert command.main([*convert, str(tmp_path / "out")]) == 0
    assert capsys.readouterr().err.count(words) == 1
    assert command.main([*convert, str(tmp_path / "no"), "--lora-strict"]) == 2
    assert strictly in capsys.readouterr().err and not (tmp_path / "no").exists()
    picture = ("a tent", "--model", original, "--lora", partly, "--steps", 1)
    code, _, err = run(*picture)
    assert code == 0 and err.count(words) == 1
    code, out, err = run(*picture, "--lora-strict")
    assert (code, out, err.count("\n")) == (2, "", 1) and strictly in err


# -------------------------------------------------------------------------------------------------- by name


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of LoRAs, below the one that commands run in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLX_SD_LORAS", raising=False)
    for name in ("Pixel_Art", "sub/watercolour", "one/twin", "two/twin", "v1.5-style"):
        _lora(tmp_path / "loras" / f"{name}.safetensors", [TO_Q])
    return tmp_path / "loras"


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("Pixel_Art", "Pixel_Art"),
        ("pixel_art.safetensors", "Pixel_Art"),
        ("watercolour", "sub/watercolour"),
        ("sub/watercolour", "sub/watercolour"),
        ("two/twin", "two/twin"),
        ("v1.5-style", "v1.5-style"),
    ],
)
@pytest.mark.parametrize("by", ["option", "variable"])
def test_a_name_is_a_file_of_the_folder_and_is_recorded_by_its_path(name, file, by, folder, monkeypatch):
    if by == "variable":
        monkeypatch.setenv("MLX_SD_LORAS", str(folder))
    ((lora, adapter),) = open_adapters([Lora(name, 0.5)], folder if by == "option" else None)
    assert (lora.path, lora.scale) == (str(folder / f"{file}.safetensors"), 0.5)
    assert adapter.file == folder / f"{file}.safetensors"


def test_a_path_goes_before_a_name(folder):
    here = _lora(folder.parent / "Pixel_Art", [TO_Q])
    ((lora, adapter),) = open_adapters([Lora("Pixel_Art")], folder)
    assert lora.path == "Pixel_Art" and adapter.file.absolute() == here


MISTAKES = {
    "misspelled": ("pixel_artt", "loras", r"or in loras; did you mean 'Pixel_Art'\? there are Pixel_Art, twin"),
    "unlike": ("zzz", "loras", "does not exist, here or in loras; there are Pixel_Art"),
    "twice": ("twin", "loras", "LoRA twin is there 2 times: one/twin, two/twin"),
    "no folder": ("twin", None, "does not exist; to give it by its name, say where it lies: --lora-folder DIR or MLX"),
    "missing folder": ("twin", "none", "--lora-folder none: does not exist"),
    "a file": ("twin", "loras/Pixel_Art.safetensors", "Pixel_Art.safetensors: is no folder"),
    "out of it": ("../loras2/x", "loras", "does not exist"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_wrong_name_is_one_line_with_the_nearest(name, folder, run):
    lora, place, words = MISTAKES[name]
    (folder.parent / "loras2").mkdir()
    _lora(folder.parent / "loras2/x.safetensors", [TO_Q])
    code, out, err = run("x", "--lora", lora, *(() if place is None else ("--lora-folder", place)))
    assert (code, out, err.count("\n")) == (2, "", 1), err
    with pytest.raises(InputError, match=words):
        raise InputError(err)


def test_a_picture_by_name_is_made_again_without_the_folder(folder, run, original):
    _lora(folder / "style.safetensors", [TO_Q])
    flags = ("--steps", 1, "--model", original, "--seed", 3)
    assert run("x", *flags, "--lora", "style:0.7", "--lora-folder", "loras", "--output", "a.png")[0] == 0
    code, _, err = run("--from-image", "a.png", "--output", "b.png")
    assert code == 0, err
    sd = StableDiffusion.load(original, "float32", [("style", 0.7)], lora_folder=folder)
    assert sd.model.loras[0]["path"] == str(folder / "style.safetensors")
