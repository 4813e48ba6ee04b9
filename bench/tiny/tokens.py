"""The token model: a small UNet that predicts the masked tokens of a picture from the others and from a caption.

Each token of a picture is masked with a probability t, drawn evenly from 0 to 1: absorbing diffusion of a linear
schedule, whose bound is the cross-entropy on masked tokens with weight 1 / t (Austin et al. 2021, arXiv 2107.03006).
Here all masked tokens weigh alike, as in MaskGIT (Chang et al. 2022, arXiv 2202.04200).
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel, VQModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from .claims import held_out
from .clip import WIDTH, token_ids
from .data import first_scenes, paint_one, trained_caption, workers
from .export import forget_origin
from .muon import Muon
from .progress import Progress
from .scenes import Scene
from .stages import Plan, RecipeError, say
from .training import Randomness, Training, autocast, cosine, prepare
from .training import train as run_training
from .unet import EMPTY_CAPTIONS, averaging, matrices_and_others
from .vq import CODES, GRID, SIZE, tokens_of

PICTURES = 24_000
FEW = 256  # an epoch of no more pictures than this is a trial: as many pictures will do
PICTURES_PER_TASK = 64
MISSING, PERCENT = -1, 100.0  # in the file of unfinished work
WEIGHTS = "diffusion_pytorch_model.safetensors"
MASK = CODES  # the token that stands for any other
TIMES = 1000.0  # the UNet's timestep is this at time 1
ARCHITECTURE = {
    "sample_size": GRID,
    "in_channels": 32,
    "out_channels": CODES,
    "block_out_channels": (56, 80),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": WIDTH,
    "attention_head_dim": 4,  # diffusers reads this as the number of heads
    "norm_num_groups": 8,
    "time_embedding_dim": 128,
}
BATCH = 32
RATE = 1.5e-3
THING_WEIGHT = 3.0  # of a token of a thing, beside 1 of any token, at first; in the end all tokens weigh alike


class TokenUNet(nn.Module):
    """A UNet over tokens (n, h, w), which scores all tokens at each place, (n, CODES, h, w)."""

    def __init__(self) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(CODES + 1, ARCHITECTURE["in_channels"])
        self.unet = UNet2DConditionModel(**ARCHITECTURE)

    def forward(self, tokens: Tensor, times: Tensor, context: Tensor) -> Tensor:
        """Returns the scores. times: (n,), from 0 to 1. context: (n, words, WIDTH), of the captions."""
        embedded = self.token_embedding(tokens).permute(0, 3, 1, 2)
        scores: Tensor = self.unet(embedded, TIMES * times, context).sample
        return scores


def captioned(plan: Plan) -> Path:
    """Returns the checkpoint that text encoder and tokenizer are of: this recipe's, or the one that it starts with."""
    for folder in (plan.result("export"), plan.start):
        if folder and (folder / "text_encoder").is_dir():
            return folder
    raise RecipeError("the token model needs the text encoder of a checkpoint: make all stages, or name it by --start")


def encode(plan: Plan, out: Path) -> None:
    """Paint and encode scenes as the captioned UNet sees them; write tokens.npy and masks.npy, of things.

    What is encoded lies in the stage's file of unfinished work, which a later run completes.
    """
    scenes = first_scenes(0, PICTURES if plan.scenes > FEW else plan.scenes)
    encoded = _opened(plan.resume_file("tokens"), len(scenes))
    missing = np.flatnonzero((encoded == MISSING).any((1, 2, 3)))
    parts = [missing[start : start + PICTURES_PER_TASK] for start in range(0, len(missing), PICTURES_PER_TASK)]
    tasks = ((plan.result("vq"), rows, [scenes[row] for row in rows]) for rows in parts)
    with (
        workers(plan.threads) as pool,
        Progress("tokens", len(scenes), " pictures") as progress,
    ):
        for rows, tokens, masks in pool.imap(_encode_some, tasks):
            encoded[rows] = np.stack([tokens, np.round(PERCENT * masks)], axis=1)
            progress.show(rows[-1] + 1)
    out.mkdir()
    np.save(out / "tokens.npy", encoded[:, 0])
    np.save(out / "masks.npy", (encoded[:, 1] / PERCENT).astype(np.float16))


def _opened(path: Path, count: int) -> np.memmap:
    """Opens the file of `count` pictures' tokens and masks in percent, (count, 2, GRID, GRID); makes it if need be."""
    shape = count, 2, GRID, GRID
    if path.exists() and (opened := np.lib.format.open_memmap(path, "r+")).shape == shape:
        return opened
    partial = path.with_name(path.name + ".partial")
    new = np.lib.format.open_memmap(partial, "w+", np.int16, shape)
    new[:] = MISSING
    partial.replace(path)
    return new


def _encode_some(task: tuple[Path, np.ndarray, list[Scene]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the numbers of scenes, and tokens and masks of all."""
    folder, rows, scenes = task
    prepare(threads=1)
    vq = VQModel.from_pretrained(folder, torch_dtype=torch.float32).eval().to(memory_format=torch.channels_last)
    images, masks = zip(*(paint_one(scene, SIZE, SIZE) for scene in scenes), strict=True)
    return rows, tokens_of(vq, np.stack(images)).numpy(), np.stack(masks)


def begin(plan: Plan) -> TokenUNet:
    """Builds the network before training, with the weights of the token model that the plan starts with, if it does."""
    network = TokenUNet()
    if plan.start and "token_states" in json.loads((plan.start / "unet" / "config.json").read_text()):
        weights = load_file(plan.start / "unet" / WEIGHTS)
        network.load_state_dict({name: weight.float() for name, weight in weights.items()})
    return network


def masked_loss(tokens: Tensor, network_at: TokenUNet, context: Tensor, emphasis: Tensor) -> Tensor:
    """Returns the cross-entropy (in nats) of masked tokens of (n, h, w), weighted by `emphasis`, of the same shape."""
    # One time from each of n equal parts: losses of different batches compare.
    times = (torch.randperm(len(tokens)) + torch.rand(len(tokens))) / len(tokens)
    masked = torch.rand(tokens.shape) < times[:, None, None]
    with autocast():
        scores = network_at(tokens.masked_fill(masked, MASK), times, context).float()
    errors = F.cross_entropy(scores.permute(0, 2, 3, 1)[masked], tokens[masked], reduction="none")
    weights = emphasis[masked]
    return (weights * errors).sum() / weights.sum()


def train(plan: Plan, out: Path) -> None:
    """Train on tokens and fresh captions, the text encoder frozen; write the averaged weights."""
    prepare(plan.threads)
    tokens = torch.from_numpy(np.load(plan.result("tokens") / "tokens.npy").astype(np.int64))
    masks = torch.from_numpy(np.load(plan.result("tokens") / "masks.npy").astype(np.float32))
    scenes, texts = first_scenes(0, len(tokens)), held_out()
    tokenizer = CLIPTokenizer.from_pretrained(captioned(plan) / "tokenizer")
    text = CLIPTextModel.from_pretrained(captioned(plan) / "text_encoder", torch_dtype=torch.float32).eval()
    randomness = Randomness(seed=0)
    network = begin(plan).to(memory_format=torch.channels_last)
    average = copy.deepcopy(network).requires_grad_(False)

    def captions(rows: Tensor) -> Iterator[str]:
        """Yields a caption of each scene, some of them empty."""
        for row in rows:
            empty = randomness.words.random() < EMPTY_CAPTIONS
            yield "" if empty else trained_caption(scenes[row], randomness.words, texts)

    def loss(share: float, step: int) -> tuple[Tensor, str]:
        """Returns the loss of a new batch, and numbers to show."""
        pass_number, batch = divmod(step, len(tokens) // BATCH)
        order = np.random.default_rng(pass_number).permutation(len(tokens))
        rows = torch.from_numpy(order[batch * BATCH : (batch + 1) * BATCH])
        with torch.no_grad(), autocast():
            context = text(input_ids=token_ids(tokenizer, list(captions(rows)))).last_hidden_state
        emphasis = 1 + THING_WEIGHT * (1 - share) * masks[rows]
        return masked_loss(tokens[rows], network, context, emphasis), f"pass {pass_number}"

    def rate(share: float, step: int) -> float:
        """Returns the learning rate, after a warm-up falling along a cosine."""
        return RATE * min(1, (step + 1) / 60) * (cosine(share) * 0.98 + 0.02)

    optimizer = Muon(*matrices_and_others(network), lr=RATE)
    modules = {"network": network, "average": average}
    training = Training(
        "token-unet", modules, optimizer, randomness, rate, loss, after_step=averaging((network, average))
    )
    run_training(training, plan.minutes["token-unet"], plan.resume_file("token-unet"))
    out.mkdir()
    average.unet.save_config(out)
    weights = {name: weight.contiguous() for name, weight in average.state_dict().items()}
    save_file(weights, out / WEIGHTS, {"format": "pt"})


def write(plan: Plan, out: Path) -> None:
    """Put denoiser, autoencoder, text encoder and tokenizer together in the folder `out`, in half precision."""
    prepare(plan.threads)
    VQModel.from_pretrained(plan.result("vq")).half().save_pretrained(out / "vqvae")
    forget_origin(out / "vqvae" / "config.json")
    weights = load_file(plan.result("token-unet") / WEIGHTS)
    config = json.loads((plan.result("token-unet") / "config.json").read_text())
    write_unet(out / "unet", config, weights)
    for part in ("text_encoder", "tokenizer"):
        shutil.copytree(captioned(plan) / part, out / part)
    schedule = {"_class_name": "TokenDiffusion", "corruption": "absorbing", "schedule": "linear"}
    write_json(out / "scheduler" / "scheduler_config.json", schedule | {"num_train_timesteps": int(TIMES)})
    index = {
        "_class_name": "TokenDiffusionPipeline",
        "_diffusers_version": config["_diffusers_version"],
        "scheduler": ["mlx_sd", "TokenDiffusion"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["mlx_sd", "TokenUNet"],
        "vqvae": ["diffusers", "VQModel"],
    }
    write_json(out / "model_index.json", index)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    count = sum(map(torch.numel, weights.values()))
    say(f"token-export: {count / 1e6:.2f} million weights in the UNet, {size / 1e6:.2f} MB in all")


def write_unet(folder: Path, config: dict[str, object], weights: dict[str, Tensor]) -> None:
    """Writes the weights of a `TokenUNet` in half precision, and its UNet's config."""
    write_json(folder / "config.json", config | {"token_states": CODES + 1})
    save_file({name: weight.half() for name, weight in weights.items()}, folder / WEIGHTS, {"format": "pt"})


def write_json(path: Path, values: dict[str, object]) -> None:
    """Writes values to a file as JSON, in a folder that may not be there yet."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(values, indent=2) + "\n")
