"""--index: what a folder of pictures has beside them."""

import json
from hashlib import sha256
from pathlib import Path

import pytest
from PIL import Image

from mlx_sd import contact_sheet
from tests.support.effort import slow_but

pytestmark = pytest.mark.usefixtures("tiny_once")

FAST = ("--steps", 1, "--width", 32, "--height", 32, "--seed", 5)
PROMPTS = ("--prompts", "prompts.txt", *FAST, "--count", 2, "--output", "p/", "--index")


@pytest.fixture(autouse=True)
def prompts(tmp_path):
    (tmp_path / "prompts.txt").write_text('a tent\n{"prompt": "a hút", "output": "in/hut.png"}\n')


def test_the_index_lists_the_pictures_in_the_order_of_the_prompts(run, tmp_path):
    code, out, err = run(*PROMPTS)
    names = ["a-tent-5.png", "a-tent-6.png", "in/hut-5.png", "in/hut-6.png"]
    assert (code, err) == (0, "")
    assert out.split() == [f"p/{name}" for name in [*names, "index.jsonl", "contact-sheet.png"]]
    entries = [json.loads(line) for line in Path("p/index.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [entry["name"] for entry in entries] == names
    assert [entry["sha256"] for entry in entries] == [sha256(Path("p", n).read_bytes()).hexdigest() for n in names]
    assert [(entry["seed"], entry["prompt"]) for entry in entries] == [
        (s, p) for p in ("a tent", "a hút") for s in (5, 6)
    ]
    assert contact_sheet.is_contact_sheet(Path("p/contact-sheet.png"))
    files = [Path("p", name).read_bytes() for name in ("index.jsonl", "contact-sheet.png")]
    Path("p/a-tent-6.png").unlink()
    assert run(*PROMPTS)[1].split() == ["p/a-tent-6.png", "p/index.jsonl", "p/contact-sheet.png"]
    assert [Path("p", name).read_bytes() for name in ("index.jsonl", "contact-sheet.png")] == files


@pytest.mark.parametrize("name", slow_but(["index.jsonl"], ["index.jsonl", "contact-sheet.png"]))
def test_a_file_of_the_user_is_not_replaced(run, tmp_path, name):
    file = tmp_path / "p" / name
    file.parent.mkdir()
    file.write_text('{"name": "mine"}\n')
    code, out, err = run(*PROMPTS)
    assert (code, out) == (2, "") and f"p/{name} exists and is not of an earlier --index" in err
    assert [path.name for path in file.parent.iterdir()] == [name]
    assert file.read_text() == '{"name": "mine"}\n'


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("a tent", "--output", "a.png"), "--index is written into a folder; give one, as --output pictures/"),
        (("a tent",), "--index is written into a folder"),
        (("a tent", "--output", "{seed}/"), "--index is written into a folder"),
        (("a tent", "--grid", "steps=1,2"), "--grid has a sheet of its own"),
    ],
)
def test_an_index_needs_a_folder(run, options, words):
    code, out, err = run(*options, *FAST, "--index")
    assert (code, out) == (2, "") and words in err


def test_a_picture_with_the_name_of_the_sheet_is_refused(run, tmp_path):
    (tmp_path / "prompts.txt").write_text('{"prompt": "a tent", "output": "contact-sheet.png", "count": 1}\n')
    code, out, err = run(*PROMPTS)
    assert (code, out) == (2, "") and "prompts.txt, line 1: p/contact-sheet.png is the name of a file of --index" in err


@pytest.mark.parametrize("count, side", [(1, 600), (2, 32), (7, 300), (40, 100), (200, 20), (500, 64)])
def test_a_contact_sheet_has_all_pictures_and_stays_small(count, side, tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (side, side // 2), "red").save(path)
    sheet = tmp_path / "sheet.png"
    contact_sheet.write(sheet, [path] * count)
    with Image.open(sheet) as image:
        assert max(image.size) <= 4096
        reds = image.convert("RGB").resize((image.width, image.height)).getcolors(1 << 20)
    red = {colour: number for number, colour in reds}[(255, 0, 0)]
    assert red % count == 0 and red // count >= 10 * 5
