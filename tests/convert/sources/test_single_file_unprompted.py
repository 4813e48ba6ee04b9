"""Single files of the original latent diffusion code that take no prompt become what a folder would."""

import json

import mlx.core as mx
import numpy as np
import pytest

from convert import __main__ as command
from convert.sources.checkpoint import SourceOptions
from convert.sources.open_checkpoint import open_checkpoint
from mlx_sd import Request, StableDiffusion
from mlx_sd.core.errors import InputError
from mlx_sd.networks.blocks import AttentionBlock
from mlx_sd.networks.configs import VAEConfig
from mlx_sd.networks.unet_config import UNetConfig
from tests.support import families, unprompted
from tests.support.unprompted import SINGLES
from tests.support.unprompted import write_single as write


@pytest.mark.parametrize("kind", SINGLES)
def test_every_kind_is_told_apart_and_keeps_every_number(kind, tmp_path):
    wanted = write(kind, tmp_path / "x.safetensors")
    found = open_checkpoint(str(tmp_path / "x.safetensors"), SourceOptions())
    assert found.provenance["kind"] == kind and not found.tokenizers
    assert found.components.keys() == wanted.keys()
    for part, arrays in wanted.items():
        tensors = found.components[part].tensors
        assert tensors.keys() == arrays.keys()
        for name, array in arrays.items():
            assert np.array_equal(np.array(tensors[name].read()).reshape(array.shape), array), name
    free = {"norm_num_groups": 8, "sample_size": 1}  # no shape tells
    told = found.components["unet"].config, SINGLES[kind]["unet"]
    free |= {"attn_norm_num_groups": 8} if kind == "ldm-churches" else {}
    ours, theirs = (UNetConfig.from_hf(config | free) for config in told)
    assert ours == theirs
    told = found.components["vae"].config, SINGLES[kind]["vae"]
    free = {"norm_num_groups": 8, "sample_size": 1, "scaling_factor": 1.0}
    ours, theirs = (VAEConfig.from_hf(config | free) for config in told)
    assert ours == theirs


def test_fused_attention_is_taken_apart_head_by_head():
    """Against the original's QKVAttentionLegacy, which splits each head's rows into q, k and v."""
    channels, heads, pixels = 16, 4, 6
    qkv, bias, out = (families.numbers(n, *s) for n, s in (("qkv", (48, 16)), ("b", (48,)), ("out", (16, 16))))
    x = families.numbers("image", 1, 2, 3, channels)
    y = (x.reshape(pixels, channels) @ qkv.T + bias).reshape(pixels, heads, 3, channels // heads)
    q, k, v = (y[:, :, i].transpose(1, 0, 2) for i in range(3))
    scores = q @ k.transpose(0, 2, 1) / np.sqrt(channels // heads)
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = (shares / shares.sum(-1, keepdims=True) @ v).transpose(1, 0, 2).reshape(pixels, channels)
    layer = AttentionBlock(channels, None, 1e-5, heads)
    parts = [np.concatenate(np.split(a, 3 * heads)[i::3]) for i in range(3) for a in (qkv, bias)]
    named = zip(("q.weight", "q.bias", "k.weight", "k.bias", "v.weight", "v.bias"), parts, strict=True)
    given = [(f"attention.{name}", mx.array(array)) for name, array in named]
    layer.load_weights([*given, ("attention.out.weight", mx.array(out)), ("attention.out.bias", mx.zeros(16))])
    assert families.distance(layer(mx.array(x)).reshape(pixels, channels), x.reshape(-1, 16) + mixed @ out.T) <= 1e-5


def test_the_scale_of_latents_is_the_files_own(tmp_path):
    write("ldm-churches", tmp_path / "x.safetensors", scale_factor=np.array(0.25, np.float32))
    assert (
        open_checkpoint(str(tmp_path / "x.safetensors"), SourceOptions()).components["vae"].config["scaling_factor"]
        == 0.25
    )
    write("ldm-churches", tmp_path / "y.safetensors")
    assert (
        open_checkpoint(str(tmp_path / "y.safetensors"), SourceOptions()).components["vae"].config["scaling_factor"]
        == 1
    )


def test_classes_from_a_file_and_from_what_it_is_converted_to(tmp_path, capsys):
    file = tmp_path / "cin.safetensors"
    write("ldm-classes", file)
    assert command.main(["--model", str(file), "--out", str(tmp_path / "model")]) == 0
    assert command.main(["--verify", str(tmp_path / "model")]) == 0
    told = json.loads((tmp_path / "model/model.json").read_text())
    assert told["pipeline"]["null_class"] == 10 and told["networks"]["class_embedder"]["embed_dim"] == 24
    sd = StableDiffusion.load(tmp_path / "model", "float32")
    one, same, other = (
        sd.generate(classes=c, steps=2, width=32, height=32, output="latent", seed=0).latents for c in (3, "3", 4)
    )
    assert mx.array_equal(one, same) and not mx.array_equal(one, other)
    with pytest.raises(InputError, match="give one from 0 to 10, 10 being none"):
        sd.generate(classes=1000, seed=0)
    capsys.readouterr()
    assert command.main(["--model", str(tmp_path / "model"), "--to", "diffusers", "--out", str(tmp_path / "b")]) == 2
    assert "diffusers has no pipeline for class-conditional latent diffusion" in capsys.readouterr().err


def test_guidance_by_classes_is_that_of_prompts(tmp_path):
    """The context of a class steers as that of a prompt does: written out, with the null class for nothing."""
    write("ldm-classes", tmp_path / "cin.safetensors")
    sd = StableDiffusion.load(tmp_path / "cin.safetensors", "float32")
    x = mx.array(families.numbers("x", 1, 8, 8, 3))
    predict = sd.predictor([sd.complete(Request(class_label=3, guidance=2.0, width=16, height=16))])
    table = sd.model.class_embedder.embedding.weight
    null, asked = (sd.unet(x, mx.array(500.0), table[i][None, None])[0] for i in (10, 3))
    assert families.distance(predict(x, 500.0), null + 2.0 * (asked - null)) <= 1e-5


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tokenizer", "."], "takes no prompt: leave --tokenizer and --text-encoder out"),
        (["--kind", "sd1"], "a UNet of 3 input channels; Stable Diffusion 1.x has 4, 8 or 9"),
        (["--kind", "ldm-sr"], "a UNet of 3 input channels; latent diffusion for super-resolution (x4) has 6"),
    ],
)
def test_what_does_not_fit_the_file_is_said(flags, message, tmp_path, capsys):
    write("ldm", tmp_path / "x.safetensors")
    code = command.main(["--model", str(tmp_path / "x.safetensors"), "--out", str(tmp_path / "out"), *flags])
    assert code == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_of_several_head_sizes_is_not_written_for_diffusers(tmp_path, capsys):
    write("ldm-churches", tmp_path / "x.safetensors")
    flags = ["--model", str(tmp_path / "x.safetensors"), "--to", "diffusers", "--out", str(tmp_path / "out")]
    assert command.main(flags) == 2
    assert "heads of one size" in capsys.readouterr().err
    assert unprompted.SINGLES["ldm-churches"]["unet"]["attention_head_dim"] == [4, 8, 8]
