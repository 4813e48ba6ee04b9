"""A folder in each of the four conventions, and one line for everything in it that cannot be used."""

import hashlib
import json
import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mlx_sd.core.errors import InputError
from mlx_sd.train.data import dataset, metadata_list


def rows(data: dataset.Dataset) -> list:
    """Returns name, caption, repeats and prior of each example."""
    return [(entry.path.name, entry.caption, entry.repeats, entry.prior) for entry in data.examples]


def problems(folder, **options) -> list[str]:
    """Returns the lines of the error behind the first."""
    with pytest.raises(InputError) as error:
        dataset.read(folder, **options)
    head, *lines = str(error.value).split("\n")
    assert len(lines) == 0 or f"{len(lines)} thing" in head
    return [line.strip() for line in lines] or [head]


# ------------------------------------------------------------------------------------------- conventions


def test_text_files_beside_pictures(tmp_path, picture):
    picture("b.png", "a cat\non a  mat\n")
    picture("a.JPG", "\ufeffa dog")
    picture("c.png").with_suffix(".caption").write_text("a cow")
    picture(".hidden.png")
    (tmp_path / "preview_1.txt").write_text("a prompt of mflux")
    (tmp_path / "d.txt").write_text("no picture")
    data = dataset.read(tmp_path)
    assert rows(data) == [
        ("a.JPG", "a dog", 1, False),
        ("b.png", "a cat on a mat", 1, False),
        ("c.png", "a cow", 1, False),
    ]
    assert data.warnings == ("1 file: captions belong to no picture (d.txt)",)


def test_one_caption_is_for_the_pictures_that_have_none(tmp_path, picture):
    picture("a.png", "a dog")
    picture("b.png")
    assert rows(dataset.read(tmp_path, caption="a photo of sks")) == [
        ("a.png", "a dog", 1, False),
        ("b.png", "a photo of sks", 1, False),
    ]


def test_diffusers_lists_in_json_and_csv_say_the_same(tmp_path, picture, lines):
    picture("train/a.png"), picture("b.png"), picture("stray.png")
    table = [("b.png", 'a "cat", in a box'), ("train/a.png", "a dog")]
    file = lines("metadata.jsonl", *[{"file_name": name, "text": text, "id": 3} for name, text in table], "")
    first = dataset.read(tmp_path)
    assert rows(first) == [("b.png", 'a "cat", in a box', 1, False), ("a.png", "a dog", 1, False)]
    assert first.convention == "diffusers metadata.jsonl"
    assert first.warnings == ("1 file: not in metadata.jsonl, and not used (stray.png)",)
    file.unlink()
    lines("metadata.csv", "file_name,id,text", 'b.png,3,"a ""cat"", in a box"', "train/a.png,4,a dog")
    second = dataset.read(tmp_path)
    assert second.examples == first.examples and second.fingerprint == first.fingerprint


def test_mlx_examples_list_and_another_column(tmp_path, picture, lines):
    picture("a.png"), picture("b.png")
    lines("train.jsonl", {"image": "a.png", "prompt": "x", "alt": "y"}, {"image": "b.png", "alt": "z"})
    assert rows(dataset.read(tmp_path, caption="c")) == [("a.png", "x", 1, False), ("b.png", "c", 1, False)]
    assert [entry.caption for entry in dataset.read(tmp_path, caption_column="alt").examples] == ["y", "z"]


def test_kohya_folders_have_repeats_class_words_and_pictures_of_the_class(tmp_path, picture):
    picture("10_sks dog/a.png"), picture("10_sks dog/b.png", "sks dog, sitting"), picture("2_old cat/c.png")
    picture("reg/1_dog/d.png"), picture("0_unused/e.png"), picture("stray.png")
    data = dataset.read(tmp_path)
    assert rows(data) == [
        ("a.png", "sks dog", 10, False),
        ("b.png", "sks dog, sitting", 10, False),
        ("c.png", "old cat", 2, False),
        ("d.png", "dog", 1, True),
    ]
    assert any("0 times" in line for line in data.warnings) and any("stray.png" in line for line in data.warnings)
    assert [entry.caption for entry in dataset.read(tmp_path, caption="x", prior_caption="y").examples] == [
        "x",
        "sks dog, sitting",
        "x",
        "y",
    ]


def test_kohya_s_interface_puts_the_folders_below_img(tmp_path, picture):
    picture("img/5_sks dog/a.png"), picture("reg/b.png", "a dog")
    (tmp_path / "log").mkdir()
    assert rows(dataset.read(tmp_path)) == [("a.png", "sks dog", 5, False), ("b.png", "a dog", 1, True)]


def test_a_date_is_no_number_of_repeats(tmp_path, picture):
    picture("20240101_beach/a.png")
    assert "would repeat its pictures 20240101 times; rename it, as in 10_beach" in problems(tmp_path)[0]


def test_pictures_of_the_class_may_lie_elsewhere(tmp_path, picture):
    picture("own/a.png", "sks dog"), picture("class/b.png")
    data = dataset.read(tmp_path / "own", prior=tmp_path / "class", prior_caption="a dog")
    assert rows(data) == [("a.png", "sks dog", 1, False), ("b.png", "a dog", 1, True)]
    assert "--prior-caption" in problems(tmp_path / "own", prior=tmp_path / "class")[0]
    assert problems(tmp_path / "own", prior=tmp_path / "none")[0].endswith("does not exist")
    assert "named twice" in problems(tmp_path / "own", prior=tmp_path / "own")[0]


CONFIG = {
    "general": {"caption_extension": ".caption", "shuffle_caption": True},
    "datasets": [
        {
            "resolution": 512,
            "subsets": [
                {"image_dir": "own", "num_repeats": 4, "class_tokens": "sks dog", "caption_prefix": "photo of"},
                {"image_dir": "class", "is_reg": True, "class_tokens": "dog"},
            ],
        }
    ],
}
TOML = """
[general]
caption_extension = ".caption"
shuffle_caption = true
[[datasets]]
resolution = 512
[[datasets.subsets]]
image_dir = "own"
num_repeats = 4
class_tokens = "sks dog"
caption_prefix = "photo of"
[[datasets.subsets]]
image_dir = "class"
is_reg = true
class_tokens = "dog"
"""


@pytest.mark.parametrize("kind", ["json", "toml"])
def test_kohya_configs_in_toml_and_json_say_the_same(tmp_path, picture, kind):
    if kind == "toml" and sys.version_info < (3, 11):
        pytest.importorskip("tomli")
    picture("own/a.png", "not read"), picture("class/b.png")
    file = tmp_path / f"config.{kind}"
    file.write_text(TOML if kind == "toml" else json.dumps(CONFIG))
    data = dataset.read(file)
    assert rows(data) == [("a.png", "photo of sks dog", 4, False), ("b.png", "dog", 1, True)]
    assert any("not read here: resolution, shuffle_caption" in line for line in data.warnings)


@pytest.mark.parametrize(
    "change, line",
    [
        ({"num_repeat": 3}, "unknown key num_repeat; did you mean num_repeats?"),
        ({"num_repeats": "3"}, "num_repeats must be 1 to 10000, not '3'"),
        ({"num_repeats": True}, "num_repeats must be 1 to 10000, not True"),
        ({"is_reg": 1}, "is_reg must be true or false, not 1"),
        ({"image_dir": "none"}, "image_dir none is not a folder"),
        ({"image_dir": None}, "image_dir must be text, not None"),
    ],
)
def test_a_config_with_a_mistake_is_refused(tmp_path, picture, change, line):
    picture("own/a.png", "x")
    subset = {"image_dir": "own", "class_tokens": "x"} | change
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"datasets": [{"subsets": [subset]}]}))
    assert line in problems(file)[0]


@pytest.mark.parametrize(
    "content, line",
    [
        ({}, "has no [[datasets]]"),
        ({"datasets": [{}]}, "has no [[datasets.subsets]]"),
        ({"datasets": [3]}, "datasets must be a table, not 3"),
        ({"datasets": [{"subsets": [{}]}]}, "a subset has no image_dir"),
        ({"general": 3}, "general must be a table"),
    ],
)
def test_a_config_without_pictures_is_refused(tmp_path, content, line):
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert line in problems(tmp_path / "config.json")[0]


def test_toml_without_a_parser_or_with_a_mistake_is_refused(tmp_path, monkeypatch):
    (tmp_path / "config.toml").write_text("[[datasets]\n")
    if sys.version_info >= (3, 11):
        assert "is not TOML" in problems(tmp_path / "config.toml")[0]
    monkeypatch.setitem(sys.modules, "tomllib", None)
    monkeypatch.setitem(sys.modules, "tomli", None)
    assert "needs Python 3.11" in problems(tmp_path / "config.toml")[0]


# -------------------------------------------------------------------------------------------- what is wrong


def test_everything_that_is_wrong_is_said_at_once_one_line_for_each(tmp_path, picture):
    picture("good.png", "a dog"), picture("silent.png"), picture("small.png", "x", (1, 1))
    picture("long.png", "x", (20_000, 20)), picture("empty_caption.png", " \n"), picture("latin.png")
    (tmp_path / "latin.txt").write_bytes("ein Bär".encode("latin-1"))
    picture("novel.png", "word " * 30_000)
    content = picture("broken.png", "x").read_bytes()
    (tmp_path / "broken.png").write_bytes(content[:60])
    frame = Image.new("RGB", (70, 70))
    frame.save(tmp_path / "moving.gif", save_all=True, append_images=[Image.new("RGB", (70, 70), "red")])
    (tmp_path / "moving.txt").write_text("x")
    (tmp_path / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (tmp_path / "phone.txt").write_text("x")
    lines = problems(tmp_path)
    expected = {
        "silent.png": "has no caption; write it into silent.txt beside it, or give --caption for all",
        "small.png": "1 x 1",
        "long.png": "20000 x 20",
        "empty_caption.txt": "is empty",
        "latin.txt": "is not UTF-8",
        "novel.txt": "150 kB",
        "broken.png": "is damaged",
        "moving.gif": "2 frames",
        "phone.heic": "HEIC",
    }
    assert len(lines) == len(expected)
    for name, part in expected.items():
        assert [part in line for line in lines if line.startswith(str(tmp_path / name))] == [True], (name, lines)


def test_lines_of_a_list_that_cannot_be_used_are_named_by_number(tmp_path, picture, lines):
    picture("a.png"), picture("b.png"), picture("c.png")
    lines(
        "metadata.jsonl",
        {"file_name": "a.png", "text": "x"},
        "{not json}",
        "[1, 2]",
        "",
        {"text": "x"},
        {"file_name": "b.png"},
        {"file_name": "b.png", "text": ["x", "y"]},
        {"file_name": "../b.png", "text": "x"},
        {"file_name": "/etc/b.png", "text": "x"},
        {"file_name": "./a.png", "text": "y"},
        {"file_name": "gone.png", "text": "x"},
        "[" * 100_000,
    )
    expected = {
        2: "is not JSON",
        3: "is not a JSON object",
        5: 'has no "file_name" (text)',
        6: 'has no "text" (file_name)',
        7: 'has no text in "text", but ["x", "y"]',
        8: "names '../b.png', which is not in",
        9: "names '/etc/b.png', which is not in",
        10: "names a.png again, after line 1",
        11: "names gone.png, which does not exist",
        12: "is nested too deeply",
    }
    errors = problems(tmp_path)
    assert len(errors) == len(expected)
    for line, (number, part) in zip(errors, expected.items(), strict=True):
        assert f"metadata.jsonl, line {number} {part}" in line and ";" in line


def test_tables_that_cannot_be_used_are_refused(tmp_path, picture, lines):
    picture("a.png")
    lines("metadata.csv", "file_name,text", "a.png,a dog, a cat")
    assert "metadata.csv, line 2 has more columns" in problems(tmp_path)[0]
    lines("metadata.csv", "name,text", "a.png,x")
    assert 'line 2 has no "file_name" (name, text)' in problems(tmp_path)[0]
    lines("metadata.csv", "file_name,text", "a.png")
    assert 'line 2 has no "text"' in problems(tmp_path)[0]
    (tmp_path / "metadata.csv").write_bytes(b"file_name,text\na.png,\xff")
    assert "is not UTF-8" in problems(tmp_path)[0]
    lines("metadata.csv", "file_name,text", 'a.png,"' + "x" * 200_000)
    assert "is not CSV" in problems(tmp_path)[0]


def test_places_that_hold_nothing_to_train_on_are_refused(tmp_path, picture, lines):
    assert "no picture is in it; put some there" in problems(tmp_path)[0]
    assert problems(tmp_path / "none")[0].endswith("does not exist")
    assert "https://a.b/c is a web address" in problems("https://a.b/c")[0]
    assert "is not a folder" in problems(picture("sub/a.png"))[0]
    assert "give one of its folders (sub)" in problems(tmp_path)[0]
    picture("1_dog/a.png"), (tmp_path / "1_dog").rename(tmp_path / "reg")
    assert "no picture" in problems(tmp_path)[0]
    assert "--caption-column" in problems(tmp_path, caption_column="x")[0]
    lines("metadata.jsonl")
    assert "no picture" in problems(tmp_path)[0]
    lines("train.jsonl")
    assert "has metadata.jsonl and train.jsonl; keep one of them" in problems(tmp_path)[0]
    (tmp_path / "config.json").write_text(
        json.dumps({"datasets": [{"subsets": [{"image_dir": "sub", "is_reg": True, "class_tokens": "x"}]}]})
    )
    assert "is_reg = false" in problems(tmp_path / "config.json")[0]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_files_that_may_not_be_read_are_named(tmp_path, picture):
    picture("a.png", "x").chmod(0)
    assert "Permission denied" in problems(tmp_path)[0]


# -------------------------------------------------------------------------------------------- what is remarked


def test_warnings_are_one_line_for_each_kind(tmp_path, picture):
    for i in range(5):
        picture(f"{i}.png", "x")
        Image.new("RGBA", (70, 70), (i, 0, 0, 9)).save(tmp_path / f"{i}.png")
    picture("one.png", "x")
    (tmp_path / "two.png").write_bytes((tmp_path / "one.png").read_bytes())
    (tmp_path / "two.txt").write_text("y")
    assert dataset.read(tmp_path).warnings == (
        "5 files: transparent parts are laid on white (0.png, 1.png, 2.png and 2 more)",
        "2 files: the same picture (one.png, two.png)",
    )


def test_one_picture_alone_is_allowed_with_a_warning(tmp_path, picture):
    picture("a.png", "x")
    data = dataset.read(tmp_path)
    assert len(data.examples) == 1 and "one picture alone" in data.warnings[0]


def test_an_example_has_the_hash_of_the_file_and_the_size_as_it_is_turned(tmp_path, picture):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = picture("a.png", "x")
    Image.new("RGB", (90, 70)).save(path, exif=exif)
    example = dataset.read(tmp_path).examples[0]
    assert example.size == (70, 90) and example.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_fingerprint_changes_with_contents_captions_and_order_alone(tmp_path, picture):
    picture("a.png", "x"), picture("b.png", "y")
    before = dataset.read(tmp_path).fingerprint
    (tmp_path / "a.png").touch()
    assert dataset.read(tmp_path).fingerprint == before
    (tmp_path / "a.txt").write_text("z")
    changed = dataset.read(tmp_path).fingerprint
    picture("a.png", "x")
    assert len({before, changed, dataset.read(tmp_path).fingerprint}) == 3


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=9),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.sampled_from(["file_name", "text", "x"]), values),
    max_leaves=6,
)


@given(st.lists(JSON.map(json.dumps) | st.text(max_size=20), max_size=5))
def test_no_list_ends_in_a_traceback(folder, texts):
    (folder / "metadata.jsonl").write_text("\n".join(texts), encoding="utf-8", errors="replace")
    listing = metadata_list.read(folder / "metadata.jsonl", None)
    assert listing.entries == []
    assert all("\n" not in line and ", line " in line for line in listing.problems)
