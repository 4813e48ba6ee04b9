"""A picture is written whole or not at all, and gives back what was stored in it."""

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from PIL import Image

from mlx_sd import metadata

ABOUT = {"prompt": "a tent", "negative": None, "steps": 3, "sampler": "ddim", "schedule": "leading", "guidance": 2.0}
ABOUT |= {"seed": 0, "width": 8, "height": 8, "model": "tiny", "model_hash": "0"}


@settings(deadline=None)
@given(prompt=st.text(), negative=st.none() | st.text())
def test_any_text_comes_back(tmp_path_factory, prompt, negative):
    prompt = prompt.encode("utf-8", "replace").decode()  # command lines may hold lone surrogates, PNGs may not
    negative = negative and negative.encode("utf-8", "replace").decode()
    path, about = tmp_path_factory.mktemp("p") / "a.png", {**ABOUT, "prompt": prompt, "negative": negative}
    metadata.save(Image.new("RGB", (8, 8)), path, about)
    assert metadata.read(path) == about


def test_an_interrupted_save_leaves_the_old_picture_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    metadata.save(Image.new("RGB", (8, 8)), path, ABOUT)
    before = path.read_bytes()

    def half(self, f, **_):
        f.write(b"half a picture")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises(KeyboardInterrupt):
        metadata.save(Image.new("RGB", (8, 8)), path, ABOUT)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
