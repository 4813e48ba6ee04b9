"""Pictures of clients: kept once, by ids, within a bound; given back as new PNG files; read for their settings."""

import base64
import hashlib
import io
import json
import os
import threading

import httpx
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mlx_sd import metadata
from mlx_sd.core.errors import Failure, InputError
from mlx_sd.request import Request
from mlx_sd.studio.pictures import uploads as module
from mlx_sd.studio.pictures.uploads import Uploads, used_by
from mlx_sd.studio.work.studio import Settings, Studio
from tests.studio.hostile import picture, saved
from tests.support.studio import SMALL, serving


def numbered(i: int) -> bytes:
    """Returns one of many small pictures."""
    return saved(Image.new("RGB", (8, 8), (i % 256, i // 256, 0)), "PNG")


@pytest.fixture
def uploads(tmp_path):
    return Uploads(tmp_path / "uploads")


def test_a_picture_that_is_sent_twice_is_one_file(uploads, tmp_path, monkeypatch):
    data = saved(picture("RGBA"), "PNG")
    first = uploads.from_bytes(data)
    assert first == (hashlib.sha256(data).hexdigest()[:32], 24, 16, True)
    monkeypatch.setattr(module, "decode", None)  # it is not decoded again
    assert uploads.from_bytes(data) == uploads.from_base64(base64.b64encode(data).decode()) == first
    assert [path.name for path in (tmp_path / "uploads").iterdir()] == [f"{first.id}.png"]
    assert uploads.describe(first.id) == first


def test_sixteen_threads_that_send_one_picture_make_one_file(uploads, tmp_path):
    data, results = saved(picture(), "JPEG"), []
    threads = [threading.Thread(target=lambda: results.append(uploads.from_bytes(data))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({*results}) == 1 and len(results) == 16
    assert len(list((tmp_path / "uploads").iterdir())) == 1


@pytest.mark.parametrize(
    "id",
    ["", ".", "..", "../secret", "..%2fsecret", "/etc/passwd", "secret\0", "a" * 31, "a" * 33, "A" * 32, "g" * 32,
     "\u0661" * 32, "a" * 32 + "\n", "a" * 32 + "/../../secret", "x" * 5000],
)  # fmt: skip
def test_an_id_that_is_none_names_no_file(id, uploads, tmp_path):
    (tmp_path / "secret.png").write_bytes(saved(picture(), "PNG"))
    uploads.from_bytes(saved(picture(), "PNG"))
    with pytest.raises(InputError) as caught:
        uploads.path(id)
    assert str(tmp_path) not in str(caught.value)


def test_without_the_check_of_ids_a_path_would_name_a_file(uploads, tmp_path, monkeypatch):
    (tmp_path / "secret.png").write_bytes(b"secret")
    uploads.from_bytes(saved(picture(), "PNG"))
    monkeypatch.setattr(module, "_ID", module.re.compile("(?s).*"))
    assert uploads.path("../secret").read_bytes() == b"secret"


def uploads_size(folder, i: int) -> int:
    """Returns how many bytes are kept of a picture."""
    uploads = Uploads(folder)
    return uploads.path(uploads.from_bytes(numbered(i)).id).stat().st_size


def test_the_least_recently_used_make_room_and_those_that_jobs_need_stay(tmp_path):
    needed: set[str] = set()
    size = sum(uploads_size(tmp_path / "sizes", i) for i in range(5))
    tmp_path /= "uploads"
    uploads = Uploads(tmp_path, lambda: needed, bound=size - 1)
    ids = [uploads.from_bytes(numbered(i)).id for i in range(4)]
    for i, id in enumerate(ids):
        os.utime(tmp_path / f"{id}.png", ns=(i, i))
    needed.add(ids[0])
    uploads.path(ids[1])  # is used
    fifth = uploads.from_bytes(numbered(4)).id
    assert {path.stem for path in tmp_path.iterdir()} == {ids[0], ids[1], ids[3], fifth}
    needed |= {*ids, fifth}
    uploads.from_bytes(numbered(5))  # all are needed: none goes
    assert {ids[0], ids[1], ids[3], fifth} < {path.stem for path in tmp_path.iterdir()}


def test_the_ids_that_a_request_needs_are_found_in_every_setting(tmp_path):
    a, b, c = ("a" * 32, "b" * 32, "c" * 32)
    path = {id: str(tmp_path / "uploads" / f"{id}.png") for id in (a, b, c)}
    request = Request(prompt="x", init_image=path[a], mask=path[b], controls=(f"canny:{path[c]}",))
    assert used_by([request, Request(prompt=f"a text, {'d' * 32}")]) == {a, b, c}


def test_a_disk_that_is_full_is_one_line(uploads, monkeypatch):
    def full(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    data = numbered(1)
    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(Failure, match="No space left"):
        uploads.from_bytes(data)


@pytest.mark.parametrize("form", ["{}", "data:image/png;base64,{}", "data:image/jpeg;base64,{}"])
def test_base64_is_taken_bare_and_as_a_data_url(form, uploads):
    text = base64.b64encode(saved(picture(), "PNG")).decode()
    assert uploads.from_base64(form.format(text)).width == 24


def test_base64_in_lines_is_taken(uploads):
    assert uploads.from_base64(base64.encodebytes(saved(picture(), "PNG")).decode()).width == 24


BAD = {
    "http://evil.example/a.png": "not fetched",
    "HTTPS://evil.example/a.png": "not fetched",
    "file:///etc/passwd": "not fetched",
    "ftp://evil.example": "not fetched",
    "data:text/html;base64,PGh0bWw+": "not fetched",
    "data:image/svg+xml;base64,PHN2Zz4=": "not fetched",
    "data:image/png,abc": "not fetched",
    "javascript:alert(1)": "not fetched",
    "": "no bytes",
    "abc": "not in base64",
    "!!!!": "not in base64",
    "aGVs bG8=": "not in base64",
    "-_-_": "not in base64",
    "aGVsbG8": "not in base64",
    "\u00e9\u00e9\u00e9\u00e9": "not in base64",
    "aGVsbG8=": "no picture",
    "/etc/passwd": "not in base64",
    "../../a.png": "not in base64",
}


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_picture_in_base64_is_refused_in_one_line(text, uploads, tmp_path):
    with pytest.raises(InputError, match=BAD[text]) as caught:
        uploads.from_base64(text)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.rglob("*.png")) == []


def test_files_above_the_limit_are_not_looked_at(uploads):
    with pytest.raises(InputError, match="32 MiB"):
        uploads.from_bytes(bytes(module.BYTES + 1))
    with pytest.raises(InputError, match="32 MiB"):
        uploads.from_base64("A" * (module.BYTES * 3 // 2))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    loras = tmp_path_factory.mktemp("loras")
    (loras / "style.safetensors").write_bytes(b"")
    with serving(tmp_path_factory.mktemp("studio"), lora_folder=loras) as server:
        yield server


@pytest.fixture
def client(server):
    with httpx.Client(base_url=server.address, timeout=60) as client:
        yield client


def send(client, path, data, kind="image/png"):
    return client.post(path, content=data, headers={"content-type": kind})


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_a_picture_comes_back_as_a_new_png(client, format):
    data = saved(picture(), format)
    answer = send(client, "/api/images", data, f"image/{format.lower()}")
    assert answer.status_code == 201
    described = answer.json()
    assert described == {"id": described["id"], "width": 24, "height": 16, "transparent": False}
    back = client.get(f"/api/images/{described['id']}")
    assert back.headers["content-type"] == "image/png" and back.headers["x-content-type-options"] == "nosniff"
    assert back.headers["content-disposition"] == "inline" and back.content != data
    with Image.open(io.BytesIO(data)) as original, Image.open(io.BytesIO(back.content)) as copy:
        assert np.array_equal(np.asarray(original), np.asarray(copy))


@pytest.mark.parametrize(
    "data, kind, words",
    [
        (saved(picture(), "JPEG"), "image/png", "is a JPEG, but was sent as image/png"),
        (saved(picture(), "PNG"), "image/webp", "is a PNG, but was sent as image/webp"),
        (b"<svg/>", "image/png", "is no picture"),
        (b"", "image/png", "is no picture"),
        (saved(picture(), "PNG")[:100], "image/png", "ends too early"),
    ],
)
def test_a_picture_of_another_kind_than_it_says_is_refused(client, data, kind, words):
    answer = send(client, "/api/images", data, kind)
    assert answer.status_code == 400 and words in answer.json()["error"]["message"]


def test_a_picture_that_is_not_there_is_404(client):
    answer = client.get(f"/api/images/{'a' * 32}")
    assert answer.status_code == 404 and answer.json()["error"]["message"]


def ours(tmp_path, suffix=".png", **settings):
    """Returns a picture file with settings of ours in it."""
    path = tmp_path / f"a{suffix}"
    values = Request(**(SMALL | settings)).to_json() | {metadata.VERSION_KEY: "0.1"}
    metadata.save(picture(), path, values)
    return path.read_bytes()


@pytest.mark.parametrize("suffix, kind", [(".png", "image/png"), (".jpg", "image/jpeg"), (".webp", "image/webp")])
def test_settings_of_ours_fill_the_form_again(client, tmp_path, suffix, kind):
    answer = send(client, "/api/read", ours(tmp_path, suffix, guidance=4.5), kind)
    assert answer.status_code == 200, answer.text
    read = answer.json()
    assert read["remarks"] == []
    assert read["request"].items() >= {**SMALL, "guidance": 4.5, "model": "tiny"}.items()
    assert client.post("/api/check", json={"request": read["request"]}).json()["errors"] == []


def test_names_of_files_in_a_picture_become_ids_or_remarks_and_no_path_comes_back(client, server, tmp_path):
    (entry,) = [e for e in server.studio.catalog.loras() if e.place != "embedded"]
    kept = send(client, "/api/images", saved(picture(), "PNG")).json()["id"]
    settings = {
        "model": "/home/somebody/models/dreams.safetensors",
        "loras": [("/elsewhere/style.safetensors", 0.5), ("C:\\loras\\gone.safetensors", 1.0)],
        "init_image": str(server.studio.uploads.path(kept)),
        "mask": "/etc/passwd",
        "strength": 0.5,
    }
    read = send(client, "/api/read", ours(tmp_path, **settings)).json()
    assert read["request"]["loras"] == [{"id": entry.id, "scale": 0.5}]
    assert read["request"]["init_image"] == f"upload:{kept}" and read["request"]["strength"] == 0.5
    assert not read["request"].keys() & {"model", "mask"}
    remarks = " ".join(read["remarks"])
    assert all(word in remarks for word in ("dreams", "gone", "the mask"))
    assert "/home" not in json.dumps(read) and "/etc" not in json.dumps(read)


A1111 = """a red tent, <lora:style:0.7> <lora:gone:1>
Negative prompt: blurry
Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 12345, Size: 64x64, Model: tiny, Hypernet: x"""


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF"])
def test_texts_of_a1111_fill_the_form(client, format):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + A1111.encode("utf-16-be")
    info = PngInfo()
    info.add_text("parameters", A1111)
    options = {"PNG": {"pnginfo": info}, "GIF": {"comment": A1111.encode()}}.get(format, {"exif": exif})
    image = picture("P" if format == "GIF" else "RGB")
    read = send(client, "/api/read", saved(image, format, **options), f"image/{format.lower()}").json()
    settings = read["request"]
    assert (settings["prompt"], settings["negative"], settings["seed"]) == ("a red tent,", "blurry", 12345)
    assert (settings["sampler"], settings["schedule"], settings["model"]) == ("dpmpp_2m", "karras", "tiny")
    assert [lora["scale"] for lora in settings["loras"]] == [0.7]
    remarks = " ".join(read["remarks"])
    assert "gone" in remarks and "ypernet" in remarks and "--" not in remarks


@pytest.mark.parametrize(
    "text, words",
    [
        ("{", "not JSON"),
        ("[]", "damaged"),
        ('{"prompt": "a", "prompt": "b"}', "twice"),
        ('{"steps": NaN}', "no number"),
        ("[" * 100_000, "deeper"),
    ],
)
def test_damaged_settings_in_a_picture_are_one_line(client, text, words):
    info = PngInfo()
    info.add_itxt("mlx-sd", text)
    answer = send(client, "/api/read", saved(picture(), "PNG", pnginfo=info))
    assert answer.status_code == 400 and words in answer.json()["error"]["message"]


def test_settings_that_make_no_sense_are_left_out_with_a_remark(client):
    info = PngInfo()
    info.add_itxt("mlx-sd", json.dumps({"prompt": "a", "steps": -1, "width": "x", "sampler": 5, "nothing": 1}))
    read = send(client, "/api/read", saved(picture(), "PNG", pnginfo=info)).json()
    assert read["request"] == {"prompt": "a"}
    assert all(any(word in remark for remark in read["remarks"]) for word in ("steps", "width", "sampler", "nothing"))


def test_a_picture_that_says_nothing_is_one_line(client):
    answer = send(client, "/api/read", saved(picture(), "PNG"))
    assert answer.status_code == 400 and "does not say" in answer.json()["error"]["message"]


def test_pictures_that_waiting_jobs_need_stay(tmp_path):
    studio = Studio(Settings(tmp_path))
    try:
        needed, other = (studio.uploads.from_bytes(numbered(i)).id for i in range(2))
        from tests.support.studio import PAGE

        studio.submit(SMALL | {"init_image": f"upload:{needed}", "strength": 0.5}, PAGE, keep=True)
        assert studio.uploads_in_use() == {needed} and other
    finally:
        studio.stop()
