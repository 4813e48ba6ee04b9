"""The recipe of the embedded checkpoint computes what diffusers and PyTorch do."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from bench.tiny import muon
from bench.tiny.unet import ARCHITECTURE, AttentionInFloat32, matrices_and_others

LIMIT = 1e-5


def test_attention_in_float32_is_diffusers_attention(measure):
    torch.manual_seed(0)
    unet: Any = UNet2DConditionModel(**ARCHITECTURE).eval()
    inputs = torch.randn(2, 4, 16, 24), torch.tensor([700, 20]), torch.randn(2, 77, ARCHITECTURE["cross_attention_dim"])
    with torch.no_grad():
        theirs = unet(*inputs).sample
        unet.set_attn_processor(AttentionInFloat32())
        ours = unet(*inputs).sample
        assert torch.equal(unet(*inputs).sample, ours)
        other = unet(inputs[0], inputs[1], 2 * inputs[2]).sample
    measure("attention of the recipe", float((ours - theirs).abs().max() / theirs.abs().max()), LIMIT)
    assert (other - ours).abs().max() > 1e-3  # the prompt counts


def moved(make: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer], *shape: int, steps: int = 4) -> Tensor:
    """Returns how far an optimizer moves one weight, after steps with gradients of a fixed seed."""
    torch.manual_seed(0)
    start = torch.randn(shape)
    weight = nn.Parameter(start.clone())
    optimizer = make([weight])
    for _ in range(steps):
        weight.grad = torch.randn(shape)
        optimizer.step()
    return weight.detach() - start


@pytest.mark.parametrize("shape", [(192, 192), (64, 256), (768, 192)], ids=str)
def test_matrices_move_as_with_pytorchs_muon(shape, measure):
    options = {"lr": 1e-3, "weight_decay": muon.DECAY, "momentum": muon.MOMENTUM, "adjust_lr_fn": "match_rms_adamw"}
    theirs = moved(lambda weights: torch.optim.Muon(weights, **options), *shape)
    ours = moved(lambda weights: muon.Muon(weights, [], lr=1e-3), *shape)
    # Both round to bfloat16 in each of their products.
    measure(f"Muon of {shape}", float((ours - theirs).norm() / theirs.norm()), 3e-2)


def test_a_kernel_moves_as_the_matrix_of_its_outputs():
    kernel = moved(lambda weights: muon.Muon(weights, [], lr=1e-3), 64, 32, 3, 3)
    matrix = moved(lambda weights: muon.Muon(weights, [], lr=1e-3), 64, 32 * 9)
    assert torch.equal(kernel.flatten(1), matrix)


def test_other_weights_move_as_with_adamw(measure):
    options = {"lr": 1e-3, "weight_decay": muon.DECAY, "betas": muon.BETAS}
    theirs = moved(lambda weights: torch.optim.AdamW(weights, **options), 50)
    ours = moved(lambda weights: muon.Muon([], weights, lr=1e-3), 50)
    measure("Adam of biases", float((ours - theirs).norm() / theirs.norm()), 1e-4)


def test_a_resumed_optimizer_goes_on():
    def resumed(weights: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        [weight] = weights
        first, second = (muon.Muon([weight], [], lr=1e-3) for _ in range(2))
        weight.grad = torch.randn(weight.shape)
        first.step()
        second.load_state_dict(first.state_dict())
        return second

    def without_pause(weights: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        [weight] = weights
        first = muon.Muon([weight], [], lr=1e-3)
        weight.grad = torch.randn(weight.shape)
        first.step()
        return first

    assert torch.equal(moved(resumed, 20, 30), moved(without_pause, 20, 30))


def test_muon_trains_inner_matrices_and_kernels():
    network = UNet2DConditionModel(**ARCHITECTURE)
    matrices, others = matrices_and_others(network)
    assert len(matrices) + len(others) == len([*network.parameters()])
    assert all(weight.ndim > 1 for weight in matrices)
    outer = [network.conv_in.weight, network.conv_out.weight, network.time_embedding.linear_1.weight]
    assert all(any(weight is other for other in others) for weight in outer)
