"""Painting into pictures: what is not masked stays, to the pixel, and the rest is as strong as was asked for."""

import json

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mlx_sd import DeepCache, StableDiffusion, metadata
from mlx_sd.core.errors import InputError
from mlx_sd.sampling import loop, samplers
from mlx_sd.sampling.table import Options
from mlx_sd.tasks import painting
from tests.support.effort import slow_but

PROMPT = "a large moon, a night sky"


def _noise(size, seed=0):
    return Image.fromarray(np.random.RandomState(seed).randint(0, 256, (size[1], size[0], 3), np.uint8))


def _mask(size, box):
    found = Image.new("L", size)
    found.paste(255, box)
    return found


def _changed(a, b):
    """Where two pictures differ, (H, W)."""
    return (np.asarray(a.convert("RGB"), int) != np.asarray(b.convert("RGB"), int)).any(axis=-1)


@st.composite
def _canvases(draw):
    size = draw(st.integers(9, 90)), draw(st.integers(9, 90))
    left, top = draw(st.integers(0, size[0] - 2)), draw(st.integers(0, size[1] - 2))
    box = left, top, draw(st.integers(left + 1, size[0])), draw(st.integers(top + 1, size[1]))
    blur, padding = draw(st.sampled_from([0, 1, 4.5, 30])), draw(st.none() | st.integers(0, 40))
    return painting.Canvas(_noise(size), _mask(size, box), blur, padding), box


@settings(deadline=None)
@given(made=_canvases(), width=st.integers(1, 9), height=st.integers(1, 9))
def test_what_is_put_back_changes_the_mask_alone(made, width, height):
    canvas, _ = made
    painted = Image.new("RGB", (8 * width, 8 * height), (7, 250, 7))
    changed = _changed(canvas.finish(painted), canvas.image)
    outside = np.asarray(canvas.mask) == 0
    assert not changed[outside].any()
    if not canvas.blur:
        assert changed[~outside].mean() > 0.99  # noise may have that colour already


@settings(deadline=None)
@given(made=_canvases(), width=st.integers(1, 9), height=st.integers(1, 9))
def test_what_is_cut_out_holds_the_mask_and_has_the_shape_of_the_whole(made, width, height):
    canvas, box = made
    found = canvas.box(8 * width, 8 * height)
    assert found[0] <= box[0] and found[1] <= box[1] and found[2] >= box[2] and found[3] >= box[3]
    assert found[0] >= 0 and found[1] >= 0 and found[2] <= canvas.image.width and found[3] <= canvas.image.height
    wide, high = found[2] - found[0], found[3] - found[1]
    full = wide == canvas.image.width or high == canvas.image.height
    assert full or abs(wide * height - high * width) <= max(width, height)  # to a pixel


def test_a_blurred_edge_fades_in_from_the_mask_s_edge():
    canvas = painting.Canvas(Image.new("RGB", (64, 64)), _mask((64, 64), (20, 0, 64, 64)), 4)
    row = np.asarray(canvas.finish(Image.new("RGB", (64, 64), "white")), int)[32, :, 0]
    assert (np.diff(row) >= 0).all() and not row[:20].any()
    assert 0 < row[20] < 60 and 120 < row[23] < 220 and row[36] == 255


@pytest.mark.parametrize("name", samplers.names())
@pytest.mark.parametrize("begin", [None, 4])
def test_whatever_the_sampler_what_is_kept_ends_as_the_image(name, begin, family):
    """... and at each evaluation the network sees it with the noise of the level it is told."""
    scheduler = family("sd1").model.scheduler
    image, noise = mx.full((1, 4, 4, 1), 3.0), mx.random.normal((1, 4, 4, 1), key=mx.random.key(0))
    mask = mx.zeros((1, 4, 4, 1))
    mask[:, :2] = 1
    table = samplers.table(scheduler, *samplers.choose(scheduler, name, None, Options()), 9, begin)
    seen = []

    def predict(x, t):
        seen.append(x)
        return mx.zeros(x.shape)

    def keep(x, a, s):
        return (1 - mask) * (a * image + s * noise) + mask * x

    start = image if begin else None
    final = loop.run(table, predict, noise, lambda: mx.zeros(noise.shape), image=start, keep=keep)
    assert mx.array_equal(final[:, 2:], image[:, 2:])
    assert not mx.isclose(final[:, :2], image[:, :2]).any().item()
    for x, row in list(zip(seen, table.rows, strict=True))[1:]:
        assert mx.abs(x - row.level.signal * image - row.level.noise * noise)[:, 2:].max().item() < 1e-5


@pytest.mark.parametrize("options", [{}, {"only_masked": True}, {"mask_blur": 3, "strength": 0.6}, {"width": 32}])
@pytest.mark.parametrize("name", slow_but(["sd1"], ["sd1", "inpaint9"]))
def test_unmasked_pixels_are_those_of_the_input(name, options, family):
    whole, mask = _noise((67, 49)), _mask((67, 49), (10, 9, 40, 33))
    found = family(name).generate(PROMPT, steps=2, image=whole, mask=mask, **options, seed=0).images[0]
    changed, outside = _changed(found, whole), np.asarray(mask) == 0
    assert not changed[outside].any() and changed[~outside].mean() > 0.8


@pytest.mark.parametrize("size", slow_but([(67, 49)], [(64, 64), (67, 49), (5, 90)]))
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK"])
def test_an_image_of_any_size_and_mode_is_begun_with(size, mode, family):
    found = family("sd1").generate(PROMPT, steps=4, strength=0.3, image=_noise(size).convert(mode), seed=0).images[0]
    assert found.size == tuple(max(round(side / 8), 1) * 8 for side in size)


def test_sides_follow_the_picture_s_shape(family):
    sd = family("sd1")
    for given_, size in (({}, (96, 48)), ({"width": 64}, (64, 32)), ({"height": 64}, (128, 64))):
        assert sd.generate(PROMPT, steps=2, image=_noise((96, 48)), **given_, seed=0).images[0].size == size
    assert sd.generate(PROMPT, steps=2, image=_noise((96, 48)), width=40, height=40, seed=0).images[0].size == (40, 40)


@pytest.mark.filterwarnings("ignore:in . evaluations little repeats itself")
@pytest.mark.parametrize(
    ("strength", "runs"),
    [(0.55, 5), (0.1, 1), pytest.param(1.0, 10, marks=pytest.mark.slow), pytest.param(None, 8, marks=pytest.mark.slow)],
)
def test_strength_is_the_share_of_steps_and_deepcache_counts_from_the_first_that_runs(strength, runs, family):
    sd, given_ = family("sd1"), {"steps": 10, "sampler": "ddim", "image": _noise((64, 64)), "output": "latent"}
    plain = sd.generate(PROMPT, **given_, strength=strength, seed=0)
    cached = sd.generate(PROMPT, **given_, strength=strength, deepcache=DeepCache(3), seed=0)
    again = sd.generate(PROMPT, **given_, strength=strength, deepcache=DeepCache(3), seed=0)
    always = sd.generate(PROMPT, **given_, strength=strength, deepcache=DeepCache(1), seed=0)
    assert plain.evaluations == cached.evaluations == runs and cached.full == -(-runs // 3)
    assert mx.array_equal(cached.latents, again.latents) and mx.array_equal(plain.latents, always.latents)
    assert mx.array_equal(plain.latents, cached.latents) == (runs == 1)


@pytest.mark.slow
def test_less_strength_leaves_more_of_the_picture():
    sd, whole = StableDiffusion.load("tiny", dtype="float32"), _noise((64, 64)).resize((8, 8)).resize((64, 64))
    images = [sd.generate(PROMPT, steps=10, image=whole, strength=s, seed=0).images[0] for s in (0.1, 0.4, 1.0)]
    gaps = [np.abs(np.asarray(i, int) - np.asarray(whole, int)).mean() for i in images]
    assert gaps[0] < gaps[1] < gaps[2]


def test_the_posterior_is_drawn_from_the_picture_s_seed(family):
    sd, latents = family("sd1"), mx.random.normal((1, 8, 8, 4), key=mx.random.key(1))
    given_ = {"image": _noise((64, 64)), "strength": 0.5, "steps": 2, "sampler": "ddim", "output": "latent"}
    one, same, other = (sd.generate(PROMPT, latents=latents, seed=s, **given_).latents for s in (1, 1, 2))
    assert mx.array_equal(one, same) and not mx.array_equal(one, other)
    alone = sd.generate(PROMPT, seed=2, **given_).latents
    among = sd.generate(PROMPT, seed=1, count=3, **given_).latents[1:2]
    batch = sd.generate(PROMPT, seed=1, count=3, batch=3, **given_).latents[1:2]
    assert mx.array_equal(alone, among) and mx.abs(alone - batch).max().item() < 1e-4


def test_masks_come_from_the_image_s_alpha_and_may_be_of_another_size(family):
    whole, mask = _noise((64, 64)), _mask((64, 64), (8, 16, 40, 48))
    see_through = whole.copy()
    see_through.putalpha(mask.point(lambda value: 255 - value))
    sd = family("sd1")
    found = sd.generate(PROMPT, steps=1, image=see_through, mask="alpha", seed=0).images[0]
    outside = np.asarray(mask) == 0
    assert not _changed(found, whole)[outside].any() and _changed(found, whole)[~outside].any()
    large = mask.resize((256, 256), Image.Resampling.NEAREST)
    one, other = (sd.generate(PROMPT, steps=1, image=whole, mask=m, seed=0).images[0] for m in (mask, large))
    assert not _changed(one, other).any()


MISTAKES = {
    "no image": (("--mask", "mask.png"), "a mask is of an image; give --init-image too"),
    "strength alone": (("--strength", 0.5), "strength says how much of an image changes; give --init-image too"),
    "missing": (("--init-image", "none.png"), "none.png does not exist"),
    "missing mask": (("--init-image", "in.png", "--mask", "none.png"), "none.png does not exist"),
    "not a picture": (("--init-image", "text.png"), "text.png is not a picture that can be read"),
    "truncated": (("--init-image", "half.png"), "half.png is not a picture that can be read"),
    "other shape": (("--init-image", "in.png", "--mask", "wide.png"), "the mask is 64 x 32 and the image 64 x 64"),
    "black": (
        ("--init-image", "in.png", "--mask", "black.png"),
        "the mask is black all over: nothing would be painted",
    ),
    "white": (("--init-image", "in.png", "--mask", "white.png"), "the mask is white all over: nothing of the image"),
    "thin": (("--init-image", "in.png", "--mask", "thin.png"), "the mask is too thin to be seen in latents"),
    "opaque": (("--init-image", "in.png", "--mask", "alpha"), "the image is not transparent anywhere"),
    "strength 0": (("--init-image", "in.png", "--strength", 0), "strength must be above 0, to 1, not 0"),
    "strength 2": (("--init-image", "in.png", "--strength", 2), "strength must be above 0, to 1, not 2"),
    "strength nan": (("--init-image", "in.png", "--strength", "nan"), "strength must be above 0, to 1, not nan"),
    "no step": (("--init-image", "in.png", "--strength", 0.03), "strength 0.03 leaves none of 25 steps; give 0.04 or"),
    "blur": (
        ("--init-image", "in.png", "--mask", "mask.png", "--mask-blur", -1),
        "mask blur must be from 0",
    ),
    "padding": (("--init-image", "in.png", "--mask", "mask.png", "--padding", 9), "padding is of --only-masked"),
    "negative": (
        ("--init-image", "in.png", "--mask", "mask.png", "--only-masked", "--padding", -9),
        "padding must be a number of pixels from 0, not -9",
    ),
    "blur alone": (("--init-image", "in.png", "--mask-blur", 3), "mask blur, only-masked and padding are about a mask"),
}


@pytest.fixture
def pictures(tmp_path):
    """The files that the tests of the command line name."""
    _noise((64, 64)).save(tmp_path / "in.png")
    (tmp_path / "text.png").write_text("a tent")
    (tmp_path / "half.png").write_bytes((tmp_path / "in.png").read_bytes()[:5000])
    for name, box in {
        "mask": (8, 8, 40, 40),
        "black": (0, 0, 0, 0),
        "white": (0, 0, 64, 64),
        "thin": (9, 9, 12, 60),
    }.items():
        _mask((64, 64), box).save(tmp_path / f"{name}.png")
    _mask((64, 32), (8, 8, 40, 20)).save(tmp_path / "wide.png")


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(run, pictures, tmp_path, name):
    arguments, message = MISTAKES[name]
    before = sorted(tmp_path.iterdir())
    code, out, err = run("x", *arguments)
    assert (code, out) == (2, "") and message in err and err.count("\n") == 1, err
    assert sorted(tmp_path.iterdir()) == before


def test_a_checkpoint_says_what_it_is_for(family):
    with pytest.raises(InputError, match="this checkpoint paints into pictures; give --init-image and --mask"):
        family("inpaint9").generate(PROMPT, image=_noise((64, 64)), seed=0)
    with pytest.raises(InputError, match="this checkpoint paints into pictures; give --init-image and --mask"):
        family("inpaint9").generate(PROMPT, seed=0)
    with pytest.raises(InputError, match="give an image or channels, not both"):
        family("inpaint9").generate(PROMPT, image=_noise((64, 64)), channels=mx.zeros((1, 8, 8, 5)), seed=0)


@pytest.mark.slow
def test_a_painted_picture_replays_and_says_when_its_files_have_changed(run, pictures, tmp_path):
    flags = ("--init-image", "in.png", "--mask", "mask.png", "--strength", 0.9, "--mask-blur", 2, "--only-masked")
    flags += ("--padding", 5, "--width", 48, "--height", 48, "--steps", 3)
    assert run(PROMPT, *flags, "--output", "a.png")[0] == 0
    code, _, err = run("--from-image", "a.png", "--output", "b.png")
    assert (code, err) == (0, "")
    about = metadata.read(tmp_path / "a.png")
    assert about == metadata.read(tmp_path / "b.png")
    assert {
        "init_image": "in.png",
        "mask": "mask.png",
        "strength": 0.9,
        "mask_blur": 2.0,
        "padding": 5,
    }.items() <= about.items()
    with Image.open("a.png") as one, Image.open("b.png") as other, Image.open("in.png") as whole:
        assert not _changed(one, other).any() and one.size == whole.size
    _noise((64, 64), seed=1).save("in.png")
    code, out, err = run("--from-image", "a.png", "--output", "c.png", "--json", "--allow-changed")
    assert code == 0 and err.count("\n") == 1
    assert "in.png is not the file that the picture was made with" in err
    assert json.loads(out)[0]["init_image_hash"] != about["init_image_hash"]
    assert run("--from-image", "a.png", "--init-image", "in.png", "--output", "d.png")[2] == ""
