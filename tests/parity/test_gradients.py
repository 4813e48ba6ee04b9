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
from mlx.utils import tree_flatten
from safetensors.torch import save_file

from mlx_sd import StableDiffusion
from tests.support import families, reference
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


@pytest.mark.parametrize("family", ["sd1", "sd2v", "sdxl", "inpaint9", "refiner"])
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
