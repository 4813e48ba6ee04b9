"""Gradients of every family's networks are torch's, and ten steps of AdamW take the same way.

torch's gradients are written as a checkpoint's weights, and loaded as such: they then have our names and layouts.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
import torch
from diffusers import ControlNetModel
from mlx.utils import tree_flatten
from peft import LoraConfig
from safetensors.torch import save_file

from convert.files.diffusers_names import diffusers_name
from mlx_sd import StableDiffusion, resolve
from mlx_sd.checkpoint.model_folder import CONTROL, network_configs, read_model_json
from mlx_sd.networks.control import ControlNet
from mlx_sd.networks.unet import UNet
from mlx_sd.networks.unet_config import UNetConfig
from mlx_sd.train.kinds.control import network_like
from mlx_sd.train.learning.low_rank import Adapters, layers_of
from mlx_sd.train.learning.optimizers import arrays_of
from tests.support import families, reference, reference_unprompted, unprompted
from tests.support.families import FAMILIES
from tests.support.reference import first

GRADIENTS, LOSSES = 1e-5, 5e-5


@pytest.fixture(autouse=True)
def gradients_of_torch() -> Iterator[None]:
    """Gradients, which `tests.support.reference` switches off."""
    with torch.enable_grad():
        yield


def load_tensors(family: str, part: str, tensors: dict[str, torch.Tensor], shapes: Any, folder: Path) -> dict[str, Any]:
    """Returns tensors of a network by the names of our parameters, read as the weights of a checkpoint."""
    families.write_folder(family, shapes[family], folder)
    (file,) = (folder / part).glob("*.safetensors")
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, file, {"format": "pt"})
    sd = StableDiffusion.load(folder, dtype="float32")
    network = sd.unet if part == "unet" else sd.model.text_encoders[0]
    return dict(tree_flatten(network.parameters()))


def relative(ours: dict[str, mx.array], theirs: dict[str, mx.array]) -> float:
    """Returns the distance of all gradients together over the length of torch's."""
    assert ours.keys() == theirs.keys()
    difference = sum(float(((ours[name] - theirs[name]) ** 2).sum().item()) for name in ours)
    return float(np.sqrt(difference / sum(float((array**2).sum().item()) for array in theirs.values())))


def losses(family: str) -> tuple[Callable[[Any], torch.Tensor], Callable[[Any], mx.array]]:
    """Returns the same loss of a UNet in torch and in MLX: the mean square distance to fixed numbers."""
    inputs = families.unet_inputs(FAMILIES[family]["unet"], batch=4)
    target = families.numbers("target", 4, 8, 8, FAMILIES[family]["unet"]["out_channels"])
    given = {name: first(value) for name, value in inputs.items()}
    added = {name: given[name] for name in ("text_embeds", "time_ids") if name in given}
    arrays = {name: mx.array(value) for name, value in inputs.items()}

    def in_torch(network: Any) -> torch.Tensor:
        """Returns the loss of diffusers' UNet."""
        more = {"class_labels": given.get("class_labels"), "added_cond_kwargs": added or None}
        output = network(given["x"], given["t"], given["context"], **more).sample
        return ((output - first(target)) ** 2).mean()

    def in_mlx(network: Any) -> mx.array:
        """Returns the loss of our UNet."""
        return ((network(**arrays)[0] - mx.array(target)) ** 2).mean()

    return in_torch, in_mlx


@pytest.mark.parametrize("family", ["sd1", "sd2v", "sdxl", "inpaint9"])
def test_gradients_of_a_unet(family, family_model, shapes, tmp_path, measure):
    in_torch, in_mlx = losses(family)
    network = reference.modules(family)["unet"].requires_grad_(True)
    in_torch(network).backward()
    theirs = load_tensors(family, "unet", {n: p.grad for n, p in network.named_parameters()}, shapes, tmp_path / "g")
    unet = family_model(family).unet
    _, gradients = nn.value_and_grad(unet, lambda: in_mlx(unet))()
    measure("gradients of a UNet", relative(dict(tree_flatten(gradients)), theirs), GRADIENTS)


@pytest.mark.parametrize("family", ["sd1", "sd2v", "sdxl"])
def test_gradients_of_a_text_encoder(family, family_model, shapes, tmp_path, measure):
    network = reference.modules(family)["text_encoder"].requires_grad_(True)
    sd = family_model(family)
    ids = [sd.tokenizer.chunks(text)[0] for text in (families.PROMPT, "", families.PROMPT * 9)]
    encoder = sd.model.text_encoders[0]
    target = families.numbers("text", 3, 77, encoder.config.width)
    ((network(torch.tensor(ids)).last_hidden_state - torch.from_numpy(target)) ** 2).mean().backward()
    tensors = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in network.named_parameters()}
    theirs = load_tensors(family, "text_encoder", tensors, shapes, tmp_path / "g")
    _, gradients = nn.value_and_grad(encoder, lambda: ((encoder(mx.array(ids)).last - mx.array(target)) ** 2).mean())()
    measure("gradients of a text encoder", relative(dict(tree_flatten(gradients)), theirs), GRADIENTS)


@pytest.mark.parametrize("family", ["sd1", "sd2v", "sdxl"])
def test_ten_steps_of_adamw(family, family_model, measure):
    in_torch, in_mlx = losses(family)
    network = reference.modules(family)["unet"].requires_grad_(True).train()
    unet = family_model(family).unet
    theirs = torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=1e-2)
    ours = optim.AdamW(1e-4, weight_decay=1e-2, bias_correction=True)
    value_and_grad = nn.value_and_grad(unet, lambda: in_mlx(unet))
    for _ in range(10):
        expected = in_torch(network)
        theirs.zero_grad()
        expected.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        theirs.step()
        loss, gradients = value_and_grad()
        gradients, _ = optim.clip_grad_norm(gradients, 1.0)
        ours.update(unet, gradients)
        mx.eval(loss, unet.parameters(), ours.state)
        measure("losses over ten steps", abs(loss.item() / expected.item() - 1), LOSSES)


@pytest.fixture
def family_model(shapes, tmp_path) -> Callable[[str], StableDiffusion]:
    """family_model("sd1") is a checkpoint of that family, whose weights may be changed."""
    return lambda name: StableDiffusion.load(
        families.write_folder(name, shapes[name], tmp_path / f"own-{name}"), dtype="float32"
    )


def test_gradients_of_a_class_conditional_unet(tmp_path, measure):
    config = unprompted.UNETS["classes"]
    network = reference_unprompted.module("unet", config).requires_grad_(True)
    inputs = unprompted.unet_inputs(config, (8, 8))
    target = families.numbers("target", *inputs["x"].shape[:3], config["out_channels"])
    output = network(first(inputs["x"]), first(inputs["t"]), class_labels=first(inputs["class_labels"])).sample
    ((output - first(target)) ** 2).mean().backward()
    gradients = {name: p.grad for name, p in network.named_parameters()}
    unet, theirs = (UNet(UNetConfig.from_hf(config, "config.json")) for _ in range(2))
    for ours, tensors in ((unet, network.state_dict()), (theirs, gradients)):
        ours.load_weights(renamed(ours, tensors))
    arrays = {name: mx.array(value) for name, value in inputs.items()}
    _, own = nn.value_and_grad(unet, lambda: mx.square(unet(**arrays)[0] - mx.array(target)).mean())()
    measure("gradients of a UNet", relative(arrays_of(own), arrays_of(theirs.parameters())), GRADIENTS)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_gradients_of_a_control_network(family, family_model, tmp_path, measure):
    model = family_model(family).model
    control = network_like(model)
    for layer in (*control.skip_outputs, control.middle_output, control.image.last):  # zero, they would hide the rest
        layer.weight = mx.random.normal(layer.weight.shape, key=mx.random.key(len(str(layer.weight.shape)))) * 0.1
    unet_config = network_configs(read_model_json(model.folder))["unet"]
    resolve.write_trained_control(control, unet_config, tmp_path / "control", mx.float32)
    network = ControlNetModel.from_pretrained(tmp_path / "control").requires_grad_(True)
    inputs = families.unet_inputs(FAMILIES[family]["unet"], batch=2)
    image = families.image()[:, :, :32].repeat(2, axis=0)[:, : 8 * control.config.downsampling]
    image = np.abs(np.resize(image, (2, 8 * control.config.downsampling, 8 * control.config.downsampling, 3)))
    arrays = {name: mx.array(value) for name, value in inputs.items()}
    x, t, context = (arrays.pop(name) for name in ("x", "t", "context"))

    def in_mlx() -> mx.array:
        """Returns the sum of the squares of all residuals."""
        skips, middle = control(x, t, context, control.embed(mx.array(image)), **arrays)
        return sum((mx.square(a).mean() for a in skips), mx.square(middle).mean())

    tensors = {name: first(value) for name, value in inputs.items()}
    added = {name: tensors[name] for name in ("text_embeds", "time_ids") if name in tensors}
    skips, middle = network(
        tensors["x"], tensors["t"], tensors["context"], first(image), added_cond_kwargs=added or None, return_dict=False
    )
    loss = sum((s**2).mean() for s in skips) + (middle**2).mean()
    loss.backward()
    theirs = ControlNet(control.config)
    theirs.load_weights(renamed(theirs, {name: p.grad for name, p in network.named_parameters()}, CONTROL))
    value, own = nn.value_and_grad(control, in_mlx)()
    measure("loss of a ControlNet", abs(value.item() / loss.item() - 1), GRADIENTS)
    measure("gradients of a ControlNet", relative(arrays_of(own), arrays_of(theirs.parameters())), GRADIENTS)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_gradients_of_adapters_alone(family, family_model, measure):
    """And of peft's, whose names are ours by the table of the files."""
    in_torch, in_mlx = losses(family)
    model = family_model(family).model
    model.unet.freeze()
    adapters = Adapters(layers_of("unet", model.unet, "attention"), 4, 2.0, seed=1)
    network = reference.modules(family)["unet"].requires_grad_(False)
    network.add_adapter(LoraConfig(r=4, lora_alpha=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    modules = dict(network.named_modules())
    pairs = {}
    for (part, path), adapter in adapters.by_layer.items():
        adapter.up = mx.random.normal(adapter.up.shape, key=mx.random.key(len(pairs))) * 0.1
        name, _ = resolve.layer_names(part, model.unet.names, path)
        pairs[path] = adapter, (modules[name].lora_A["default"].weight, modules[name].lora_B["default"].weight)
        for array, weight in zip((adapter.down, adapter.up), pairs[path][1], strict=True):
            weight.data.copy_(torch.from_numpy(np.array(array)))
    loss = in_torch(network)
    loss.backward()
    value, _ = nn.value_and_grad(adapters, lambda: in_mlx(model.unet))()
    gradients = nn.value_and_grad(adapters, lambda: in_mlx(model.unet))()[1]["layers"]
    measure("loss with adapters", abs(value.item() / loss.item() - 1), GRADIENTS)
    ours, theirs = {}, {}
    for name, (adapter, weights) in pairs.items():
        own = next(g for key, g in gradients.items() if adapters.layers[key] is adapter)
        for kind, weight in zip(("down", "up"), weights, strict=True):
            ours[name, kind], theirs[name, kind] = own[kind], mx.array(weight.grad.numpy())
    measure("gradients of adapters", relative(ours, theirs), GRADIENTS)


def renamed(network: Any, tensors: dict[str, torch.Tensor], part: str = "unet") -> list[tuple[str, mx.array]]:
    """Returns tensors by the names and in the layouts of a network's parameters."""
    pairs = []
    for name, array in arrays_of(network.parameters()).items():
        tensor = tensors[diffusers_name(part, network.names, name)].detach()
        tensor = tensor.permute(0, 2, 3, 1) if array.ndim == 4 else tensor
        pairs.append((name, mx.array(tensor.contiguous().numpy()).reshape(array.shape)))
    return pairs
