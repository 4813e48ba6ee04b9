"""With the mask "alpha" nothing that a transparent pixel hides, and no white, gets into the picture or to its edges."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from mlx_sd import StableDiffusion
from mlx_sd.tasks import images, painting

DARK, PAINT = (90, 20, 30), (10, 40, 110)


def _alpha(size=(64, 64), box=(14, 10, 50, 54)):
    """A round hole whose edge is half transparent."""
    large = Image.new("L", (4 * size[0], 4 * size[1]), 255)
    ImageDraw.Draw(large).ellipse([4 * side for side in box], fill=0)
    return large.resize(size, Image.Resampling.BOX)


def _cut(visible, hidden, alpha=None):
    """An RGBA image that shows `visible`, with `hidden` wherever alpha is 0."""
    alpha = _alpha(visible.size) if alpha is None else alpha
    cut = Image.composite(visible, hidden, alpha.point(lambda value: 255 if value else 0))
    cut.putalpha(alpha)
    return cut


def _plain(colour, size=(64, 64)):
    return Image.new("RGB", size, colour)


def _noise(size=(64, 64)):
    return Image.fromarray(np.random.default_rng(4).integers(0, 256, (*size[::-1], 3), np.uint8))


@pytest.mark.parametrize("options", [{}, {"strength": 0.5, "mask_blur": 3}, {"only_masked": True, "strength": 0.5}])
@pytest.mark.parametrize("name", ["sd1", pytest.param("inpaint9", marks=pytest.mark.slow)])
def test_images_that_differ_where_alpha_is_0_make_the_same_picture(family, name, options):
    visible = _noise()
    cuts = [_cut(visible, hidden) for hidden in (_plain("white"), _plain("black"), visible.transpose(Image.ROTATE_90))]
    pictures = [
        np.asarray(family(name).generate("a tent", steps=2, seed=0, image=cut, mask="alpha", **options).images[0])
        for cut in cuts
    ]
    assert (pictures[0] == pictures[1]).all() and (pictures[0] == pictures[2]).all()


@pytest.mark.parametrize("blur", [0, 4])
def test_neither_the_network_nor_the_picture_sees_white_at_the_edge(family, blur):
    """A dark image painted darkly: no pixel may be lighter than both, in what is encoded and in the end."""
    canvas = painting.canvas(family("sd1").model, _cut(_plain(DARK), _plain("white")), "alpha", blur)
    assert (np.asarray(canvas.image) == DARK).all()  # what the encoder is shown
    finished = np.asarray(canvas.finish(_plain(PAINT)), int)
    low, high = np.minimum(DARK, PAINT), np.maximum(DARK, PAINT)
    assert (finished >= low).all() and (finished <= high).all()
    alpha = np.asarray(_alpha())
    assert (finished[alpha == 255] == DARK).all() and (finished[30:34, 30:34] == PAINT).all()


def test_half_transparent_pixels_mix_image_and_paint_by_their_alpha(family):
    canvas = painting.canvas(family("sd1").model, _cut(_plain(DARK), _plain("white")), "alpha")
    alpha = np.asarray(_alpha(), float)[..., None] / 255
    expected = alpha * np.array(DARK) + (1 - alpha) * np.array(PAINT)
    assert ((alpha > 0) & (alpha < 1)).sum() > 50
    assert np.abs(np.asarray(canvas.finish(_plain(PAINT)), float) - expected).max() <= 1


def test_kept_edges_of_a_real_picture_are_not_lighter_than_it_was():
    """End to end, on the embedded checkpoint: beside a hole in a dark picture with white below it."""
    sd, alpha = StableDiffusion.load("tiny", "float32"), _alpha((128, 128), (30, 30, 98, 98))
    cut = _cut(_plain(DARK, alpha.size), _plain("white", alpha.size), alpha)
    picture = sd.generate("a dark night sky", steps=6, image=cut, mask="alpha", strength=0.5).images[0]
    values = np.asarray(alpha)
    assert (np.asarray(picture)[values == 255] == DARK).all()
    edge = np.asarray(picture, float)[(values > 0) & (values < 255)]
    assert edge.max() < 190  # white over half of such a pixel would be lighter


@given(st.integers(1, 9), st.integers(1, 9), st.randoms(use_true_random=False))
def test_the_continuation_keeps_what_is_visible_and_stays_between_its_colours(width, height, random):
    pixels = np.array([random.randrange(256) for _ in range(width * height * 4)], np.uint8).reshape(height, width, 4)
    pixels[0, 0, 3] = 255  # something is visible
    result = np.asarray(images.inpainted(Image.fromarray(pixels)))
    visible, counted = pixels[..., 3] >= 128, pixels[..., 3] > 0
    assert (result[visible] == pixels[visible, :3]).all()
    low, high = pixels[counted, :3].min(0), pixels[counted, :3].max(0)
    assert (result >= low).all() and (result <= high).all()
    emptied = pixels.copy()
    emptied[~counted, :3] = 255 - emptied[~counted, :3]
    assert (np.asarray(images.inpainted(Image.fromarray(emptied))) == result).all()
