"""Outpainting: the image stays where it is, and its new margins are painted."""

import numpy as np
import pytest
from PIL import Image

from mlx_sd.core.errors import InputError
from mlx_sd.tasks.extension import Extension, parse

OPTIONS = {"steps": 2, "seed": 1}


@pytest.fixture
def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 48, 3), np.uint8))


def test_sides_are_read_and_written():
    assert parse("left=128,top=64") == Extension(128, 64)
    assert str(Extension(right=8, bottom=16)) == "right=8,bottom=16" == str(parse("bottom=16, right=8"))
    assert parse({"left": 8}) == Extension(left=8)
    for wrong in ("left", "left=8,left=9", "left=-8", "up=3", {"up": 3}, 5, "left=9000"):
        with pytest.raises(InputError, match="for example"):
            parse(wrong)


@pytest.mark.parametrize("name", ["sd1", "inpaint9"])
def test_the_image_stays_and_its_margins_are_painted(name, family, image):
    sd = family(name)
    result = sd.generate("a red tent", image=image, extend="left=16,bottom=8", **OPTIONS).images[0]
    assert result.size == (64, 72)
    pixels = np.asarray(result)
    assert (pixels[:64, 16:] == np.asarray(image)).all()
    again = sd.generate("a blue moon", image=image, extend="left=16,bottom=8", **OPTIONS).images[0]
    assert (np.asarray(again)[:64, 16:] == np.asarray(image)).all()
    assert (np.asarray(again)[:, :16] != pixels[:, :16]).any()


def test_an_extension_is_the_mask_alpha_of_an_image_with_margins(family, image):
    sd = family("sd1")
    margins = Image.new("RGBA", (64, 64))
    margins.paste(image, (16, 0))
    by_hand = sd.generate("a tent", image=margins, mask="alpha", **OPTIONS).images[0]
    assert (
        np.asarray(sd.generate("a tent", image=image, extend="left=16", **OPTIONS).images[0]) == np.asarray(by_hand)
    ).all()


def test_an_extension_needs_an_image_and_no_mask(family, image):
    with pytest.raises(InputError, match="give it too"):
        family("sd1").generate("a", extend="left=8", **OPTIONS)
    with pytest.raises(InputError, match="leave --mask out"):
        family("sd1").generate("a", image=image, mask=image.convert("L"), extend="left=8", **OPTIONS)
