"""Thumbnails: small, kept by the version of their picture, in a folder that has a bound and may be deleted."""

import io
import os
import shutil

import pytest
from PIL import Image

from mlx_sd.studio.pictures.picture_record import read
from mlx_sd.studio.pictures.thumbnails import SIDE, Thumbnails, placeholder
from tests.studio import small_pictures as pictures


@pytest.fixture
def thumbnails(tmp_path):
    opened = Thumbnails(tmp_path / ".thumbnails")
    yield opened
    opened.close()


def record(path):
    return read(path.parent, path.name, path.stat())


def image(content):
    return Image.open(io.BytesIO(content))


def test_a_thumbnail_shows_the_picture_within_its_side(thumbnails, tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (1024, 512), (250, 20, 20)).save(path)
    content, is_picture = thumbnails.get(tmp_path, record(path))
    assert is_picture and image(content).size == (SIDE, SIDE // 2)
    red, green, blue = image(content).convert("RGB").getpixel((50, 50))
    assert red > 200 and green < 60 and blue < 60


def test_a_small_picture_is_not_enlarged_and_transparency_stays(thumbnails, tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGBA", (20, 10), (0, 0, 0, 0)).save(path)
    small = image(thumbnails.get(tmp_path, record(path))[0])
    assert small.size == (20, 10) and small.mode == "RGBA"


def test_it_is_made_once_for_each_version_of_the_picture(thumbnails, tmp_path, monkeypatch):
    path = pictures.write(tmp_path / "a.png", grey=10)
    first, _ = thumbnails.get(tmp_path, record(path))
    pictures.write(path, grey=200)
    os.utime(path, ns=(1, 1))
    second, _ = thumbnails.get(tmp_path, record(path))
    assert first != second and len(list((tmp_path / ".thumbnails").iterdir())) == 2
    monkeypatch.setattr("mlx_sd.studio.pictures.thumbnails._opened", lambda _: pytest.fail("it is made again"))
    assert thumbnails.get(tmp_path, record(path)) == (second, True)


def test_the_folder_may_be_deleted_at_any_time(thumbnails, tmp_path):
    path = pictures.write(tmp_path / "a.png")
    first = thumbnails.get(tmp_path, record(path))
    shutil.rmtree(tmp_path / ".thumbnails")
    assert thumbnails.get(tmp_path, record(path)) == first


def test_the_oldest_go_when_the_bound_is_reached(tmp_path):
    thumbnails = Thumbnails(tmp_path, bound=1000)
    for number in range(20):
        (tmp_path / f"{number}.webp").write_bytes(bytes(100))
        os.utime(tmp_path / f"{number}.webp", ns=(number, number))
    thumbnails.prune()
    assert sorted(int(path.stem) for path in tmp_path.iterdir()) == list(range(12, 20))
    thumbnails.close()


@pytest.mark.parametrize("damage", ("empty", "text", "half", "text chunk", "link", "gone", "huge"))
def test_a_damaged_picture_has_a_placeholder_and_raises_nothing(thumbnails, tmp_path, damage):
    path = pictures.write(tmp_path / "a.png", side=100)
    content = path.read_bytes()
    looked_at = record(path)
    if damage == "link":
        path.rename(tmp_path / "b.png")
        path.symlink_to(tmp_path / "b.png")
    elif damage == "gone":
        path.unlink()
    else:
        huge = content.replace((100).to_bytes(4, "big") * 2, (12_000).to_bytes(4, "big") * 2, 1)
        changes = {"empty": b"", "text": b"hello", "half": content[:-30], "text chunk": content[:60], "huge": huge}
        path.write_bytes(changes[damage])
    assert thumbnails.get(tmp_path, looked_at) == (placeholder(), False)
    assert not (tmp_path / ".thumbnails").exists()
