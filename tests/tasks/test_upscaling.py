"""Upscalers: what they take, what they refuse, and tiles that leave no seam."""

import json
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from PIL import Image

from convert import __main__ as convert
from mlx_sd import Adaptive, At, DeepCache, FreeU, NonUniform, StableDiffusion, TGate, memory, metadata
from mlx_sd.cli import generate
from mlx_sd.core.errors import InputError
from mlx_sd.tasks import tiles
from tests.conftest import GOLDENS
from tests.support import families, singles, unprompted, upscalers
from tests.support.effort import slow_but

PROMPT = families.PROMPT


@pytest.fixture(scope="module")
def checkpoint(shapes, tmp_path_factory) -> Path:
    return upscalers.write(shapes, tmp_path_factory.mktemp("upscalers") / "x4")


@pytest.fixture(scope="module")
def x4(checkpoint) -> StableDiffusion:
    return StableDiffusion.load(checkpoint, dtype="float32")


@pytest.fixture(scope="module")
def ldm(tmp_path_factory) -> StableDiffusion:
    shapes = json.loads((GOLDENS / "unprompted.json").read_text(encoding="utf-8"))["ldm_sr"]
    folder = unprompted.write_folder("ldm_sr", shapes, tmp_path_factory.mktemp("upscalers") / "ldm")
    return StableDiffusion.load(folder, dtype="float32")


@pytest.fixture(params=["x4", "ldm"])
def either(request) -> StableDiffusion:
    return request.getfixturevalue(request.param)


def upscaled(sd: StableDiffusion, size: tuple[int, int] = (16, 12), **settings):
    given = {"image": upscalers.picture(*size), "seed": 3, "steps": 4, "output": "latent"}
    prompted = {"prompt": PROMPT, "guidance": 3.0} if sd.model.text_encoders else {}
    return sd.generate(**(given | prompted | settings))


# ------------------------------------------------------------------------------------------------ theorems


def test_the_picture_is_as_much_larger_as_the_vae_says(x4):
    result = upscaled(x4, (9, 14), steps=1, output="image")
    assert result.images[0].size == (36, 56)
    assert (result.requests[0].width, result.requests[0].height) == (36, 56)
    assert result.latents.shape == (1, 14, 9, 4)


def test_noise_of_level_0_is_hardly_any_and_more_changes_the_picture(x4):
    low = x4.model.low_res
    pixels, noise = mx.ones((1, 2, 2, 3)), mx.array(families.numbers("noise", 1, 2, 2, 3))
    bar = np.cumprod(1 - np.linspace(0.0001**0.5, 0.02**0.5, 1000) ** 2)
    for level in (0, 20, 350):
        expected = np.sqrt(bar[level]) + np.sqrt(1 - bar[level]) * np.array(noise)
        assert families.distance(low.noised(pixels, noise, level), expected) < 1e-5
    pictures = [np.array(upscaled(x4, noise_level=level).latents) for level in (0, 20, 350)]
    assert families.distance(pictures[0], pictures[1]) > 1e-3
    assert families.distance(pictures[1], pictures[2]) > 1e-3


def test_each_seed_has_its_own_noise_in_any_batch(x4):
    alone = [upscaled(x4, seed=seed).latents for seed in (5, 6, 7)]
    together = upscaled(x4, seed=5, count=3, batch=3).latents
    assert families.distance(together, mx.concatenate(alone)) < 1e-5


def test_channels_are_the_other_way_to_say_what_is_upscaled(x4):
    by_image = upscaled(x4, noise_level=37).latents
    stream = np.random.RandomState(3)
    small, noise = (
        stream.standard_normal((channels, 12, 16)).astype(np.float32).transpose(1, 2, 0) for channels in (3, 4)
    )
    pixels = mx.array(np.asarray(upscalers.picture(16, 12), np.float32))[None] / 127.5 - 1
    shown = x4.model.low_res.noised(pixels, mx.array(small), 37)
    by_channels = x4.generate(
        PROMPT,
        channels=shown,
        latents=mx.array(noise)[None],
        noise_level=37,
        width=64,
        height=48,
        steps=4,
        guidance=3.0,
        output="latent",
    ).latents
    assert families.distance(by_channels, by_image) < 1e-6


# ------------------------------------------------------------------------------------------------ tiles


@examples(deadline=None)
@given(st.integers(1, 700), st.sampled_from([1, 2, 4, 8]), st.integers(2, 160))
def test_spans_cover_all_with_weights_that_add_up_to_one(length, multiple, tile):
    tile = max(tile, 2 * multiple)
    found = tiles.spans(length, tile, multiple)
    total = np.zeros(length)
    for span in found:
        assert 0 <= span.begin < span.end <= length
        assert span.end - span.begin <= tile
        assert span.begin % multiple == 0
        assert (span.weights > 0).all()
        total[span.begin : span.end] += span.weights
    np.testing.assert_allclose(total, 1, rtol=1e-12)
    assert len({span.end - span.begin for span in found[:-1]}) <= 1
    for before, after in pairwise(found):
        assert after.begin < before.end  # so that there is room to blend
        assert before.weights[-1] <= 0.5 >= after.weights[0]


class Pointwise:
    """A network that looks at one latent at a time."""

    def __init__(self, unet):
        self.config, self.branches, self.dtype = unet.config, unet.branches, mx.float32

    def __call__(self, x, t, context, *, deep=None, depth=1, **_):
        mixed = mx.tanh(x[..., :4] + 0.5 * x[..., 3:] + t / 1000)
        return mixed, mixed


class Blur(Pointwise):
    """A network that looks around, the same everywhere, and no further than tiles overlap."""

    def __call__(self, x, t, context, **_):
        kernel = mx.array(families.numbers("kernel", 4, 3, 3, x.shape[-1])) / 9
        padded = mx.concatenate([x[:, :1], x, x[:, -1:]], axis=1)
        padded = mx.concatenate([padded[:, :, :1], padded, padded[:, :, -1:]], axis=2)
        y = mx.conv2d(padded, kernel)
        return y, y


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m", "euler_ancestral"])
def test_tiles_of_a_pointwise_network_are_the_whole(sampler, x4):
    x4 = StableDiffusion(replace(x4.model, unet=Pointwise(x4.unet)))
    whole = upscaled(x4, (50, 37), sampler=sampler, denoise_tile=0).latents
    tiled = upscaled(x4, (50, 37), sampler=sampler, denoise_tile=16).latents
    assert families.distance(tiled, whole) < 1e-5


def test_tiles_of_a_shift_equivariant_network_are_the_whole_but_for_their_edges(x4):
    x4 = StableDiffusion(replace(x4.model, unet=Blur(x4.unet)))
    whole = np.array(upscaled(x4, (64, 16), steps=1, denoise_tile=0).latents)
    tiled = np.array(upscaled(x4, (64, 16), steps=1, denoise_tile=32).latents)
    spans = tiles.spans(64, 32, 8)
    edges = {edge for span in spans for edge in (span.begin, span.end - 1)} - {0, 63}
    inside = [i for i in range(64) if i not in edges]
    assert families.distance(tiled[:, :, inside], whole[:, :, inside]) < 1e-5
    assert edges


def _seams(tiled: mx.array, whole: mx.array, places: list[int]) -> float:
    """How much steeper what tiles change is at these places than elsewhere; 1 is not at all."""
    steps = np.abs(np.diff(np.array(tiled - whole), axis=2)).mean(axis=(0, 1, 3))
    return float(steps[places].mean() / np.delete(steps, places).mean())


def _side_by_side(length: int, tile: int, multiple: int) -> list[tiles.Span]:
    return [tiles.Span(i, min(i + tile, length), np.ones(min(tile, length - i))) for i in range(0, length, tile)]


@pytest.mark.slow
def test_tiles_leave_no_seam(x4, monkeypatch):
    """Of a random network, whose tiles disagree; laid side by side, they do leave one."""
    size, steps = (112, 16), 6
    whole = upscaled(x4, size, steps=steps, denoise_tile=0).latents
    before, after = tiles.spans(112, 64, 8)
    blended = upscaled(x4, size, steps=steps, denoise_tile=64).latents
    assert _seams(blended, whole, [after.begin - 1, before.end - 1]) < 1.5
    monkeypatch.setattr(tiles, "spans", _side_by_side)
    side_by_side = upscaled(x4, size, steps=steps, denoise_tile=64).latents
    assert _seams(side_by_side, whole, [63]) > 2


@pytest.mark.filterwarnings("ignore:in 8 evaluations")
@pytest.mark.parametrize(
    "policy",
    slow_but(
        [DeepCache(3, 2, 1)], [DeepCache(2, 0), DeepCache(3, 2, 1), NonUniform(2, branch=1), At((0, 3)), Adaptive(0.6)]
    ),
    ids=str,
)
def test_every_deepcache_policy_in_tiles(policy, either):
    whole = upscaled(either, (24, 12), steps=8, denoise_tile=16)
    cached = upscaled(either, (24, 12), steps=8, denoise_tile=16, deepcache=policy)
    assert cached.full < whole.full == 8
    assert 0 < families.distance(cached.latents, whole.latents) < 1


@pytest.mark.filterwarnings("ignore:in 4 evaluations")
@pytest.mark.parametrize("tile", [0, 16])
def test_deepcache_that_refreshes_always_is_the_whole(tile, either):
    whole = upscaled(either, (24, 12), denoise_tile=tile)
    cached = upscaled(either, (24, 12), denoise_tile=tile, deepcache=DeepCache(1))
    assert mx.array_equal(whole.latents, cached.latents)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:in 4 evaluations")
def test_t_gate_and_freeu_go_with_tiles(x4):
    whole = upscaled(x4, (24, 12), denoise_tile=16).latents
    changed = [
        upscaled(x4, (24, 12), denoise_tile=16, **one).latents for one in ({"tgate": TGate(2)}, {"freeu": FreeU()})
    ]
    assert all(0 < families.distance(one, whole) < 2 for one in changed)


def test_what_ldm_super_resolution_takes(ldm):
    result = upscaled(ldm, (9, 14), steps=1, output="image")
    assert result.images[0].size == (18, 28)
    assert (
        [request.subject for request in result.requests],
        result.requests[0].guidance,
        result.requests[0].noise_level,
    ) == ([None], 1.0, None)
    for settings, message in {
        "prompt": ({"prompt": PROMPT}, "this model takes no prompt: it makes pictures larger"),
        "negative": ({"negative": "fog"}, "this model takes no prompt, and no negative one"),
        "guidance": ({"guidance": 3.0}, "guidance is at most 1"),
        "level": ({"noise_level": 20}, "the noise level is of x4 upscalers"),
        "no image": ({"image": None}, "makes pictures larger; give it one"),
    }.values():
        with pytest.raises(InputError, match=message):
            upscaled(ldm, **settings)


# ------------------------------------------------------------------------------------------------ refusals


REFUSED = {
    "no image": ({"image": None}, "makes pictures larger; give it one"),
    "level below": ({"noise_level": -1}, "noise level must be from 0 up, not -1"),
    "level above": ({"noise_level": 351}, "the noise level must be from 0 to 350, not 351"),
    "strength": ({"strength": 0.5}, "it takes no strength"),
    "mask": ({"mask": Image.new("L", (16, 12), 255)}, "it takes no mask"),
    "size": ({"width": 128}, "makes pictures 4 times as large, here 64 x 48; leave out"),
    "tile": ({"denoise_tile": 8}, "tiles must be at least 16 latents a side for this UNet, not 8"),
    "both": ({"channels": mx.zeros((1, 12, 16, 3))}, "give an image or channels, not both"),
    "no file": ({"image": "nowhere.png"}, "nowhere.png does not exist"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused(name, x4):
    settings, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        upscaled(x4, **settings)


def test_other_checkpoints_take_no_noise_level(family):
    with pytest.raises(InputError, match="the noise level is of x4 upscalers"):
        family("sd1").generate(PROMPT, noise_level=20)


def test_what_does_not_fit_into_memory_is_said_before_it_begins(x4, monkeypatch):
    model = x4.model
    whole, tiled = (memory.needed(model, 256, 256, denoise_tile=tile) for tile in (0, 32))
    assert tiled < whole == memory.needed(model, 256, 256, denoise_tile=64)
    assert memory.decoding(model, 256, 256, tile=64) < whole < memory.decoding(model, 256, 256, tile=0)
    monkeypatch.setattr(memory, "available", lambda: whole - 1)
    memory.check(model, 256, 256, denoise_tile=32, tile=64)
    for tile, denoise_tile in ((64, 0), (0, 32)):
        with pytest.raises(InputError, match=r"pictures of 256 x 256 need about .* GB; give a smaller image, or"):
            upscaled(x4, (64, 64), denoise_tile=denoise_tile, tile=tile)


def test_an_upscaler_without_its_noise_is_refused(checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "x4")
    index = json.loads((tmp_path / "x4/model_index.json").read_text())
    del index["low_res_scheduler"]
    (tmp_path / "x4/model_index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="low_res_scheduler is missing, by which upscalers"):
        StableDiffusion.load(tmp_path / "x4")


# ------------------------------------------------------------------------------------------------ converted


@pytest.mark.slow
def test_every_form_of_a_checkpoint_upscales_alike(checkpoint, x4, shapes, tokenizer, tmp_path):
    """A diffusers folder, what it is converted into, and what that is exported as."""
    assert convert.main(["--model", str(checkpoint), "--out", str(tmp_path / "converted")]) == 0
    back = ["--model", str(tmp_path / "converted"), "--to", "diffusers", "--out", str(tmp_path / "back")]
    assert convert.main(back) == 0
    expected = upscaled(x4).latents
    for name in ("converted", "back"):
        again = StableDiffusion.load(tmp_path / name, dtype="float32")
        assert again.model.low_res == x4.model.low_res
        assert mx.array_equal(upscaled(again).latents, expected)


def test_a_single_file_knows_how_its_upscaler_is_used(shapes, tokenizer, tmp_path):
    file, _ = singles.write("upscaler", shapes, tmp_path / "x4.safetensors")
    flags = ["--model", str(file), "--tokenizer", str(tokenizer), "--out", str(tmp_path / "converted")]
    assert convert.main(flags) == 0
    sd = StableDiffusion.load(tmp_path / "converted", dtype="float32")
    assert sd.model.low_res.highest == 19  # of the tiny network's table, below the pipeline's 350
    assert upscaled(sd, noise_level=19).requests[0].sampler == "ddim"


# ------------------------------------------------------------------------------------------------ command line


@pytest.fixture
def run(checkpoint, tmp_path, monkeypatch, capsys):
    """run(*flags) -> (exit code, stdout, stderr) of upscaling, in a folder with small.png."""
    monkeypatch.chdir(tmp_path)
    upscalers.picture(16, 12).save("small.png")

    def call(*flags):
        common = ("--dtype", "float32", "--steps", 2, "--output", "large.png")
        code = generate.main([str(a) for a in (*flags, *common)])
        return code, *capsys.readouterr()

    return lambda *flags: call("--model", checkpoint, *flags)


def test_the_command_line_upscales_and_the_picture_replays(run):
    flags = ("--init-image", "small.png", "--noise-level", 50, "--denoise-tile", 16, "--deepcache", 2)
    assert run("a red tent", *flags)[:2] == (0, "large.png\n")
    about = metadata.read(Path("large.png"))
    assert [about[name] for name in ("noise_level", "denoise_tile", "width", "height")] == [50, 16, 64, 48]
    with Image.open("large.png") as first:
        pixels = np.asarray(first)
    assert pixels.shape == (48, 64, 3)
    assert generate.main(["--from-image", "large.png", "--output", "again.png"]) == 0
    with Image.open("again.png") as again:
        assert (np.asarray(again) == pixels).all()


def test_no_prompt_is_needed(run):
    assert run("--init-image", "small.png")[:2] == (0, "large.png\n")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("a red tent",), "makes pictures larger; give it one (--init-image)"),
        (("--init-image", "small.png", "--noise-level", 400), "the noise level must be from 0 to 350, not 400"),
        (("--init-image", "small.png", "--strength", 0.5), "it takes no strength"),
        (("--init-image", "small.png", "--mask", "small.png"), "it takes no mask"),
        (("--init-image", "cut.png"), "cut.png is not a picture that can be read"),
        (
            ("tent", "--init-image", "small.png", "--model", "tiny", "--noise-level", 20),
            "the noise level is of x4 upscalers",
        ),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(flags, message, run):
    noise = np.random.RandomState(0).randint(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save("whole.png")
    Path("cut.png").write_bytes(Path("whole.png").read_bytes()[:4000])
    code, out, err = run(*flags)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert not Path("large.png").exists()
