"""The text encoder, trained as CLIP is: with a small image tower, to recognise matching pairs among all."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from .data import SEEDS_PER_EPOCH, Epochs, Painter, Pictures, training_scene
from .scenes import caption
from .stages import Plan
from .training import Randomness, Training, autocast, cosine, pixels, prepare
from .training import train as run_training

WIDTH = 192
TOKENS = 77
TRAINED_TOKENS = 56  # captions are shorter; the mask is causal, so padding changes nothing before it
BATCH = 96
SIZE = 128  # pixels a side that the image tower sees
PASSES = 8  # over the pictures of an epoch
MAX_SCALE = 60.0


class ImageTower(nn.Module):
    """Convolutions, (n, 3, 128, 128) -> (n, WIDTH); `f` and `p` are names in clip_image.safetensors."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise((3, 32, 64, 96, 128, WIDTH)):
            layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
            layers += [
                nn.Conv2d(outputs, outputs, 3, 1, 1, groups=outputs // 32),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
        self.f = nn.Sequential(*layers)
        self.p = nn.Linear(WIDTH * 16, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the features of pictures, not normalised."""
        return self.p(self.f(x).flatten(1))


def text_config(tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    """Returns the config of four layers of CLIP's text encoder for this vocabulary."""
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        hidden_act="quick_gelu",
        projection_dim=WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )


def token_ids(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Returns the token ids of captions, int64 (n, TOKENS), padded and cut."""
    encoded = tokenizer(captions, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt")
    return encoded.input_ids


def train(plan: Plan, out: Path) -> None:
    """Train both towers from scratch; write the folder text_encoder and clip_image.safetensors."""
    prepare(plan.threads)
    tokenizer = CLIPTokenizer.from_pretrained(plan.result("tokenizer"))
    randomness = Randomness(seed=0)
    text = CLIPTextModel(text_config(tokenizer))
    tower = ImageTower()
    projection = nn.Linear(WIDTH, WIDTH, bias=False)
    scale = nn.ParameterDict({"log": nn.Parameter(torch.tensor(math.log(10.0)))})

    def encode_text(ids: Tensor) -> Tensor:
        """Returns the projected state (n, WIDTH) of each text's end token."""
        states = text(input_ids=ids).last_hidden_state
        ends = ids.eq(tokenizer.eos_token_id).int().argmax(-1)
        return projection(states[torch.arange(len(ids)), ends])

    def loss(_: float, step: int) -> tuple[Tensor, str]:
        """Returns the loss of a new batch, and numbers to show."""
        painted = epochs.at(step)
        indices = randomness.arrays.integers(0, len(painted.scenes), BATCH)
        pictures = pixels(painted.images[indices])
        ids = token_ids(tokenizer, [caption(painted.scenes[i], randomness.words) for i in indices])
        with autocast():
            image_features = F.normalize(tower(pictures).float(), dim=-1)
            text_features = F.normalize(encode_text(ids[:, :TRAINED_TOKENS]).float(), dim=-1)
        logits = scale["log"].exp().clamp(max=MAX_SCALE) * image_features @ text_features.T
        pairs = torch.arange(BATCH)
        accuracy = (logits.argmax(1) == pairs).float().mean().item()
        symmetric = (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.T, pairs)) / 2
        return symmetric, f"accuracy {accuracy:.2f}"

    def rate(share: float, step: int) -> float:
        """Returns the learning rate, after a warm-up falling along a cosine."""
        return 6e-4 * min(1, step / 100) * (cosine(share) + 0.02)

    modules = {"text": text, "tower": tower, "projection": projection, "scale": scale}
    weights = [weight for module in modules.values() for weight in module.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=5e-4, weight_decay=0.01)
    training = Training("clip", modules, optimizer, randomness, rate, loss, clip_norm=None)
    with Painter(plan.threads, plan.directory) as painter:
        epochs = Epochs(partial(_epoch, painter, plan.scenes), max(1, PASSES * plan.scenes // BATCH))
        run_training(training, plan.minutes["clip"], plan.resume_file("clip"))
    text.save_pretrained(out / "text_encoder")
    save_file(image_weights(tower, projection, scale["log"]), out / "clip_image.safetensors")


def _epoch(painter: Painter, count: int, epoch: int) -> Pictures:
    """Paints an epoch's pictures, of scenes as the world draws them."""
    return painter.paint([training_scene(epoch * SEEDS_PER_EPOCH + index) for index in range(count)], SIZE, SIZE)


def image_weights(tower: ImageTower, projection: nn.Linear, log_scale: Tensor) -> dict[str, Tensor]:
    """Returns the weights that scores need beside the text encoder, by their names in clip_image.safetensors."""
    weights = {f"image.{name}": t for name, t in tower.state_dict().items() if t.is_floating_point()}
    weights["text_projection.weight"] = projection.weight.detach()
    weights["logit_scale"] = log_scale.detach()
    return {name: t.contiguous() for name, t in weights.items()}
