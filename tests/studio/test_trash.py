"""The trash: whatever is moved in and out, no picture is replaced and none is lost."""

import errno
import os
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_sd.core.errors import Failure
from mlx_sd.studio.trash import Trash


def contents(folder):
    return sorted(path.read_bytes() for path in folder.rglob("*.png"))


@given(
    st.lists(st.tuples(st.sampled_from(("make", "put", "restore")), st.sampled_from(("a.png", "b.png"))), max_size=20)
)
def test_no_picture_is_replaced_or_lost(folder, actions):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    trash, all_of_them = Trash(folder), []
    for number, (action, name) in enumerate(actions):
        if action == "make" and not (folder / name).exists():
            (folder / name).write_bytes(content := b"%d" % number)
            all_of_them.append(content)
        elif action == "put" and (folder / name).exists():
            moved = trash.throw(name)
            assert (trash.folder / moved).is_file() and not (folder / name).exists()
        elif action == "restore":
            for entry in trash.listing()[:1]:
                assert (folder / trash.restore(entry["name"])).is_file()
        assert contents(folder) == sorted(all_of_them)
    assert trash.empty() == len(all_of_them) - len(list(folder.glob("*.png")))
    assert trash.listing() == []


def test_a_file_system_without_links_moves_too(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    trash = Trash(tmp_path)
    for content in (b"first", b"second"):
        (tmp_path / "a.png").write_bytes(content)
        trash.throw("a.png")
    assert contents(trash.folder) == [b"first", b"second"]
    assert trash.restore("a-2.png") == "a-2.png" and contents(trash.folder) == [b"first"]


def test_only_pictures_are_removed_for_good(tmp_path):
    trash = Trash(tmp_path)
    (tmp_path / "a.png").write_bytes(b"a")
    trash.throw("a.png")
    (trash.folder / "letter.txt").write_text("mine")
    (trash.folder / "b.png").symlink_to(tmp_path)
    assert trash.empty() == 1
    assert sorted(path.name for path in trash.folder.iterdir()) == ["b.png", "letter.txt"]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "trash").write_text("a file")
    (tmp_path / "a.png").write_bytes(b"a")
    with pytest.raises(Failure, match="the folder trash cannot be made"):
        Trash(tmp_path).throw("a.png")
    assert (tmp_path / "a.png").exists()
