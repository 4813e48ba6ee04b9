"""The denoiser and its text encoder, trained together: v-prediction on scaled latents, with captions.

The checkpoint holds the averages of their weights.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from .claims import held_out
from .clip import WIDTH, token_ids
from .data import Epochs, Painter, epoch_scenes, trained_caption
from .muon import Muon
from .scenes import Scene
from .stages import Plan
from .training import Randomness, Training, autocast, cosine, prepare
from .training import train as run_training
from .vae import GRID, encoded, scaling_factor

ARCHITECTURE = {
    "sample_size": GRID,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (64, 64, 128, 192),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
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
BATCH = 32
SHAPES = {  # width and height in pixels: share of the pictures
    (256, 256): 0.62,
    (384, 256): 0.04,
    (256, 384): 0.04,
    (128, 128): 0.10,
    (192, 192): 0.18,
    (384, 384): 0.02,
}
PASSES = 12  # over the pictures of an epoch, each time with other captions, noise and timesteps
EMPTY_CAPTIONS = 0.1  # share trained without words, for guidance
SKEW = 0.85  # of the timesteps: 1 takes all equally often, less takes high noise more often
SNR_LIMIT = 5.0  # min-SNR-gamma, arXiv:2303.09556
THING_WEIGHT = 4.0  # of a latent of a thing, beside 1 of any latent
MAX_AVERAGING = 0.999
QUIET = 0.1  # of the second convolutions of a new level, at first


def scheduler() -> DPMSolverMultistepScheduler:
    """Returns the noise schedule of training, with the sampler that the checkpoint names as its own."""
    return DPMSolverMultistepScheduler(**SCHEDULE)


def velocity_loss(clean: Tensor, predict: Callable[[Tensor, Tensor], Tensor], emphasis: Tensor | None = None) -> Tensor:
    """Returns the weighted error of `predict(noisy, times)` against the velocity, for latents (n, 4, h, w).

    emphasis: relative weights of the latents, (n, 1, h, w). The weight of a timestep is the square root of min-SNR's:
    colours and places are decided at high noise, of which min-SNR alone takes almost no notice.
    """
    signal_powers = scheduler().alphas_cumprod
    # One timestep from each of n equal parts of the schedule: losses of different batches compare.
    parts = (torch.randperm(len(clean)) + torch.rand(len(clean))) / len(clean)
    times = (parts**SKEW * len(signal_powers)).long().clamp(max=len(signal_powers) - 1)
    power = signal_powers[times].view(-1, 1, 1, 1)
    signal, sigma = power.sqrt(), (1 - power).sqrt()
    noise = torch.randn_like(clean)
    velocity = signal * noise - sigma * clean
    with autocast():
        predicted = predict(signal * clean + sigma * noise, times).float()
    error = (predicted - velocity).pow(2)
    if emphasis is not None:
        error = error * (emphasis / emphasis.mean((1, 2, 3), keepdim=True))
    snr = power / (1 - power)
    weight = (snr.clamp(max=SNR_LIMIT) / (snr + 1)).sqrt().flatten()
    return (weight * error.mean((1, 2, 3))).mean()


def averaging(*pairs: tuple[nn.Module, nn.Module]) -> Callable[[int], None]:
    """Returns a function that moves, in pairs (network, average), the average's weights after each step."""
    weights = [weight for network, _ in pairs for weight in network.parameters()]
    averages = [weight for _, average in pairs for weight in average.parameters()]

    @torch.no_grad()
    def update(step: int) -> None:
        """Moves the averaged weights; the average becomes slower with the steps."""
        keep = min(MAX_AVERAGING, (1 + step) / (10 + step))
        torch._foreach_lerp_(averages, weights, 1 - keep)

    return update


@dataclass(frozen=True)
class Batch:
    """Scenes of one shape, the moments of their latents float16 (n, 8, h, w), and the masks of things (n, h, w)."""

    scenes: tuple[Scene, ...]
    moments: np.ndarray
    masks: np.ndarray


def epoch_batches(plan: Plan, painter: Painter, vae: AutoencoderKL, epoch: int) -> list[Batch]:
    """Draws and encodes the scenes of an epoch, and returns all its batches in the order of training."""
    rng = np.random.default_rng(epoch)
    source = epoch_scenes(epoch)
    batches: list[Batch] = []
    for (width, height), count in batch_counts(plan.scenes).items():
        scenes = list(itertools.islice(source, count * BATCH))
        pictures = painter.paint(scenes, width, height)
        moments, masks = encoded(vae, pictures.images), np.array(pictures.masks)
        for _ in range(PASSES):
            for rows in np.split(rng.permutation(len(scenes)), count):
                batches.append(Batch(tuple(scenes[i] for i in rows), moments[rows], masks[rows]))
    return [batches[i] for i in rng.permutation(len(batches))]


def batch_counts(scenes: int) -> dict[tuple[int, int], int]:
    """Returns the number of batches in each shape of an epoch of about `scenes` pictures, at least one each."""
    return {shape: max(1, round(share * scenes / BATCH)) for shape, share in SHAPES.items()}


class AttentionInFloat32:
    """The UNet's attention for diffusers, in float32: its gradient is 20 times as slow in bfloat16 on CPUs."""

    def __call__(self, attn: Attention, x: Tensor, encoder_hidden_states: Tensor | None = None, **_: None) -> Tensor:
        """Returns attention of `x`, (n, tokens, width), to itself or to `encoder_hidden_states`."""
        context = x if encoder_hidden_states is None else encoder_hidden_states
        heads = [
            layer(tokens).unflatten(-1, (attn.heads, -1)).transpose(1, 2).float()
            for layer, tokens in ((attn.to_q, x), (attn.to_k, context), (attn.to_v, context))
        ]
        with torch.autocast("cpu", enabled=False):
            attended = F.scaled_dot_product_attention(*heads)
        out: Tensor = attn.to_out[0](attended.transpose(1, 2).flatten(2))
        return out


def train(plan: Plan, out: Path) -> None:
    """Train UNet and text encoder on latents and fresh captions; write the averaged weights of both."""
    prepare(plan.threads)
    tokenizer = CLIPTokenizer.from_pretrained(plan.result("tokenizer"))
    encoder = (plan.start or plan.result("clip")) / "text_encoder"
    # The plain attention: the fused one's gradient is slow in bfloat16, see AttentionInFloat32.
    text = CLIPTextModel.from_pretrained(encoder, torch_dtype=torch.float32, attn_implementation="eager").train()
    unet = UNet2DConditionModel(**ARCHITECTURE)
    if plan.start:
        begin(unet, UNet2DConditionModel.from_pretrained(plan.start / "unet", torch_dtype=torch.float32))
    unet.set_attn_processor(AttentionInFloat32())
    average, text_average = (copy.deepcopy(network).requires_grad_(False) for network in (unet, text))
    vae = AutoencoderKL.from_pretrained(plan.result("vae")).eval()
    factor, texts = scaling_factor(plan), held_out()
    randomness = Randomness(seed=0)
    peak = 4e-4 if plan.start else 6e-4

    def captions(scenes: Sequence[Scene]) -> Iterator[str]:
        """Yields a caption of each scene, some of them empty."""
        for scene in scenes:
            empty = randomness.words.random() < EMPTY_CAPTIONS
            yield "" if empty else trained_caption(scene, randomness.words, texts)

    with Painter(plan.threads, plan.directory) as painter:
        steps = PASSES * sum(batch_counts(plan.scenes).values())
        epochs = Epochs(lambda epoch: epoch_batches(plan, painter, vae, plan.first_epoch + epoch), steps)

        def loss(_: float, step: int) -> tuple[Tensor, str]:
            """Returns the loss of a new batch, and numbers to show."""
            batch = epochs.at(step)[step % steps]
            mean, deviation = torch.from_numpy(batch.moments.astype(np.float32)).chunk(2, dim=1)
            clean = (mean + deviation * torch.randn_like(mean)) * factor
            ids = token_ids(tokenizer, list(captions(batch.scenes)))
            emphasis = 1 + THING_WEIGHT * torch.from_numpy(batch.masks)[:, None]

            def predict(noisy: Tensor, times: Tensor) -> Tensor:
                """Returns the velocity for the batch's captions."""
                return unet(noisy, times, text(input_ids=ids).last_hidden_state).sample

            return velocity_loss(clean, predict, emphasis), f"epoch {step // steps}"

        def rate(share: float, step: int) -> float:
            """Returns the learning rate, after a warm-up falling along a cosine."""
            return peak * min(1, (step + 1) / 150) * (cosine(share) * 0.97 + 0.03)

        optimizer = Muon(*matrices_and_others(unet, text), lr=peak)
        modules = {"unet": unet, "average": average, "text": text, "text_average": text_average}
        moving = averaging((unet, average), (text, text_average))
        training = Training("unet", modules, optimizer, randomness, rate, loss, after_step=moving)
        run_training(training, plan.minutes["unet"], plan.resume_file("unet"))
    average.save_pretrained(out / "unet")
    text_average.save_pretrained(out / "text_encoder")


def matrices_and_others(*networks: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Returns the weights that Muon trains, and the others: biases, norms, embeddings, first and last convolutions."""
    matrices, others = list[nn.Parameter](), list[nn.Parameter]()
    for name, weight in itertools.chain.from_iterable(network.named_parameters() for network in networks):
        outside = any(part in name for part in ("embed", "conv_in", "conv_out"))
        (others if outside or weight.ndim < 2 else matrices).append(weight)
    return matrices, others


def begin(unet: UNet2DConditionModel, old: UNet2DConditionModel) -> None:
    """Copies the weights of an earlier UNet: of the same shape, or of one level less, which become the inner levels."""
    missing = len(unet.config.block_out_channels) - len(old.config.block_out_channels)
    weights, renamed = unet.state_dict(), {}
    for name, weight in old.state_dict().items():
        segments = name.split(".")
        if segments[0] == "down_blocks":
            segments[1] = str(int(segments[1]) + missing)
        renamed[".".join(segments)] = weight
    copied = {name: weight for name, weight in renamed.items() if weights[name].shape == weight.shape}
    for name in weights.keys() - copied.keys():
        if ".conv2." in name:
            weights[name] *= QUIET  # a new level begins by adding little
    unet.load_state_dict(weights | copied)
