"""Quantized layers compute with their own weights, near the true ones; the rest of a model stays as it is."""

import json
import re

import hypothesis.strategies as st
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given, settings
from mlx.utils import tree_flatten

from bench.models import UNETS
from convert import __main__ as command
from coreml import __main__ as coreml_command
from mlx_sd import metadata
from mlx_sd.checkpoint.model_folder import build
from mlx_sd.cli import generate
from mlx_sd.core.errors import InputError
from mlx_sd.load import load
from mlx_sd.networks import quantization
from mlx_sd.networks.layers import Linear, QuantizedLinear
from mlx_sd.networks.quantization import Quantization
from tests.support import adapters, families

BOTH = "unet=4:32,text_encoder=8:32"


@pytest.fixture(scope="module")
def folder(shapes, tmp_path_factory):
    return families.write_folder("sd1", shapes["sd1"], tmp_path_factory.mktemp("folder") / "sd1")


@pytest.fixture
def convert(folder, tmp_path, capsys):
    """convert(*flags) -> (exit code, stderr, the output folder)."""

    def call(*flags, out="out"):
        code = command.main(["--model", str(folder), "--out", str(tmp_path / out), *map(str, flags)])
        return code, capsys.readouterr().err, tmp_path / out

    return call


def flat(network):
    return {name: np.array(array) for name, array in tree_flatten(network.parameters())}


def restored(layer):
    """The weight that a quantized layer stands for, by the definition: the codes unpacked, scaled and shifted."""
    words = np.array(layer.weight)
    per_word = 32 // layer.bits
    codes = (words[..., None] >> (np.arange(per_word, dtype=np.uint32) * layer.bits)) & (2**layer.bits - 1)
    grouped = codes.reshape(len(words), -1, layer.group)
    return (grouped * np.array(layer.scales)[..., None] + np.array(layer.biases)[..., None]).reshape(len(words), -1)


@given(st.sampled_from(quantization.BITS), st.sampled_from(quantization.GROUPS), st.integers(1, 3), st.booleans())
@settings(deadline=None, max_examples=24)
def test_a_quantized_layer_multiplies_by_what_it_stores(bits, group, groups, bias):
    outputs, inputs = 2048 // 32, group * groups
    layer = Linear(inputs, outputs, bias=bias)
    layer.weight = mx.array(families.numbers("weight", outputs, inputs))
    weight, network = np.array(layer.weight), nn.Module()
    network.layer = layer
    quantization.quantize_network(network, Quantization(bits, group))
    quantized = network.layer
    assert isinstance(quantized, QuantizedLinear)
    x = mx.array(families.numbers("x", 3, 5, inputs))
    expected = np.array(x) @ restored(quantized).T + (np.array(layer.bias) if bias else 0)
    assert families.distance(np.array(quantized(x)), expected) < 1e-5
    runs = weight.reshape(outputs, -1, group)
    step = (runs.max(-1) - runs.min(-1)) / (2**bits - 1)
    error = np.abs(restored(quantized) - weight).reshape(runs.shape).max(-1)
    assert (error <= 1.01 * step).all() and error.max() > 0


@pytest.mark.slow
def test_conversion_and_loading_quantize_alike(convert, folder):
    code, _, out = convert("--quantize", BOTH, "--dtype", "float32")
    assert code == 0
    one, two = load(out, "float32"), load(folder, "float32", quantize=BOTH)
    for a, b in zip((one.unet, *one.text_encoders), (two.unet, *two.text_encoders), strict=True):
        a, b = flat(a), flat(b)
        assert a.keys() == b.keys() and all((a[name] == b[name]).all() for name in a)
    record = json.loads((out / "model.json").read_text())["quantization"]
    assert record == {"unet": {"bits": 4, "group": 32}, "text_encoder": {"bits": 8, "group": 32}}
    assert one.hash != load(folder, "float32").hash


def test_what_is_not_quantized_stays_to_the_bit(folder):
    before, after = load(folder, "float32"), load(folder, "float32", quantize="4:64")
    weights, quantized_weights = flat(before.unet), flat(after.unet)
    layers = quantization.quantizable_layers(before.unet, Quantization(4, 64))
    modules = dict(before.unet.named_modules())
    assert 20 < len(layers) < sum(isinstance(m, Linear) for m in modules.values())
    for name in layers:
        assert weights[f"{name}.weight"].shape[1] % 64 == 0 and weights[f"{name}.weight"].size >= 2048
    unchanged = weights.keys() - {f"{name}.weight" for name in layers}
    assert all((weights[name] == quantized_weights[name]).all() for name in unchanged)
    for one, two in ((before.text_encoders[0], after.text_encoders[0]), (before.vae, after.vae)):
        assert all((array == flat(two)[name]).all() for name, array in flat(one).items())


def test_the_command_says_how_many_bytes(convert):
    _, _, plain = convert("--dtype", "float16", out="plain")
    code, err, out = convert("--dtype", "float16", "--quantize", "4:32")
    sizes = [(model / "unet.safetensors").stat().st_size / 1e6 for model in (plain, out)]
    linear, small, stay = (float(number) for number in re.findall(r"([\d.]+) MB", err))
    assert code == 0 and err.count("\n") == 1
    assert abs(linear + stay - sizes[0]) < 0.15 and abs(small + stay - sizes[1]) < 0.15


@pytest.mark.slow
def test_adapters_are_merged_before(convert, folder, shapes, tmp_path):
    factors = adapters.every_layer(shapes["sd1"], adapters.mixed, adapters.attention)
    file = adapters.save(tmp_path / "a.safetensors", adapters.kohya(factors))
    merged = load(folder, "float32", [(file, 0.5)])
    quantization.quantize_network(merged.unet, Quantization(4, 32))
    _, _, out = convert("--dtype", "float32", "--quantize", "4:32", "--lora", f"{file}:0.5")
    for model in (load(out, "float32"), load(folder, "float32", [(file, 0.5)], "4:32")):
        ours = flat(model.unet)
        assert all((array == ours[name]).all() for name, array in flat(merged.unet).items())


WRONG = {
    "nonsense": ("x", "takes BITS[:GROUP] or NETWORK=BITS[:GROUP],..., not 'x'"),
    "bits": ("5", "there are 4 or 8 bits, in groups of 32, 64 or 128"),
    "group": ("4:16", "there are 4 or 8 bits, in groups of 32, 64 or 128"),
    "twice": ("4,unet=8", "unet is there twice"),
    "network": ("unet=4,nose=8", "no network is called nose"),
    "not in this model": ("text_encoder_2=8", "this model has no text_encoder_2, only text_encoder, unet, vae"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_one_line(convert, name):
    text, message = WRONG[name]
    code, err, out = convert("--quantize", text)
    assert code == 2 and message in err and err.count("\n") == 1 and not out.exists()


@given(st.text(alphabet="48:=,unet_x 1632", max_size=20))
@settings(deadline=None)
def test_a_value_of_quantize_is_read_or_refused(text):
    try:
        schemes = quantization.parse(text)
    except InputError:
        return
    assert schemes and all(s.bits in (4, 8) and s.group in (32, 64, 128) for s in schemes.values())


def test_a_quantized_folder_takes_no_more(convert, shapes, tmp_path, capsys):
    _, _, out = convert("--quantize", "8:32")
    file = adapters.save(tmp_path / "a.safetensors", adapters.kohya(adapters.every_layer(shapes["sd1"])))
    with pytest.raises(InputError, match="is quantized, and an adapter vanishes in it"):
        load(out, loras=[file])
    with pytest.raises(InputError, match="is quantized, and that is not done twice"):
        load(out, quantize="4")
    assert coreml_command.main(["--model", str(out), "--out", str(tmp_path / "packages")]) == 2
    assert "is quantized" in capsys.readouterr().err
    about = json.loads((out / "model.json").read_text())
    for nonsense in ({"unet": {"bits": 3, "group": 32}}, {"unet": {"magic": 1}}, ["unet"]):
        (out / "model.json").write_text(json.dumps(about | {"quantization": nonsense}))
        with pytest.raises(InputError, match="makes no sense"):
            load(out)


@pytest.mark.slow
def test_a_picture_says_how_it_was_quantized(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ["a tent", "--steps", "2", "--width", "64", "--height", "64"]
    assert generate.main([*flags, "--quantize", "4", "--output", "a.png"]) == 0
    assert generate.main(["--from-image", "a.png", "--output", "b.png"]) == 0
    assert generate.main([*flags, "--output", "c.png"]) == 0
    assert metadata.read(tmp_path / "a.png")["quantize"] == "4"
    one, again, without = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert one == again != without


def test_full_size_linears_divide_into_groups():
    """What `--quantize` reaches of each family's UNet: all its linears at 32 and 64."""
    for name, config in UNETS.items():
        unet = build("unet", config, name)
        linears = {path for path, layer in unet.named_modules() if isinstance(layer, Linear)}
        for group in (32, 64):
            assert quantization.quantizable_layers(unet, Quantization(4, group)).keys() == linears, (name, group)
