"""A LoRA's file is the LoRA: what our loader makes of it, beside the layers or merged, is what was trained."""

import errno
import hashlib
import os
import re

import mlx.core as mx
import numpy as np
import pytest
from safetensors import safe_open

from convert.adapters import adapter_file, merge
from mlx_sd.checkpoint.lora import Lora
from mlx_sd.core import files
from mlx_sd.core.errors import Failure, InputError
from mlx_sd.load import load
from mlx_sd.train.files import lora_file, safetensors_file
from mlx_sd.train.files.base_model import BaseModel
from mlx_sd.train.files.lora_file import LowRankWeights, write
from tests.support import families, trained
from tests.support.effort import slow_but
from tests.support.families import distance

FAMILIES = ("sd1", "sd2v", "sdxl")
DTYPES = {"float16": np.float16, "float32": np.float32}
QUERY = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
FEW = r"mid_block|layers\.1\."  # linear layers, projections and convolutions of UNet and text encoders


# ------------------------------------------------------------------------------------------------ the loader


@pytest.mark.parametrize("spelling", lora_file.SPELLINGS)
@pytest.mark.parametrize("family", slow_but(["sdxl"], FAMILIES))
def test_merged_by_the_loader_it_is_base_plus_alpha_by_rank_up_down(family, spelling, folders, models, tmp_path):
    layers, base = trained.layers(models(family)), BaseModel.of(models(family))
    assert layers.keys() == base.layers.keys()
    dtype = "float16" if spelling == "kohya" else "float32"
    write(tmp_path / "a.safetensors", layers, base, spelling=spelling, dtype=dtype)
    merged = load(folders(family), "float32", [(tmp_path / "a.safetensors", 1.0)], lora_strict=True)
    before, after = trained.parameters(models(family)), trained.parameters(merged)
    for (part, name), array in after.items():
        layer, _, kind = name.rpartition(".")
        if kind == "weight" and (part, layer) in layers:
            added = trained.difference(layers[part, layer], DTYPES[dtype])
            assert distance(array, before[part, name] + added) < 1e-6, (part, name)
            assert distance(array, before[part, name]) > 1e-2
        else:
            assert (array == before[part, name]).all(), (part, name)


def prediction(model) -> list[np.ndarray]:
    """What a UNet and the text encoders of a model say."""
    config = families.FAMILIES["sdxl" if len(model.text_encoders) > 1 else "sd1"]["unet"]
    config = config | {"cross_attention_dim": model.unet.config.down[1].context}
    inputs = {name: mx.array(value) for name, value in families.unet_inputs(config).items()}
    ids = mx.array(model.tokenizers[0].chunks(families.PROMPT))
    return [np.array(model.unet(**inputs)[0]), *(np.array(encoder(ids).last) for encoder in model.text_encoders)]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_beside_the_layers_it_is_the_merged_one_at_every_scale(family, folders, models, tmp_path):
    file = tmp_path / "a.safetensors"
    write(file, trained.layers(models(family)), BaseModel.of(models(family)))
    without = prediction(models(family))
    for scale in (1.0, -0.3):
        merged = load(folders(family), "float32", [(file, scale)], lora_strict=True)
        beside = load(folders(family), "float32", [(file, scale)], lora_strict=True, lora_mode="runtime")
        for ours, theirs, base in zip(prediction(beside), prediction(merged), without, strict=True):
            assert distance(ours, theirs) < 1e-5 < distance(ours, base)


def test_a_scale_of_s_is_s_times_the_difference(folders, models, tmp_path):
    layers = trained.layers(models("sd1"), pattern=FEW)
    write(tmp_path / "a.safetensors", layers, BaseModel.of(models("sd1")))
    before = trained.parameters(models("sd1"))
    for scale in (0.25, -2.0):
        after = trained.parameters(load(folders("sd1"), "float32", [(tmp_path / "a.safetensors", scale)]))
        for (part, layer), weights in layers.items():
            name = part, f"{layer}.weight"
            assert distance(after[name], before[name] + scale * trained.difference(weights, np.float16)) < 1e-6


@pytest.mark.parametrize("spelling", lora_file.SPELLINGS)
@pytest.mark.parametrize("family", slow_but(["sdxl"], FAMILIES))
def test_every_tensor_is_read_and_means_the_layer_it_was_written_for(family, spelling, models, tmp_path):
    model = models(family)
    layers, base = trained.layers(model), BaseModel.of(model)
    write(tmp_path / "a.safetensors", layers, base, spelling=spelling)
    adapter = adapter_file.read(tmp_path / "a.safetensors")
    assert sum(len(module.factors) for module in adapter.modules) == 2 * len(layers)
    known, shapes = merge.layers_of(trained.networks(model)), {}
    for part, network in trained.networks(model).items():
        shapes[part] = merge.shapes(network)
    changes = list(merge.changes_of(Lora("a"), adapter, known, shapes, strict=True))
    assert sorted(key for key, _ in changes) == sorted((part, f"{layer}.weight") for part, layer in layers)
    for (part, name), change in changes:
        assert change.module.part == part
        assert change.module.shape == base.layers[part, name.removesuffix(".weight")].shape


def test_every_layer_may_have_a_rank_and_an_alpha_of_its_own(folders, models, tmp_path):
    model = models("sd1")
    layers = {}
    for number, (key, weights) in enumerate(trained.layers(model, rank=6, kernel_rank=6, pattern=FEW).items()):
        rank = 1 + number % 5
        layers[key] = LowRankWeights(weights.down[:rank], weights.up[..., :rank], 0.1 + number % 3)
    for spelling in lora_file.SPELLINGS:
        file = tmp_path / f"{spelling}.safetensors"
        write(file, layers, BaseModel.of(model), spelling=spelling, dtype="float32")
        before, after = trained.parameters(model), trained.parameters(load(folders("sd1"), "float32", [(file, 1.0)]))
        for (part, layer), weights in layers.items():
            name = part, f"{layer}.weight"
            assert distance(after[name], before[name] + trained.difference(weights, np.float32)) < 1e-6


def test_bfloat16_factors_and_flat_factors_of_small_convolutions_are_written(models, tmp_path):
    model = models("sd1")
    layers = trained.layers(model, pattern=r"conv_shortcut|proj_in")
    flat = {
        key: LowRankWeights(
            weights.down.reshape(weights.rank, -1).astype(mx.bfloat16),
            weights.up.reshape(-1, weights.rank).astype(mx.bfloat16),
            weights.alpha,
        )
        for key, weights in layers.items()
    }
    rounded = {
        key: LowRankWeights(w.down.astype(mx.bfloat16), w.up.astype(mx.bfloat16), w.alpha) for key, w in layers.items()
    }
    base = BaseModel.of(model)
    assert write(tmp_path / "flat.safetensors", flat, base) != write(tmp_path / "a.safetensors", rounded, base)
    with (
        safe_open(tmp_path / "flat.safetensors", "numpy") as one,
        safe_open(tmp_path / "a.safetensors", "numpy") as two,
    ):
        assert one.keys() == two.keys()
        assert all((one.get_tensor(name) == two.get_tensor(name)).all() for name in one.keys())  # noqa: SIM118


# ------------------------------------------------------------------------------------------------ the names


def test_names_and_shapes_are_those_of_kohyas_scripts(models, tmp_path):
    """Written out once for each kind of layer, as files of kohya's scripts have them."""
    places = {
        "sd1": {
            "lora_te_text_model_encoder_layers_1_self_attn_q_proj": ((4, 32), (32, 4)),
            "lora_te_text_model_encoder_layers_1_mlp_fc1": ((4, 32), (128, 4)),
            "lora_unet_mid_block_attentions_0_proj_in": ((4, 64, 1, 1), (64, 4, 1, 1)),
            "lora_unet_down_blocks_0_attentions_1_transformer_blocks_0_attn2_to_k": ((4, 32), (32, 4)),
            "lora_unet_up_blocks_1_attentions_2_transformer_blocks_0_ff_net_0_proj": ((4, 64), (512, 4)),
            "lora_unet_up_blocks_1_attentions_2_transformer_blocks_0_attn1_to_out_0": ((4, 64), (64, 4)),
            "lora_unet_down_blocks_1_resnets_1_conv2": ((3, 32, 3, 3), (32, 3, 1, 1)),
            "lora_unet_down_blocks_2_resnets_0_conv_shortcut": ((4, 32, 1, 1), (64, 4, 1, 1)),
            "lora_unet_down_blocks_0_downsamplers_0_conv": ((3, 32, 3, 3), (32, 3, 1, 1)),
            "lora_unet_mid_block_resnets_1_time_emb_proj": ((4, 128), (64, 4)),
        },
        "sdxl": {
            "lora_te1_text_model_encoder_layers_0_self_attn_out_proj": ((4, 32), (32, 4)),
            "lora_te2_text_model_encoder_layers_2_mlp_fc2": ((4, 128), (48, 4)),
            "lora_te2_text_projection": ((4, 48), (24, 4)),
            "lora_unet_middle_block_1_proj_in": ((4, 64), (64, 4)),
            "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q": ((4, 64), (64, 4)),
            "lora_unet_output_blocks_1_1_transformer_blocks_2_ff_net_2": ((4, 256), (64, 4)),
            "lora_unet_output_blocks_2_2_conv": ((3, 64, 3, 3), (64, 3, 1, 1)),
            "lora_unet_input_blocks_3_0_op": ((3, 32, 3, 3), (32, 3, 1, 1)),
            "lora_unet_input_blocks_4_0_in_layers_2": ((3, 32, 3, 3), (64, 3, 1, 1)),
            "lora_unet_input_blocks_4_0_skip_connection": ((4, 32, 1, 1), (64, 4, 1, 1)),
            "lora_unet_middle_block_2_emb_layers_1": ((4, 128), (64, 4)),
        },
    }
    for family, expected in places.items():
        write(tmp_path / f"{family}.safetensors", trained.layers(models(family)), BaseModel.of(models(family)))
        with safe_open(tmp_path / f"{family}.safetensors", "numpy") as file:
            for name, (down, up) in expected.items():
                assert file.get_slice(f"{name}.lora_down.weight").get_shape() == list(down), name
                assert file.get_slice(f"{name}.lora_up.weight").get_shape() == list(up), name
                assert file.get_slice(f"{name}.lora_down.weight").get_dtype() == "F16"
                assert file.get_slice(f"{name}.alpha").get_shape() == []


def test_diffusers_names_have_dots_and_no_alpha(models, tmp_path):
    write(
        tmp_path / "a.safetensors", trained.layers(models("sdxl")), BaseModel.of(models("sdxl")), spelling="diffusers"
    )
    with safe_open(tmp_path / "a.safetensors", "numpy") as file:
        names = set(file.keys())
    assert f"unet.{QUERY}.lora_A.weight" in names
    assert "text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj.lora_B.weight" in names
    assert all(re.fullmatch(r"(unet|text_encoder|text_encoder_2)\..*\.lora_[AB]\.weight", name) for name in names)


def test_the_same_layers_give_the_same_bytes_in_any_order(models, tmp_path):
    layers, base = trained.layers(models("sd1"), pattern=FEW), BaseModel.of(models("sd1"))
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one = write(tmp_path / "one" / "a.safetensors", layers, base)
    two = write(tmp_path / "two" / "a.safetensors", dict(reversed(layers.items())), base)
    assert one == two == hashlib.sha256((tmp_path / "one" / "a.safetensors").read_bytes()).hexdigest()


# ------------------------------------------------------------------------------------------------ bad input


@pytest.fixture
def base(models) -> BaseModel:
    return BaseModel.of(models("sd1"))


@pytest.fixture
def layers(models):
    return trained.layers(models("sd1"), pattern=QUERY)


def nothing_but(folder, *names):
    return sorted(path.name for path in folder.iterdir()) == sorted(names)


def test_a_file_that_is_there_stays_without_force(layers, base, tmp_path):
    file = tmp_path / "a.safetensors"
    file.write_bytes(b"mine")
    with pytest.raises(InputError, match=r"a\.safetensors exists; choose another name, or --force"):
        write(file, layers, base)
    assert file.read_bytes() == b"mine"
    digest = write(file, layers, base, force=True)
    assert adapter_file.read(file).sha256 == digest
    assert nothing_but(tmp_path, "a.safetensors")


def test_paths_that_cannot_be_a_file_are_one_line(layers, base, tmp_path):
    (tmp_path / "folder.safetensors").mkdir()
    for name, message in {
        "a.pt": "give it the suffix .safetensors",
        "folder.safetensors": "is a folder",
        "missing/a.safetensors": "there is no folder .*missing; make it first",
    }.items():
        with pytest.raises(InputError, match=message) as raised:
            write(tmp_path / name, layers, base, force=True)
        assert "\n" not in str(raised.value)
    assert nothing_but(tmp_path, "folder.safetensors")


def test_a_folder_that_cannot_be_written_is_one_line(layers, base, tmp_path, monkeypatch):
    def denied(**options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(files.tempfile, "TemporaryFile", denied)  # the superuser may write everywhere
    with pytest.raises(InputError, match=r"folder .* cannot be written \(Permission denied\)"):
        write(tmp_path / "a.safetensors", layers, base)
    assert nothing_but(tmp_path)


@pytest.mark.parametrize("before", [None, b"mine"])
def test_a_full_disk_leaves_what_was_there(before, layers, base, tmp_path, monkeypatch):
    file = tmp_path / "a.safetensors"
    if before:
        file.write_bytes(before)

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(safetensors_file.os, "fsync", full)
    with pytest.raises(Failure, match=r"a\.safetensors cannot be written: No space left on device; nothing is left"):
        write(file, layers, base, force=True)
    assert nothing_but(tmp_path, *["a.safetensors"] * bool(before))
    assert not before or file.read_bytes() == before


@pytest.mark.parametrize("factor", ["down", "up"])
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_a_failure(factor, number, layers, base, tmp_path):
    ((key, weights),) = layers.items()
    broken = np.array(getattr(weights, factor))
    broken[1, 1] = number
    with pytest.raises(Failure, match=r"attn1\.q holds numbers that are not finite: the training went wrong"):
        write(tmp_path / "a.safetensors", {key: weights._replace(**{factor: mx.array(broken)})}, base)
    assert nothing_but(tmp_path)


def test_numbers_too_large_for_half_precision_are_said_and_written_in_full(layers, base, tmp_path):
    ((key, weights),) = layers.items()
    large = {key: weights._replace(up=weights.up * 1e6)}
    with pytest.raises(InputError, match="too large for float16; write float32"):
        write(tmp_path / "a.safetensors", large, base)
    assert nothing_but(tmp_path)
    write(tmp_path / "a.safetensors", large, base, dtype="float32")


def test_factors_that_do_not_fit_are_one_line(layers, base, tmp_path):
    ((key, w),) = layers.items()
    cases = {
        "not of one rank": w._replace(up=w.up[:, :3]),
        "are not of one rank": w._replace(down=w.down[:0], up=w.up[:, :0]),
        "do not fit its weight": w._replace(down=w.down[:, :5]),
        "do not fit its weight, ": w._replace(up=w.up[:5]),
        "in the checkpoint": w._replace(down=w.down[:, None, None]),
        "alpha is 0; it must be": w._replace(alpha=0.0),
        "alpha is nan; it must be": w._replace(alpha=float("nan")),
    }
    for message, weights in cases.items():
        with pytest.raises(InputError, match=message) as raised:
            write(tmp_path / "a.safetensors", {key: weights}, base)
        assert str(raised.value).startswith("unet middle.layers.1.blocks.0.attn1.q: ")
    for key in (("unet", "middle.nothing"), ("vae", "conv"), ("text_encoder", "token_embedding"), ("unet", "norm")):
        with pytest.raises(InputError, match=f"{key[0]} {key[1]} is no linear layer and no convolution of sd1"):
            write(tmp_path / "a.safetensors", {key: w}, base)
    for changes, message in (
        ({"spelling": "kohyas"}, "did you mean 'kohya'"),
        ({"dtype": "bfloat16"}, "unknown dtype 'bfloat16'"),
    ):
        with pytest.raises(InputError, match=message):
            write(tmp_path / "a.safetensors", layers, base, **changes)
    with pytest.raises(InputError, match="there is no layer to write"):
        write(tmp_path / "a.safetensors", {}, base)
    assert nothing_but(tmp_path)


def test_families_that_nobody_reads_adapters_of_are_refused():
    with pytest.raises(InputError, match="tiny-classes is class-conditional diffusion; adapters and embeddings are"):
        BaseModel.of(load("tiny-classes", "float32"))


def test_the_embedded_checkpoint_is_described_while_it_is_quantized(tmp_path):
    whole, quantized = BaseModel.of(load("tiny", "float32")), BaseModel.of(load("tiny", "float32", quantize="8"))
    assert whole.layers == quantized.layers
    assert whole.name == "tiny"
