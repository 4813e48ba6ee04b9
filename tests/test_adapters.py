"""T2I-Adapters in generations: every form of file, scales, sums, caches, tiles, and what does not fit."""

import json

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from safetensors.numpy import save_file

from mlx_sd import DeepCache, InputError, Request, memory
from mlx_sd.checkpoint.adapter import Adapter
from mlx_sd.checkpoint.model_folder import build
from mlx_sd.networks.t2i_adapter import average_of_four, pixel_unshuffle, places
from tests.support import adapters_beside, families
from tests.support.adapters_beside import KINDS, picture

PROMPT = families.PROMPT
FAST = {"steps": 3, "width": 64, "height": 64, "seed": 1, "output": "latent"}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The folder of the adapters of every kind."""
    place = tmp_path_factory.mktemp("adapters")
    for kind in KINDS:
        adapters_beside.write_folder(place / kind, kind)
    return place


def latents(sd, *entries, **settings):
    return np.array(sd.generate(PROMPT, adapters=entries, **(FAST | settings)).latents)


@pytest.mark.slow
def test_every_form_of_file_is_the_same_adapter(home, family, tmp_path):
    for kind in ("full", "light"):
        expected = latents(family("sd1"), (str(home / kind), picture()))
        arrays = adapters_beside.weights(adapters_beside.config(kind))
        forms = {"diffusers": arrays, "original": adapters_beside.original(arrays)}
        forms["outer"] = {f"adapter.{name}": array for name, array in forms["original"].items()}
        for form, tensors in forms.items():
            save_file(tensors, tmp_path / f"{kind}-{form}.safetensors")
            again = latents(family("sd1"), (str(tmp_path / f"{kind}-{form}.safetensors"), picture()))
            assert np.array_equal(again, expected), form


def test_the_kernel_of_the_second_convolution_and_convolutions_that_shrink_are_read_off(family, tmp_path):
    values = adapters_beside.config("full") | {"_kernel": 3, "_convolves": True}
    network = build("t2i_adapter", values, "here")
    assert network.blocks[0].resnets[0].conv2.weight.shape[1] == 3 and "down" in network.blocks[1]
    arrays = {
        name.replace(".down_opt.", ".down_opt.op."): a
        for name, a in adapters_beside.original(adapters_beside.weights(values)).items()
    }
    save_file(arrays, tmp_path / "old.safetensors")
    assert np.isfinite(latents(family("sd1"), (str(tmp_path / "old.safetensors"), picture()))).all()


@pytest.mark.slow
def test_a_scale_of_nothing_is_no_adapter_bit_for_bit(home, family):
    sd = family("sd1")
    plain = latents(sd)
    assert np.array_equal(latents(sd, (str(home / "full"), picture(), 0)), plain)
    assert np.array_equal(latents(sd, (str(home / "full"), picture()), adapter_factor=0.0), plain)
    assert not np.allclose(latents(sd, (str(home / "full"), picture())), plain, atol=0.1)


def test_adapters_that_do_not_fit_into_memory_are_refused_before_they_are_loaded(home, family, monkeypatch):
    sd, entry = family("sd1"), (str(home / "full"), picture())
    parameters = build("t2i_adapter", adapters_beside.config("full"), "here").parameters()
    weights = 4 * sum(array.size for _, array in tree_flatten(parameters))
    present = memory.needed(sd.model, 64, 64) + weights
    monkeypatch.setattr(memory, "available", lambda: present)
    assert np.isfinite(latents(sd, entry, entry)).all()  # one network, whose weights are there once
    monkeypatch.setattr(memory, "available", lambda: present - 1)
    with pytest.raises(InputError, match="GB of memory"):
        latents(sd, entry)


def test_several_adapters_are_the_sum(home, family):
    sd = family("sd1")
    one, two = Adapter(str(home / "full"), picture(), 0.3), Adapter(str(home / "full"), picture(), 0.5)
    assert np.allclose(latents(sd, one, two), latents(sd, one._replace(scale=0.8)), atol=1e-4)


@pytest.mark.parametrize("kind", ["full", "xl"])
def test_a_cached_pass_equals_a_full_one_bit_for_bit_at_every_branch(kind, home, family):
    name = KINDS[kind][0]
    unet = family(name).unet
    inputs = {key: mx.array(value) for key, value in families.unet_inputs(families.FAMILIES[name]["unet"]).items()}
    features = {
        stage: mx.array(families.numbers(f"feature {stage}", 1, 8 // factor, 8 // factor, width))
        for stage, width, factor in places(unet.config)
    }
    plain, _ = unet(**inputs)
    for branch in unet.branches:
        full, deep = unet(**inputs, features=features, depth=branch + 1)
        cached, _ = unet(**inputs, features=features, depth=branch + 1, deep=deep)
        assert mx.array_equal(full, cached), branch
        assert not mx.allclose(full, plain, atol=0.1)
        without, _ = unet(**inputs, depth=branch + 1, deep=deep)
        reads = any(stage <= branch for stage, *_ in places(unet.config))
        assert mx.array_equal(without, cached) != reads, branch


def test_the_end_of_the_adapter_forces_a_full_evaluation(home, family):
    result = family("sd1").generate(
        PROMPT,
        adapters=[(str(home / "full"), picture())],
        adapter_factor=0.5,
        **(FAST | {"steps": 10, "deepcache": DeepCache(4), "sampler": "ddim"}),
    )
    assert result.full == 4  # 0, 4 and 8 by the interval, and 5 where the adapter ends


def test_one_row_of_tgate_and_freeu_go_with_it(home, family):
    sd = family("sd1")
    entry = (str(home / "full"), picture())
    settings = {"steps": 4, "tgate": 2, "freeu": True}
    assert not np.allclose(latents(sd, entry, **settings), latents(sd, **settings), atol=0.1)


@pytest.mark.slow
def test_a_tile_of_the_whole_picture_changes_nothing_and_smaller_ones_are_near(home, family):
    sd, entry = family("sd1"), (str(home / "full"), picture((128, 128)))
    size = {"width": 128, "height": 128, "steps": 1}
    untiled = latents(sd, entry, **size)
    assert np.array_equal(latents(sd, entry, **size, denoise_tile=16), untiled)
    entry, large = (str(home / "full"), picture((192, 192))), size | {"width": 192, "height": 192, "denoise_tile": 16}
    assert np.abs(latents(sd, entry, **large) - latents(sd, **large)).max() > 0.02


def test_features_of_a_tile_are_the_picture_s():
    from mlx_sd.adapters import Features

    array = mx.array(families.numbers("feature", 1, 4, 6, 3))  # of cells of 4 latents
    cut = lambda x: x[:, 4:12, 8:24]  # noqa: E731
    part = Features({0: array}, 5).of_tile(cut, (16, 24)).by_stage[0]
    assert np.array_equal(np.array(part), np.array(array)[:, 1:3, 2:6])


def test_unshuffling_and_means_are_those_of_torch():
    x = mx.arange(2 * 4 * 4 * 3).reshape(2, 4, 4, 3)
    y = pixel_unshuffle(x, 2)
    assert y.shape == (2, 2, 2, 12) and y[0, 1, 0, 4 + 2].item() == x[0, 3, 0, 1].item()
    odd = average_of_four(mx.array(np.arange(9, dtype=np.float32).reshape(1, 3, 3, 1)))
    assert odd[0, ..., 0].tolist() == [[2.0, 3.5], [6.5, 8.0]]


def test_the_picture_has_the_image_s_shape_where_none_is_named(home, family):
    result = family("sd1").generate(
        PROMPT, adapters=[(str(home / "full"), picture((96, 48)))], steps=1, output="latent", seed=0
    )
    assert result.requests[0].width == 2 * result.requests[0].height


def test_metadata_record_it_and_replay_it(home, run, family, tmp_path):
    picture().save(tmp_path / "sketch.png")
    model = family("sd1").model.folder
    flags = ("--model", model, "--steps", 1, "--size", "64x64", "--seed", 1)
    text = f"{home / 'full'}:sketch.png:0.5"
    assert run("a tent", *flags, "--adapter", text, "--output", "a.png")[0] == 0
    code, _, err = run("--from-image", "a.png", "--output", "b.png")
    assert code == 0, err
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    picture((64, 64), "L").save(tmp_path / "sketch.png")
    code, _, err = run("--from-image", "a.png", "--output", "c.png")
    assert code == 2 and "sketch.png is not the file that the picture was made with; --allow-changed" in err
    (tmp_path / "sketch.png").unlink()
    code, _, err = run("--from-image", "a.png", "--output", "c.png")
    assert code == 2 and "sketch.png is no longer there, and the picture was made with it; --adapter names" in err
    picture().save(tmp_path / "sketch.png")
    code, _, err = run("a tent", *flags, "--adapter", text, "--output", "sketch.png")
    assert code == 2 and "--output sketch.png would overwrite --adapter sketch.png" in err
    request = Request(adapters=[text])
    assert Request.from_json(json.loads(json.dumps(request.to_json())), "here") == request
    assert request.adapters == (Adapter(str(home / "full"), "sketch.png", 0.5),)


WRONG = {
    "of SDXL": ("xl", {}, r"xl does not fit .*: it has features of width 64 for 8 x 8 pixels, and the model has 32"),
    "another shape": ("full", {"width": 128, "height": 64}, "which is not the shape of a picture of 128 x 64"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_one_line(name, home, family):
    kind, settings, words = WRONG[name]
    with pytest.raises(InputError, match=words) as error:
        latents(family("sd1"), (str(home / kind), picture()), **settings)
    assert "\n" not in str(error.value)


def test_what_is_no_adapter_is_one_line(home, family, tmp_path):
    sd = family("sd1")
    save_file({"lora_unet_x.lora_down.weight": np.zeros((2, 2), np.float32)}, tmp_path / "lora.safetensors")
    (tmp_path / "a.bin").write_bytes(b"\x80\x02}q\x00.")
    for model, words in (
        (tmp_path / "lora.safetensors", "is no T2I-Adapter: it is a LoRA"),
        (tmp_path / "a.bin", "is a pickle"),
        (sd.model.folder, "no T2I-Adapter|missing"),
        (tmp_path / "nowhere", "cannot be read"),
    ):
        with pytest.raises(InputError, match=words):
            latents(sd, (str(model), picture()))
    with pytest.raises(InputError, match=r"nowhere.png does not exist"):
        latents(sd, (str(home / "full"), "nowhere.png"))
    with pytest.raises(InputError, match=r"--adapter takes MODEL:IMAGE"):
        Request(adapters=["only-a-model"])
    with pytest.raises(InputError, match="the adapter factor is about --adapter"):
        sd.generate(PROMPT, adapter_factor=0.5, **FAST)
