"""The autoencoder: trained whole on crops about things, then its decoder alone, once the UNet knows the latents."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from .data import CELL, FIRST_SEED, SIZE, Epochs, Painter, Pictures, first_scenes
from .scenes import sample_scene
from .stages import Plan, say
from .training import Randomness, Training, autocast, cosine, pixels, prepare
from .training import train as run_training

CHANNELS = 4  # of a latent
ARCHITECTURE = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (32, 64, 96, 128),
    "layers_per_block": 1,
    "latent_channels": CHANNELS,
    "norm_num_groups": 16,
    "sample_size": SIZE,
    "scaling_factor": 1.0,  # measured later, by `scale`
}
GRID = SIZE // CELL
KL_WEIGHT = 1e-4
THING_WEIGHT = 5.0  # of a pixel of a thing, beside 1 of any pixel
BATCH, CROP = 6, 12  # CROP in cells
WHOLE = 0.85  # share of the time after which whole pictures are trained on, one at a time
STEPS_PER_PICTURE = 2  # for each picture of an epoch
ABOUT_THINGS = 0.85  # share of the crops that hold a part of a thing, where there is one
HELD_OUT_SEED = FIRST_SEED - 1_000  # of the first picture that reconstruction is measured on
MEASURED = 64  # pictures that reconstruction and scale are measured on
BATCH_TO_ENCODE = 2


def train(plan: Plan, out: Path) -> None:
    """Train encoder and decoder, from the weights that the plan starts with if it names any."""
    prepare(plan.threads)
    vae = AutoencoderKL(**ARCHITECTURE)
    if plan.start:
        vae.load_state_dict(AutoencoderKL.from_pretrained(plan.start / "vae", torch_dtype=torch.float32).state_dict())

    def errors(target: Tensor, weight: Tensor) -> tuple[Tensor, str]:
        """Returns the loss of pictures, and numbers to show."""
        with autocast():
            posterior = vae.encode(target).latent_dist
            decoded = vae.decode(posterior.sample()).sample.float()
        mean, variance, log_variance = posterior.mean.float(), posterior.var.float(), posterior.logvar.float()
        kl = 0.5 * (mean**2 + variance - 1 - log_variance).mean()
        loss = reconstruction_error(decoded, target, weight) + KL_WEIGHT * kl
        return loss, f"kl {kl.item():.2f}"

    _train(plan, "vae", vae, list(vae.parameters()), 6e-4 if plan.start else 1.5e-3, errors)
    vae.save_pretrained(out)


def train_decoder(plan: Plan, out: Path) -> None:
    """Train the decoder further, the encoder frozen: the UNet's latents stay what they are."""
    prepare(plan.threads)
    vae = AutoencoderKL.from_pretrained(plan.result("vae"))
    vae.requires_grad_(False)
    weights = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    for weight in weights:
        weight.requires_grad_(True)

    def errors(target: Tensor, weight: Tensor) -> tuple[Tensor, str]:
        """Returns the loss of pictures, and numbers to show."""
        with autocast():
            with torch.no_grad():
                latents = vae.encode(target).latent_dist.sample()
            decoded = vae.decode(latents).sample.float()
        return reconstruction_error(decoded, target, weight), ""

    _train(plan, "decoder", vae, weights, 5e-4, errors, first_epoch=1_000)  # of pictures not seen before
    vae.save_pretrained(out)


def _train(
    plan: Plan,
    stage: str,
    vae: AutoencoderKL,
    weights: list[nn.Parameter],
    rate: float,
    errors: Callable[[Tensor, Tensor], tuple[Tensor, str]],
    first_epoch: int = 0,
) -> None:
    """Trains `weights` of the autoencoder on crops, then on whole pictures; says how well it reconstructs."""
    randomness = Randomness(seed=0)
    steps = max(plan.scenes * STEPS_PER_PICTURE, 1)
    with Painter(plan.threads, plan.directory) as painter:
        epochs = Epochs(lambda epoch: painter.paint(first_scenes(first_epoch + epoch, plan.scenes)), steps)

        def loss(share: float, step: int) -> tuple[Tensor, str]:
            """Returns the loss of a new batch, and numbers to show."""
            count, crop = (BATCH, CROP) if share < WHOLE else (1, GRID)
            images, masks = crops(epochs.at(step), count, crop, randomness.arrays)
            target = pixels(images)
            covered = torch.from_numpy(masks)[:, None].repeat_interleave(CELL, 2).repeat_interleave(CELL, 3)
            weight = 1 + THING_WEIGHT * covered
            return errors(target, weight / weight.mean())

        optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=1e-4, betas=(0.9, 0.99))
        training = Training(
            stage,
            {"vae": vae},
            optimizer,
            randomness,
            lambda share, step: rate * min(1, (step + 1) / 50) * (cosine(share) + 0.005),
            loss,
        )
        run_training(training, plan.minutes[stage], plan.resume_file(stage))
        everywhere, inside = reconstruction(vae, held_out_pictures(painter))
    say(f"{stage}: reconstruction {everywhere:.1f} dB, inside things {inside:.1f} dB")


def crops(pictures: Pictures, count: int, cells: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Cuts squares of `cells` cells from pictures, most of them about things: images and masks."""
    images, masks = [], []
    for index in rng.integers(0, len(pictures.images), count):
        mask = pictures.masks[index]
        top, left = (int(rng.integers(0, side - cells + 1)) for side in mask.shape)
        rows, columns = np.nonzero(mask > 0.02)
        if len(rows) and rng.random() < ABOUT_THINGS:
            cell = rng.integers(len(rows))
            top, left = (
                int(np.clip(at - rng.integers(0, cells), 0, side - cells))
                for at, side in zip((rows[cell], columns[cell]), mask.shape, strict=True)
            )
        masks.append(mask[top : top + cells, left : left + cells])
        images.append(pictures.images[index, CELL * top : CELL * (top + cells), CELL * left : CELL * (left + cells)])
    return np.stack(images), np.stack(masks)


def scale(plan: Plan, out: Path) -> None:
    """Write the factor that gives latents a variance of one, as JSON."""
    prepare(plan.threads)
    vae = AutoencoderKL.from_pretrained(plan.result("vae")).eval()
    with Painter(plan.threads, plan.directory) as painter:
        moments = encoded(vae, painter.paint(first_scenes(0, 4 * MEASURED)).images)
    factor = float(1 / moments[:, :CHANNELS].std(dtype=np.float64))
    out.write_text(json.dumps({"scaling_factor": factor}))
    say(f"scale: scaling factor {factor:.4f}")


def scaling_factor(plan: Plan) -> float:
    """Reads the factor that `scale` measured."""
    factor: float = json.loads(plan.result("scale").read_text())["scaling_factor"]
    return factor


@torch.no_grad()
def encoded(vae: AutoencoderKL, images: np.ndarray) -> np.ndarray:
    """Returns means and deviations of the latents of pictures, float16 (n, 8, h, w), not scaled."""
    count, height, width = images.shape[:3]
    moments = np.empty((count, 2 * CHANNELS, height // CELL, width // CELL), np.float16)
    for start in range(0, count, BATCH_TO_ENCODE):
        with autocast():
            posterior = vae.encode(pixels(images[start : start + BATCH_TO_ENCODE])).latent_dist
        moments[start : start + BATCH_TO_ENCODE] = torch.cat([posterior.mean, posterior.std], 1).float().numpy()
    return moments


def reconstruction_error(decoded: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Returns the weighted error of pixels, absolute and squared, and of the differences of neighbours."""
    error = decoded - target
    across, down = decoded.diff(dim=-1) - target.diff(dim=-1), decoded.diff(dim=-2) - target.diff(dim=-2)
    edges = (weight[..., 1:] * across.abs()).mean() + (weight[..., 1:, :] * down.abs()).mean()
    return (weight * (error.abs() + 4 * error.pow(2))).mean() + edges


def held_out_pictures(painter: Painter, side: int = SIZE) -> Pictures:
    """Paints pictures that no training sees; side: in pixels."""
    scenes = [sample_scene(random.Random(HELD_OUT_SEED + index)) for index in range(MEASURED)]
    return painter.paint(scenes, side, side)


@torch.no_grad()
def reconstruction(vae: AutoencoderKL, pictures: Pictures) -> tuple[float, float]:
    """Returns peak signal-to-noise ratios in dB without sampling: the mean over pictures, and inside things.

    Inside things: of the squared error of all pictures together, weighted by their masks of 16 x 16 pixels.
    """
    everywhere, inside, covered = [], 0.0, 0.0
    for start in range(0, len(pictures.images), BATCH_TO_ENCODE):
        batch = slice(start, start + BATCH_TO_ENCODE)
        target = pixels(pictures.images[batch])
        decoded = vae.decode(vae.encode(target).latent_dist.mean).sample.clamp(-1, 1)
        error = (decoded - target).pow(2).mean(1)
        masks = nn.functional.avg_pool2d(torch.from_numpy(pictures.masks[batch])[:, None], 2)[:, 0]
        weight = masks.repeat_interleave(2 * CELL, 1).repeat_interleave(2 * CELL, 2)
        everywhere += (10 * torch.log10(4 / error.mean((1, 2)))).tolist()
        inside, covered = inside + (error * weight).sum().item(), covered + weight.sum().item()
    return float(np.mean(everywhere)), float(10 * np.log10(4 * covered / inside))
