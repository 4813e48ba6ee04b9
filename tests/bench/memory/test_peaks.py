"""What a picture needs in memory, counted, is what MLX needs; with --low-memory it is little more than the UNet."""

import gc

import mlx.core as mx
import pytest

from bench.memory import peaks
from mlx_sd.load import load, outline
from mlx_sd.memory import size_of
from mlx_sd.train.memory.buffers import CPU
from mlx_sd.train.memory.outlines import networks_of


def measured(run) -> int:
    gc.collect()
    mx.synchronize()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(run())
    mx.synchronize()
    return mx.get_peak_memory() - before


@pytest.mark.parametrize("low_memory", [False, True])
def test_the_count_is_what_mlx_needs(low_memory):
    rows, size = 1 if low_memory else 2, (128, 128)
    model = load("tiny", "float32")
    counted = peaks.phases(outline("tiny"), size, low_memory, CPU)
    networks = networks_of(model)
    weights = {part: size_of(network) for part, network in networks.items()}
    latents, context = mx.zeros((rows, 16, 16, 4)), mx.zeros((rows, 77, model.text_encoders[0].config.width))
    mx.eval(latents, context)
    unet = measured(lambda: model.unet(latents, mx.array(500.0), context))
    resident = weights["unet"] if low_memory else sum(weights.values())
    assert counted.denoise == pytest.approx(resident + unet, rel=0.1)
    decode = measured(lambda: model.vae.decode(latents[:1]))
    assert counted.decode == pytest.approx(weights["vae"] if low_memory else resident, abs=decode * 1.2)
    assert counted.decode >= (weights["vae"] if low_memory else resident) + 0.8 * decode


def test_with_low_memory_an_sdxl_picture_needs_little_more_than_the_unet():
    model = peaks.outline_of("sdxl", None)
    counted = peaks.phases(model, peaks.FULL_SIZES["sdxl"], True)
    assert 1 < max(counted) / size_of(model.unet) <= 1.15


@pytest.mark.parametrize("quantize", ["8", "4"])
def test_quantized_sdxl_fits_a_small_mac(quantize):
    model = peaks.outline_of("sdxl", quantize)
    assert size_of(model.unet) < max(peaks.phases(model, peaks.FULL_SIZES["sdxl"], True)) <= peaks.SMALL_MAC
