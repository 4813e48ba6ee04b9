"""A merged adapter is the adapter applied, in whatever form it came; what does not fit is one line."""

import json
import re

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_unflatten

from convert import __main__ as command
from convert.adapters import adapter_file, block_weights, merge
from convert.files.diffusers_names import diffusers_name
from mlx_sd.checkpoint.lora import Lora
from mlx_sd.checkpoint.model_folder import build
from mlx_sd.checkpoint.model_folder import shapes as shapes_of
from mlx_sd.core.errors import InputError
from mlx_sd.load import load
from mlx_sd.networks import ops
from mlx_sd.networks.layers import Linear
from tests.support import adapters, families
from tests.support.effort import slow_but
from tests.support.families import distance

PARTS = ("unet", "text_encoder", "text_encoder_2")


def networks(model):
    return dict(zip(PARTS, [model.unet, *model.text_encoders], strict=False))


def weights(model):
    """(network, parameter) -> numbers."""
    return {(p, name): np.array(a) for p, n in networks(model).items() for name, a in tree_flatten(n.parameters())}


def same(one, two):
    one, two = weights(one), weights(two)
    return one.keys() == two.keys() and all((one[name] == two[name]).all() for name in one)


# ------------------------------------------------------------------------------------------------ theorems


class Beside(nn.Module):
    """A layer with an adapter running beside it: W x + scale up(down(x))."""

    def __init__(self, layer, factors, scale):
        super().__init__()
        self.layer = layer
        self.scale = scale * (factors["alpha"].item() / len(factors["lora_down.weight"]))
        self.down, self.up = (mx.array(factors[f"lora_{side}.weight"]) for side in ("down", "up"))

    def __call__(self, x, *conditioning):
        if isinstance(self.layer, Linear):
            down, up = (a.reshape(a.shape[0], -1) for a in (self.down, self.up))
            return self.layer(x) + self.scale * (x @ down.T @ up.T)
        down, up = (a.transpose(0, 2, 3, 1) for a in (self.down, self.up))
        y = ops.conv2d(x, down, stride=self.layer.stride[0], padding=self.layer.padding[0])
        return self.layer(x, *conditioning) + self.scale * ops.conv2d(y, up, stride=1, padding=0)


def run_beside(model, factors, scale):
    """Puts adapters beside the layers of a loaded model."""
    for part, network in networks(model).items():
        put = []
        for name, layer in network.named_modules():
            theirs = part, diffusers_name(part, network.names, name)
            if theirs in factors:
                put.append((name, Beside(layer, factors[theirs], scale)))
        network.update_modules(tree_unflatten(put))


@pytest.mark.parametrize("family", slow_but(["sd1"], ["sd1", "sdxl"]))
def test_merged_is_the_adapter_running_beside(family, folders, shapes, tmp_path):
    factors = adapters.every_layer(shapes[family], adapters.mixed)
    file = adapters.save(tmp_path / "a.safetensors", adapters.kohya(factors))
    merged, beside, base = load(folders[family], "float32", [(file, 0.4)]), *(load(folders[family]) for _ in range(2))
    run_beside(beside, factors, 0.4)
    inputs = {name: mx.array(value) for name, value in families.unet_inputs(families.FAMILIES[family]["unet"]).items()}
    ours, theirs, without = (np.array(model.unet(**inputs)[0]) for model in (merged, beside, base))
    assert distance(ours, theirs) < 1e-5 < distance(ours, without)
    ids = mx.array(merged.tokenizers[0].chunks(families.PROMPT))
    for i in range(len(merged.text_encoders)):
        ours, theirs, without = (model.text_encoders[i](ids) for model in (merged, beside, base))
        assert distance(ours.last, theirs.last) < 1e-5 < distance(ours.last, without.last)
        assert distance(ours.pooled, theirs.pooled) < 1e-5 < distance(ours.pooled, without.pooled)


@pytest.mark.slow
def test_every_spelling_of_the_same_adapter_is_the_same_difference(shapes, tmp_path):
    factors = adapters.every_layer(shapes["sdxl"])
    norms = adapters.every_layer(shapes["sdxl"], adapters.norm, lambda _, shape: len(shape) == 1)
    original, named = (adapters.renamed(f, lambda layer: adapters.original(layer, 3)) for f in (factors, norms))
    diffusers, comfy = adapters.peft(factors), adapters.peft(original) | adapters.dotted(named)
    norms = adapters.dotted(norms)
    spelt = {
        "kohya": adapters.kohya(factors) | norms,
        "kohya, original": adapters.kohya(original) | adapters.kohya(named),
        "diffusers": diffusers | norms,
        "PEFT": {f"base_model.model.{name}": array for name, array in (diffusers | norms).items()},
        "PEFT, by adapter": {n.replace(".weight", ".default.weight"): a for n, a in diffusers.items()} | norms,
        "ComfyUI": {n.replace("unet.", "diffusion_model."): a for n, a in comfy.items()},
        "older": {n.replace("_A", ".down").replace("_B", ".up"): a for n, a in diffusers.items()} | norms,
        "halves": {n: a.astype(np.float16).astype(np.float32) for n, a in (adapters.kohya(factors) | norms).items()},
    }
    networks = {part: build(part, families.FAMILIES["sdxl"][part], part) for part in PARTS}
    made = {}
    for how, arrays in spelt.items():
        file = adapters.save(tmp_path / f"{how}.safetensors", arrays)
        plan = merge.plan_merge(merge.open_adapters([Lora(str(file))]), networks)
        made[how] = {
            (part, name): np.array(plan(part, name, mx.zeros(shape)))
            for part, network in networks.items()
            for name, shape in shapes_of(network).items()
        }
    changed = [name for name, array in made["kohya"].items() if array.any()]
    assert len(changed) == len(factors) + len(norms)
    for how, arrays in made.items():
        assert all((arrays[name] == made["kohya"][name]).all() for name in changed) == (how != "halves"), how


def test_old_names_of_attention_processors(folders, shapes, tmp_path):
    factors = adapters.every_layer(shapes["sd1"], adapters.mixed, adapters.attention)
    files = [
        adapters.save(tmp_path / "old.safetensors", adapters.old_diffusers(factors)),
        adapters.save(tmp_path / "new.safetensors", adapters.kohya(factors)),
    ]
    one, two = (load(folders["sd1"], "float32", [file]) for file in files)
    assert same(one, two)


@pytest.mark.parametrize(("family", "part", "fused", "members"), [
    ("sd1", "unet", "attn1.to_qkv", ["attn1.to_q", "attn1.to_k", "attn1.to_v"]),
    ("sd1", "unet", "attn2.to_kv", ["attn2.to_k", "attn2.to_v"]),
    ("sdxl", "text_encoder_2", "attn.in_proj", ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
])  # fmt: skip
def test_one_projection_for_several(family, part, fused, members, folders, shapes, tmp_path):
    """Rows of a fused projection are those of its members, DoRA's and the bias' too."""
    found = {layer: shape for (p, layer), shape in adapters.layers(shapes[family], adapters.attention) if p == part}
    split, whole = {}, {}
    for home in [layer.removesuffix(members[0]) for layer in found if layer.endswith(members[0])]:
        factors = []
        for member in members:
            rows, columns = found[home + member]
            split[part, home + member] = made = {
                "lora_down.weight": adapters.numbers((part, home), "down", 4, columns),
                "lora_up.weight": adapters.numbers((part, home + member), "up", rows, 4),
                "dora_scale": np.abs(adapters.numbers((part, home + member), "size", rows, 1)),
            }
            factors.append(made)
        place = home + fused if part == "unet" else f"transformer.resblocks.{re.findall('[0-9]+', home)[0]}.{fused}"
        whole[part, place] = {
            "lora_down.weight": factors[0]["lora_down.weight"],
            **{role: np.concatenate([f[role] for f in factors]) for role in ("lora_up.weight", "dora_scale")},
        }
    assert len(whole) > 2
    files = [
        adapters.save(tmp_path / "split.safetensors", adapters.dotted(split)),
        adapters.save(tmp_path / "whole.safetensors", adapters.dotted(whole)),
    ]
    one, two, base = (load(folders[family], "float32", loras) for loras in ([files[0]], [files[1]], []))
    assert same(one, two) and not same(one, base)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_layer_with_dora_has_the_magnitudes_that_it_learnt(axis, folders, shapes, tmp_path):
    """Of its rows or of its columns, as the shape says; half of it is half way."""
    factors = adapters.every_layer(shapes["sd1"], pick=lambda layer, _: layer.endswith(("conv1", "to_k", "ff.net.2")))
    for layer, roles in factors.items():
        o, i, *kernel = len(roles["lora_up.weight"]), *roles["lora_down.weight"].shape[1:]
        sizes = [o, 1] if axis == 0 else [1, i]
        roles["dora_scale"] = np.abs(adapters.numbers(layer, "size", *sizes, *[1 for _ in kernel]))
    file = adapters.save(tmp_path / "dora.safetensors", adapters.kohya(factors))
    base, half, whole = (weights(load(folders["sd1"], "float32", [(file, scale)])) for scale in (0, 0.5, 1))
    unet = build("unet", families.FAMILIES["sd1"]["unet"], "unet")
    for (part, name), array in whole.items():
        theirs = diffusers_name(part, unet.names, name).removesuffix(".weight") if part == "unet" else ""
        if (part, theirs) in factors:
            others = tuple(range(1, array.ndim)) if axis == 0 else tuple(range(array.ndim - 1))
            norms = np.sqrt(np.square(array, dtype=np.float64).sum(others))
            assert np.allclose(norms, factors[part, theirs]["dora_scale"].ravel(), atol=1e-6)
            assert distance(half[part, name], (base[part, name] + array) / 2) < 1e-6
        else:
            assert (array == base[part, name]).all()


@pytest.fixture
def two(shapes, tmp_path):
    """Two adapters for sd1, one with DoRA."""
    plain = adapters.every_layer(shapes["sd1"], adapters.mixed)
    sized = adapters.every_layer(shapes["sd1"], adapters.mixed, adapters.attention)
    for layer, factors in sized.items():
        factors["dora_scale"] = np.abs(adapters.numbers(layer, "size", len(factors["lora_up.weight"]), 1))
    return (
        adapters.save(tmp_path / "one.safetensors", adapters.kohya(plain)),
        adapters.save(tmp_path / "two.safetensors", adapters.kohya(sized)),
    )


def test_scale_0_is_the_identity_to_the_bit(folders, two):
    base = load(folders["sd1"], "float32")
    assert same(load(folders["sd1"], "float32", [(file, 0) for file in two]), base)
    assert not any(same(load(folders["sd1"], "float32", [(file, 1e-3)]), base) for file in two)


COUNTS = {"sd1": (26, 17), "sdxl": (20, 12)}  # all blocks, those with attention; one more for the rest


@pytest.mark.parametrize("name", COUNTS)
def test_block_weights_are_as_many_as_the_field_has(name, folders):
    unet = networks(load(folders[name], "float32"))["unet"]
    for count in COUNTS[name]:
        factor = block_weights.factors(Lora("x", 1.0, tuple(range(count))), shapes_of(unet))
        attending = next(i for i, stage in enumerate(unet.down.stages) if len(stage) > 1)
        assert factor("text_encoder", "layers.0.attention.q") == factor("unet", "embedding.timestep.linear1") == 0
        assert factor("unet", f"down.stages.{attending}.1.blocks.0.attn1.q") == (1 + attending if count > 17 else 1)
        last = max(i for i in range(len(unet.up.stages)) if f"up.stages.{i}.1.norm.weight" in shapes_of(unet))
        before = 2 + len(unet.down.stages)  # BASE, the way down, the middle
        assert factor("unet", f"up.stages.{last}.1.norm") == (before + last if count > 17 else count - 1)
        assert factor("unet", "middle.layers.1.blocks.0.attn1.q") > factor(
            "unet", f"down.stages.{attending}.1.blocks.0.attn1.q"
        )


@pytest.mark.slow
def test_block_weights_of_one_are_none_at_all(folders, two):
    plainly = load(folders["sd1"], "float32", [(two[1], 0.7)])
    assert same(load(folders["sd1"], "float32", [(two[1], 0.7, (1,) * 17)]), plainly)
    assert same(load(folders["sd1"], "float32", [(two[1], 0.7, (1,) * 26)]), plainly)


def test_a_block_weight_reaches_its_block_and_no_other(folders, two):
    """IN04 is the fifth stage of the UNet's way down; half of it there is half the scale there."""
    base, half = weights(load(folders["sd1"], "float32")), weights(load(folders["sd1"], "float32", [(two[1], 0.5)]))
    chosen = [0.0] * 26
    chosen[1 + 4] = 0.5
    found = weights(load(folders["sd1"], "float32", [(two[1], 1.0, tuple(chosen))]))
    for (part, name), array in found.items():
        inside = part == "unet" and name.startswith("down.stages.4.")
        assert (array == (half if inside else base)[part, name]).all(), name


@pytest.mark.parametrize(("count", "told"), ((5, "has 26"), (17, "give 26 block weights")))
def test_block_weights_that_fit_no_model_are_refused(count, told, folders, two):
    with pytest.raises(InputError, match=told):
        load(folders["sd1"], "float32", [(two[0], 1.0, (0.5,) * count)])


def test_lora_text_is_a_path_a_scale_and_block_weights():
    assert Lora.parse("a.safetensors:0.5:1,0,0.25") == Lora("a.safetensors", 0.5, (1.0, 0.0, 0.25))
    assert Lora.parse("a.safetensors:1,0") == Lora("a.safetensors", 1.0, (1.0, 0.0))
    assert Lora.parse("C:a,b.safetensors") == Lora("C:a,b.safetensors")


@pytest.mark.slow
def test_the_order_of_adapters_does_not_matter_to_the_bit(folders, two):
    loras = [(two[0], 0.3), (two[1], 0.7), (two[0], -0.2), (two[1], 0.1)]
    one, other = (load(folders["sd1"], "float32", some) for some in (loras, loras[::-1]))
    assert same(one, other)


@pytest.mark.slow
def test_merging_is_additive(folders, two):
    one, other = two

    def merged(*loras):
        return weights(load(folders["sd1"], "float32", loras))

    base, a, b = merged(), merged((one, 0.5)), merged((other, 0.8))
    both, twice = merged((one, 0.5), (other, 0.8)), merged((one, 0.2), (one, 0.3))
    for name, weight in base.items():
        assert distance(both[name], a[name] + b[name] - weight) < 1e-6
        assert distance(twice[name], a[name]) < 1e-6


@pytest.mark.slow
def test_conversion_and_loading_merge_alike_before_any_cast(folders, two, tmp_path):
    """In float32 bit for bit; in half precision, what is rounded is the sum."""
    loras = [("--lora", f"{two[0]}:0.5"), ("--lora", f"{two[1]}:-0.25")]
    flags = ["--model", str(folders["sd1"]), *(word for pair in loras for word in pair)]
    for dtype in ("float32", "float16"):
        assert command.main([*flags, "--out", str(tmp_path / dtype), "--dtype", dtype]) == 0
    loaded = load(folders["sd1"], "float32", [(two[0], 0.5), (two[1], -0.25)])
    converted = load(tmp_path / "float32", "float32")
    assert same(loaded, converted)
    half = mx.load(str(tmp_path / "float16/unet.safetensors"))
    for name, array in tree_flatten(loaded.unet.parameters()):
        assert mx.array_equal(half[name], array.astype(mx.float16)), name
    said = json.loads((tmp_path / "float32/model.json").read_text())["loras"]
    digests = [adapter_file.read(file).sha256 for file in two]
    assert said == [
        {"path": str(two[0]), "sha256": digests[0], "scale": 0.5},
        {"path": str(two[1]), "sha256": digests[1], "scale": -0.25},
    ]
    assert list(loaded.loras) == said
    assert converted.hash != loaded.hash == load(folders["sd1"]).hash


def test_alphas_of_a_config(folders, shapes, tmp_path):
    """lora_alpha, patterns and the square root are those of kohya's files with the numbers written out."""
    factors = adapters.every_layer(shapes["sd1"], pick=adapters.attention)
    adapters.save(tmp_path / "adapter_model.safetensors", adapters.peft(factors))
    config = {"r": 4, "lora_alpha": 3, "use_rslora": True, "alpha_pattern": {r"attn\d.to_k": 5, "out_proj": 7}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    for (_, layer), roles in factors.items():
        alpha = 5 if layer.endswith("to_k") else 7 if layer.endswith("out_proj") else 3
        roles["alpha"] = np.array(alpha * 2, np.float32)  # sqrt(4) in place of 4
    file = adapters.save(tmp_path / "kohya.safetensors", adapters.kohya(factors))
    one, two = (load(folders["sd1"], "float32", [path]) for path in (tmp_path / "adapter_model.safetensors", file))
    assert same(one, two)
    said = {f"{part}.{field}": value for part in ("unet", "text_encoder") for field, value in config.items()}
    file = adapters.save(
        tmp_path / "diffusers.safetensors", adapters.peft(factors), {"lora_adapter_metadata": json.dumps(said)}
    )
    assert same(load(folders["sd1"], "float32", [file]), two)
