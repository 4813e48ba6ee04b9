"""What is cached equals what is computed, bit for bit, and belongs to its contents alone."""

import dataclasses
import os
import random
import warnings

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_sd import codec
from mlx_sd.checkpoint.model import Model
from mlx_sd.conditions import encode
from mlx_sd.core.errors import InputError
from mlx_sd.request import Request
from mlx_sd.train.data import array_cache, dataset, picture_file
from mlx_sd.train.data.array_cache import ArrayCache, network_hash
from mlx_sd.train.data.buckets import single
from mlx_sd.train.data.fit import Fit, fit
from mlx_sd.train.data.latents import LatentCache, Moments
from mlx_sd.train.data.texts import TextCache

BUCKETS = single((64, 64))


@pytest.fixture
def example(picture, tmp_path) -> dataset.Example:
    """A picture of noise."""
    from PIL import Image

    path = picture("data/a.png", "a tent")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)).save(path)
    return dataset.read(tmp_path / "data").examples[0]


@pytest.fixture
def sd1(family) -> Model:
    """The model of a small random checkpoint."""
    return family("sd1").model


def crop(example: dataset.Example, flip: bool = False, seed: int | None = None) -> Fit:
    """Returns a crop of an example, at the centre or at random."""
    draw = None if seed is None else random.Random(seed)
    return fit(example.size, BUCKETS.bucket_of(example.size), draw, flip)


def same(one, other) -> bool:
    """Returns whether two tuples of arrays are equal in dtype and bits."""
    return all(
        (a is None and b is None) or (a.dtype == b.dtype and mx.array_equal(a, b))
        for a, b in zip(one, other, strict=True)
    )


def refuse(*arguments: object) -> None:
    """Stands for what must not run."""
    raise AssertionError("computed again")


# ------------------------------------------------------------------------------------------------ arrays

DTYPES = (mx.float32, mx.float16, mx.bfloat16, mx.int32)


@given(st.lists(st.floats(-1e4, 1e4), max_size=5), st.sampled_from(DTYPES))
def test_arrays_come_back_from_a_folder_bit_for_bit(folder, numbers, dtype):
    arrays = {"a": mx.array(numbers).astype(dtype), "b": mx.array(3.5).astype(dtype)}
    key = array_cache.key_of(numbers, str(dtype))
    assert same(ArrayCache(folder).get(key, lambda: arrays).values(), arrays.values())
    again = ArrayCache(folder).get(key, refuse)
    assert [*again] == ["a", "b"] and same(again.values(), arrays.values())


def test_a_file_with_any_byte_changed_gives_the_same_arrays_or_none(tmp_path):
    arrays = {"a": mx.arange(6).astype(mx.float32), "b": mx.ones((2,), mx.bfloat16)}
    file, cache = tmp_path / "key.npz", ArrayCache(tmp_path)
    cache.get("key", lambda: arrays)
    content = file.read_bytes()
    losses = 0
    for i in range(len(content)):
        file.write_bytes(content[:i] + bytes([content[i] ^ 255]) + content[i + 1 :])
        stored = cache.peek("key")
        losses += stored is None
        assert stored is None or (stored.keys() == arrays.keys() and same(stored.values(), arrays.values())), i
    assert losses > len(content) / 2
    assert same(cache.get("key", lambda: arrays).values(), arrays.values())


@pytest.mark.parametrize("size", [0, 10, 200])
def test_a_file_that_is_cut_off_is_made_again(tmp_path, size):
    ArrayCache(tmp_path).get("key", lambda: {"a": mx.ones((3,))})
    whole = (tmp_path / "key.npz").read_bytes()
    (tmp_path / "key.npz").write_bytes(whole[:size])
    assert ArrayCache(tmp_path).peek("key") is None
    ArrayCache(tmp_path).get("key", lambda: {"a": mx.ones((3,))})
    assert mx.array_equal(ArrayCache(tmp_path).get("key", refuse)["a"], mx.ones((3,)))
    assert [file.name for file in tmp_path.iterdir()] == ["key.npz"]


def test_a_folder_that_cannot_be_written_is_said_once_and_memory_serves(tmp_path):
    (tmp_path / "file").touch()
    cache = ArrayCache(tmp_path / "file" / "folder")
    with pytest.warns(UserWarning, match="cannot be written .*stays in memory"):
        cache.get("a", lambda: {"x": mx.ones((2,))})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache.get("b", lambda: {"x": mx.zeros((2,))})
    assert mx.array_equal(cache.get("a", refuse)["x"], mx.ones((2,)))


def test_a_full_disk_leaves_nothing_partial(tmp_path, monkeypatch):
    def fail(file, **arrays):
        file.write(b"half")
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(array_cache.np, "savez", fail)
    cache = ArrayCache(tmp_path)
    with pytest.warns(UserWarning, match="No space left"):
        cache.get("a", lambda: {"x": mx.ones((2,))})
    assert [*tmp_path.iterdir()] == [] and mx.array_equal(cache.get("a", refuse)["x"], mx.ones((2,)))


def test_a_network_s_hash_changes_with_each_weight_dtype_and_setting():
    from mlx import nn

    def layer(change=lambda network: None) -> str:
        mx.random.seed(0)
        network = nn.Linear(3, 2)
        change(network)
        return network_hash(network)

    def bend(network):
        network.weight[1, 2] += 1e-3

    def name(network):
        network.config = "other"

    hashes = [layer(), layer(bend), layer(lambda n: n.set_dtype(mx.bfloat16)), layer(name)]
    assert layer() == hashes[0] and len({*hashes}) == 4


# ------------------------------------------------------------------------------------------------ latents


@pytest.mark.parametrize("where", ["memory", "folder"])
@pytest.mark.parametrize("flip", [False, True])
def test_cached_moments_equal_those_without_a_cache(sd1, example, tmp_path, monkeypatch, where, flip):
    folder = tmp_path / "cache" if where == "folder" else None
    cache, where_cut = LatentCache(sd1.vae, folder), crop(example, flip)
    image = where_cut.apply(picture_file.read(example.path).image)
    fresh = cache.moments(example, where_cut)
    assert cache.holds(example, where_cut) and not cache.holds(example, crop(example, not flip))
    assert fresh.mean.dtype == mx.float32 and mx.array_equal(fresh.mean, codec.encode(sd1, image))
    monkeypatch.setattr(cache, "_encode", refuse)
    assert same(cache.moments(example, where_cut), fresh)
    if folder:
        assert same(LatentCache(sd1.vae, folder).moments(example, where_cut), fresh)


def test_latents_drawn_from_moments_are_those_of_the_posterior(sd1, example):
    moments = LatentCache(sd1.vae).moments(example, crop(example))
    key = mx.random.key(3)
    image = crop(example).apply(picture_file.read(example.path).image)
    from mlx_sd.tasks.images import to_pixels
    from mlx_sd.tasks.painting import posterior

    mean, deviation = posterior(sd1.vae, to_pixels(image))
    noise = mx.random.normal(mean.shape, key=key)
    expected = sd1.vae.scale(mean + deviation * noise)
    assert mx.abs(moments.sample(key) - expected).max() <= 1e-5 * mx.abs(expected).max()
    assert mx.array_equal(moments.sample(key), moments.sample(key))
    assert not mx.array_equal(moments.sample(key), moments.sample(mx.random.key(4)))


def test_latents_with_a_shift_and_a_scale_for_each_channel_are_drawn_in_the_unet_s_units(sd1, example):
    config = dataclasses.replace(
        sd1.vae.config, shift_factor=0.5, latents_mean=(1.0, 2.0, 3.0, 4.0), latents_std=(2.0, 3.0, 4.0, 5.0)
    )
    before, plain = sd1.vae.config, LatentCache(sd1.vae).moments(example, crop(example))
    sd1.vae.config = config
    try:
        cache = LatentCache(sd1.vae)
        moments = cache.moments(example, crop(example))
    finally:
        sd1.vae.config = before
    ratio = mx.array(config.latents_std)
    assert mx.allclose(moments.deviation, plain.deviation / ratio, rtol=1e-4, atol=1e-7)
    assert mx.allclose(
        moments.mean,
        (plain.mean / before.scaling_factor - mx.array(config.latents_mean)) * before.scaling_factor / ratio,
        atol=1e-5,
    )


def test_the_key_changes_with_picture_crop_flip_weights_and_dtype(sd1, example, tmp_path):
    cache = LatentCache(sd1.vae, tmp_path / "cache")
    other = dataclasses.replace(example, sha256="0" * 64)
    wide = fit(example.size, single((72, 64)).bucket_of(example.size))
    keys = [cache._key(example, where) for where in (crop(example), crop(example, True), crop(example, seed=1), wide)]
    keys += [cache._key(other, crop(example)), LatentCache(sd1.vae, None, mx.float16)._key(example, crop(example))]
    moved = dataclasses.replace(example, path=tmp_path / "elsewhere.png", caption="other words")
    assert cache._key(moved, crop(example)) == keys[0]
    weight = sd1.vae.encoder[0].weight
    sd1.vae.encoder[0].weight = weight + 1e-3
    keys.append(LatentCache(sd1.vae)._key(example, crop(example)))
    sd1.vae.encoder[0].weight = weight
    assert len({*keys}) == 7 and LatentCache(sd1.vae)._key(example, crop(example)) == keys[0]


def test_float16_moments_are_near_and_other_dtypes_are_refused(sd1, example):
    exact = LatentCache(sd1.vae).moments(example, crop(example))
    half = LatentCache(sd1.vae, dtype=mx.float16).moments(example, crop(example))
    assert half.mean.dtype == mx.float16 and half.sample(mx.random.key(0)).dtype == mx.float32
    assert mx.abs(half.mean - exact.mean).max() <= 1e-3 * mx.abs(exact.mean).max()
    with pytest.raises(InputError, match="float32 or float16"):
        LatentCache(sd1.vae, dtype=mx.int32)


def test_a_picture_that_changed_after_the_check_is_refused(sd1, example, picture):
    picture("data/a.png")
    cache = LatentCache(sd1.vae)
    with pytest.raises(InputError, match="has changed since it was checked"):
        cache.moments(example, crop(example))
    example.path.unlink()
    with pytest.raises(InputError, match="has changed since it was checked"):
        cache.moments(example, crop(example))


def test_deterministic_latents_have_no_deviation():
    assert mx.array_equal(
        Moments(mx.ones((1, 2, 2, 4)), mx.zeros((1, 2, 2, 4))).sample(mx.random.key(0)), mx.ones((1, 2, 2, 4))
    )


# ------------------------------------------------------------------------------------------------ texts


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
@pytest.mark.parametrize("where", ["memory", "folder"])
def test_cached_captions_equal_those_without_a_cache(family, tmp_path, monkeypatch, name, where):
    model = family(name).model
    folder = tmp_path / "cache" if where == "folder" else None
    cache = TextCache(model, folder, chunks=2)
    texts = ("a red tent", "", "word " * 30)
    expected = [encode(model, text, Request(prompt=text, prompt_style="plain"), chunks=2) for text in texts]
    assert cache.count_chunks(texts) == 2 and cache.count_chunks([]) == 1
    assert all(same(cache.encode(text), pair) for text, pair in zip(texts, expected, strict=True))
    assert {cache.encode(text).context.shape[1] for text in texts} == {2 * 77}
    assert (cache.encode("").pooled is None) == (name == "sd1")
    monkeypatch.setattr(cache, "_compute", refuse)
    assert all(same(cache.encode(text), pair) for text, pair in zip(texts, expected, strict=True))
    if folder:
        assert all(TextCache(model, folder, chunks=2).holds(text) for text in texts)


def test_no_caption_is_zeros_where_the_model_takes_these_and_else_the_empty_text(family):
    for name, zeros in (("sd1", False), ("sdxl", True)):
        model = dataclasses.replace(family(name).model, zeros_for_empty=zeros)
        cache = TextCache(model)
        nothing = cache.unconditional()
        assert mx.any(nothing.context != 0).item() != zeros
        assert nothing.context.shape == cache.encode("").context.shape
        if not zeros:
            assert same(nothing, cache.encode(""))


def test_the_key_changes_with_text_style_settings_and_weights(sd1):
    def key(text: str = "a (tent)", **settings: object) -> str:
        return TextCache(sd1, **settings)._key(text)

    keys = [key(), key("a tent"), key(style="a1111"), key(clip_skip=1), key(chunks=2)]
    embedding = sd1.text_encoders[0].token_embedding
    weight = embedding.weight
    embedding.weight = weight + 1e-3
    keys.append(key())
    embedding.weight = weight
    assert len({*keys}) == 6 and key() == keys[0]


def test_captions_that_the_model_does_not_take_are_refused(sd1):
    with pytest.raises(InputError, match="fills 2 chunks of tokens, more than 1"):
        TextCache(sd1).encode("word " * 30)
    with pytest.raises(InputError, match="unknown prompt style 'x'"):
        TextCache(sd1, style="x")
    with pytest.raises(InputError, match="takes no prompt"):
        TextCache(dataclasses.replace(sd1, text_encoders=(), tokenizers=()))
