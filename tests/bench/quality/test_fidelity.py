"""PSNR, SSIM and errors of latents, against closed forms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.quality import fidelity
from mlx_sd.core.errors import InputError

few = settings(max_examples=20, deadline=None)
SEEDS, PEAKS = st.integers(0, 1000), st.sampled_from([1.0, 255.0])


def _picture(seed, shape=(24, 17, 3), peak=255.0):
    return np.random.default_rng(seed).uniform(0, peak, shape)


@few
@given(SEEDS, st.floats(0.01, 100), PEAKS)
def test_a_constant_shift_has_the_psnr_of_its_size(seed, shift, peak):
    picture = _picture(seed)
    assert fidelity.psnr(picture, picture + shift, peak) == pytest.approx(20 * np.log10(peak / shift), abs=1e-6)


def test_bytes_do_not_wrap():
    white, black = np.full((12, 12), 255, np.uint8), np.zeros((12, 12), np.uint8)
    assert fidelity.psnr(white, black) == fidelity.psnr(black, white) == 0


@few
@given(SEEDS, PEAKS)
def test_nothing_is_more_like_a_picture_than_itself(seed, peak):
    image, reference = _picture(seed, peak=peak), _picture(seed + 1, peak=peak)
    assert fidelity.psnr(image, image, peak) == np.inf and fidelity.ssim(image, image, peak) == pytest.approx(1)
    assert -1 <= fidelity.ssim(image, reference, peak) < 0.5
    assert fidelity.ssim(image, reference, peak) == pytest.approx(fidelity.ssim(reference, image, peak))
    assert fidelity.ssim(image / peak, reference / peak, 1) == pytest.approx(fidelity.ssim(image, reference, peak))


@few
@given(SEEDS, st.floats(1, 100))
def test_flat_pictures_differ_in_luminance_alone(value, shift):
    image, c1 = np.full((16, 16), float(value % 256)), (0.01 * 255) ** 2
    reference = image + shift
    expected = (2 * image[0, 0] * reference[0, 0] + c1) / (image[0, 0] ** 2 + reference[0, 0] ** 2 + c1)
    assert fidelity.ssim(image, reference) == pytest.approx(expected)


def test_the_structure_of_a_negative_is_the_opposite():
    picture = _picture(0, (32, 32))
    assert fidelity.ssim(picture, 255 - picture) < -0.5


def test_channels_count_alike():
    image, reference = _picture(0), _picture(1)
    apart = [fidelity.ssim(image[..., c], reference[..., c]) for c in range(3)]
    assert fidelity.ssim(image, reference) == pytest.approx(np.mean(apart))


def test_only_windows_inside_the_picture_count():
    image, reference = np.zeros((40, 40)), np.zeros((40, 40))
    reference[0, 0] = 255  # six places from the nearest window's middle
    window = np.exp(-np.square(np.arange(-5, 6)) / (2 * 1.5**2))
    window /= window.sum()
    similarity = fidelity.ssim(image[:11, :11], reference[:11, :11])  # one window, with the white pixel in its corner
    mean = 255 * window[0] ** 2
    variance = 255 * mean - mean**2
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    assert similarity == pytest.approx(c1 / (mean**2 + c1) * c2 / (variance + c2))
    assert fidelity.ssim(image[1:, 1:], reference[1:, 1:]) == 1


def test_latents_are_measured_one_by_one():
    image = np.zeros((3, 4, 4, 2), np.float32)
    reference = image + np.array([0, 1, 2], np.float32)[:, None, None, None]
    reference[2] *= np.where(np.arange(2) == 0, 1, -1)
    assert fidelity.rms(image, reference) == pytest.approx([0, 1, 2])


def test_arrays_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match="one shape, not"):
        fidelity.psnr(np.zeros((4, 4)), np.zeros((4, 1)))
    with pytest.raises(InputError, match="11 pixels a side, and a picture only 8"):
        fidelity.ssim(np.zeros((8, 16)), np.zeros((8, 16)))
