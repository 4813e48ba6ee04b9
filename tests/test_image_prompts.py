"""IP-Adapters in generations: kinds, scales by block, masks, several images, caches, and what does not fit."""

import json
import shutil

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from mlx_sd import DeepCache, InputError, Request, image_prompts, memory
from mlx_sd.checkpoint.ip_adapter import ImagePrompt
from mlx_sd.networks.ip_adapter import cross_attentions
from mlx_sd.tasks import clip_image
from tests.support import families
from tests.support import image_prompts as support
from tests.support.effort import slow_but
from tests.support.image_prompts import KINDS, half_mask, pictures

PROMPT = families.PROMPT
FAST = {"steps": 3, "width": 64, "height": 64, "seed": 1, "output": "latent"}


@pytest.fixture(scope="module")
def home(family, tmp_path_factory):
    """The folder of the adapters of every kind for the tiny sd1 and sdxl."""
    place = tmp_path_factory.mktemp("ip")
    for kind in KINDS:
        support.write(place / f"{kind}.safetensors", kind, family("sd1").unet)
    support.write(place / "xl.safetensors", "plus", family("sdxl").unet)
    return place


def latents(sd, *entries, **settings):
    return np.array(sd.generate(PROMPT, ip_adapters=entries, **(FAST | settings)).latents)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_moves_the_picture_and_a_scale_of_nothing_does_not(kind, home, family):
    sd, model = family("sd1"), str(home / f"{kind}.safetensors")
    (picture,) = pictures()
    plain = latents(sd)
    assert not np.allclose(latents(sd, (model, picture)), plain, atol=0.1)
    assert np.array_equal(latents(sd, (model, picture, 0)), plain)
    assert np.array_equal(latents(sd, (model, picture, {"up": {"block_1": [0, 0, 0]}})), plain)


def test_adapters_and_their_encoder_count_where_memory_is_little(home, family, monkeypatch):
    sd, entry = family("sd1"), (str(home / "base.safetensors"), pictures()[0])
    request = sd.complete(Request(prompt=PROMPT, ip_adapters=[entry]))
    required = memory.needed(sd.model, 64, 64) + image_prompts.size_in_memory(sd.model, request)
    assert image_prompts.size_in_memory(sd.model, sd.complete(Request(prompt=PROMPT))) == 0
    monkeypatch.setattr(memory, "available", lambda: required)
    assert np.isfinite(latents(sd, entry)).all()
    monkeypatch.setattr(memory, "available", lambda: required - 1)
    with pytest.raises(InputError, match="GB of memory"):
        latents(sd, entry)


def test_cross_attentions_are_counted_down_up_middle(family):
    labels = [label for label, _ in cross_attentions(family("sd1").unet)]
    assert len(labels) == 16 and labels[:2] == ["down.block_0.0", "down.block_0.1"]
    assert labels[6] == "up.block_1.0" and labels[-1] == "mid"
    xl = [label for label, _ in cross_attentions(family("sdxl").unet)]
    assert xl.count("down.block_2.1") == 3 and xl.count("mid") == 3


def test_scales_by_block_are_the_nearest_named_and_others_nothing(family):
    unet = family("sd1").unet
    prompt = ImagePrompt("a", "b", {"down": {"block_2": [0, 1]}, "up": 0.5}).checked()
    labels = [label for label, _ in cross_attentions(unet)]
    scales = dict(zip(labels, image_prompts.scales(prompt, unet, None), strict=True))
    assert scales["down.block_2.1"] == 1 and scales["down.block_2.0"] == scales["down.block_0.0"] == scales["mid"] == 0
    assert scales["up.block_1.0"] == scales["up.block_3.2"] == 0.5
    again = ImagePrompt.from_record(json.loads(json.dumps(prompt.to_record())))
    assert again == prompt


@pytest.mark.slow
def test_one_image_twice_is_that_image(home, family):
    """The tokens of several images share a softmax, so the same image twice weighs as much as once."""
    sd, model = family("sd1"), str(home / "plus.safetensors")
    (picture,) = pictures()
    assert np.allclose(latents(sd, (model, [picture, picture])), latents(sd, (model, picture)), atol=1e-4)
    one, two = pictures(2)
    assert not np.allclose(latents(sd, (model, [one, two])), latents(sd, (model, one)), atol=0.05)


def test_several_adapters_add_up(home, family):
    sd, model = family("sd1"), str(home / "base.safetensors")
    (picture,) = pictures()
    both = latents(sd, (model, picture, 0.25), (model, picture, 0.5))
    assert np.allclose(both, latents(sd, (model, picture, 0.75)), atol=1e-4)


@pytest.mark.slow
def test_a_mask_of_everything_is_none_and_of_nothing_no_adapter(home, family):
    sd, model = family("sd1"), str(home / "base.safetensors")
    (picture,) = pictures()
    white, black = (Image.new("L", (64, 64), shade) for shade in (255, 0))
    assert np.allclose(latents(sd, (model, picture, 1.0, white)), latents(sd, (model, picture)), atol=1e-5)
    assert np.allclose(latents(sd, (model, picture, 1.0, black)), latents(sd), atol=1e-5)
    left = latents(sd, (model, picture, 1.0, half_mask()), steps=1)
    moved = np.abs(left - latents(sd, steps=1)).mean((0, 1, 3))
    assert moved[:3].mean() > 2 * moved[-3:].mean()


def test_a_mask_at_the_queries_resolution_keeps_its_mean_and_its_sides():
    mask = clip_image.mask(half_mask((64, 32)), (64, 32))
    small = np.array(clip_image.mask_of_queries(mask, 8 * 4)).reshape(4, 8)
    assert np.allclose(small[:, :3], 1, atol=0.05) and np.allclose(small[:, 5:], 0, atol=0.05)
    assert clip_image.mask_of_queries(mask, 33).shape == (1, 33)


@pytest.mark.parametrize("name", slow_but(["sd1"], ["sd1", "sdxl"]))
def test_a_cached_pass_equals_a_full_one_bit_for_bit_at_every_branch(name, home, family):
    sd = family(name)
    file = str(home / ("plus.safetensors" if name == "sd1" else "xl.safetensors"))
    request = Request(prompt=PROMPT, ip_adapters=[(file, pictures()[0])], width=64, height=64, guidance=5.0)
    attend = image_prompts.attention(sd.model, request).apply(1, 2)
    inputs = {key: mx.array(value) for key, value in families.unet_inputs(families.FAMILIES[name]["unet"]).items()}
    plain, _ = sd.unet(**inputs)
    for branch in sd.unet.branches:
        full, deep = sd.unet(**inputs, attend=attend, depth=branch + 1)
        cached, _ = sd.unet(**inputs, attend=attend, depth=branch + 1, deep=deep)
        assert mx.array_equal(full, cached) and not mx.allclose(full, plain, atol=0.05), branch


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:in . evaluations little repeats itself:UserWarning")
def test_tgate_keeps_the_sum_of_text_and_image(home, family):
    sd, entry = family("sd1"), (str(home / "base.safetensors"), pictures()[0])
    for settings in ({"tgate": 2}, {"tgate": 2, "deepcache": DeepCache(2)}):
        gated = latents(sd, entry, steps=4, **settings)
        assert not np.allclose(gated, latents(sd, steps=4, **settings), atol=0.1)


def test_without_guidance_there_is_one_half(home, family):
    sd, entry = family("sd1"), (str(home / "plus.safetensors"), pictures()[0])
    assert not np.allclose(latents(sd, entry, guidance=1.0), latents(sd, guidance=1.0), atol=0.1)


def test_a_single_file_and_a_named_folder_are_the_encoder_beside_it(home, family, tmp_path):
    sd, (picture,) = family("sd1"), pictures()
    expected = latents(sd, (str(home / "plus.safetensors"), picture))
    alone = tmp_path / "plus.safetensors"
    shutil.copyfile(home / "plus.safetensors", alone)
    with pytest.raises(InputError, match=r"sees images through an image encoder, and there is none in .*--ip-encoder"):
        latents(sd, (str(alone), picture))
    again = latents(sd, (str(alone), picture), ip_encoder=home / "image_encoder")
    assert np.array_equal(again, expected)


def test_preprocessing_cuts_the_middle_of_the_shorter_side():
    image = Image.new("RGB", (64, 32), "black")
    image.paste((255, 0, 0), (24, 0, 40, 32))
    pixels = np.array(clip_image.pixels(image, 32))
    assert pixels.shape == (1, 32, 32, 3)
    assert pixels[0, :, 16, 0].min() > 1.8 and pixels[0, :, 2, 0].max() < -1.7  # the mean and the deviation of CLIP


def test_metadata_record_it_and_replay_it(home, run, family, tmp_path):
    for name, picture in zip(("one.png", "two.png"), pictures(2), strict=True):
        picture.save(tmp_path / name)
    flags = ("--model", family("sd1").model.folder, "--steps", 1, "--size", "64x64", "--seed", 1)
    text = f"{home / 'base.safetensors'}:one.png,two.png:0.5"
    code, _, err = run("a tent", *flags, "--ip-adapter", text, "--output", "a.png")
    assert code == 0, err
    assert run("--from-image", "a.png", "--output", "b.png")[0] == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    (tmp_path / "two.png").unlink()
    code, _, err = run("--from-image", "a.png", "--output", "c.png")
    assert code == 2 and "two.png is no longer there, and the picture was made with it; --ip-adapter names" in err
    request = Request(ip_adapters=[text])
    assert Request.from_json(json.loads(json.dumps(request.to_json())), "here") == request
    assert request.ip_adapters[0].images == ("one.png", "two.png") and request.ip_adapters[0].scale == 0.5


STYLE, LAYOUT = ("up.block_0", (0.0, 1.0, 0.0)), ("down.block_2", (0.0, 1.0))


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("m:a.png:style", {"blocks": (STYLE,)}),
        ("m:a.png,b.png:0.5:style+layout", {"images": ("a.png", "b.png"), "scale": 0.5, "blocks": (STYLE, LAYOUT)}),
        ("m:a.png:mask=m:0.5.png", {"mask": "m:0.5.png"}),
        ("m:a.png:0.5:layout:mask=left.png", {"scale": 0.5, "blocks": (LAYOUT,), "mask": "left.png"}),
        ('m:a.png:{"up": {"block_0": [0, 1, 0]}}', {"blocks": (STYLE,)}),
        ('m:a.png:2:{"mid": 0.5}:mask=x', {"scale": 2.0, "blocks": (("mid", (0.5,)),), "mask": "x"}),
    ],
)
def test_a_text_says_blocks_and_mask(text, fields):
    expected = ImagePrompt("m", ("a.png",))._replace(**fields).checked()
    assert ImagePrompt.of(text) == expected
    assert ImagePrompt.from_record(json.loads(json.dumps(expected.to_record()))) == expected


def test_a_file_that_exists_has_any_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a:style", "b:mask=c", "d:{}", "e,f"):
        (tmp_path / name).write_bytes(b"")
        assert ImagePrompt.of(f"m:{name}") == ImagePrompt("m", (name,)).checked()


def test_words_for_blocks_are_their_scales(home, family):
    sd, model, (picture,) = family("sdxl"), str(home / "xl.safetensors"), pictures()
    both = {"up": {"block_0": [0, 1, 0]}, "down": {"block_2": [0, 1]}}
    assert np.array_equal(latents(sd, (model, picture, "style+layout")), latents(sd, (model, picture, both)))


def test_the_command_line_s_mask_and_blocks_are_python_s(home, run, family, tmp_path):
    sd, (picture,) = family("sd1"), pictures()
    picture.save(tmp_path / "one.png")
    half_mask().save(tmp_path / "left.png")
    flags = ("--model", sd.model.folder, "--steps", 1, "--size", "64x64", "--seed", 1)
    text = f'{home / "base.safetensors"}:one.png:0.8:{{"up": {{"block_1": [0, 1, 0.5]}}}}:mask=left.png'
    code, _, err = run("a tent", *flags, "--ip-adapter", text, "--output", "a.png")
    assert code == 0, err
    blocks = (("up.block_1", (0.0, 1.0, 0.5)),)
    entry = ImagePrompt(str(home / "base.safetensors"), picture, 0.8, half_mask(), blocks)
    result = sd.generate("a tent", steps=1, width=64, height=64, seed=1, ip_adapters=[entry])
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), np.asarray(result.images[0]))
    assert run("--from-image", "a.png", "--output", "b.png")[0] == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    half_mask().transpose(0).save(tmp_path / "left.png")
    code, _, err = run("--from-image", "a.png", "--output", "c.png")
    assert code == 2 and "left.png is not the file that the picture was made with" in err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("m:a.png:mask=", "name a file behind mask="),
        ('m:a.png:{"up": ', "scales by block are JSON"),
        ('m:a.png:{"up": "x"}', r"the scale of up of m:a\.png must be a finite number"),
        ("m:style", r"takes MODEL:IMAGE\[,IMAGE\]\[:SCALE\]\[:BLOCKS\]\[:mask=FILE\]"),
    ],
)
def test_what_makes_no_sense_is_one_line(text, words):
    with pytest.raises(InputError, match=words) as error:
        ImagePrompt.of(text)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="style, layout or style"):
        ImagePrompt.of(("m", "a.png", "mood"))


def test_what_does_not_fit_is_one_line(home, family, tmp_path):
    sd, (picture,) = family("sd1"), pictures()
    arrays = support.arrays("base", sd.unet)
    faces = {n: a for n, a in arrays.items() if not n.startswith("image_proj.")}
    faces |= {f"image_proj.{n}": np.zeros((8, 8), np.float32) for n in ("proj.0.weight", "proj.2.weight")}
    save_file(faces | {"image_proj.norm.weight": np.zeros(8, np.float32)}, tmp_path / "faceid.safetensors")
    plus = {"image_proj.perceiver_resampler.proj_in.weight": np.zeros((8, 8), np.float32)}
    save_file(faces | plus, tmp_path / "faceid-plus.safetensors")
    (tmp_path / "a.bin").write_bytes(b"\x80\x02}q\x00.")
    save_file({"lora_unet_x.lora_down.weight": np.zeros((2, 2), np.float32)}, tmp_path / "lora.safetensors")
    for model, words in (
        (tmp_path / "faceid.safetensors", "is an IP-Adapter FaceID: it needs embeddings of faces"),
        (tmp_path / "faceid-plus.safetensors", "is an IP-Adapter FaceID: it needs embeddings of faces"),
        (tmp_path / "a.bin", "is a pickle"),
        (tmp_path / "lora.safetensors", "is no IP-Adapter: it is a LoRA"),
        (home, "is a folder; an IP-Adapter is a .safetensors file"),
        (home / "xl.safetensors", r"does not fit .*: it is for 28 attentions to prompts of width 80, and the model"),
    ):
        with pytest.raises(InputError, match=words) as error:
            latents(sd, (str(model), picture))
        assert "\n" not in str(error.value)
    model = str(home / "base.safetensors")
    for scale, words in (
        ({"sideways": 1}, "the UNet has no block sideways"),
        ({"up": {"block_1": [0, 1]}}, "up.block_1 has 3 transformers, and there are 2 scales"),
    ):
        with pytest.raises(InputError, match=words):
            latents(sd, (model, picture, scale))
    with pytest.raises(InputError, match=r"nowhere\.png does not exist"):
        latents(sd, (model, "nowhere.png"))
    with pytest.raises(InputError, match="--ip-encoder is of --ip-adapter"):
        sd.generate(PROMPT, ip_encoder=home / "image_encoder", **FAST)
