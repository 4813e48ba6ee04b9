"""Latents made larger, against PyTorch's interpolation, which A1111's upscalers of latents are."""

import mlx.core as mx
import numpy as np
import pytest
import torch

from mlx_sd.tasks.enlarging import MODES, enlarge

OPTIONS = {
    "latent": {"mode": "bilinear"},
    "latent-antialiased": {"mode": "bilinear", "antialias": True},
    "latent-bicubic": {"mode": "bicubic"},
    "latent-bicubic-antialiased": {"mode": "bicubic", "antialias": True},
    "latent-nearest": {"mode": "nearest"},
    "latent-nearest-exact": {"mode": "nearest-exact"},
}


@pytest.mark.parametrize("mode", MODES)
def test_latents_are_enlarged_as_by_pytorch(mode, measure):
    for size in ((16, 24), (13, 22), (9, 11)):
        latents = np.random.default_rng(0).standard_normal((2, 8, 10, 4)).astype(np.float32)
        ours = np.array(enlarge(mx.array(latents), size, mode))
        theirs = torch.nn.functional.interpolate(torch.tensor(latents.transpose(0, 3, 1, 2)), size, **OPTIONS[mode])
        measure("latents enlarged", np.abs(ours - theirs.numpy().transpose(0, 2, 3, 1)).max(), 1e-5)
