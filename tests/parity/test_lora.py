"""Merged adapters equal those that diffusers, PEFT and LyCORIS apply."""

import copy
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import mlx.core as mx
import numpy as np
import pytest
import torch
from lycoris.modules import FullModule, LoConModule, LohaModule, LokrModule, NormModule
from mlx.utils import tree_flatten
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch.nn import Conv2d, GroupNorm, LayerNorm, Linear

from convert.files.diffusers_names import current_name, diffusers_name
from mlx_sd.load import load
from tests.support import adapters, families, reference
from tests.support.families import distance

MERGED = 1e-6
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")  # PEFT's, of patterns
FAMILIES = ("sd1", "sd2v", "sdxl")
PARTS = ("text_encoder", "text_encoder_2", "unet")


@pytest.fixture
def folder(shapes, tmp_path) -> Callable[[str], Path]:
    return lambda family: families.write_folder(family, shapes[family], tmp_path / family)


def networks(pipe: Any) -> dict[str, Any]:
    return {part: getattr(pipe, part) for part in PARTS if getattr(pipe, part, None) is not None}


def pipeline(folder: Path) -> Any:
    return diffusers.DiffusionPipeline.from_pretrained(folder, low_cpu_mem_usage=False)


def check(folder: Path, file: Path, scale: float, theirs: Mapping[str, Any], measure: Any, how: str) -> None:
    """Every weight of our model with an adapter merged, against networks that have it merged."""
    merged, base = load(folder, "float32", [(file, scale)]), load(folder, "float32")
    for part, network in theirs.items():
        number = int(part.endswith("_2"))
        ours, before = ((m.unet if part == "unet" else m.text_encoders[number]) for m in (merged, base))
        state = {current_name(name.replace("base_layer.", "")): value for name, value in network.state_dict().items()}
        was: dict[str, mx.array] = dict(tree_flatten(before.parameters()))
        changed = 0
        for name, array in tree_flatten(ours.parameters()):
            value = reference.last(state[diffusers_name(part, ours.names, name)])
            measure(how, distance(np.array(array), value.reshape(array.shape)), MERGED)
            changed += not mx.array_equal(array, was[name])
        assert changed >= 6, f"{changed} weights of {part} were changed"


def fused(folder: Path, file: Path, scale: float) -> dict[str, Any]:
    pipe = pipeline(folder)
    pipe.load_lora_weights(file)
    pipe.fuse_lora(lora_scale=scale)
    return networks(pipe)


def known(layer: str, shape: tuple[int, ...]) -> bool:
    """What diffusers finds under kohya's names: not a projection of text, nor what SDXL adds to the time."""
    return adapters.matrices(layer, shape) and layer != "text_projection" and "add_embedding" not in layer


def ranks(layer: adapters.Layer, shape: tuple[int, ...]) -> adapters.Arrays:
    """A rank of each layer's own; one alpha, for of several diffusers loses those of text and attention."""
    return adapters.mixed(layer, shape) | {"alpha": np.array(2.0, np.float32)}


@pytest.mark.parametrize("make", [adapters.lora, ranks])
@pytest.mark.parametrize("family", FAMILIES)
def test_kohyas_names(family, make, folder, shapes, tmp_path, measure):
    factors = adapters.every_layer(shapes[family], make, known)
    file = adapters.save(tmp_path / "kohya.safetensors", adapters.kohya(factors))
    where = folder(family)
    check(where, file, 0.7, fused(where, file, 0.7), measure, "LoRA, kohya's names")


def test_alphas_of_their_own(folder, shapes, tmp_path, measure):
    factors = adapters.every_layer(shapes["sd1"], adapters.mixed, lambda n, s: known(n, s) and "resnets" in n)
    file = adapters.save(tmp_path / "kohya.safetensors", adapters.kohya(factors))
    where = folder("sd1")
    theirs = {"unet": fused(where, file, 1.3)["unet"]}
    check(where, file, 1.3, theirs, measure, "LoRA, kohya's names, several alphas")


def test_the_original_codes_names_of_sdxl(folder, shapes, tmp_path, measure):
    def pick(layer: str, shape: tuple[int, ...]) -> bool:
        return adapters.matrices(layer, shape) and layer != "text_projection"

    factors = adapters.every_layer(shapes["sdxl"], ranks, pick)
    factors = adapters.renamed(factors, lambda layer: adapters.original(layer, 3))
    file = adapters.save(tmp_path / "sgm.safetensors", adapters.kohya(factors))
    where = folder("sdxl")
    check(where, file, -0.4, fused(where, file, -0.4), measure, "LoRA, the original code's names")


ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
CONFIGS = {
    "plain": {"r": 4, "lora_alpha": 4},
    "alpha": {"r": 4, "lora_alpha": 9},
    "patterns": {
        "r": 4,
        "lora_alpha": 3,
        "rank_pattern": {"attn1.to_q": 2, "up_blocks.*to_v": 6},
        "alpha_pattern": {"attn1.to_q": 5, r"up_blocks.\d.*ff.net.2": 7},
    },
    "rank-stabilised": {"r": 4, "lora_alpha": 6, "use_rslora": True},
    "DoRA": {"r": 3, "lora_alpha": 6, "use_dora": True},
}


def trained(network: Any, config: Any) -> None:
    """Puts adapters into a network as training does, with numbers in place of training."""
    network.add_adapter(config)
    for name, value in network.named_parameters():
        if "lora_" in name:
            value.data = torch.from_numpy(families.numbers(name, *value.shape) * 0.3).abs()
            if "magnitude" not in name:
                value.data -= 0.2


def config(how: str, *targets: str) -> LoraConfig:
    return LoraConfig(target_modules=list(targets), init_lora_weights=False, **CONFIGS[how])


@pytest.mark.parametrize("how", CONFIGS)
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_as_diffusers_saves_what_it_trained(family, how, folder, tmp_path, measure):
    where = folder(family)
    pipe = pipeline(where)
    trained(pipe.unet, config(how, *ATTENTION, "ff.net.2", "conv1", "proj_in"))
    said = {"unet": pipe.unet}
    for part, encoder in networks(pipe).items():
        if part != "unet":
            trained(encoder, config(how, "q_proj", "k_proj", "fc1"))
            said[part] = encoder
    given: dict[str, Any] = {}
    for part, network in said.items():
        given[f"{part}_lora_layers"] = get_peft_model_state_dict(network)
        given[f"{part}_lora_adapter_metadata"] = network.peft_config["default"].to_dict()
    type(pipe).save_lora_weights(tmp_path / "adapter", **given)
    scale = 1.0 if how == "DoRA" else 0.6  # of DoRA at another scale everybody has his own idea
    for network in said.values():
        for layer in network.modules():
            if hasattr(layer, "merge"):
                layer.scale_layer(scale)
                layer.merge()
    check(where, tmp_path / "adapter", scale, networks(pipe), measure, f"LoRA, as diffusers saves it: {how}")


def test_the_old_names_of_diffusers(folder, shapes, tmp_path, measure):
    factors = adapters.every_layer(shapes["sd1"], pick=adapters.attention)
    file = adapters.save(tmp_path / "old.safetensors", adapters.old_diffusers(factors))
    where = folder("sd1")
    check(where, file, 0.5, fused(where, file, 0.5), measure, "LoRA, old names of diffusers")


PEFT = {
    "LoRA": LoraConfig(r=4, lora_alpha=6, alpha_pattern={"attn1.to_q": 5}, rank_pattern={"to_v": 3}, lora_bias=True),
    "LoRA, rank-stabilised": LoraConfig(r=4, lora_alpha=6, use_rslora=True),
    "DoRA": LoraConfig(r=4, lora_alpha=6, use_dora=True),
    "LoHa": LoHaConfig(r=4, alpha=6, use_effective_conv2d=True),
    "LoHa, flat": LoHaConfig(r=4, alpha=6),
    "LoKr": LoKrConfig(r=2, alpha=6, decompose_both=True, use_effective_conv2d=True),
    "LoKr, flat": LoKrConfig(r=2, alpha=6, decompose_factor=4),
    "LoKr, whole": LoKrConfig(r=40, alpha=6),
}


@pytest.mark.parametrize("how", PEFT)
@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_as_peft_saves_it(part, how, modules, folder, tmp_path, measure):
    targets = ["to_q", "to_out.0", "to_v", "conv1", "conv2", "q_proj", "fc1", "v_proj", "fc2"]
    made = copy.deepcopy(PEFT[how])
    made.target_modules = [t for t in targets if how != "LoRA" or t not in ("to_q", "to_v", "q_proj", "v_proj")]
    made.init_lora_weights = made.init_weights = False
    network = get_peft_model(copy.deepcopy(modules("sd1")[part]), made)
    for name, value in network.named_parameters():
        if any(word in name for word in ("lora_", "hada_", "lokr_")):
            value.data = torch.from_numpy(families.numbers(name, *value.shape) * 0.3).abs()
            if "magnitude" not in name:
                value.data -= 0.2
    network.save_pretrained(tmp_path / part)
    merged = {part: network.merge_and_unload()}
    check(folder("sd1"), tmp_path / part, 1.0, merged, measure, f"PEFT: {how}")


LYCORIS = {
    "LoCon": (LoConModule, {"lora_dim": 4, "alpha": 3}),
    "LoCon, Tucker": (LoConModule, {"lora_dim": 4, "alpha": 3, "use_tucker": True}),
    "LoCon, rank-stabilised": (LoConModule, {"lora_dim": 4, "alpha": 3, "rs_lora": True}),
    "DoRA": (LoConModule, {"lora_dim": 4, "alpha": 3, "weight_decompose": True, "wd_on_out": True}),
    "DoRA over inputs": (LoConModule, {"lora_dim": 4, "alpha": 3, "weight_decompose": True, "wd_on_out": False}),
    "LoHa": (LohaModule, {"lora_dim": 4, "alpha": 3}),
    "LoHa, Tucker": (LohaModule, {"lora_dim": 4, "alpha": 3, "use_tucker": True}),
    "LoHa, DoRA": (LohaModule, {"lora_dim": 4, "alpha": 3, "weight_decompose": True}),
    "LoKr": (LokrModule, {"lora_dim": 2, "alpha": 3}),
    "LoKr, both": (LokrModule, {"lora_dim": 1, "alpha": 3, "decompose_both": True}),
    "LoKr, factor": (LokrModule, {"lora_dim": 2, "alpha": 3, "factor": 4}),
    "LoKr, Tucker": (LokrModule, {"lora_dim": 2, "alpha": 3, "use_tucker": True}),
    "LoKr, full": (LokrModule, {"lora_dim": 100, "alpha": 3, "full_matrix": True}),
    "LoKr, DoRA": (LokrModule, {"lora_dim": 2, "alpha": 3, "weight_decompose": True}),
    "full": (FullModule, {}),
    "norms": (NormModule, {}),
}


def saved(adapter: Any) -> dict[str, torch.Tensor]:
    """As its files have it; of these two before they are put into a network, when they hold the difference."""
    words = {FullModule: {"weight": "diff", "bias": "diff_b"}, NormModule: {"w_norm": "w_norm", "b_norm": "b_norm"}}
    if type(adapter) in words:
        return {words[type(adapter)][role]: value for role, value in adapter.named_parameters()}
    return dict(adapter.custom_state_dict())


@pytest.mark.parametrize("how", LYCORIS)
def test_lycoris(how, modules, folder, tmp_path, measure):
    """Each layer with LyCORIS' adapter around it, running, against the same layer with our merged weight."""
    kind, options = LYCORIS[how]
    made, arrays = {}, {}
    for name, layer in modules("sd1")["unet"].named_modules():
        one = re.fullmatch(r"(mid_block|down_blocks\.1|conv_in|up_blocks\.2\.upsamplers).*", name)
        if one and isinstance(layer, (GroupNorm, LayerNorm) if kind is NormModule else (Linear, Conv2d)):
            adapter = kind(f"lora_unet_{name.replace('.', '_')}", copy.deepcopy(layer), **options).eval()
            for role, value in adapter.named_parameters():
                value.data = torch.from_numpy(families.numbers(f"{name} {role}", *value.shape) * 0.3)
                value.data = value.data.abs() if role == "dora_scale" else value.data
            made[name] = adapter
            arrays |= {f"{adapter.lora_name}.{role}": value for role, value in saved(adapter).items()}
    file = tmp_path / "lycoris.safetensors"
    save_file({name: value.contiguous().clone() for name, value in arrays.items()}, file)
    unet = load(folder("sd1"), "float32", [(file, 1.0)]).unet
    weights: dict[str, mx.array] = dict(tree_flatten(unet.parameters()))
    found = {diffusers_name("unet", unet.names, name): np.array(array) for name, array in weights.items()}
    for name, adapter in made.items():
        # In double precision: what is left is the error of our weights.
        layer = copy.deepcopy(adapter.org_module[0]).double()
        adapter.org_module[0].double()
        channels = layer.weight.shape[1] if layer.weight.ndim > 1 else layer.weight.shape[0]
        given = torch.from_numpy(families.numbers(name, 2, channels, 8, 8)).double()
        given = given if isinstance(layer, (Conv2d, GroupNorm)) else given.movedim(1, -1).contiguous()
        theirs = adapter.double()(given)
        for role in {"weight", "bias"} & layer.state_dict().keys():
            value = torch.from_numpy(found[f"{name}.{role}"]).double()
            value = value.movedim(-1, 1) if value.ndim == 4 else value
            getattr(layer, role).data = value.reshape(getattr(layer, role).shape)
        measure(f"LyCORIS: {how}", distance(layer(given).numpy(), theirs.numpy()), MERGED)
