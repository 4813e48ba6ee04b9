"""A LoRA for the embedded checkpoint, which makes it evening in all pictures: the guide shows adapters with it."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from .claims import held_out
from .clip import token_ids
from .data import CELL, Epochs, Painter, epoch_scenes, trained_caption
from .scenes import Scene
from .stages import Plan
from .training import Randomness, Training, cosine, prepare
from .training import train as run_training
from .unet import EMPTY_CAPTIONS, AttentionInFloat32, velocity_loss
from .vae import encoded

RANK = 4
BATCH = 16
MOST_SCENES = 512  # of an epoch; a style needs few
PASSES = 8  # over the pictures of an epoch
SKY = "sunset"  # of all pictures, whatever the captions say
LAYERS = ("to_q", "to_k", "to_v", "to_out.0", "conv_in", "conv1", "conv2", "conv_shortcut", "conv_out")


class LowRank(nn.Module):
    """A layer that stays as it is, with a product of two small ones beside it."""

    def __init__(self, layer: nn.Linear | nn.Conv2d) -> None:
        super().__init__()
        self.layer = layer
        if isinstance(layer, nn.Conv2d):
            self.a: nn.Module = nn.Conv2d(
                layer.in_channels, RANK, layer.kernel_size, layer.stride, layer.padding, bias=False
            )
            self.b: nn.Module = nn.Conv2d(RANK, layer.out_channels, 1, bias=False)
        else:
            self.a = nn.Linear(layer.in_features, RANK, bias=False)
            self.b = nn.Linear(RANK, layer.out_features, bias=False)
        nn.init.zeros_(self.b.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the layer's output with the difference."""
        out: Tensor = self.layer(x) + self.b(self.a(x))
        return out


def add_low_rank(unet: nn.Module) -> dict[str, LowRank]:
    """Puts a low-rank difference beside each of LAYERS; returns these by the layers' names."""
    names = [name for name, _ in unet.named_modules() if name.endswith(LAYERS)]
    for name in names:
        parent, _, last = name.rpartition(".")
        unet.get_submodule(parent).register_module(last, LowRank(unet.get_submodule(name)))
    return {name: unet.get_submodule(name) for name in names}


def train(plan: Plan, out: Path) -> None:
    """Train the LoRA on pictures in the evening with any caption; write it in diffusers' names, in half precision."""
    prepare(plan.threads)
    checkpoint = plan.result("export")
    load = {"torch_dtype": torch.float32}
    unet = UNet2DConditionModel.from_pretrained(checkpoint / "unet", **load).requires_grad_(False)
    text = CLIPTextModel.from_pretrained(checkpoint / "text_encoder", **load).requires_grad_(False).eval()
    vae = AutoencoderKL.from_pretrained(checkpoint / "vae", **load).eval()
    tokenizer = CLIPTokenizer.from_pretrained(checkpoint / "tokenizer")
    side = unet.config.sample_size * CELL
    unet.set_attn_processor(AttentionInFloat32())
    added = add_low_rank(unet)
    randomness, texts = Randomness(seed=0), held_out()
    count = min(plan.scenes, MOST_SCENES) // BATCH * BATCH

    with Painter(plan.threads, plan.directory) as painter:

        def draw(epoch: int) -> tuple[list[Scene], Tensor]:
            """Draws the scenes of an epoch and encodes their pictures in the evening."""
            scenes = list(itertools.islice(epoch_scenes(epoch), count))
            evenings = [replace(scene, sky=SKY) for scene in scenes]
            moments = encoded(vae, painter.paint(evenings, side, side).images).astype(np.float32)
            return scenes, torch.from_numpy(moments)

        steps = PASSES * count // BATCH
        epochs = Epochs(draw, steps)

        def loss(_: float, step: int) -> tuple[Tensor, str]:
            """Returns the loss of a new batch, and numbers to show."""
            scenes, moments = epochs.at(step)
            rows = randomness.arrays.integers(0, count, BATCH)
            mean, deviation = moments[rows].chunk(2, dim=1)
            clean = (mean + deviation * torch.randn_like(mean)) * vae.config.scaling_factor
            words = randomness.words
            captions = [
                "" if words.random() < EMPTY_CAPTIONS else trained_caption(scenes[i], words, texts) for i in rows
            ]
            with torch.no_grad():
                context = text(input_ids=token_ids(tokenizer, captions)).last_hidden_state
            value = velocity_loss(clean, lambda noisy, times: unet(noisy, times, context).sample)
            return value, f"epoch {step // steps}"

        def rate(share: float, step: int) -> float:
            """Returns the learning rate, after a warm-up falling along a cosine."""
            return 2e-3 * min(1, (step + 1) / 30) * (cosine(share) * 0.98 + 0.02)

        modules = nn.ModuleDict({name.replace(".", "/"): nn.ModuleList([m.a, m.b]) for name, m in added.items()})
        optimizer = torch.optim.AdamW(modules.parameters(), lr=2e-3, weight_decay=0.0, betas=(0.9, 0.99))
        training = Training("style", {"lora": modules}, optimizer, randomness, rate, loss)
        run_training(training, plan.minutes["style"], plan.resume_file("style"))
    weights = {}
    for name, layer in added.items():
        weights[f"unet.{name}.lora_A.weight"] = layer.a.weight.detach().half()
        weights[f"unet.{name}.lora_B.weight"] = layer.b.weight.detach().half()
    save_file(weights, out)
