"""The gallery is its folder: whatever happens there, the listing says the same, page by page."""

import os
import shutil
import sqlite3
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mlx_sd import metadata
from mlx_sd.core.errors import InputError
from mlx_sd.studio.pictures.gallery import Gallery
from mlx_sd.studio.pictures.gallery_search import Search
from mlx_sd.studio.pictures.picture_record import read
from tests.studio import small_pictures as pictures
from tests.studio.galleries import Heard

NAMES = ["a.png", "b.png", "c.PNG", "ü.png", "u\u0308.png", "d e.png", ".hidden.png", "note.txt", "é.webp.png"]


@pytest.fixture
def gallery(tmp_path):
    hidden = tmp_path / ".studio"
    hidden.mkdir()
    opened = Gallery(tmp_path, hidden, Heard())
    yield opened
    opened.close()


def call(gallery, function, *arguments):
    return gallery.submit(function, *arguments).result(20)


def names(gallery, search="", limit=50):
    """The names of all pages, the newest first."""
    after, listed = None, []
    while True:
        page = call(gallery, gallery.page, after, limit, search)
        listed += [picture["name"] for picture in page["pictures"]]
        after = page["next"]
        if after is None:
            assert page["total"] == len(listed)
            return listed


def put(folder, name, seconds, **settings):
    path = pictures.write(folder / name, settings or None)
    os.utime(path, ns=(seconds * 10**9, seconds * 10**9))
    return path


_KINDS = ("add", "delete", "change", "look", "scan", "again")
ACTIONS = st.lists(st.tuples(st.sampled_from(_KINDS), st.sampled_from(NAMES), st.integers(0, 99)), max_size=25)


@given(ACTIONS, st.integers(1, 4))
def test_after_any_changes_the_listing_is_the_folder(folder, actions, limit):
    shutil.rmtree(folder, ignore_errors=True)
    (folder / ".studio").mkdir(parents=True)
    gallery = Gallery(folder, folder / ".studio")
    try:
        for action, name, number in actions:
            if action in ("add", "change") and (action == "add") != (folder / name).exists():
                put(folder, name, number, seed=number, prompt=f"picture {number}")
            elif action == "delete":
                (folder / name).unlink(missing_ok=True)
            elif action == "look":
                call(gallery, gallery.update, name)
            elif action == "scan":
                call(gallery, gallery.refresh)
            elif action == "again":  # another start, with or without the index
                gallery.close()
                if number % 2:
                    (folder / ".studio/index.sqlite").unlink(missing_ok=True)
                gallery = Gallery(folder, folder / ".studio")
        call(gallery, gallery.refresh)
        files = [p for p in folder.iterdir() if p.suffix.lower() == ".png" and not p.name.startswith(".")]
        files.sort(key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)
        assert names(gallery, limit=limit) == [path.name for path in files]
        assert len(gallery) == len(files)
    finally:
        gallery.close()


def test_pages_have_no_gap_and_no_picture_twice_while_pictures_come_and_go(gallery, tmp_path):
    for number in range(20):
        put(tmp_path, f"{number}.png", number)
    page = call(gallery, gallery.page, None, 5, "")
    first = [picture["name"] for picture in page["pictures"]]
    assert first == ["19.png", "18.png", "17.png", "16.png", "15.png"] and page["total"] == 20
    put(tmp_path, "new.png", 100)
    call(gallery, gallery.update, "new.png")
    (tmp_path / "12.png").unlink()
    (tmp_path / "15.png").unlink()  # the one that the place stands at
    call(gallery, gallery.refresh)
    listed, after = [], page["next"]
    while after is not None:
        page = call(gallery, gallery.page, after, 5, "")
        listed += [picture["name"] for picture in page["pictures"]]
        after = page["next"]
    assert listed == [f"{number}.png" for number in reversed(range(15)) if number != 12]


@pytest.mark.parametrize("place", ("x", "../..", "bnVsbA", "WzEsMl0", "é", "[1,2]", "A" * 5000, "WzFlOTk5LCJhIl0"))
def test_a_place_that_is_none_is_one_line(gallery, place):
    with pytest.raises(InputError, match='"after" is the "next" of an earlier answer'):
        call(gallery, gallery.page, place, 5, "")


def test_changes_are_announced_and_found_without_being_announced(gallery, tmp_path):
    put(tmp_path, "a.png", 1)
    assert names(gallery) == ["a.png"]
    put(tmp_path, "b.png", 2)
    gallery.add("b.png")
    assert names(gallery) == ["b.png", "a.png"]
    (tmp_path / "a.png").unlink()
    assert names(gallery) == ["b.png"]  # the folder's time has changed
    events = [{key: event[key] for key in event if key != "type"} for event in gallery._events.events]
    assert events == [{"added": "a.png"}, {"added": "b.png"}, {"removed": "a.png"}]
    for number in range(60):
        put(tmp_path, f"{number}.png", number)
    names(gallery)
    assert gallery._events.events[-1] == {"type": "gallery", "changed": 60}


def test_links_hidden_files_folders_and_empty_files_are_no_pictures(gallery, tmp_path):
    secret = pictures.write(tmp_path.parent / "secret.png", {"prompt": "secret"})
    (tmp_path / "link.png").symlink_to(secret)
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "empty.png").touch()
    os.mkfifo(tmp_path / "pipe.png")
    pictures.write(tmp_path / ".half.png")
    (tmp_path / os.fsdecode(b"\xff.png")).write_bytes(pictures.png())
    pictures.write(tmp_path / "good.png")
    assert names(gallery) == ["good.png"]
    secret.unlink()


def test_only_names_in_the_table_have_paths(gallery, tmp_path):
    pictures.write(tmp_path / "good.png")
    pictures.write(tmp_path.parent / "outside.png")
    names(gallery)
    assert gallery.path("good.png") == tmp_path / "good.png"
    for name in ("../outside.png", str(tmp_path / "good.png"), "./good.png", "good.png\0", "GOOD.png", "", "."):
        assert gallery.path(name) is None
        call(gallery, gallery.update, name)
        assert gallery.path(name) is None
    (tmp_path.parent / "outside.png").unlink()


def test_a_damaged_index_or_one_of_another_version_is_made_again(tmp_path):
    (tmp_path / ".studio").mkdir()
    put(tmp_path, "a.png", 1, prompt="tent")
    index = tmp_path / ".studio/index.sqlite"
    for content in (b"no database" * 100, b"", None, "other version"):
        if isinstance(content, bytes):
            index.write_bytes(content)
        elif content:
            connection = sqlite3.connect(index)
            connection.execute("PRAGMA user_version = 77")
            connection.execute("UPDATE pictures SET text = 'wrong'")
            connection.commit()
            connection.close()
        gallery = Gallery(tmp_path, tmp_path / ".studio")
        assert names(gallery, "tent") == ["a.png"]
        gallery.close()


def test_a_later_start_reads_no_picture_again(tmp_path, monkeypatch):
    (tmp_path / ".studio").mkdir()
    put(tmp_path, "a.png", 1, prompt="tent")
    gallery = Gallery(tmp_path, tmp_path / ".studio")
    names(gallery)
    gallery.close()
    monkeypatch.setattr("mlx_sd.studio.pictures.picture_record.read", lambda *_: pytest.fail("it is read again"))
    gallery = Gallery(tmp_path, tmp_path / ".studio")
    assert names(gallery, "tent") == ["a.png"]
    gallery.close()


@pytest.mark.parametrize("suffix", (".png", ".jpg", ".webp"))
def test_settings_are_read_from_every_format_without_the_pixels(suffix, tmp_path, monkeypatch):
    path = tmp_path / f"a{suffix}"
    metadata.save(Image.new("RGB", (24, 16)), path, {"prompt": "Straße, grün", "seed": 7, "sampler": "euler"})
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda _: pytest.fail("pixels are decoded"))
    record = read(tmp_path, path.name, path.stat())
    assert (record.width, record.height, record.prompt) == (24, 16, "Straße, grün")
    assert Search("STRASSE seed:7 sampler:euler size:24x16").matches(record)


RECORD = {
    "prompt": "A red TENT, on ﬁne grass (masterpiece:1.2)",
    "negative": "blurry",
    "seed": 70,
    "guidance": 7.5,
    "steps": 20,
    "sampler": "euler_ancestral",
    "model": "/home/me/models/DreamShaper.safetensors",
    "loras": [{"path": "/loras/style-x.safetensors", "scale": 0.8, "sha256": None}],
    "deepcache": "3:0",
    "only_masked": True,
}


@pytest.mark.parametrize(
    "search",
    (
        *("tent", "TENT red", '"red tent"', "fine grass", "blurry", "seed:70", "cfg:7.5", "guidance:7.50", "steps:20"),
        *("sampler:EULER_ancestral", "model:dreamshaper", "lora:style", "size:8x8", "deepcache:3", "name:a.png"),
        *("(masterpiece:1.2)", "cfg-scale:7.5", 'prompt:"red tent"', "only_masked:true", "negative:blurry", ""),
    ),
)
def test_a_search_finds(search, tmp_path):
    path = pictures.write(tmp_path / "a.png", RECORD)
    assert Search(search).matches(read(tmp_path, "a.png", path.stat()))


@pytest.mark.parametrize(
    "search",
    (
        *("tents", "tent house", '"tent red"', "seed:7", "seed:700", "sampler:euler", "steps:2", "guidance:7"),
        *("size:8x80", "model:tent", "prompt:blurry", "negative:tent", "deepcache:30", "lora:dream", "loras:x"),
    ),
)
def test_a_search_does_not_find(search, tmp_path):
    path = pictures.write(tmp_path / "a.png", RECORD)
    assert not Search(search).matches(read(tmp_path, "a.png", path.stat()))


@given(st.text(max_size=60))
def test_every_text_is_a_search(text):
    Search(text)


def test_a_picture_of_a1111_is_found_by_our_names(tmp_path):
    text = "a red tent\nNegative prompt: fog\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 5, Size: 512x512"
    path = tmp_path / "a.png"
    path.write_bytes(pictures.png(parameters=text))
    record = read(tmp_path, "a.png", path.stat())
    assert record.prompt == "a red tent"
    assert Search("tent fog seed:5 sampler:euler_ancestral steps:20").matches(record)


@pytest.mark.slow
def test_ten_thousand_pictures_are_listed_and_searched_at_once(tmp_path):
    settings = {"prompt": "a red tent on green grass", "negative": "blurry", "steps": 25, "sampler": "euler"}
    for number in range(10_000):
        pictures.write(tmp_path / f"{number:05d}.png", {**settings, "seed": number})
    (tmp_path / ".studio").mkdir()
    gallery = Gallery(tmp_path, tmp_path / ".studio")
    clock = [time.process_time()]

    def seconds():
        clock.append(time.process_time())
        return clock[-1] - clock[-2]

    assert call(gallery, gallery.refresh) == 10_000 and seconds() < 20
    assert call(gallery, gallery.refresh) == 0 and seconds() < 1
    page = call(gallery, gallery.page, None, 60, "tent seed:77")
    assert page["total"] == 1 and seconds() < 1
    files = sorted(tmp_path.glob("*.png"), key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)
    assert names(gallery, limit=200) == [path.name for path in files]
    gallery.close()
