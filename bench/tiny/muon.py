"""The optimizer of the denoiser: Muon for matrices and kernels, Adam for all else.

Muon (Keller Jordan 2024) takes the momentum's nearest matrix with orthonormal rows as the update. From the same
weights, 160 steps with it led to a lower loss than with AdamW (README.md).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
BETAS = (0.9, 0.99)  # of Adam
DECAY = 1e-3  # of the weights, times the learning rate
RMS = 0.2  # of an update beside a learning rate of 1, about that of Adam: one rate serves both (arXiv:2502.16982)
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration, for few rounds: singular values end near 1
ROUNDS = 5


class Muon(torch.optim.Optimizer):
    """Muon for weights of two axes or more, of which all but the first count as one; Adam for the others."""

    def __init__(self, weights: Iterable[nn.Parameter], others: Iterable[nn.Parameter], lr: float) -> None:
        """weights: matrices and kernels of convolutions. others: biases, norms, embeddings, first and last layers."""
        super().__init__([{"params": list(weights), "muon": True}, {"params": list(others), "muon": False}], {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Moves all weights that have gradients."""
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            torch._foreach_mul_(weights, 1 - group["lr"] * DECAY)
            if group["muon"]:
                self._step_muon(weights, group["lr"])
            else:
                self._step_adam(weights, group["lr"])

    def _step_muon(self, weights: list[nn.Parameter], lr: float) -> None:
        by_shape: dict[tuple[int, ...], list[nn.Parameter]] = defaultdict(list)
        for weight in weights:
            if "momentum" not in self.state[weight]:
                self.state[weight]["momentum"] = torch.zeros_like(weight)
            by_shape[(len(weight), weight[0].numel())].append(weight)
        for (rows, columns), same in by_shape.items():
            gradients = [weight.grad for weight in same]
            momenta = [self.state[weight]["momentum"] for weight in same]
            torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
            ahead = torch._foreach_lerp(gradients, momenta, MOMENTUM)  # as Nesterov's
            updates = orthogonal(torch.stack([update.flatten(1) for update in ahead]))
            scale = -lr * RMS * max(rows, columns) ** 0.5
            for weight, update in zip(same, updates, strict=True):
                weight.add_(update.view_as(weight), alpha=scale)

    def _step_adam(self, weights: list[nn.Parameter], lr: float) -> None:
        for weight in weights:
            state = self.state[weight]
            if not state:
                state |= {"step": 0, "mean": torch.zeros_like(weight), "square": torch.zeros_like(weight)}
            state["step"] += 1
            corrections = [1 - beta ** state["step"] for beta in BETAS]
            state["mean"].lerp_(weight.grad, 1 - BETAS[0])
            state["square"].lerp_(weight.grad.square(), 1 - BETAS[1])
            deviation = (state["square"] / corrections[1]).sqrt_().add_(1e-8)
            weight.addcdiv_(state["mean"], deviation, value=-lr / corrections[0])


def orthogonal(matrices: Tensor) -> Tensor:
    """Returns matrices with about the singular vectors of `matrices`, (n, rows, columns), and values near 1.

    By Newton's and Schulz's polynomials, in bfloat16 as the authors do it, where the processor is fast at it.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    wide = (matrices.mT if tall else matrices).contiguous()
    x = (wide / (wide.norm(dim=(-2, -1), keepdim=True) + 1e-7)).to(fastest())
    a, b, c = COEFFICIENTS
    for _ in range(ROUNDS):
        square = x @ x.mT
        polynomial = torch.baddbmm(square, square, square, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    result = x.float()
    return result.mT if tall else result


def fastest() -> torch.dtype:
    """Returns bfloat16 on processors that are fast at it, float32 on others."""
    # Without AVX-512, PyTorch emulates bfloat16: convolutions are ten times slower than in float32.
    fast = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return torch.bfloat16 if fast else torch.float32
