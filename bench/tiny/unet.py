"""The denoiser: v-prediction on scaled latents, with captions; the checkpoint holds the average of its weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from .clip import WIDTH, token_ids
from .data import training_scenes
from .scenes import caption
from .stages import Plan
from .training import Randomness, Training, autocast, cosine, gather, prepare
from .training import train as run_training
from .vae import GRID, load_latents

ARCHITECTURE = {
    "sample_size": GRID,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (64, 128, 192),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": WIDTH,
    "attention_head_dim": 4,  # diffusers reads this as the number of heads
    "norm_num_groups": 32,
}
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "steps_offset": 1,
    "solver_order": 2,
}
BATCH = 48
EMPTY_CAPTIONS = 0.1  # share trained without words, for guidance
SNR_LIMIT = 5.0  # min-SNR-gamma, arXiv:2303.09556
MAX_AVERAGING = 0.999


def scheduler() -> DPMSolverMultistepScheduler:
    """Returns the noise schedule of training, with the sampler that the checkpoint names as its own."""
    return DPMSolverMultistepScheduler(**SCHEDULE)


def velocity_loss(clean: Tensor, predict: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Returns the weighted error of `predict(noisy, times)` against the velocity, for latents (n, 4, h, w)."""
    signal_powers = scheduler().alphas_cumprod
    times = torch.randint(0, len(signal_powers), (len(clean),))
    power = signal_powers[times].view(-1, 1, 1, 1)
    signal, sigma = power.sqrt(), (1 - power).sqrt()
    noise = torch.randn_like(clean)
    velocity = signal * noise - sigma * clean
    with autocast():
        predicted = predict(signal * clean + sigma * noise, times).float()
    snr = power / (1 - power)
    weight = (snr.clamp(max=SNR_LIMIT) / (snr + 1)).flatten()
    return (weight * (predicted - velocity).pow(2).mean((1, 2, 3))).mean()


def averaging(network: nn.Module, average: nn.Module) -> Callable[[int], None]:
    """Returns a function that moves the weights of `average` towards those of `network` after each step."""

    @torch.no_grad()
    def update(step: int) -> None:
        """Moves the averaged weights; the average becomes slower with the steps."""
        keep = min(MAX_AVERAGING, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - keep)

    return update


def train(plan: Plan, out: Path) -> None:
    """Train from scratch on latents and fresh captions; write the averaged weights."""
    prepare(plan.threads)
    latents, scaling_factor = load_latents(plan)
    scenes = training_scenes(len(latents))
    tokenizer = CLIPTokenizer.from_pretrained(plan.result("tokenizer"))
    text = CLIPTextModel.from_pretrained(plan.result("clip") / "text_encoder").eval().requires_grad_(False)
    randomness = Randomness(seed=0)
    unet = UNet2DConditionModel(**ARCHITECTURE)
    average = copy.deepcopy(unet).requires_grad_(False)

    def loss(_: float) -> tuple[Tensor, str]:
        """Returns the loss of a new batch, and numbers to show."""
        indices = randomness.arrays.integers(0, len(latents), BATCH)
        mean, deviation = torch.from_numpy(gather(latents, indices).astype(np.float32)).chunk(2, dim=1)
        clean = (mean + deviation * torch.randn_like(mean)) * scaling_factor
        stream = randomness.words
        captions = ["" if stream.random() < EMPTY_CAPTIONS else caption(scenes[i], stream) for i in indices]
        ids = token_ids(tokenizer, captions)
        return velocity_loss(clean, lambda noisy, times: unet(noisy, times, text(ids).last_hidden_state).sample), ""

    def rate(share: float, step: int) -> float:
        """Returns the learning rate, after a warm-up falling along a cosine."""
        return 6e-4 * min(1, (step + 1) / 150) * (cosine(share) * 0.97 + 0.03)

    optimizer = torch.optim.AdamW(unet.parameters(), lr=6e-4, weight_decay=1e-3, betas=(0.9, 0.99))
    modules = {"unet": unet, "average": average}
    training = Training("unet", modules, optimizer, randomness, rate, loss, after_step=averaging(unet, average))
    run_training(training, plan.minutes["unet"], plan.resume_file("unet"))
    average.save_pretrained(out)
