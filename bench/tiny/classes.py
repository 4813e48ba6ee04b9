"""The class-conditional checkpoint: a small UNet, conditioned on kinds of things in place of captions."""

from __future__ import annotations

import copy
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel, UNet2DModel
from torch import Tensor

from .data import CELL, training_scene
from .export import forget_origin
from .progress import Progress
from .scenes import LABELS, Scene, label, render
from .stages import Plan, say
from .training import Randomness, Training, autocast, cosine, pixels, prepare
from .training import train as run_training
from .unet import SCHEDULE, averaging, velocity_loss
from .vae import BATCH_TO_ENCODE

SIZE = 128  # pixels a side; this model is the small one
GRID = SIZE // CELL
NULL = len(LABELS)  # the class of pictures without a class, for guidance
SCENES = 24_000  # pictures of all classes together
FEW = 256  # an epoch of no more pictures than this is a trial: as many pictures of classes will do
ARCHITECTURE = {
    "sample_size": GRID,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (64, 128),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": 32,
    "norm_num_groups": 32,
    "num_class_embeds": NULL + 1,
}
# Layers that begin as layers of the captioned UNet, which was trained on the same latents
INHERITED = {
    **{name: name for name in ("conv_in", "time_embedding", "conv_norm_out", "conv_out")},
    "down_blocks.0.resnets.0": "down_blocks.1.resnets.0",
    "down_blocks.0.downsamplers": "down_blocks.1.downsamplers",
    "down_blocks.1.resnets.0": "down_blocks.2.resnets.0",
    "mid_block.resnets.0": "down_blocks.2.resnets.1",
    "mid_block.resnets.1": "down_blocks.2.resnets.1",
    "up_blocks.0.resnets.0": "up_blocks.1.resnets.1",
    "up_blocks.0.resnets.1": "up_blocks.1.resnets.2",
    "up_blocks.0.upsamplers": "up_blocks.1.upsamplers",
    "up_blocks.1.resnets.0": "up_blocks.2.resnets.0",
    "up_blocks.1.resnets.1": "up_blocks.2.resnets.2",
}
CLASS_DEVIATION = 0.25  # of the class embedding at first, as of the time embedding; from zero it learns late
BATCH = 32
UNCONDITIONAL = 0.1  # share trained as NULL, for guidance


def encode(plan: Plan, out: Path) -> None:
    """Draw equally many scenes of each class; write latents.npy, scaled float16 means, and labels.npy."""
    prepare(plan.threads)
    each = (SCENES if plan.scenes > FEW else plan.scenes) // len(LABELS) + 1
    by_class: list[list[Scene]] = [[] for _ in LABELS]
    for scene in map(training_scene, itertools.count()):
        kind = label(scene)
        if kind is not None and len(by_class[kind]) < each:
            by_class[kind].append(scene)
        elif kind is not None and all(len(scenes) == each for scenes in by_class):
            break
    scenes = [scene for of_class in by_class for scene in of_class]
    vae = AutoencoderKL.from_pretrained(plan.result("export") / "vae", torch_dtype=torch.float32).eval()
    latents = np.empty((len(scenes), 4, GRID, GRID), np.float16)
    with torch.no_grad(), autocast(), Progress("class-latents", len(scenes), " pictures") as progress:
        for start in range(0, len(scenes), BATCH_TO_ENCODE):
            drawn = [np.asarray(render(scene, SIZE)) for scene in scenes[start : start + BATCH_TO_ENCODE]]
            mean = vae.encode(pixels(np.stack(drawn))).latent_dist.mean.float()
            latents[start : start + len(drawn)] = (mean * vae.config.scaling_factor).numpy()
            progress.show(start + len(drawn))
    out.mkdir()
    np.save(out / "latents.npy", latents)
    np.save(out / "labels.npy", np.repeat(np.arange(len(LABELS)), each))


def begin(captioned: Path) -> UNet2DModel:
    """Builds the network before training: layers of the UNet at `captioned`, attention that adds nothing."""
    unet, old = UNet2DModel(**ARCHITECTURE), UNet2DConditionModel.from_pretrained(captioned, torch_dtype=torch.float32)
    for layer, source in INHERITED.items():
        unet.get_submodule(layer).load_state_dict(old.get_submodule(source).state_dict())
    for name, module in unet.named_modules():
        if name.endswith("to_out.0"):
            torch.nn.init.zeros_(module.weight)
    torch.nn.init.normal_(unet.class_embedding.weight, std=CLASS_DEVIATION)
    return unet


def train(plan: Plan, out: Path) -> None:
    """Train on latents and their classes; write the averaged weights."""
    prepare(plan.threads)
    folder = plan.result("class-latents")
    latents, labels = np.load(folder / "latents.npy"), np.load(folder / "labels.npy")
    randomness = Randomness(seed=0)
    unet = begin(plan.result("export") / "unet")
    average = copy.deepcopy(unet).requires_grad_(False)

    def loss(_: float, __: int) -> tuple[Tensor, str]:
        """Returns the loss of a new batch, and numbers to show."""
        indices = randomness.arrays.integers(0, len(latents), BATCH)
        conditions = np.where(randomness.arrays.random(BATCH) < UNCONDITIONAL, NULL, labels[indices])
        clean, classes = torch.from_numpy(latents[indices].astype(np.float32)), torch.from_numpy(conditions)
        return velocity_loss(clean, lambda noisy, times: unet(noisy, times, classes).sample), ""

    def rate(share: float, step: int) -> float:
        """Returns the learning rate, after a warm-up falling along a cosine."""
        return 8e-4 * min(1, (step + 1) / 60) * (cosine(share) * 0.98 + 0.02)

    optimizer = torch.optim.AdamW(unet.parameters(), lr=8e-4, weight_decay=1e-3, betas=(0.9, 0.99))
    modules = {"unet": unet, "average": average}
    training = Training("class-unet", modules, optimizer, randomness, rate, loss, after_step=averaging((unet, average)))
    run_training(training, plan.minutes["class-unet"], plan.resume_file("class-unet"))
    average.save_pretrained(out)


def write(plan: Plan, out: Path) -> None:
    """Put UNet, scheduler and the captioned checkpoint's VAE together in the folder `out`, as LDMPipeline reads it."""
    prepare(plan.threads)
    unet = UNet2DModel.from_pretrained(plan.result("class-unet")).half()
    unet.save_pretrained(out / "unet")
    shutil.copytree(plan.result("export") / "vae", out / "vqvae")
    for name in ("unet", "vqvae"):
        forget_origin(out / name / "config.json")
    schedule = {name: value for name, value in SCHEDULE.items() if name != "solver_order"}
    DDIMScheduler(**schedule, clip_sample=False).save_pretrained(out / "scheduler")
    index = {
        "_class_name": "LDMPipeline",
        "_diffusers_version": unet.config["_diffusers_version"],
        "id2label": {str(number): name for number, name in enumerate(LABELS)},
        "null_class": NULL,
        "scheduler": ["diffusers", "DDIMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
        "vqvae": ["diffusers", "AutoencoderKL"],
    }
    (out / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    weights = sum(weight.numel() for weight in unet.parameters())
    say(f"class-export: {weights / 1e6:.2f} million weights in the UNet")
