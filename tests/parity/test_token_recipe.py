"""The training of the token model: its codebook, its loss, and the rounding of latents."""

import math

import numpy as np
import pytest
import torch
from diffusers import VQModel

from bench.tiny import vq
from bench.tiny.tokens import MASK, masked_loss
from bench.tiny.vq import CODES, Codebook, nearest


def clusters(count: int, each: int, spread: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns middles (count, 4) of clusters far from each other, and rows about them."""
    torch.manual_seed(0)
    middles = 20 * torch.randn(count, 4)
    return middles, (middles[:, None] + spread * torch.randn(count, each, 4)).flatten(0, 1)


def test_a_codebook_begins_at_the_middles_of_clusters():
    middles, rows = clusters(6, 200, spread=0.1)
    codebook = Codebook(torch.zeros(24, 4))
    codebook.start(rows)
    assert codebook.started
    assert (torch.cdist(middles, codebook.vectors).min(1).values < 0.5).all()
    assert (rows - codebook.vectors[codebook.nearest(rows)]).norm(dim=1).mean() < 0.3


def test_a_codebook_follows_latents_that_move():
    _, rows = clusters(6, 200, spread=0.1)
    codebook = Codebook(torch.zeros(24, 4))
    codebook.start(rows)
    for _ in range(300):
        codebook.follow(rows + 1, step=1)
    assert (rows + 1 - codebook.vectors[codebook.nearest(rows + 1)]).norm(dim=1).mean() < 0.3


def test_a_vector_without_latents_is_replaced_by_one():
    _, rows = clusters(6, 200, spread=0.1)
    codebook = Codebook(torch.zeros(24, 4))
    codebook.start(rows)
    codebook.vectors[3] = 1e3
    codebook.sums[3] = 1e3 * codebook.counts[3]
    for step in range(1, 6 * vq.STEPS_BETWEEN_REPLACEMENTS):
        codebook.follow(rows, step)
    assert (codebook.vectors.abs() < 200).all()


def test_tokens_are_those_that_diffusers_rounds_to():
    torch.manual_seed(0)
    model = VQModel(**vq.ARCHITECTURE).eval()
    images = np.random.default_rng(0).integers(256, size=(2, 32, 32, 3), dtype=np.uint8)
    with torch.no_grad():
        latents = model.encode(vq.pixels(images)).latents
        rounded, _, (_, _, indices) = model.quantize(latents)
        tokens = vq.tokens_of(model, images)
        assert torch.equal(tokens.flatten(), indices)
        assert torch.allclose(model.quantize.embedding(tokens).permute(0, 3, 1, 2), rounded, atol=1e-6)
        (first, _) = vq.pictures_of(model, tokens)
        assert torch.allclose(first, model.decode(latents).sample[0].clamp(-1, 1), atol=1e-5)


def test_nearest_is_the_nearest():
    torch.manual_seed(0)
    rows, vectors = torch.randn(50, 8), torch.randn(20, 8)
    assert torch.equal(nearest(rows, vectors), torch.cdist(rows, vectors).argmin(1))


@pytest.mark.parametrize("emphasis", [1.0, 4.0])
def test_the_loss_is_the_cross_entropy_of_masked_tokens_alone(emphasis):
    torch.manual_seed(0)
    tokens = torch.randint(CODES, (8, 16, 16))
    masked_shares = []

    def network(x, times, _):
        """Is certain of each token that it sees, and finds all tokens equally likely behind a mask."""
        assert torch.equal(x[x != MASK], tokens[x != MASK])
        masked_shares.append((x == MASK).float().mean((1, 2)) - times)
        return torch.nn.functional.one_hot(x, MASK + 1)[..., :CODES].permute(0, 3, 1, 2) * 100.0

    loss = masked_loss(tokens, network, None, torch.full(tokens.shape, emphasis))
    assert abs(loss.item() - math.log(CODES)) < 1e-4
    assert masked_shares[0].abs().max() < 0.15
