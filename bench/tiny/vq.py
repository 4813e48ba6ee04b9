"""The autoencoder of tokens: its latents are rounded to the nearest of 512 vectors, the codebook.

It is trained without the codebook at first, which then begins as the k-means of its latents. Gradients pass the
rounding unchanged; the codebook follows the mean of the latents that it stands for (van den Oord et al. 2017,
arXiv 1711.00937, appendix A.1), and vectors that no latent comes near are replaced by latents.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import VQModel
from torch import Tensor, nn

from .data import CELL, Epochs, Painter, Pictures, first_scenes
from .muon import Muon
from .stages import Plan, say
from .training import Randomness, Training, autocast, cosine, pixels, prepare
from .training import train as run_training
from .unet import matrices_and_others
from .vae import crops, held_out_pictures, reconstruction_error

SIZE = 128  # pixels a side
GRID = SIZE // CELL  # tokens a side
CODES = 512
ARCHITECTURE = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (16, 32, 48, 64),  # narrow where there are many pixels
    "layers_per_block": 1,
    "latent_channels": 8,
    "norm_num_groups": 8,
    "sample_size": SIZE,
    "num_vq_embeddings": CODES,
}
BATCH, CROP = 8, GRID // 2  # CROP in cells
WHOLE = 0.7  # share of the time after which whole pictures are trained on, two at a time
ROUNDED = 0.15  # share of the time after which latents are rounded
RATE = 2e-3
COMMITMENT = 0.25  # weight of the distance of latents from their vectors
THING_WEIGHT = 5.0  # of a pixel of a thing, beside 1 of any pixel
DECAY = 0.98  # of the sums that vectors of the codebook are means of
STEPS_BETWEEN_REPLACEMENTS = 40
DEAD = 0.1  # a vector that has fewer latents than this share of the mean number is replaced
KMEANS_ROUNDS, KMEANS_PICTURES = 12, 48


class Codebook(nn.Module):
    """Running means of the latents near each vector of `vectors` (codes, channels), which it moves in place."""

    counts: Tensor
    sums: Tensor
    started: Tensor

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        self.vectors = vectors
        self.register_buffer("counts", torch.ones(len(vectors)))
        self.register_buffer("sums", torch.zeros_like(vectors))
        self.register_buffer("started", torch.tensor(False))

    @torch.no_grad()
    def start(self, latents: Tensor) -> None:
        """Sets the vectors to the k-means of latents (n, channels)."""
        self.vectors.copy_(latents[torch.randperm(len(latents))[: len(self.vectors)]])
        for _ in range(KMEANS_ROUNDS):
            self._gather(latents, decay=0.0)
            self._replace(latents)
        self.counts *= BATCH * CROP**2 / len(latents)
        self.sums.copy_(self.vectors * self.counts[:, None])
        self.started.fill_(True)

    @torch.no_grad()
    def follow(self, latents: Tensor, step: int) -> None:
        """Moves the vectors towards latents (n, channels) of a batch; replaces those without any now and then."""
        self._gather(latents, DECAY)
        if step % STEPS_BETWEEN_REPLACEMENTS == 0:
            self._replace(latents)

    def nearest(self, latents: Tensor) -> Tensor:
        """Returns the number of the vector nearest to each of the latents (n, channels)."""
        return nearest(latents, self.vectors)

    def _gather(self, latents: Tensor, decay: float) -> None:
        assigned = F.one_hot(self.nearest(latents), len(self.vectors)).float()
        self.counts.lerp_(assigned.sum(0), 1 - decay)
        self.sums.lerp_(assigned.T @ latents, 1 - decay)
        self.vectors.copy_(torch.where(self.counts[:, None] > 1e-3, self.sums / self.counts[:, None], self.vectors))

    def _replace(self, latents: Tensor) -> None:
        dead = self.counts < DEAD * self.counts.mean()
        replacements = latents[torch.randint(len(latents), (int(dead.sum()),))]
        self.counts[dead] = self.counts.mean()
        self.vectors[dead] = replacements
        self.sums[dead] = replacements * self.counts[dead][:, None]


def nearest(latents: Tensor, vectors: Tensor) -> Tensor:
    """Returns the number of the vector, of (codes, channels), that is nearest to each of the latents (n, channels)."""
    return torch.addmm(vectors.square().sum(1), latents, vectors.T, alpha=-2).argmin(1)


def flat(latents: Tensor) -> Tensor:
    """Returns latents (n, channels, h, w) one below the other, (n h w, channels)."""
    return latents.permute(0, 2, 3, 1).flatten(0, 2)


def train(plan: Plan, out: Path) -> None:
    """Train encoder, codebook and decoder on crops, then on whole pictures; say how well they reconstruct."""
    prepare(plan.threads)
    randomness = Randomness(seed=0)
    vq = VQModel(**ARCHITECTURE).to(memory_format=torch.channels_last)
    vq.quantize.requires_grad_(False)
    codebook = Codebook(vq.quantize.embedding.weight.detach())
    with Painter(plan.threads, plan.directory) as painter:
        epochs = Epochs(lambda epoch: painter.paint(first_scenes(epoch, plan.scenes), SIZE, SIZE), plan.scenes)

        def loss(share: float, step: int) -> tuple[Tensor, str]:
            """Returns the loss of a new batch, and numbers to show."""
            pictures = epochs.at(step)
            count, crop = (BATCH, CROP) if share < WHOLE else (BATCH // 4, GRID)
            images, masks = crops(pictures, count, crop, randomness.arrays)
            target = pixels(images)
            weight = 1 + THING_WEIGHT * F.interpolate(torch.from_numpy(masks)[:, None], scale_factor=CELL)
            if share >= ROUNDED and not codebook.started:
                codebook.start(latents_of(vq, pictures.images[:KMEANS_PICTURES]))
            with autocast():
                latents = vq.encode(target).latents
            rounded, commitment = latents, torch.zeros(())
            if codebook.started:
                rows = flat(latents.float()).detach()
                near = codebook.vectors[codebook.nearest(rows)].view(len(latents), crop, crop, -1).permute(0, 3, 1, 2)
                rounded = latents + (near - latents).detach()
                commitment = (latents - near).pow(2).mean()
                codebook.follow(rows, step)
            with autocast():
                decoded = vq.decode(rounded, force_not_quantize=True).sample
            error = reconstruction_error(decoded.float(), target, weight / weight.mean())
            return error + COMMITMENT * commitment, f"commitment {commitment.item():.3f}"

        def rate(share: float, step: int) -> float:
            """Returns the learning rate, after a warm-up falling along a cosine."""
            return RATE * min(1, (step + 1) / 50) * (cosine(share) + 0.005)

        optimizer = Muon(*matrices_and_others(vq.encoder, vq.quant_conv, vq.post_quant_conv, vq.decoder), lr=RATE)
        training = Training("vq", {"vq": vq, "codebook": codebook}, optimizer, randomness, rate, loss)
        run_training(training, plan.minutes["vq"], plan.resume_file("vq"))
        held_out = held_out_pictures(painter, SIZE)
    vq.to(memory_format=torch.contiguous_format).save_pretrained(out)
    decibels, used, bits = reconstruction(vq, held_out)
    say(f"vq: reconstruction {decibels:.1f} dB, {used} of {CODES} vectors used, {bits:.2f} bits a token")


@torch.no_grad()
def latents_of(vq: VQModel, images: np.ndarray) -> Tensor:
    """Returns the latents of pictures, uint8 (n, h, w, 3), one below the other, not rounded."""
    parts = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
    return torch.cat([flat(vq.encode(pixels(part)).latents.float()) for part in parts])


@torch.no_grad()
def tokens_of(vq: VQModel, images: np.ndarray) -> Tensor:
    """Returns the tokens (n, h / 8, w / 8) of pictures, uint8 (n, h, w, 3)."""
    with autocast():
        latents = vq.encode(pixels(images)).latents
    near = nearest(flat(latents.float()), vq.quantize.embedding.weight)
    return near.view(len(images), *latents.shape[2:])


@torch.no_grad()
def pictures_of(vq: VQModel, tokens: Tensor) -> Iterator[Tensor]:
    """Yields the picture (3, H, W), in [-1, 1], of each of the tokens (n, h, w)."""
    for places in tokens:
        latents = vq.quantize.embedding(places[None]).permute(0, 3, 1, 2)
        yield vq.decode(latents, force_not_quantize=True).sample[0].clamp(-1, 1)


def reconstruction(vq: VQModel, pictures: Pictures) -> tuple[float, int, float]:
    """Returns the mean signal-to-noise ratio in dB, the number of vectors used, and the entropy of tokens in bits."""
    parts = [tokens_of(vq, pictures.images[start : start + BATCH]) for start in range(0, len(pictures.images), BATCH)]
    tokens = torch.cat(parts)
    errors = [
        (decoded - target).pow(2).mean()
        for decoded, target in zip(pictures_of(vq, tokens), pixels(pictures.images), strict=True)
    ]
    decibels = 10 * torch.log10(4 / torch.stack(errors)).mean()
    shares = torch.bincount(tokens.flatten(), minlength=CODES) / tokens.numel()
    bits = torch.special.entr(shares).sum() / np.log(2)
    return decibels.item(), int((shares > 0).sum()), bits.item()
