"""With little memory each network has its weights there only while it works, and every picture is what it was."""

import gc

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from convert.__main__ import main as convert
from mlx_sd import InputError, StableDiffusion, memory
from mlx_sd.memory import size_of
from mlx_sd.prompts.encoding import PromptEncoder
from tests.support import adapters
from tests.support.effort import slow_but

FAST = {"steps": 3, "width": 64, "height": 64, "seed": 3}
_SLACK = 1 << 20  # bytes of latents, contexts and features


def loaded(sd, **how):
    return StableDiffusion.load(sd.model.folder, "float32", low_memory=True, **how)


def equal(a, b):
    assert mx.array_equal(a.latents, b.latents).item()
    assert all(np.array_equal(np.array(x), np.array(y)) for x, y in zip(a.images, b.images, strict=True))


def active():
    gc.collect()
    mx.synchronize()
    return mx.get_active_memory()


@pytest.fixture(scope="module")
def small():
    return StableDiffusion.load("tiny", "float32", low_memory=True)


@pytest.fixture(scope="module")
def plain():
    return StableDiffusion.load("tiny", "float32")


def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


def mask():
    return Image.fromarray(np.repeat(np.array([[0, 255]], np.uint8), 32, axis=1).repeat(64, axis=0))


CASES = {
    "nothing else": {},
    "DeepCache": {"deepcache": 2},
    "a policy that looks at the picture": {"deepcache": "adaptive:0.1"},
    "T-GATE": {"tgate": 2},
    "perturbed attention": {"pag": 3.0},
    "AND": {"prompt": "a red tent AND a blue house :0.6"},
    "a prompt that changes": {"prompt": "a [red:blue:2] tent"},
    "guidance that ends": {"guidance_interval": "0-0.5", "deepcache": 2},
    "no guidance": {"guidance": 1.0},
    "an image": {"image": picture(), "strength": 0.5},
    "a mask": {"image": picture(), "mask": mask()},
    "a second pass": {"hires": "2:2:0.6", "hires_mode": "lanczos"},
    "tiles": {"width": 192, "height": 128, "denoise_tile": 16, "tile": 64},
    "pictures together": {"prompt": ["a red tent", "a house with a blue roof"], "count": 2, "batch": 2},
}


@pytest.mark.filterwarnings("ignore:in .* evaluations little repeats itself")
@pytest.mark.parametrize("case", slow_but(["T-GATE", "a mask"], CASES))
def test_a_picture_is_what_it_was(small, plain, case):
    settings = {"prompt": "a red tent"} | FAST | CASES[case]
    equal(small.generate(**settings), plain.generate(**settings))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:in .* evaluations little repeats itself")
@pytest.mark.parametrize("name", ["sd2v", "sdxl"])
def test_a_picture_of_every_family_is_what_it_was(family, name):
    sd = family(name)
    for settings in ({}, {"deepcache": 2}):
        equal(loaded(sd).generate("a tent", **FAST | settings), sd.generate("a tent", **FAST | settings))


@pytest.mark.slow
def test_while_the_unet_works_its_weights_alone_are_in_memory_and_then_they_leave(small):
    small.model.work()
    before, during = active(), []
    result = small.generate("a tent", **FAST, count=2, callback=lambda *_: during.append(active() - before))
    sizes = [size_of(network) for network in (small.unet, small.vae, *small.model.text_encoders)]
    assert max(during) <= sizes[0] + _SLACK < sizes[0] + min(sizes)
    assert min(during) > sizes[0] - _SLACK
    assert active() - before < sizes[1] + _SLACK  # of the autoencoder, which came last
    small.model.work()
    del result
    assert active() - before < _SLACK


def test_networks_that_are_used_by_themselves_leave_too(small):
    small.model.work()
    before = active()
    latents = small.encode(picture())
    small.decode(latents)
    small.encode_prompt("a tent")
    small.model.work()
    assert active() - before < _SLACK


@pytest.mark.slow
def test_a_prompt_is_encoded_once_for_all_its_pictures(small, monkeypatch):
    texts = []
    encode = PromptEncoder.encode

    def counted(self, text, *arguments):
        texts.append(text)
        return encode(self, text, *arguments)

    monkeypatch.setattr(PromptEncoder, "encode", counted)
    for prompt in ("a prompt of its own", "a second one", "a prompt of its own"):
        small.generate(prompt, negative="a third", **FAST | {"steps": 1}, count=2)
    assert sorted(texts) == ["a prompt of its own", "a second one", "a third"]
    small.generate("a prompt of its own", negative="a third", **FAST | {"steps": 1}, prompt_style="plain")
    assert sorted(texts[3:]) == ["a prompt of its own", "a third"]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["merge", "runtime"])
def test_loras_are_there_again_whenever_a_network_is(original, shapes, tmp_path, mode):
    file = tmp_path / "lora.safetensors"
    norms = adapters.kohya(
        adapters.every_layer(shapes["sd1"], adapters.norm, lambda layer, shape: len(shape) == 1 and "norm" in layer)
    )
    adapters.save(file, norms | adapters.kohya(adapters.every_layer(shapes["sd1"], adapters.mixed, adapters.matrices)))
    sds = [
        StableDiffusion.load(original, "float32", [(file, 0.4)], lora_mode=mode, low_memory=low)
        for low in (False, True)
    ]
    for prompt in ("a tent", "a house"):
        equal(*(sd.generate(prompt, **FAST) for sd in sds))
    if mode == "runtime":
        for sd in sds:
            sd.scale_loras(-0.3)
        equal(*(sd.generate("a tent", **FAST) for sd in sds))


@pytest.mark.slow
def test_a_quantized_folder_is_read_again_and_what_is_quantized_in_memory_stays(original, tmp_path):
    out = tmp_path / "model"
    assert convert(["--model", str(original), "--out", str(out), "--quantize", "8:32"]) == 0
    stored = [StableDiffusion.load(out, "float32", low_memory=low) for low in (False, True)]
    equal(*(sd.generate("a tent", **FAST) for sd in stored))
    assert "unet" in stored[1].model.low_memory.networks
    quantized = [StableDiffusion.load(original, "float32", quantize="8:32", low_memory=low) for low in (False, True)]
    equal(*(sd.generate("a tent", **FAST) for sd in quantized))
    assert "unet" not in quantized[1].model.low_memory.networks


@pytest.mark.slow
def test_a_large_picture_is_decoded_in_tiles_that_its_record_names(small, plain):
    settings = {"steps": 1, "seed": 0, "guidance": 1.0, "width": 520, "height": 128}
    result = small.generate("a tent", **settings)
    assert result.requests[0].tile == 512
    assert small.generate("a tent", **settings | {"width": 128}, output="latent").requests[0].tile is None
    assert small.generate("a tent", **settings, tile=0, output="latent").requests[0].tile == 0
    equal(result, next(plain.stream(result.requests)))


def test_it_is_offered_where_memory_is_small_and_is_what_then_fits(plain, small, monkeypatch):
    needed = memory.needed(small.model, 256, 256)
    assert needed == memory.needed(plain.model, 256, 256, low_memory=True) < memory.needed(plain.model, 256, 256)
    monkeypatch.setattr(memory, "available", lambda: needed)
    memory.check(small.model, 256, 256)
    with pytest.raises(InputError, match=r"need about .*; --low-memory needs about"):
        memory.check(plain.model, 256, 256)
    monkeypatch.setattr(memory, "available", lambda: needed - 1)
    with pytest.raises(InputError, match=r"none of any size would fit$"):
        memory.check(plain.model, 256, 256)
    monkeypatch.setattr(memory, "available", lambda: memory.needed(plain.model, 256, 256) - 1)
    with pytest.raises(InputError, match=r"would fit \(--width, --height\); --low-memory needs about"):
        memory.check(plain.model, 256, 256)


def test_loading_says_that_a_model_fills_the_memory(plain, monkeypatch):
    sizes = [size_of(network) for network in (plain.unet, plain.vae, *plain.model.text_encoders)]
    monkeypatch.setattr(memory, "available", lambda: sum(sizes))
    with pytest.warns(UserWarning, match="the networks of tiny take .*; --low-memory keeps one at a time there"):
        StableDiffusion.load("tiny", "float32")
    StableDiffusion.load("tiny", "float32", low_memory=True)  # says nothing
    monkeypatch.setattr(memory, "available", lambda: 2 * sum(sizes))
    StableDiffusion.load("tiny", "float32")


def test_a_cut_file_is_an_error_before_any_work(original, tmp_path):
    out = tmp_path / "model"
    assert convert(["--model", str(original), "--out", str(out)]) == 0
    file = out / "text_encoder.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(InputError, match=r"text_encoder.safetensors"):
        StableDiffusion.load(out, "float32", low_memory=True)
