"""The metadata of kohya's fine-tuning: captions and tags, by itself or named by a config; and what is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_sd.core.errors import InputError
from mlx_sd.train.data import dataset, kohya_metadata
from mlx_sd.train.learning.kind_settings import ControlSettings
from mlx_sd.train.pictures import hint_folder
from tests.train.data.test_dataset import problems, rows


@pytest.fixture
def metadata(tmp_path):
    """metadata(content) writes it as meta.json, and returns the path."""

    def write(content):
        file = tmp_path / "meta.json"
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        return file

    return write


def test_captions_are_followed_by_tags(tmp_path, picture, metadata):
    for name in "abcd":
        picture(f"{name}.png")
    entries = {
        "a.png": {"caption": "a  cat", "tags": "fur, sun", "train_resolution": [64, 64]},
        str(tmp_path / "b.png"): {"tags": ["grass", "sky"]},
        "c": {"caption": "a cow"},  # kohya's older files leave suffixes out
    }
    file = metadata(entries)
    data = dataset.read(file)
    assert rows(data) == [
        ("a.png", "a cat, fur, sun", 1, False),
        ("b.png", "grass, sky", 1, False),
        ("c.png", "a cow", 1, False),
    ]
    assert data.convention == "kohya metadata"
    assert data.warnings == ()


def test_a_config_names_metadata_and_the_folder_of_its_pictures(tmp_path, picture, metadata):
    picture("pictures/a.png"), picture("pictures/stray.png")
    metadata({"a": {"caption": "a cat", "weight": 2}})
    subset = {"metadata_file": "meta.json", "image_dir": "pictures", "num_repeats": 3, "caption_prefix": "sks"}
    (tmp_path / "config.json").write_text(json.dumps({"datasets": [{"subsets": [subset]}]}))
    data = dataset.read(tmp_path / "config.json")
    assert rows(data) == [("a.png", "sks a cat", 3, False)]
    assert any("not in meta.json, and not used (stray.png)" in line for line in data.warnings)
    assert any("not read here: weight" in line for line in data.warnings)


def test_metadata_needs_no_folder_and_is_no_class(tmp_path, picture, metadata):
    picture("a.png")
    metadata({"a.png": {"caption": "a cat"}})
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"datasets": [{"subsets": [{"metadata_file": "meta.json"}]}]}))
    assert rows(dataset.read(config)) == [("a.png", "a cat", 1, False)]
    config.write_text(json.dumps({"datasets": [{"subsets": [{"metadata_file": "meta.json", "is_reg": True}]}]}))
    assert "pictures of the class have no metadata_file" in problems(config)[0]
    config.write_text(json.dumps({"datasets": [{"subsets": [{"metadata_file": "lost.json"}]}]}))
    assert "lost.json is missing" in problems(config)[0]


def test_control_images_lie_beside_the_file(tmp_path, metadata):
    file = metadata({"a.png": {"caption": "a cat"}})
    for data in (file, tmp_path):
        assert hint_folder(ControlSettings(data=str(data), images="edges")) == tmp_path / "edges"


def test_one_caption_is_for_entries_without_one(picture, metadata):
    picture("a.png"), picture("b.png")
    file = metadata({"a.png": {}, "b.png": {"caption": " ", "tags": None}})
    assert [caption for _, caption, *_ in rows(dataset.read(file, caption="a photo"))] == ["a photo"] * 2
    assert all("--caption" in line for line in problems(file)) and len(problems(file)) == 2


def test_every_entry_that_cannot_be_used_has_a_line(picture, metadata):
    picture("a.png"), picture("b.png"), picture("b.jpg"), picture("c.png")
    lines = problems(
        metadata(
            {
                "a.png": {"caption": 7},
                "b": {"caption": "two files"},
                "c.png": ["a cow"],
                "lost.png": {"caption": "a dog"},
                "../": {"caption": "a folder"},
                "": {"caption": "nothing"},
            }
        )
    )
    parts = ['no text in "caption", but 7', "means b.jpg and b.png", 'has ["a cow"]', "lost.png is no picture"]
    assert len(lines) == 6
    assert all(any(part in line for line in lines) for part in [*parts, "../ is no picture", "is no name of a picture"])


@pytest.mark.parametrize("content", ['{"a.png": {"caption": "a', "[1, 2]", "", "\udc80", '{"a": ' * 5000])
def test_damaged_metadata_is_one_line(tmp_path, content):
    file = tmp_path / "meta.json"
    file.write_bytes(content.encode(errors="surrogateescape"))
    (line,) = problems(file)
    assert str(file) in line and "\n" not in line


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["caption", "tags", "x"]), inner),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from(["a.png", "b", "", "..", "/", "a\0", "x/y.png"]), _VALUES))
def test_any_object_is_read_or_refused_with_lines(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("any")
    (folder / "a.png").write_bytes(b"")
    (folder / "meta.json").write_text(json.dumps(content))
    try:
        listing = kohya_metadata.read(folder / "meta.json", None)
    except InputError as error:
        assert not content and "names no picture" in str(error)
    else:
        assert len(listing.entries) + len(listing.problems) == len(content)
