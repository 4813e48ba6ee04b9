"""Chunks, weights and embeddings: what the text encoder is shown, and what becomes of its rows."""

import base64
import itertools
import json
import math

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.numpy import save_file

from mlx_sd.core.embedded import TINY
from mlx_sd.core.errors import InputError
from mlx_sd.prompts import chunks, embeddings, encoding
from mlx_sd.prompts.chunks import Token, Vector
from mlx_sd.prompts.splitting import Splitter
from mlx_sd.prompts.styles import STYLES
from mlx_sd.prompts.tokenizer import Tokenizer

TEXT = "a (red:1.4) tent on [green] grass"


WIDTH = 32  # of the text encoder of the tiny random checkpoint sd1


@pytest.fixture
def sd(family):
    return family("sd1")


@pytest.fixture
def sdxl(family):
    return family("sdxl")


@pytest.fixture(scope="module")
def words():
    return Tokenizer.load(TINY / "tokenizer")


def encode(sd, text, style="a1111", **options):
    return np.array(sd.encode_prompt(text, prompt_style=style, **options)[0])


def split(tokenizer, text, style="a1111", vectors=None):
    (part,) = STYLES[style].parts(text)
    return Splitter(tokenizer, STYLES[style], vectors or {}).chunks(part.blend.texts[0])


def vectors(count=2, width=WIDTH, name="zorb"):
    array = mx.array(np.random.default_rng(1).standard_normal((count, width)).astype(np.float32))
    return embeddings.Vectors(embeddings.Embedding("z", name, "0" * 64), (array,))


# ------------------------------------------------------------------------------------------------ chunks


def test_chunks_of_a_text_without_syntax_are_those_of_the_tokenizer(words):
    for text in ("", "a red tent", "tent " * 75, "tent " * 76, "tent " * 200):
        for style in ("plain", "a1111", "comfy"):
            assert [list(chunk.ids) for chunk in split(words, text, style)] == words.chunks(text)


def test_what_follows_a_late_comma_moves_to_the_next_chunk(words):
    def lengths(words_before, words_after):
        text = "tent " * words_before + ", " + "moon " * words_after
        return [chunk.length for chunk in split(words, text)]

    assert lengths(60, 20) == [61, 20]
    assert lengths(55, 30) == [56, 30]
    assert lengths(54, 30) == [75, 10]  # more than 20 tokens after the comma
    assert lengths(74, 5) == [75, 5]
    assert [chunk.length for chunk in split(words, "tent " * 60 + ", " + "moon " * 20, "plain")] == [75, 6]


def test_break_begins_a_chunk_and_makes_no_empty_one_at_the_end(words):
    assert [chunk.length for chunk in split(words, "a tent BREAK a moon")] == [2, 2]
    assert [chunk.length for chunk in split(words, "a tent BREAK")] == [2]
    assert [chunk.length for chunk in split(words, "BREAK a tent")] == [0, 2]
    assert len(split(words, "BREAK")) == 1


@given(st.integers(0, 76), st.integers(1, 75), st.sampled_from(sorted(STYLES)))
@settings(deadline=None)
def test_an_embedding_is_never_split(before, count, style):
    parts = split(Tokenizer.load(TINY / "tokenizer"), "tent " * before + "<zorb> moon", style, {"zorb": vectors(count)})
    places = [(i, place) for i, chunk in enumerate(parts) for place, _ in chunk.vectors]
    assert len(places) == count
    assert len({chunk for chunk, _ in places}) == 1
    assert [place for _, place in places] == list(range(places[0][1], places[0][1] + count))


@given(st.lists(st.sampled_from(["a", "tent,", "lighthouse", "moon.", "xyzzyxyzzyxyzzyxyzzy"]), max_size=120))
@settings(deadline=None, max_examples=30)
def test_no_style_loses_a_token(some):
    tokenizer = Tokenizer.load(TINY / "tokenizer")
    text = " ".join(some)
    for style in ("a1111", "comfy", "plain"):
        parts = split(tokenizer, text, style)
        assert all(len(chunk.ids) == 77 == len(chunk.weights) for chunk in parts)
        kept = itertools.chain.from_iterable(chunk.ids[1 : chunk.length + 1] for chunk in parts)
        assert list(kept) == tokenizer.ids(text)
    tokens = [[Token(i, 1.0, 0) for i in tokenizer.ids(text)]]
    filled = chunks.by_sentences(tokens, tokenizer)
    assert [token.id for part in filled for token in part] == tokenizer.ids(text)
    ends = [tokenizer.text_of(part[-1].id) for part in filled[:-1]]
    assert all(end.endswith("</w>") for end in ends)


# ------------------------------------------------------------------------------------------------ weights


@pytest.mark.parametrize("text", ["a red tent", "(a:1) red ((tent:1):1)", "(a red:1.0) tent"])
def test_weights_of_1_change_no_bit(sd, text):
    assert (encode(sd, text) == encode(sd, "a red tent", "plain")).all()
    assert (encode(sd, "(a red:1) tent", "comfy") == encode(sd, "a red tent", "plain")).all()
    assert (encode(sd, "(a red)1.0 tent", "compel") == encode(sd, "a red tent", "plain")).all()


def test_a1111_scales_rows_and_restores_the_mean(sd):
    plain = encode(sd, "a red tent on green grass", "plain")[0].astype(np.float64)
    weights = np.ones((77, 1))
    ids = [sd.tokenizer.text_of(token).removesuffix("</w>") for token in sd.tokenizer.ids("a red tent on green grass")]
    weights[1 + ids.index("red")], weights[1 + ids.index("green")] = 1.4, 1 / 1.1
    scaled = plain * weights
    expected = scaled * plain.mean() / scaled.mean()
    actual = encode(sd, TEXT)[0]
    assert np.abs(actual - expected).max() <= 1e-5 * np.abs(expected).max()
    assert actual.mean() == pytest.approx(plain.mean(), rel=1e-4)
    assert (actual[0] != plain[0]).any()  # every row changes


def test_a_mean_of_almost_nothing_is_not_restored():
    from mlx_sd.prompts.weighting import scaled

    chunk = chunks.Chunk((1, 2), (1.0, 2.0), (-1, 0), ())
    rows = mx.array([[[1.0, 1.0], [-0.5, -0.5]]])  # its weighted mean is 0
    assert (np.array(scaled([chunk], lambda sequence, visible: rows, chunk)) == [[[1, 1], [-1, -1]]]).all()


def test_comfyui_moves_weighted_rows_away_from_the_empty_prompt(sd):
    plain, empty = encode(sd, "a red tent", "plain")[0], encode(sd, "", "plain")[0]
    actual = encode(sd, "a (red:1.7) tent", "comfy")[0]
    changed = (actual != plain).any(axis=1)
    assert changed.sum() == 1 and changed[2]
    assert np.abs(actual[2] - (empty[2] + 1.7 * (plain[2] - empty[2]))).max() <= 1e-5


def test_compel_mixes_in_the_prompt_without_a_down_weighted_piece(sd):
    network, tokenizer = sd.model.text_encoders[0], sd.tokenizer
    ids = tokenizer.chunks("a red tent")
    visible = np.ones((1, 77), bool)
    visible[0, 2] = False
    plain, empty, hidden = (
        np.array(network(mx.array(i), visible=v).last)[0].astype(np.float64)
        for i, v in ((ids, None), (tokenizer.chunks(""), None), (ids, mx.array(visible)))
    )
    for rows in (plain, hidden):
        rows[2] = empty[2] + 0.81 * (rows[2] - empty[2])
    share = math.tan((1 - 0.81) * math.pi / 2)
    actual = encode(sd, "a red-- tent", "compel")[0]
    assert np.abs(actual - (plain + share * hidden) / (1 + share)).max() <= 1e-5


def test_compel_blends_and_sets_prompts_in_a_row(sd):
    a, b, nothing = (encode(sd, text, "plain") for text in ("a red tent", "a moon", ""))
    assert (
        np.abs(encode(sd, '("a red tent", "a moon").blend(0.5, 1.5)', "compel") - (0.25 * a + 0.75 * b)).max() <= 1e-5
    )
    row = encode(sd, '("a red tent", "a moon").and(1, 0.5)', "compel")
    assert np.abs(row - np.concatenate([a, nothing + 0.5 * (b - nothing)], axis=1)).max() <= 1e-5


@pytest.mark.parametrize("style", ["a1111", "comfy"])
def test_pooled_text_has_no_weights(style, sdxl):
    weighted, plain = (
        sdxl.encode_prompt(text, prompt_style=s)[1]
        for text, s in (("a (red:1.5) tent", style), ("a red tent", "plain"))
    )
    assert (np.array(weighted) == np.array(plain)).all()


# ------------------------------------------------------------------------------------------------ embeddings


def test_an_embedding_takes_the_place_of_its_words(sd, tmp_path):
    network = sd.model.text_encoders[0]
    rows = np.array(network.token_embedding(mx.array(sd.tokenizer.ids("red tent"))))
    file = tmp_path / "zorb.safetensors"
    save_file({"emb_params": rows}, file)
    expected = encode(sd, "a red tent on grass", "plain")
    for text, style in (
        ("a zorb on grass", "a1111"),
        ("a <zorb> on grass", "plain"),
        ("a <zorb> on grass", "compel"),
        ("a embedding:zorb on grass", "comfy"),
        ("a embedding:zorb.safetensors on grass", "comfy"),
    ):
        actual = encode(sd, text, style, embeddings=[file])
        assert np.abs(actual - expected).max() <= 1e-6, (text, style)
    assert np.abs(encode(sd, "a zorb on grass", "comfy", embeddings=[file]) - expected).max() > 1e-3  # needs its mark


def test_the_name_is_the_users_or_the_files(sd, tmp_path):
    rows = np.ones((1, WIDTH), np.float32)
    for key, name, argument, word in (
        ("emb_params", "snorf", "{}", "snorf"),
        ("<cat-toy>", "file", "{}", "<cat-toy>"),
        ("<cat-toy>", "file", "{}:plugh", "plugh"),
    ):
        file = tmp_path / f"{name}.safetensors"
        save_file({key: rows if key == "emb_params" else rows[0]}, file)
        plain, used = encode(sd, f"a {word}"), encode(sd, f"a {word}", embeddings=[argument.format(file)])
        assert np.abs(used - plain).max() > 1e-3


def test_a_picture_may_hold_an_embedding(sd, tmp_path):
    rows = np.random.default_rng(2).standard_normal((2, WIDTH)).round(3)
    data = {"string_to_token": {"*": 265}, "string_to_param": {"*": {"TORCHTENSOR": rows.tolist()}}, "name": "snorf"}
    info = PngInfo()
    info.add_text("sd-ti-embedding", base64.b64encode(json.dumps(data).encode()).decode())
    file = tmp_path / "picture.png"
    Image.new("RGB", (8, 8)).save(file, pnginfo=info)
    read = embeddings.read(embeddings.Embedding.of(file), [WIDTH])
    assert read.embedding.name == "snorf"
    assert np.abs(np.array(read.arrays[0]) - rows).max() < 1e-6
    assert np.abs(encode(sd, "a snorf", embeddings=[file]) - encode(sd, "a snorf")).max() > 1e-3


def test_both_encoders_of_sdxl_take_their_vectors(sdxl, tmp_path):
    widths = [encoder.config.width for encoder in sdxl.model.text_encoders]
    arrays = {key: np.ones((2, width), np.float32) for key, width in zip(("clip_l", "clip_g"), widths, strict=True)}
    save_file(arrays, tmp_path / "snorf.safetensors")
    plain = encode(sdxl, "a snorf")
    used = encode(sdxl, "a snorf", embeddings=[tmp_path / "snorf.safetensors"])
    assert all(np.abs(used - plain)[..., part].max() > 1e-4 for part in (slice(0, widths[0]), slice(widths[0], None)))


def test_the_end_token_is_looked_for_before_vectors_are_put_in(sdxl, tmp_path):
    widths = [encoder.config.width for encoder in sdxl.model.text_encoders]
    tables = [
        np.array(encoder.token_embedding(mx.array(sdxl.tokenizer.ids("red")))) for encoder in sdxl.model.text_encoders
    ]
    assert [table.shape[1] for table in tables] == widths
    save_file(dict(zip(("clip_l", "clip_g"), tables, strict=True)), tmp_path / "snorf.safetensors")
    count = len(sdxl.tokenizer.ids("red"))
    assert count == 1
    used = sdxl.encode_prompt("a <snorf> tent", embeddings=[tmp_path / "snorf.safetensors"])[1]
    assert np.abs(np.array(used) - np.array(sdxl.encode_prompt("a red tent")[1])).max() <= 1e-5


WRONG = {
    "missing": (None, "is missing"),
    "wide": ({"emb_params": np.ones((2, 768), np.float32)}, f"take {WIDTH}"),
    "many": ({"emb_params": np.ones((76, WIDTH), np.float32)}, "1 to 75"),
    "infinite": ({"emb_params": np.full((1, WIDTH), np.inf, np.float32)}, "not finite"),
    "lora": ({"a.lora_down": np.ones((2, 2), np.float32), "a.lora_up": np.ones((2, 2), np.float32)}, "--lora"),
    "sdxl": ({"clip_l": np.ones((1, 768), np.float32), "clip_g": np.ones((1, 1280), np.float32)}, "768 and 1280"),
    "cube": ({"emb_params": np.ones((1, 2, WIDTH), np.float32)}, "3 dimensions"),
    "integers": ({"emb_params": np.ones((1, WIDTH), np.int32)}, "type I32"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_is_refused_in_one_line(sd, name, tmp_path):
    tensors, message = WRONG[name]
    file = tmp_path / f"{name}.safetensors"
    if tensors:
        save_file(tensors, file)
    with pytest.raises(InputError, match=message) as caught:
        sd.encode_prompt("a tent", embeddings=[(file, "snorf")])
    assert "\n" not in str(caught.value)


def test_pickles_pictures_without_vectors_and_common_names_are_refused(sd, tmp_path):
    pickle, picture, good = (tmp_path / name for name in ("x.pt", "x.png", "x.safetensors"))
    pickle.write_bytes(b"PK\x03\x04" + bytes(100))
    Image.new("RGB", (8, 8)).save(picture)
    save_file({"emb_params": np.ones((1, WIDTH), np.float32)}, good)
    for source, message in (
        (pickle, "pickle"),
        (picture, "sd-ti-embedding"),
        ((good, "tent"), "ordinary word"),
        (tmp_path, "folder"),
    ):
        with pytest.raises(InputError, match=message):
            sd.encode_prompt("a tent", embeddings=[source])
    with pytest.raises(InputError, match="one name"):
        sd.encode_prompt("a tent", embeddings=[(good, "snorf"), (good, "snorf")])
    with pytest.raises(InputError, match="not loaded"):
        sd.encode_prompt("embedding:snorf", prompt_style="comfy")


def test_vectors_are_named_by_embedding_and_row():
    assert Vector("a", 1) == ("a", 1)
    assert encoding.Encoding(mx.ones((1, 2, 3)), None).zeros().context.sum().item() == 0
