"""Buckets are kohya's, and a fit is a crop of the scaled picture."""

import math
import random

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from mlx_sd.core.errors import InputError
from mlx_sd.train.data.buckets import Buckets, Placement, buckets, counts, cover, single
from mlx_sd.train.data.fit import fit, generator

SIDES = st.integers(64, 3000)
SIZES = st.tuples(SIDES, SIDES).filter(lambda size: max(size) <= 4 * min(size))


def table(resolution, step, least, most) -> list:
    """Returns kohya's table by brute force: all pairs of sides of which one is as long as the area and `most` allow."""
    area, sides = resolution[0] * resolution[1], range(least, most + 1, step)
    fits = [(w, h) for w in sides for h in sides if w * h <= area]
    longest = {w: max((h for v, h in fits if v == w), default=0) for w in sides}
    pairs = {(w, h) for w, h in fits if h == longest[w]}
    square = max(side for side in range(step, max(resolution) + 1, step) if side * side <= area)
    return sorted(pairs | {(h, w) for w, h in pairs} | {(square, square)})


@pytest.mark.parametrize("resolution", [(512, 512), (768, 512), (1024, 1024), (640, 448), (256, 256)])
@pytest.mark.parametrize("step", [32, 64])
def test_the_table_is_kohya_s(resolution, step):
    result = buckets(resolution, step=step, minimum=256, maximum=1024)
    assert list(result.sizes) == table(resolution, step, 256, 1024)


def test_some_rows_of_the_table_are_these():
    sizes = buckets((512, 512)).sizes
    assert sizes == buckets((512, 512), minimum=256, maximum=1024).sizes
    assert {(256, 1024), (320, 768), (384, 640), (448, 576), (512, 512), (768, 320)} < {*sizes}
    assert (768, 1024) in buckets((1024, 1024), minimum=256, maximum=1024).sizes
    assert (768, 1344) in buckets((1024, 1024)).sizes  # SDXL's own


@given(SIZES, st.sampled_from([32, 64, 128]), st.booleans())
def test_no_bucket_has_more_than_the_area_and_all_are_multiples_of_the_step(resolution, step, defaults):
    assume(min(resolution) >= step)
    limits = {} if defaults else {"minimum": step, "maximum": max(resolution) + 500}
    for width, height in buckets(resolution, step=step, **limits).sizes:
        assert width * height <= resolution[0] * resolution[1]
        assert width % step == height % step == 0 < min(width, height)


@given(SIZES)
def test_a_picture_goes_to_the_nearest_aspect_ratio_and_covers_its_bucket(size):
    table = buckets((512, 512))
    bucket, resized = table.bucket_of(size)
    aspect = size[0] / size[1]
    assert bucket == size or all(
        abs(bucket[0] / bucket[1] - aspect) <= abs(other[0] / other[1] - aspect) for other in table.sizes
    )
    assert resized[0] >= bucket[0] and resized[1] >= bucket[1] and (resized[0] == bucket[0] or resized[1] == bucket[1])
    scale = max(bucket[0] / size[0], bucket[1] / size[1])
    assert max(abs(resized[0] - scale * size[0]), abs(resized[1] - scale * size[1])) <= 0.5 + 1e-9


def test_a_picture_of_a_bucket_s_size_is_left_alone():
    assert (320, 768) in buckets((512, 512)).sizes
    for size in buckets((512, 512)).sizes:
        assert buckets((512, 512)).bucket_of(size) == (size, size)


def test_of_buckets_with_one_aspect_ratio_a_picture_takes_that_of_its_own_size():
    table = Buckets(((64, 64), (128, 128)), 64, 128 * 128)
    assert table.bucket_of((128, 128)) == ((128, 128), (128, 128))
    assert table.bucket_of((256, 256)) == ((64, 64), (64, 64))


def test_the_difference_is_that_of_the_ratios_not_of_their_logarithms():
    table = Buckets(((64, 64), (64, 256)), 64, 64 * 256)
    assert table.bucket_of((1000, 1700)).size == (64, 256)  # 0.59 is nearer to 0.25 than to 1, unlike in logarithms
    assert table.bucket_of((1000, 1590)).size == (64, 64)


@given(SIZES)
def test_without_upscaling_a_small_picture_keeps_its_pixels_and_a_large_one_is_cut_by_less_than_a_step(size):
    area = 512 * 512
    bucket, resized = buckets((512, 512), no_upscale=True).bucket_of(size)
    assert all(side % 64 == 0 and 0 <= cut - side < 64 for side, cut in zip(bucket, resized, strict=True))
    assert resized[0] % 64 == 0 or resized[1] % 64 == 0 or resized == size
    if size[0] * size[1] <= area:
        assert resized == size
    else:
        assert resized[0] < size[0] + 1 and resized[1] < size[1] + 1
        assert bucket[0] * bucket[1] <= area * 1.01  # kohya's rounding may pass the area by a pixel a side
        assert abs(math.log(resized[0] / resized[1] / (size[0] / size[1]))) < 0.01


def test_without_upscaling_the_worked_examples_of_kohya_s_rule_hold():
    table = buckets((512, 512), no_upscale=True)
    assert table.bucket_of((300, 200)) == ((256, 192), (300, 200))
    # The area allows 591.2 x 443.4. From the width: 576 x 384, off by 1/6; from the height: 512 x 384, exact.
    assert table.bucket_of((4000, 3000)) == ((512, 384), (512, 384))
    # 724.1 x 362.0: from the width 704 x 320, from the height 640 x 320, exact again.
    assert table.bucket_of((2000, 1000)) == ((640, 320), (640, 320))
    # 627.1 x 418.0: from the width 576 x 384, exact; from the height 576 x 384 as well, which is taken then.
    assert table.bucket_of((1500, 1000)) == ((576, 384), (576, 384))


@pytest.mark.parametrize(
    "resolution, options, line",
    [
        ((512, 512), {"step": 60}, "multiple of 8"),
        ((512, 512), {"step": 0}, "multiple of 8"),
        ((32, 512), {}, "below the step"),
        ((512, 512), {"minimum": 576}, "shortest side"),
        ((512, 512), {"minimum": 32}, "shortest side"),
        ((768, 512), {"maximum": 512}, "longest side"),
    ],
)
def test_limits_that_do_not_fit_are_refused(resolution, options, line):
    with pytest.raises(InputError, match=line):
        buckets(resolution, **options)


def test_a_picture_below_the_step_has_no_bucket_without_upscaling():
    with pytest.raises(InputError, match="no bucket in steps of 64"):
        buckets((512, 512), no_upscale=True).bucket_of((63, 100))
    with pytest.raises(InputError, match="multiples of 8"):
        single((500, 512))
    assert single((512, 384)).bucket_of((1000, 1000)) == ((512, 384), (512, 512))


def test_counts_list_the_fullest_bucket_first():
    assert list(counts([(64, 64), (64, 128), (64, 128)]).items()) == [((64, 128), 2), ((64, 64), 1)]


@given(SIZES, st.integers(0, 9), st.booleans())
def test_a_crop_lies_inside_the_scaled_picture_and_the_centre_is_the_centre(size, seed, flip):
    placement = buckets((256, 256), step=32).bucket_of(size)
    for draw in (None, random.Random(seed)):
        crop = fit(size, placement, draw, flip)
        assert all(
            0 <= corner <= side - length
            for corner, side, length in zip(crop.corner, placement.resized, placement.size, strict=True)
        )
        if draw is None:
            assert crop.corner == tuple((a - b) // 2 for a, b in zip(placement.resized, placement.size, strict=True))
        assert crop.time_ids == (size[1], size[0], crop.corner[1], crop.corner[0], *reversed(placement.size))


def test_random_corners_reach_both_ends_and_are_a_function_of_their_place():
    placement = Placement((64, 64), (66, 64))
    lefts = [fit((66, 64), placement, generator(0, 0, batch, 0)).corner[0] for batch in range(60)]
    assert {*lefts} == {0, 1, 2}
    assert lefts == [fit((66, 64), placement, generator(0, 0, batch, 0)).corner[0] for batch in range(60)]
    assert lefts != [fit((66, 64), placement, generator(1, 0, batch, 0)).corner[0] for batch in range(60)]


def test_applying_a_fit_scales_flips_and_crops():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 100, 3), np.uint8)
    image = Image.fromarray(pixels)
    crop = fit(image.size, cover(image.size, (64, 64)))
    assert np.array_equal(crop.apply(image), pixels[:, 18:82])
    crop = fit(image.size, cover(image.size, (64, 64)), flip=True)
    assert np.array_equal(crop.apply(image), pixels[:, 18:82][:, ::-1])
    assert fit((200, 128), cover((200, 128), (64, 64))).apply(image.resize((200, 128))).size == (64, 64)
    with pytest.raises(InputError, match="was 200 x 128 when"):
        fit((200, 128), cover((200, 128), (64, 64))).apply(image)
