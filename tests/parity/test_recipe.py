"""The recipe of the embedded checkpoint computes what diffusers does."""

from typing import Any

import torch
from diffusers import UNet2DConditionModel

from bench.tiny.unet import ARCHITECTURE, AttentionInFloat32

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
