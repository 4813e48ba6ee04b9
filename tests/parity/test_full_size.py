"""The UNet of Stable Diffusion 1.5 at its full width agrees with diffusers, through a real conversion."""

import gc
import shutil

import mlx.core as mx
import numpy as np
import torch
from diffusers import UNet2DConditionModel

from bench.models import UNETS
from mlx_sd import StableDiffusion
from tests.support import families

SIDE = 32


def test_a_full_size_unet_predicts_what_diffusers_does(shapes, tmp_path, measure):
    folder = families.write_folder("sd1", shapes["sd1"], tmp_path / "checkpoint")
    shutil.rmtree(folder / "unet")
    rng = np.random.RandomState(0)
    x = rng.standard_normal((1, 4, SIDE, SIDE)).astype(np.float32)
    context = rng.standard_normal((1, 77, 768)).astype(np.float32)

    torch.manual_seed(0)
    reference = UNet2DConditionModel(**UNETS["sd15"]).eval()
    with torch.no_grad():
        theirs = reference(torch.from_numpy(x), 501, torch.from_numpy(context)).sample.numpy()
    reference.save_pretrained(folder / "unet", max_shard_size="1GB")
    del reference
    gc.collect()

    sd = StableDiffusion.load(folder, dtype="float32")
    ours, deep = sd.unet(mx.array(x.transpose(0, 2, 3, 1)), mx.array(501.0), mx.array(context))
    cached, _ = sd.unet(mx.array(x.transpose(0, 2, 3, 1)), mx.array(501.0), mx.array(context), deep=deep)
    assert mx.array_equal(cached, ours)
    error = np.abs(np.array(ours).transpose(0, 3, 1, 2) - theirs).max() / np.abs(theirs).max()
    measure("unet of SD 1.5 at full size", float(error), 1e-5)
