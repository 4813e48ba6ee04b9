"""A textual inversion's file holds the vectors bit for bit, in every format, and what no reader takes is one line."""

import errno
import os

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from mlx_sd.core.errors import Failure, InputError
from mlx_sd.core.files import metadata, sha256
from mlx_sd.pipeline import StableDiffusion
from mlx_sd.prompts.embeddings import Embedding, read
from mlx_sd.train.files import safetensors_file
from mlx_sd.train.files.base_model import BaseModel
from mlx_sd.train.files.embedding_file import FORMATS, write
from tests.support.families import numbers

TOKEN = "<my-cat>"


def vectors(count: int = 3, *widths: int) -> dict[str, mx.array]:
    """Random vectors for one text encoder, or for SDXL's two."""
    keys = ("text_encoder",) if len(widths) < 2 else ("clip_l", "clip_g")
    return {key: mx.array(numbers(key, count, width)) for key, width in zip(keys, widths or (32,), strict=True)}


def same(one, two) -> bool:
    """Whether two arrays have the same bytes."""
    return np.array(one).tobytes() == np.array(two).tobytes() and one.shape == two.shape


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("count", [1, 4, 75])
@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
def test_our_reader_has_the_vectors_bit_for_bit(format, count, dtype, tmp_path):
    made = {key: array.astype(dtype) for key, array in vectors(count).items()}
    digest = write(tmp_path / "my-cat.safetensors", TOKEN, made, format)
    embedding, arrays = read(Embedding(str(tmp_path / "my-cat.safetensors")), [32])
    assert same(arrays[0], made["text_encoder"].astype(mx.float32))
    assert embedding.name == (TOKEN if format == "diffusers" else "my-cat")
    assert embedding.sha256 == digest == sha256(tmp_path / "my-cat.safetensors")


@given(st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1).filter(lambda token: token != "*"))
def test_any_printable_word_is_kept(folder, token):
    write(folder / "a.safetensors", token, vectors(), "diffusers", force=True)
    assert read(Embedding(str(folder / "a.safetensors")), [32]).embedding.name == token


@pytest.mark.parametrize("format", FORMATS)
def test_of_sdxl_both_encoders_get_their_own(format, tmp_path):
    made = vectors(4, 32, 48)
    swapped = dict(reversed(made.items()))
    assert write(tmp_path / "a.safetensors", TOKEN, made, format) == write(
        tmp_path / "b.safetensors", TOKEN, swapped, format
    )
    embedding, arrays = read(Embedding(str(tmp_path / "a.safetensors")), [32, 48])
    assert same(arrays[0], made["clip_l"])
    assert same(arrays[1], made["clip_g"])
    assert embedding.name == "a"


@pytest.mark.parametrize(("format", "key"), [("a1111", "emb_params"), ("diffusers", TOKEN)])
def test_the_one_tensor_has_the_name_that_the_format_says(format, key, tmp_path):
    write(tmp_path / "a.safetensors", TOKEN, vectors(), format)
    with safe_open(tmp_path / "a.safetensors", "numpy") as file:
        assert list(file.keys()) == [key]
        assert file.get_tensor(key).dtype == np.float32


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("format", FORMATS)
def test_the_vectors_of_words_mean_these_words_in_a_prompt(format, family, models, tmp_path):
    model = models(family)
    ids = mx.array(model.tokenizers[0].ids("red tent"))
    rows = [encoder.token_embedding.weight[ids] for encoder in model.text_encoders]
    keys = ("clip_l", "clip_g") if len(rows) > 1 else ("text_encoder",)
    file = tmp_path / "zxcat.safetensors"
    write(file, "zxcat", dict(zip(keys, rows, strict=True)), format, BaseModel.of(model))
    sd = StableDiffusion(model)
    ours = sd.encode_prompt("a zxcat on grass", embeddings=[file])
    words = sd.encode_prompt("a red tent on grass")
    assert same(ours[0], words[0])
    assert not same(ours[0], sd.encode_prompt("a red tree on grass")[0])


def test_its_metadata_say_the_base_and_the_word(models, tmp_path):
    write(tmp_path / "a.safetensors", TOKEN, vectors(), base=BaseModel.of(models("sd1")))
    texts = metadata(tmp_path / "a.safetensors")
    assert texts["modelspec.architecture"] == "stable-diffusion-v1/textual-inversion"
    assert texts["modelspec.trigger_phrase"] == TOKEN
    assert texts["ss_sd_model_name"] == "sd1"
    write(tmp_path / "b.safetensors", TOKEN, vectors())
    assert metadata(tmp_path / "b.safetensors").keys() == {"sshs_model_hash"}


# ------------------------------------------------------------------------------------------------ bad input


def test_what_no_reader_takes_is_one_line_and_no_file(tmp_path):
    good, file = vectors(), tmp_path / "a.safetensors"
    nan = {"text_encoder": mx.full((2, 32), float("nan"))}
    cases = [
        (InputError, TOKEN, {"format": "a1112"}, "unknown format 'a1112'"),
        (InputError, "", {}, "'' cannot be an embedding's word"),
        (InputError, " cat", {}, "' cat' cannot be an embedding's word"),
        (InputError, "two\nlines", {}, r"'two\\nlines' cannot be an embedding's word"),
        (InputError, "odd\udcff", {}, "cannot be an embedding's word"),
        (InputError, "__metadata__", {}, "'__metadata__' cannot be an embedding's word"),
        (InputError, "emb_params", {}, "'emb_params' cannot be an embedding's word"),
        (InputError, "clip_l", {}, "'clip_l' cannot be an embedding's word"),
        (InputError, TOKEN, {"vectors": {}}, "of text_encoder, or of clip_l and clip_g"),
        (InputError, TOKEN, {"vectors": {"clip_l": good["text_encoder"]}}, "of text_encoder, or of clip_l and clip_g"),
        (InputError, TOKEN, {"vectors": vectors(76)}, r"is \(76, 32\); it must be 1 to 75 vectors"),
        (InputError, TOKEN, {"vectors": {"text_encoder": mx.zeros((0, 32))}}, "it must be 1 to 75 vectors"),
        (InputError, TOKEN, {"vectors": {"text_encoder": mx.zeros((32,))}}, r"is \(32,\); it must be"),
        (
            InputError,
            TOKEN,
            {"vectors": {"clip_l": mx.zeros((2, 32)), "clip_g": mx.zeros((3, 48))}},
            "2 of clip_l and 3 of clip_g; both text encoders need as many",
        ),
        (Failure, TOKEN, {"vectors": nan}, "text_encoder holds numbers that are not finite: the training went wrong"),
    ]
    for error, token, changes, message in cases:
        with pytest.raises(error, match=message) as raised:
            write(**{"path": file, "token": token, "vectors": good} | changes)
        assert "\n" not in str(raised.value)
        assert not list(tmp_path.iterdir())
    file.write_bytes(b"mine")
    with pytest.raises(InputError, match="exists; choose another name"):
        write(file, TOKEN, good)
    assert file.read_bytes() == b"mine"
    write(file, TOKEN, good, force=True)


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(safetensors_file.os, "fsync", full)
    with pytest.raises(Failure, match="cannot be written: No space left on device; nothing is left of it"):
        write(tmp_path / "a.safetensors", TOKEN, vectors())
    assert not list(tmp_path.iterdir())
