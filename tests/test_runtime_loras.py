"""LoRAs beside the layers: what merging makes, on any base, with scales that change without loading again."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_sd import DeepCache, InputError, Request, StableDiffusion
from mlx_sd.networks import quantization
from mlx_sd.networks.beside import Beside, Kronecker, Pair
from mlx_sd.networks.layers import Linear, QuantizedLinear
from tests.support import adapters, families
from tests.support.adapters import numbers
from tests.support.effort import slow_but
from tests.support.families import distance

PROMPT = families.PROMPT
EQUAL = 1e-5
FAST = {"steps": 2, "width": 64, "height": 64, "seed": 1, "output": "latent"}


def loha(layer, shape):
    o, i = shape[0], int(np.prod(shape[1:]))
    sizes = {"hada_w1_a": (o, 3), "hada_w1_b": (3, i), "hada_w2_a": (o, 3), "hada_w2_b": (3, i)}
    return {role: numbers(layer, role, *size) for role, size in sizes.items()} | {"alpha": np.array(2.0, np.float32)}


def lokr(layer, shape):
    o, i, *kernel = shape
    return {"lokr_w1": numbers(layer, "w1", 2, 2), "lokr_w2": numbers(layer, "w2", o // 2, i // 2, *kernel)}


def dora(layer, shape):
    magnitude = 1 + np.abs(numbers(layer, "magnitude", shape[0], *[1 for _ in shape[1:]]))
    return adapters.lora(layer, shape, alpha=2.0) | {"dora_scale": magnitude}


def full(layer, shape):
    return {"diff": numbers(layer, "diff", *shape) / 4, "diff_b": numbers(layer, "diff_b", shape[0])}


def even(layer, shape):
    return len(shape) == 2 and shape[0] % 2 == shape[1] % 2 == 0 and ("to_" in layer or "proj" in layer)


KINDS = {
    "LoRA": (adapters.mixed, adapters.matrices),
    "LoHa": (loha, adapters.attention),
    "LoKr": (lokr, even),
    "DoRA": (dora, adapters.attention),
    "full differences": (full, lambda layer, shape: layer.endswith(("conv1", "conv_in", "linear_1"))),
    "norms": (adapters.norm, lambda layer, shape: len(shape) == 1 and "norm" in layer),
}


@pytest.fixture(scope="module")
def file(shapes, tmp_path_factory):
    """file("LoRA") is an adapter of that kind for the tiny sd1."""
    home = tmp_path_factory.mktemp("loras")

    def write(kind, seed=""):
        make, pick = KINDS[kind]
        how = {"seed": seed} if make is adapters.lora else {}
        path = home / f"{kind.replace(' ', '-')}{seed}.safetensors"
        if not path.exists():
            adapters.save(path, adapters.kohya(adapters.every_layer(shapes["sd1"], make, pick, **how)))
        return path

    return write


def both(original, loras, **how):
    return [StableDiffusion.load(original, "float32", loras, lora_mode=mode, **how) for mode in ("merge", "runtime")]


def outputs(sd):
    """The UNet's prediction, and the text encoder's features."""
    inputs = {key: mx.array(value) for key, value in families.unet_inputs(families.FAMILIES["sd1"]["unet"]).items()}
    return np.array(sd.unet(**inputs)[0]), np.array(sd.encode_prompt(PROMPT)[0])


@pytest.mark.parametrize("kind", slow_but(["LoRA", "DoRA"], KINDS))
def test_beside_is_merged(kind, original, family, file):
    merged, beside = both(original, [(file(kind), 0.4)])
    plain = outputs(family("sd1"))
    for ours, theirs in zip(outputs(beside), outputs(merged), strict=True):
        assert distance(ours, theirs) <= EQUAL
    assert max(distance(a, b) for a, b in zip(outputs(beside), plain, strict=True)) > 0.05


@pytest.mark.slow
def test_three_together_are_three_merged(original, file):
    loras = [(file("LoRA"), 0.3), (file("LoHa"), 0.5), (file("LoKr"), -0.4)]
    merged, beside = both(original, loras)
    for ours, theirs in zip(outputs(beside), outputs(merged), strict=True):
        assert distance(ours, theirs) <= EQUAL


@pytest.mark.slow
def test_scales_change_without_loading_again(original, family, file):
    loras = [(file("LoRA"), 0.3), (file("norms"), 1.0)]
    _, beside = both(original, loras)
    plain, weights = outputs(family("sd1")), beside.unet.conv.weight
    beside.scale_loras(0, 0)
    assert all(np.array_equal(a, b) for a, b in zip(outputs(beside), plain, strict=True))  # bit for bit
    beside.scale_loras(0.7, -0.2)
    merged = StableDiffusion.load(original, "float32", [(file("LoRA"), 0.7), (file("norms"), -0.2)])
    for ours, theirs in zip(outputs(beside), outputs(merged), strict=True):
        assert distance(ours, theirs) <= EQUAL
    assert beside.unet.conv.weight is weights
    assert [record["scale"] for record in beside.model.loras] == [0.7, -0.2]
    result = beside.generate(PROMPT, **FAST)
    assert [lora.scale for lora in result.requests[0].loras] == [0.7, -0.2]
    assert result.requests[0].lora_mode == "runtime"
    assert distance(result.latents, merged.generate(PROMPT, **FAST).latents) < 1e-4


@pytest.mark.slow
def test_a_scale_and_its_opposite_cancel(original, family, file):
    _, beside = both(original, [(file("LoRA"), 0.5), (file("LoRA"), -0.5)])
    for ours, plain in zip(outputs(beside), outputs(family("sd1")), strict=True):
        assert distance(ours, plain) <= EQUAL


@pytest.mark.slow
def test_block_weights_are_scales_of_blocks(original, file):
    blocks = tuple(0.1 * i for i in range(26))
    merged, beside = both(original, [(file("LoRA"), 0.5, blocks)])
    for ours, theirs in zip(outputs(beside), outputs(merged), strict=True):
        assert distance(ours, theirs) <= EQUAL
    beside.scale_loras((0.5, blocks[::-1]))
    merged = StableDiffusion.load(original, "float32", [(file("LoRA"), 0.5, blocks[::-1])])
    assert distance(outputs(beside)[0], outputs(merged)[0]) <= EQUAL


@pytest.mark.parametrize("kind", slow_but(["LoRA"], ["LoRA", "LoKr", "DoRA"]))
def test_on_a_quantized_base_it_is_the_base_and_the_whole_difference(kind, original, file):
    """Not a merge that is quantized again, in which small differences vanish."""
    beside = StableDiffusion.load(original, "float32", [(file(kind), 0.4)], "8:32", lora_mode="runtime")
    assert sum(type(layer) is QuantizedLinear for _, layer in beside.unet.named_modules()) > 10
    ours = outputs(beside)[0]
    dense = StableDiffusion.load(original, "float32", [(file(kind), 0.4)], "8:32", lora_mode="runtime")
    for _, module in dense.unet.named_modules():
        for name, layer in module.children().items():
            if type(layer) is QuantizedLinear:
                setattr(module, name, _dense(layer))
    assert distance(ours, outputs(dense)[0]) <= EQUAL
    plain = StableDiffusion.load(original, "float32", (), "8:32")
    assert distance(ours, outputs(plain)[0]) > 0.05


def _dense(layer):
    """The quantized layer with all that stands beside it as one dense one."""
    inputs = layer.scales.shape[1] * layer.group
    dense = Linear(inputs, layer.weight.shape[0], bias="bias" in layer)
    base = mx.dequantize(layer.weight, layer.scales, layer.biases, group_size=layer.group, bits=layer.bits)
    if layer.beside is not None:
        from mlx_sd.networks import ops

        base = base + layer.beside(mx.eye(inputs), ops.linear).T
    dense.weight = base
    if "bias" in layer:
        dense.bias = layer.bias
    return dense


@pytest.mark.slow
def test_a_folder_that_is_quantized_takes_them_beside_alone(original, file, tmp_path):
    from convert import __main__ as convert

    out = tmp_path / "small"
    assert convert.main(["--model", str(original), "--out", str(out), "--quantize", "8:32"]) == 0
    with pytest.raises(InputError, match="vanishes in it when it is merged; --lora-mode runtime keeps it"):
        StableDiffusion.load(out, loras=[file("LoRA")])
    beside = StableDiffusion.load(out, "float32", [(file("LoRA"), 0.4)], lora_mode="runtime")
    again = StableDiffusion.load(original, "float32", [(file("LoRA"), 0.4)], "8:32", lora_mode="runtime")
    assert distance(outputs(beside)[0], outputs(again)[0]) <= 1e-4


@pytest.mark.slow
def test_a_cached_pass_equals_a_full_one(original, file):
    _, beside = both(original, [(file("LoRA"), 0.4)])
    inputs = {key: mx.array(value) for key, value in families.unet_inputs(families.FAMILIES["sd1"]["unet"]).items()}
    for branch in beside.unet.branches:
        full_pass, deep = beside.unet(**inputs, depth=branch + 1)
        assert mx.array_equal(full_pass, beside.unet(**inputs, depth=branch + 1, deep=deep)[0])


def test_kronecker_products_are_two_small_ones():
    first, second = (mx.array(families.numbers(name, *shape)) for name, shape in (("a", (2, 3)), ("b", (5, 4))))
    x = mx.array(families.numbers("x", 7, 12))
    assert distance(Kronecker(first, second)(x, None), x @ mx.kron(first, second).T) < 1e-5


def test_a_stack_of_pairs_is_their_sum():
    pairs = [
        (
            n,
            Pair(
                *(
                    mx.array(families.numbers(f"{n}{s}", *shape))
                    for s, shape in (("down", (2 + n, 6)), ("up", (4, 2 + n)))
                )
            ),
        )
        for n in range(3)
    ]
    x, scales = mx.array(families.numbers("x", 5, 6)), [0.5, -2.0, 0.0]
    stack = Beside(pairs, [])
    assert stack.scale(scales) and not Beside(pairs, []).scale([0, 0, 0])
    expected = sum(s * (x @ p.down.T) @ p.up.T for (_, p), s in zip(pairs, scales, strict=True))
    assert distance(stack(x, lambda x, w: x @ w.T), expected) < 1e-5


@pytest.mark.slow
def test_what_is_wrong_is_one_line(original, family, file):
    _, beside = both(original, [(file("LoRA"), 0.5)])
    with pytest.raises(InputError, match="there are 1 LoRAs, and scales for 2"):
        beside.scale_loras(0.5, 0.5)
    with pytest.raises(InputError, match="the scale must be a finite number, not nan"):
        beside.scale_loras(float("nan"))
    with pytest.raises(InputError, match='there are no LoRAs to scale; load them with lora_mode="runtime"'):
        family("sd1").scale_loras(1.0)
    with pytest.raises(InputError, match="unknown LoRA mode 'run'"):
        StableDiffusion.load(original, lora_mode="run")


@pytest.mark.slow
def test_the_command_line_records_the_mode_and_replays_it(run, original, file, tmp_path):
    flags = ("--model", original, "--dtype", "float32", "--lora", f"{file('LoRA')}:0.5", "--lora-mode", "runtime")
    code, _, err = run("a tent", *flags, "--steps", 1, "--size", "64x64", "--seed", 1, "--output", "a.png")
    assert code == 0, err
    code, _, err = run("--from-image", "a.png", "--output", "b.png")
    assert code == 0, err
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert Request(lora_mode="at_runtime").lora_mode == "runtime"


def test_deepcache_and_quantization_go_with_it(original, file):
    assert quantization.parse("8:32")
    beside = StableDiffusion.load(original, "float32", [(file("LoRA"), 0.4)], "8:32", lora_mode="runtime")
    result = beside.generate(PROMPT, **(FAST | {"steps": 10, "deepcache": DeepCache(3)}))
    assert result.full == 4 and np.isfinite(np.array(result.latents)).all()
