"""The autoencoder: trained whole on crops, then its decoder alone on the latents that the UNet learned."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from .data import SIZE, load_images
from .progress import Progress
from .stages import Plan, say
from .training import Randomness, Training, autocast, cosine, gather, pixels, prepare
from .training import train as run_training

ARCHITECTURE = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (32, 64, 96, 128),
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 16,
    "sample_size": SIZE,
    "scaling_factor": 1.0,  # measured later, by `encode`
}
CELL = 8  # pixels a side under one latent
GRID = SIZE // CELL
KL_WEIGHT = 2e-4
BATCH_TO_ENCODE = 32
SCALE_SAMPLES = 4000  # latents that the scaling factor is measured on


def train(plan: Plan, out: Path) -> None:
    """Train encoder and decoder from scratch: small crops first, whole pictures in the last fifth."""
    prepare(plan.threads)
    images = load_images(plan)
    randomness = Randomness(seed=0)
    vae = AutoencoderKL(**ARCHITECTURE)

    def loss(share: float) -> tuple[Tensor, str]:
        """Returns the loss of a new batch, and numbers to show."""
        batch, crop = (16, 64) if share < 0.8 else (8, SIZE)
        pictures = gather(images, np.sort(randomness.arrays.integers(0, len(images), batch)))
        if crop < SIZE:
            y, x = randomness.arrays.integers(0, (SIZE - crop) // CELL + 1, 2) * CELL
            pictures = pictures[:, y : y + crop, x : x + crop]
        target = pixels(pictures)
        with autocast():
            posterior = vae.encode(target).latent_dist
            decoded = vae.decode(posterior.sample()).sample.float()
        mean, variance, log_variance = posterior.mean.float(), posterior.var.float(), posterior.logvar.float()
        kl = 0.5 * (mean**2 + variance - 1 - log_variance).mean()
        l1, l2, edges = reconstruction_errors(decoded, target)
        return l1 + l2 + edges + KL_WEIGHT * kl, f"l1 {l1.item():.4f} kl {kl.item():.2f}"

    def rate(share: float, step: int) -> float:
        """Returns the learning rate, after a warm-up falling along a cosine."""
        return 1.5e-3 * min(1, step / 200) * (cosine(share) + 0.02)

    optimizer = torch.optim.AdamW(vae.parameters(), lr=1.5e-3, weight_decay=1e-4, betas=(0.9, 0.99))
    training = Training("vae", {"vae": vae}, optimizer, randomness, rate, loss)
    run_training(training, plan.minutes["vae"], plan.resume_file("vae"))
    say(f"vae: reconstruction {reconstruction_psnr(vae, images[:8]):.1f} dB")
    vae.save_pretrained(out)


def encode(plan: Plan, out: Path) -> None:
    """Write latents.npy, means and deviations in float16, and scale.json, the factor to unit variance."""
    prepare(plan.threads)
    images = load_images(plan)
    vae = AutoencoderKL.from_pretrained(plan.result("vae")).eval()
    out.mkdir()
    count = plan.scenes * 3 // 4  # the UNet sees three quarters of what the autoencoder saw
    latents = np.lib.format.open_memmap(out / "latents.npy", "w+", np.float16, (count, 8, GRID, GRID))
    with torch.no_grad(), autocast(), Progress("latents", count, " pictures") as progress:
        for start in range(0, count, BATCH_TO_ENCODE):
            stop = min(start + BATCH_TO_ENCODE, count)
            posterior = vae.encode(pixels(images[start:stop].copy())).latent_dist
            latents[start:stop] = torch.cat([posterior.mean, posterior.std], 1).float().numpy()
            progress.show(stop)
    latents.flush()
    sampled = sample_latents(latents[:SCALE_SAMPLES], np.random.default_rng(0))
    scale = float(1 / sampled.std(dtype=np.float64))
    (out / "scale.json").write_text(json.dumps({"scaling_factor": scale}))
    say(f"latents: scaling factor {scale:.4f}")


def train_decoder(plan: Plan, out: Path) -> None:
    """Train the decoder further, the encoder frozen: crops of latents first, whole ones at the end."""
    prepare(plan.threads)
    images, (latents, _) = load_images(plan), load_latents(plan)
    randomness = Randomness(seed=11)
    vae = AutoencoderKL.from_pretrained(plan.result("vae"))
    vae.requires_grad_(False)
    weights = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    for weight in weights:
        weight.requires_grad_(True)

    def loss(share: float) -> tuple[Tensor, str]:
        """Returns the loss of a new batch, and numbers to show."""
        batch, crop = (20, GRID // 2) if share < 0.85 else (6, GRID)
        indices = np.sort(randomness.arrays.integers(0, len(latents), batch))
        moments, pictures = gather(latents, indices), gather(images, indices)
        y, x = randomness.arrays.integers(0, GRID - crop + 1, 2)
        moments = moments[:, :, y : y + crop, x : x + crop]
        pictures = pictures[:, CELL * y : CELL * (y + crop), CELL * x : CELL * (x + crop)]
        target = pixels(pictures)
        sampled = sample_latents(moments, randomness.arrays)
        with autocast():
            decoded = vae.decode(torch.from_numpy(sampled)).sample.float()
        l1, l2, edges = reconstruction_errors(decoded, target)
        return l1 + l2 + 1.5 * edges, f"l1 {l1.item():.4f} edges {edges.item():.4f}"

    def rate(share: float, step: int) -> float:
        """Returns the learning rate, after a warm-up falling along a cosine."""
        return 1e-3 * min(1, (step + 1) / 50) * (cosine(share) + 0.01)

    optimizer = torch.optim.AdamW(weights, lr=1e-3, weight_decay=1e-4, betas=(0.9, 0.99))
    training = Training("decoder", {"vae": vae}, optimizer, randomness, rate, loss)
    run_training(training, plan.minutes["decoder"], plan.resume_file("decoder"))
    say(f"decoder: reconstruction {reconstruction_psnr(vae, images[:8]):.1f} dB")
    vae.save_pretrained(out)


def load_latents(plan: Plan) -> tuple[np.ndarray, float]:
    """Reads the latents' moments, (count, 8, GRID, GRID) on disk, and their scaling factor."""
    folder = plan.result("latents")
    scale = json.loads((folder / "scale.json").read_text())["scaling_factor"]
    return np.load(folder / "latents.npy", mmap_mode="r"), scale


def sample_latents(moments: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws a float32 latent (n, 4, h, w) from each distribution, (n, 8, h, w)."""
    mean, deviation = np.split(moments.astype(np.float32), 2, axis=1)
    return mean + deviation * rng.standard_normal(deviation.shape).astype(np.float32)


def reconstruction_errors(decoded: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns mean absolute error, mean squared error, and mean absolute error of the differences of neighbours."""
    error = decoded - target
    across, down = decoded.diff(dim=-1) - target.diff(dim=-1), decoded.diff(dim=-2) - target.diff(dim=-2)
    return error.abs().mean(), error.pow(2).mean(), across.abs().mean() + down.abs().mean()


@torch.no_grad()
def reconstruction_psnr(vae: AutoencoderKL, images: np.ndarray) -> float:
    """Returns the mean peak signal-to-noise ratio, in dB, of `images` through the autoencoder without sampling."""
    target = pixels(images.copy())
    error = (vae.decode(vae.encode(target).latent_dist.mean).sample - target).pow(2).mean((1, 2, 3))
    return (10 * torch.log10(4 / error)).mean().item()
