"""The one training loop: runs against the clock, saves as it goes, resumes where it was."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.utils.logging import disable_progress_bar

from .muon import fastest
from .progress import Progress
from .stages import say

SECONDS_BETWEEN_SAVES = 60.0


class Randomness:
    """The three generators that training draws from, saved and restored as one."""

    def __init__(self, seed: int) -> None:
        self.arrays = np.random.default_rng(seed)
        self.words = random.Random(seed)
        torch.manual_seed(seed)

    def state_dict(self) -> dict[str, object]:
        """Returns all three states, in types that `torch.load(weights_only=True)` accepts."""
        return {
            "arrays": self.arrays.bit_generator.state,
            "words": self.words.getstate(),
            "torch": torch.get_rng_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a saved state."""
        self.arrays.bit_generator.state = state["arrays"]
        self.words.setstate(state["words"])
        torch.set_rng_state(state["torch"])


@dataclass
class Training:
    """The networks of a training stage, their optimizer and their loss.

    `rate(share, step)` is the learning rate, and `loss(share, step)` the loss of a fresh batch, with numbers to show;
    `share` is the part of the time that has passed, in [0, 1). `after_step(step)` follows each update.
    """

    name: str
    modules: dict[str, nn.Module]
    optimizer: torch.optim.Optimizer
    randomness: Randomness
    rate: Callable[[float, int], float]
    loss: Callable[[float, int], tuple[Tensor, str]]
    clip_norm: float | None = 1.0
    after_step: Callable[[int], None] = field(default=lambda step: None)


def train(training: Training, minutes: float, resume: Path) -> None:
    """Train for `minutes` of running time, counting what an earlier run had saved at `resume`."""
    seconds = minutes * 60
    weights = [p for group in training.optimizer.param_groups for p in group["params"]]
    step, elapsed = _restore(training, resume, seconds) if resume.exists() else (0, 0.0)
    saved, last = elapsed, time.monotonic()
    with Progress(training.name, seconds, " s") as progress:
        while elapsed < seconds:
            share = elapsed / seconds
            for group in training.optimizer.param_groups:
                group["lr"] = training.rate(share, step)
            loss, note = training.loss(share, step)
            if not math.isfinite(loss.item()):
                raise FloatingPointError(f"{training.name}: the loss became {loss.item()} at step {step}")
            training.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if training.clip_norm is not None:
                nn.utils.clip_grad_norm_(weights, training.clip_norm)
            training.optimizer.step()
            step += 1
            training.after_step(step)
            now = time.monotonic()
            elapsed, last = elapsed + now - last, now
            progress.show(elapsed, f"step {step} loss {loss.item():.4f} {note}")
            # Short runs save more often, so that they too lose little when killed.
            if elapsed - saved >= min(SECONDS_BETWEEN_SAVES, seconds / 20):
                _save(training, resume, step, elapsed)
                saved = elapsed


def _save(training: Training, path: Path, step: int, elapsed: float) -> None:
    state = {
        "modules": {name: module.state_dict() for name, module in training.modules.items()},
        "optimizer": training.optimizer.state_dict(),
        "randomness": training.randomness.state_dict(),
        "step": step,
        "elapsed": elapsed,
    }
    partial = path.with_name(path.name + ".partial")
    torch.save(state, partial)
    partial.replace(path)


def _restore(training: Training, path: Path, seconds: float) -> tuple[int, float]:
    state = torch.load(path, weights_only=True)
    for name, module in training.modules.items():
        module.load_state_dict(state["modules"][name])
    training.optimizer.load_state_dict(state["optimizer"])
    training.randomness.load_state_dict(state["randomness"])
    say(f"{training.name}: resumed at step {state['step']}, {state['elapsed']:.0f} of {seconds:.0f} s")
    return state["step"], state["elapsed"]


def prepare(threads: int) -> None:
    """Set PyTorch's threads and silence other progress bars."""
    torch.set_num_threads(threads)
    disable_progress_bar()


def cosine(share: float) -> float:
    """Returns half a cosine, from 1 at share 0 to 0 at share 1."""
    return 0.5 * (1 + math.cos(math.pi * share))


def pixels(images: np.ndarray) -> Tensor:
    """uint8 (n, h, w, 3) -> float32 (n, 3, h, w) in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()


def autocast() -> torch.autocast:
    """bfloat16 where it is safe, on processors that are fast at it; losses are taken in float32 outside."""
    return torch.autocast("cpu", torch.bfloat16, enabled=fastest() == torch.bfloat16)
