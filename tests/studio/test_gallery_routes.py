"""The gallery over HTTP: types, caching, details without paths, and names that are no names."""

import json
import os
import unicodedata

import pytest

from tests.studio import pictures
from tests.studio.galleries import Caller, studio

SETTINGS = {
    "prompt": "a tent in /home/me/garden",
    "seed": 7,
    "steps": 3,
    "sampler": "euler",
    "model": "/home/me/secret/dream.safetensors",
    "init_image": "/home/me/secret/in.png",
    "strength": 0.5,
    "loras": [{"path": "/home/me/secret/style.safetensors", "sha256": "00", "scale": 0.5}],
    "model_hash": "abc",
    "mlx_sd": "1.0",
}


@pytest.fixture
def call(tmp_path):
    """call(method, path) -> answer, of a Studio over the folder tmp_path/pictures."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    pictures.write(folder / "a.png", SETTINGS)
    pictures.write(folder / "b.png", {**SETTINGS, "seed": 8, "steps": 4})
    pictures.write(tmp_path / "outside.png", {"prompt": "secret"})
    with studio(folder) as opened:
        guarded, bare = Caller(opened), Caller(opened, guarded=False)

        def send(method, path, behind_guard=True, **options):
            return (guarded if behind_guard else bare)(method, path, **options)

        assert send("GET", "/api/gallery").json()["total"] == 2
        send.folder = folder
        yield send


def test_details_are_the_request_without_a_path(call):
    answer = call("GET", "/api/gallery/a.png").json()
    request = answer["request"]
    assert request["prompt"] == SETTINGS["prompt"] and request["seed"] == 7
    assert (request["model"], request["loras"][0]["id"]) == ("dream.safetensors", "style.safetensors")
    assert "secret" not in json.dumps(answer) and answer["width"] == 8 and answer["format"] == "PNG"


def test_what_cannot_be_read_has_a_remark_and_no_path(call):
    pictures.write(call.folder / "odd.png", {"model": "/home/me/secret", "steps": "/home/me/secret"})
    pictures.write(call.folder / "damaged.png", "{]")
    pictures.write(call.folder / "silent.png")
    assert call("GET", "/api/gallery").json()["total"] == 5
    odd, damaged, silent = (call("GET", f"/api/gallery/{name}.png").json() for name in ("odd", "damaged", "silent"))
    assert odd["request"] is None and "secret" not in json.dumps(odd) and "steps" in odd["remarks"][0]
    assert damaged["remarks"] == ["the settings in this picture are damaged"]
    assert (silent["request"], silent["remarks"]) == (None, [])


def test_two_pictures_are_compared_by_their_settings(call):
    answer = call("GET", "/api/gallery/compare?a=a.png&b=b.png").json()
    assert answer == {"differences": [{"setting": "seed", "a": 7, "b": 8}, {"setting": "steps", "a": 3, "b": 4}]}
    assert call("GET", "/api/gallery/compare?a=a.png").status_code == 404


def test_pictures_have_a_fixed_type_and_are_kept_by_their_version(call):
    version = call("GET", "/api/gallery").json()["pictures"][-1]["version"]
    plain, kept = (call("GET", f"/api/gallery/a.png/picture{query}") for query in ("", f"?v={version}"))
    assert plain.content == kept.content == (call.folder / "a.png").read_bytes()
    assert plain.headers["content-type"] == "image/png" and plain.headers["x-content-type-options"] == "nosniff"
    assert "immutable" in kept.headers["cache-control"] and "immutable" not in plain.headers["cache-control"]
    again = call("GET", "/api/gallery/a.png/picture", headers={"If-None-Match": plain.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_a_picture_that_changes_or_goes_is_noticed_when_it_is_asked_for(call):
    tag = call("GET", "/api/gallery/a.png/picture").headers["etag"]
    pictures.write(call.folder / "a.png", {"prompt": "another"})
    changed = call("GET", "/api/gallery/a.png/picture", headers={"If-None-Match": tag})
    assert changed.status_code == 200 and changed.content == (call.folder / "a.png").read_bytes()
    (call.folder / "a.png").unlink()
    assert call("GET", "/api/gallery/a.png/picture").status_code == 404
    assert call("GET", "/api/gallery/b.png").status_code == 200
    outside, status = call.folder.parent / "outside.png", (call.folder / "b.png").stat()
    outside.write_bytes(bytes(status.st_size))
    os.utime(outside, ns=(status.st_mtime_ns, status.st_mtime_ns))
    (call.folder / "b.png").unlink()
    (call.folder / "b.png").symlink_to(outside)  # of the same time and size
    assert call("GET", "/api/gallery/b.png/picture").status_code == 404
    assert call("GET", "/api/gallery/b.png").status_code == 404


TRICKS = (
    *("../outside.png", "..%2foutside.png", "%2e%2e%2foutside.png", "%2e%2e/outside.png", "..\\outside.png"),
    *("..%5coutside.png", "%00", "a.png%00", "a.png%00.jpg", ".", "..", "%2e", "%2e%2e", ".studio", ".studio%2flock"),
    *("trash", "link.png", ".hidden.png", "A.PNG", "a.png%20", "a.png.", "%61.png%2f", "con", "~", "%ff.png"),
    *("file:%2f%2f%2fetc%2fpasswd", "%252e%252e%252foutside.png", "x" * 5000, "a" * 250 + ".png", "%c3%28"),
    *(
        "%2fetc%2fpasswd",
        "....//outside.png",
        "a.png;b",
        "%0d%0aX:1",
        "e%CC%81.png",
    ),
)


@pytest.mark.parametrize("guard", (True, False))
@pytest.mark.parametrize("name", TRICKS)
def test_no_trick_with_a_name_reaches_a_file(call, name, guard):
    (call.folder / "link.png").symlink_to(call.folder.parent / "outside.png")
    pictures.write(call.folder / ".hidden.png")
    pictures.write(call.folder / unicodedata.normalize("NFC", "é.png"))
    before = sorted(call.folder.parent.rglob("*.png"))
    call("GET", "/api/gallery")
    for method, path in (
        ("GET", f"/api/gallery/{name}"),
        ("GET", f"/api/gallery/{name}/picture"),
        ("GET", f"/api/gallery/{name}/thumbnail"),
        ("DELETE", f"/api/gallery/{name}"),
        ("POST", f"/api/trash/{name}"),
        ("GET", f"/api/trash/{name}/thumbnail"),
    ):
        answer = call(method, path, guard)
        assert answer.status_code in (400, 404, 405, 414), (method, path, answer.status_code)
        assert "Traceback" not in answer.text and str(call.folder) not in answer.text
    assert sorted(call.folder.parent.rglob("*.png")) == before


@pytest.mark.parametrize("query", ("limit=0", "limit=-1", "limit=x", "limit=1e9", "limit=%C2%B2", "after=x"))
def test_a_wrong_number_or_place_is_one_line(call, query):
    answer = call("GET", f"/api/gallery?{query}")
    assert answer.status_code == 400 and "\n" not in answer.json()["error"]["message"]


def test_a_deleted_picture_lies_in_the_trash_and_comes_back(call):
    content = (call.folder / "a.png").read_bytes()
    assert call("DELETE", "/api/gallery/a.png").json() == {"name": "a.png"}
    assert call("GET", "/api/gallery/a.png").status_code == 404
    (entry,) = call("GET", "/api/trash").json()["pictures"]
    assert entry["name"] == "a.png"
    assert call("GET", "/api/trash/a.png/thumbnail").headers["content-type"] == "image/webp"
    assert call("POST", "/api/trash/a.png").json()["picture"]["name"] == "a.png"
    assert (call.folder / "a.png").read_bytes() == content
    assert call("GET", "/api/gallery").json()["total"] == 2
    call("DELETE", "/api/gallery/a.png")
    assert call("DELETE", "/api/trash").json() == {"removed": 1}
    assert call("GET", "/api/trash").json() == {"pictures": []} and call("DELETE", "/api/trash").json() == {
        "removed": 0
    }


def test_a_thumbnail_of_a_damaged_picture_is_a_placeholder_that_is_not_kept(call):
    (call.folder / "bad.png").write_bytes(b"no picture")
    (call.folder / "half.png").write_bytes(pictures.png({"prompt": "x"}, side=200)[:-40])
    call("GET", "/api/gallery")
    for name in ("bad.png", "half.png"):
        answer = call("GET", f"/api/gallery/{name}/thumbnail")
        assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
        assert answer.headers["content-type"] == "image/webp" and answer.content[:4] == b"RIFF"
        assert call("GET", f"/api/gallery/{name}").status_code == 200
