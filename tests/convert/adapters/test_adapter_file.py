"""An adapter that is not right is one line; the commands say what one is and what was done with it."""

import json
import re

import hypothesis.strategies as st
import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from safetensors.numpy import load_file, save_file

from convert import __main__ as command
from convert.adapters import adapter_file, merge
from convert.files import hub
from convert.files.diffusers_names import diffusers_name
from mlx_sd import StableDiffusion, metadata
from mlx_sd.checkpoint.lora import Lora
from mlx_sd.checkpoint.model_folder import build
from mlx_sd.cli import generate
from mlx_sd.core.errors import InputError
from mlx_sd.load import load
from mlx_sd.networks.layers import Linear
from tests.support import adapters, families


@pytest.fixture(scope="module")
def unet():
    return build("unet", families.FAMILIES["sd1"]["unet"], "unet")


# ------------------------------------------------------------------------------------------------ what is wrong

TO_Q = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
GOOD = {f"{TO_Q}.lora_down.weight": (4, 32), f"{TO_Q}.lora_up.weight": (32, 4)}
CROSS = TO_Q.replace("attn1_to_q", "attn2_to_k")


def changed(changes):
    """GOOD's arrays with some removed (None), reshaped or replaced."""
    arrays = {name: np.ones(shape, np.float32) for name, shape in GOOD.items()}
    for name, value in changes.items():
        arrays[name] = np.ones(value, np.float32) if isinstance(value, tuple) else value
    return {name: array for name, array in arrays.items() if array is not None}


BAD = np.array([[np.nan] * 32] * 4, np.float32)
WRONG = {
    "half an adapter": ({f"{TO_Q}.lora_up.weight": None}, f"{TO_Q} has down alone, which is no complete adapter"),
    "alpha alone": (
        {f"{TO_Q}.lora_up.weight": None, f"{TO_Q}.lora_down.weight": None, f"{TO_Q}.alpha": ()},
        "has alpha alone",
    ),
    "two ranks": (
        {f"{TO_Q}.lora_up.weight": (32, 5)},
        "the factors of " + TO_Q + " do not go together: down (4, 32), up (32, 5)",
    ),
    "no matrix": ({f"{TO_Q}.lora_up.weight": ()}, "do not go together"),
    "another shape": ({f"{TO_Q}.lora_down.weight": (4, 31)}, f"{TO_Q} is (32, 31), its layer (32, 32)"),
    "another kernel": (
        {f"{TO_Q}.lora_down.weight": (4, 32, 3, 3), f"{TO_Q}.lora_up.weight": (32, 4, 1, 1)},
        f"{TO_Q} is (32, 32, 3, 3), its layer (32, 32)",
    ),
    "not finite": ({f"{TO_Q}.lora_down.weight": BAD}, "lora_down.weight holds numbers that are not finite"),
    "alpha not finite": ({f"{TO_Q}.alpha": np.array(np.inf, np.float32)}, f"{TO_Q}.alpha is inf"),
    "alpha no number": ({f"{TO_Q}.alpha": (3,)}, "is no number but F32 (3,)"),
    "integers": ({f"{TO_Q}.lora_down.weight": np.ones((4, 32), np.int8)}, "is of type I8; only F32, F16, BF16"),
    "no such layer": ({"lora_unet_no.diff": (3,)}, "1 of its 2 modules are of no layer of this model: lora_unet_no"),
    "no such network": ({"lora_te2_text_model_final_layer_norm.diff": (3,)}, "are of no layer of this model: lora_te2"),
    "another family": ({f"{CROSS}.diff": (32, 2048)}, "is for SDXL, this model is a model with prompts 32 wide"),
    "another architecture": ({"lora_unet_double_blocks_0_img_attn_proj.diff": (3, 3)}, "(it is for Flux)"),
    "no adapter's": ({"magic": (3,)}, "not named as an adapter's tensors are: magic"),
    "twice": ({f"{TO_Q}.lora.down.weight": (4, 32)}, "is there twice"),
    "twice by other names": (
        {"unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.diff": (32, 32)},
        "are of the same layer",
    ),
    "a bias where there is none": ({f"{TO_Q}.diff_b": (32,)}, "has diff_b, its layer no bias"),
    "a bias of another size": ({"lora_unet_conv_in.diff_b": (3,)}, "has diff_b (3,), its layer's bias is (32,)"),
    "magnitudes of another size": ({f"{TO_Q}.dora_scale": (31, 1)}, "has dora_scale (31, 1), its layer is (32, 32)"),
    "magnitudes of nothing": ({"lora_unet_conv_in.dora_scale": (32, 1)}, "has dora_scale alone"),
    "IA3": ({f"{TO_Q}.on_input": ()}, "is of an IA3 adapter, which is not supported"),
    "OFT": ({f"{TO_Q}.oft_blocks": (4, 8, 8)}, "is of an OFT adapter"),
    "GLoRA": ({f"{TO_Q}.a1.weight": (4, 8)}, "is of a GLoRA adapter"),
    "textual inversion": ({"clip_l": (2, 32)}, "is of a textual inversion embedding"),
    "nothing": (dict.fromkeys(GOOD), "holds no tensors"),
    "a checkpoint": (
        dict.fromkeys(GOOD) | {"conv_in.weight": (32, 4, 3, 3)},
        "is no adapter: conv_in.weight; a checkpoint goes to --model",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_adapter_that_is_wrong_is_one_line_and_no_folder(name, folders, tmp_path, capsys):
    changes, message = WRONG[name]
    file = adapters.save(tmp_path / "bad.safetensors", changed(changes))
    model = ["--model", str(folders["sd1"]), "--out", str(tmp_path / "out")]
    code = command.main([*model, "--lora", f"{file}:0", "--lora-strict"])
    err = capsys.readouterr().err
    assert code == 2 and message in err and err.count("\n") == 1, err
    assert not (tmp_path / "out").exists()


FILES = {
    "missing": (lambda f: None, "does not exist"),
    "empty": (lambda f: f.write_bytes(b""), "is damaged or incomplete"),
    "a pickle": (lambda f: f.with_suffix(".pt").write_bytes(b"x"), "is a pickle, which can run code"),
    "a folder without": (lambda f: f.mkdir(), "holds no safetensors file"),
    "a folder of pickles": (lambda f: (f.mkdir(), (f / "x.bin").touch()), "has only pickled weights"),
    "a folder of several": (
        lambda f: (f.mkdir(), [(f / f"{n}.safetensors").touch() for n in "ab"]),
        "holds several files, a.safetensors, b.safetensors: name one",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_none_is_one_line(name, tmp_path):
    make, message = FILES[name]
    file = tmp_path / "x.safetensors"
    make(file)
    with pytest.raises(InputError, match=re.escape(message)):
        load("tiny", loras=[file.with_suffix(".pt") if name == "a pickle" else file])


def test_an_adapter_on_the_hub_is_its_only_file_or_the_one_named(tmp_path, monkeypatch):
    """With and without a connection."""
    asked = []

    def download(repository, **how):
        asked.append((repository, how.get("allow_patterns")))
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", download)
    monkeypatch.setattr(hub, "_files", lambda repository: ["README.md", "x/deep.safetensors", "only.safetensors"])
    assert merge.locate("owner/name") == tmp_path / "only.safetensors"
    assert merge.locate("owner/name/x/deep.safetensors") == tmp_path / "x/deep.safetensors"
    assert [patterns[0] for _, patterns in asked] == ["only.safetensors", "x/deep.safetensors"]
    monkeypatch.setattr(hub, "_files", lambda repository: ["a.safetensors", "b.safetensors"])
    with pytest.raises(InputError, match=r"owner/name holds several files, a.safetensors, b.safetensors: name one"):
        merge.locate("owner/name")

    def offline(repository):
        raise ConnectionError

    monkeypatch.setattr(hub, "_files", offline)
    monkeypatch.setattr(hub, "_cached", lambda repository, reason: tmp_path)
    assert merge.locate("owner/name") == tmp_path  # what the cache has
    for nowhere in ("owner/name/x.ckpt", "nowhere.safetensors", "folder/nowhere.safetensors", "/a/b"):
        with pytest.raises(InputError, match="does not exist"):
            merge.locate(nowhere)


CONFIGS = {
    "rank": ({"r": 8}, "is of rank 4, its config says 8"),
    "kind": ({"peft_type": "IA3"}, "its config says IA3; supported are LORA, LOHA, LOKR"),
    "DoRA": ({"use_dora": True}, "says use_dora, but"),
    "pattern": ({"alpha_pattern": {"(": 3}}, "alpha_pattern has '('"),
    "no pattern": ({"rank_pattern": [3]}, "rank_pattern = [3], which makes no sense"),
    "number": ({"lora_alpha": "x"}, "lora_alpha = 'x', which makes no sense"),
    "negative": ({"lora_alpha": -1}, "lora_alpha = -1, which makes no sense"),
    "endless": ({"lora_alpha": 10**400}, "which makes no sense"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_that_is_wrong_is_one_line(name, folders, shapes, tmp_path):
    config, message = CONFIGS[name]
    factors = adapters.every_layer(shapes["sd1"], pick=adapters.attention)
    adapters.save(tmp_path / "adapter_model.safetensors", adapters.peft(factors))
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=re.escape(message)):
        load(folders["sd1"], loras=[tmp_path])


shape = st.lists(st.integers(0, 5), max_size=5).map(tuple)


@given(st.dictionaries(st.sampled_from(sorted(adapter_file._ROLES)), shape, min_size=1, max_size=7))
@settings(deadline=None, max_examples=100)
def test_no_shapes_crash_the_reader(unet, tmp_path_factory, roles):
    file = tmp_path_factory.mktemp("fuzz") / "x.safetensors"
    save_file({f"{TO_Q}.{role}": np.ones(size, np.float32) for role, size in roles.items()}, file)
    try:
        plan = merge.plan_merge(merge.open_adapters([Lora(str(file), 0.5)]), {"unet": unet})
    except InputError as error:
        assert "\n" not in str(error)
    else:
        plan("unet", "down.stages.1.1.blocks.0.attn1.q.weight", mx.zeros((32, 32)))


@given(st.text())
@settings(deadline=None)
def test_what_lora_takes_has_a_path_and_a_finite_scale(text):
    try:
        found = Lora.parse(text)
    except InputError as error:
        assert "the scale must be a finite number" in str(error)
    else:
        assert text.startswith(found.path) and np.isfinite([found.scale, *found.blocks]).all()
        said = text[len(found.path) :].split(":")[1:]
        assert len(said) == (found.scale != 1 or bool(said and "," not in said[0])) + bool(found.blocks)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.safetensors", ("a.safetensors", 1)),
        ("a:0.8", ("a", 0.8)),
        ("a:-1", ("a", -1)),
        ("owner/name:2", ("owner/name", 2)),
        ("C:\\a", ("C:\\a", 1)),
        ("a:b:0", ("a:b", 0)),
    ],
)
def test_path_and_scale(text, expected):
    assert Lora.parse(text)[:2] == expected


# ------------------------------------------------------------------------------------------------ commands


@pytest.fixture
def style(tmp_path):
    """An adapter for the embedded checkpoint."""
    unet = StableDiffusion.load("tiny", "float32").unet
    factors = {}
    for name, layer in unet.named_modules():
        theirs = diffusers_name("unet", unet.names, name)
        if isinstance(layer, Linear) and "attn" in theirs:
            factors["unet", theirs] = adapters.lora(("unet", theirs), layer.weight.shape)
    return adapters.save(tmp_path / "style.safetensors", adapters.kohya(factors))


@pytest.mark.slow
def test_a_picture_says_its_adapters_and_is_made_again(style, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ["a tent", "--steps", "2", "--width", "64", "--height", "64"]
    assert generate.main([*flags, "--lora", "style.safetensors:0.7", "--output", "a.png"]) == 0
    assert generate.main(["--from-image", "a.png", "--output", "b.png"]) == 0
    assert generate.main([*flags, "--output", "c.png"]) == 0
    about = metadata.read(tmp_path / "a.png")
    assert about["loras"] == [{"path": "style.safetensors", "sha256": adapter_file.read(style).sha256, "scale": 0.7}]
    assert about == metadata.read(tmp_path / "b.png")
    one, again, without = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert one == again != without
    arrays = {name: array * 2 for name, array in load_file(style).items()}
    adapters.save(style, arrays)
    assert generate.main(["--from-image", "a.png", "--output", "d.png", "--allow-changed"]) == 0
    assert "style.safetensors is not the one the picture was made with" in capsys.readouterr().err


@pytest.mark.slow
def test_inspect_says_what_a_file_is(folders, shapes, tmp_path, capsys):
    factors = adapters.every_layer(shapes["sdxl"], pick=adapters.attention, alpha=2)
    words = {"a": {"cat": 1, "dog\x1b[31m": 5}}
    said = {"ss_base_model_version": "sdxl_base_v1-0", "ss_tag_frequency": json.dumps(words)}
    file = adapters.save(tmp_path / "a.safetensors", adapters.kohya(factors), said)
    assert command.main(["--inspect", str(file), "--model", str(folders["sd1"])]) == 0
    out = capsys.readouterr().out
    counts = {part: sum(p == part for p, _ in factors) for part in adapter_file.PARTS}
    assert "LoRA for a model with prompts 80 wide" in out
    for part, count in counts.items():
        assert f"{part}: {count} modules, rank 4, alpha 2, scaled by 0.5" in out
    assert "base model: sdxl_base_v1-0" in out and "frequent words: dog [31m, cat" in out and "\x1b" not in out
    assert "does not fit" in out
    assert command.main(["--inspect", str(file), "--model", str(folders["sdxl"])]) == 0
    assert f"fits {folders['sdxl']}" in capsys.readouterr().out
    assert command.main(["--inspect", str(folders["sdxl"] / "unet/diffusion_pytorch_model.safetensors")]) == 0
    assert "a UNet for a model with prompts 80 wide" in capsys.readouterr().out
