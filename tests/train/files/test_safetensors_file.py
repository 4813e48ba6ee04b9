"""A file is written whole or not at all, and whatever its metadata are, every reader opens it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file

from mlx_sd.core.errors import InputError
from mlx_sd.core.files import metadata, sha256, tensors
from mlx_sd.train.files import safetensors_file
from mlx_sd.train.files.safetensors_file import HASH, check, write

ARRAYS = {"b": np.arange(6, dtype=np.float16).reshape(2, 3), "a": np.array(0.5, np.float32)}
TEXTS = st.dictionaries(st.text(), st.text(st.characters(), max_size=30), max_size=5)  # also lone surrogates


@given(TEXTS)
def test_any_text_is_metadata(folder, texts):
    file = folder / "a.safetensors"
    digest = write(file, ARRAYS, {name: text for name, text in texts.items() if name != HASH}, force=True)
    assert digest == sha256(file)
    expected = {k: v.encode("utf-8", "replace").decode() for k, v in texts.items() if k != HASH}
    with safe_open(file, "numpy") as opened:
        assert {name: text for name, text in opened.metadata().items() if name != HASH} == expected
    assert metadata(file).keys() == expected.keys() | {HASH}
    assert {tensor.name: tensor.shape for tensor in tensors(file)} == {"a": (), "b": (2, 3)}
    assert all((array == ARRAYS[name]).all() for name, array in load_file(file).items())


def test_the_order_of_what_is_written_changes_no_byte(tmp_path):
    texts = {"x": "1", "y": "2"}
    one = write(tmp_path / "1.safetensors", ARRAYS, texts)
    two = write(tmp_path / "2.safetensors", dict(reversed(ARRAYS.items())), dict(reversed(texts.items())))
    assert one == two


def test_an_interrupted_file_is_not_there(tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(safetensors_file.os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a.safetensors", ARRAYS, {})
    assert not list(tmp_path.iterdir())


def test_what_writing_would_refuse_is_known_before_a_training_and_leaves_no_trace(tmp_path):
    check(tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())
    (tmp_path / "a.safetensors").symlink_to(tmp_path / "gone")
    with pytest.raises(InputError, match="exists; choose another name, or --force"):
        check(tmp_path / "a.safetensors")
    check(tmp_path / "a.safetensors", force=True)
