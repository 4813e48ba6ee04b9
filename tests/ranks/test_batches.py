"""Pictures of one list by several ranks are those of one process: names, bytes, order, and what is made again."""

import json

import pytest

from mlx_sd import metadata
from tests.support.batches import APART, COMMAND, contents, program
from tests.support.launcher import Launches, needs_launcher

pytestmark = needs_launcher
SHEET = "contact-sheet.png"

LIST = """# what lines may be
a tent
{"prompt": "a house AND a moon", "count": 2}
{"prompt": "a hut", "size": "48x32", "output": "in/hut.png"}
{"prompt": "a house", "steps": 2}
a {red|blue} door
a tent
"""


@pytest.fixture
def launches(tmp_path):
    """Starts programs in an empty folder with a list of prompts."""
    (tmp_path / "prompts.txt").write_text(LIST, encoding="utf-8")
    with Launches(tmp_path) as started:
        yield started


def _loud(words):
    return tuple(word for word in words if word != "--quiet")


MANY = ("--prompts", "prompts.txt", "--count", "2", "--batch", "2")


@pytest.mark.slow
def test_two_ranks_make_the_pictures_of_one_process(launches, tmp_path):
    words = (*_loud(COMMAND), *MANY, "--index")
    one = launches.run(1, *words, "--output", "one/")
    two = launches.run(2, *words, "--output", "two/")
    assert (one.code, one.lines) == (0, [])
    assert two.out == one.out.replace("one/", "two/") and len(two.out.split()) == 12 + 2
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    [line] = two.lines
    assert line.startswith("mlx_sd.generate: 12 pictures in ") and "rank 0 " in line and "rank 1 " in line
    again = launches.run(2, *words, "--output", "two/")
    assert again.out.split() == ["two/index.jsonl", "two/contact-sheet.png"]
    assert again.lines == ["mlx_sd.generate: all 12 pictures are there already; --overwrite makes them again"]
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


@pytest.mark.slow
def test_json_of_all_ranks_is_in_order_and_counts_the_work_of_one(launches, tmp_path):
    words = (*COMMAND, *MANY, "--json")
    alone = json.loads(launches.run(1, *words, "--output", "one/").out)
    ended = launches.run(3, *words, "--output", "all/")
    together = json.loads(ended.out)
    assert list(map(_settings, together)) == list(map(_settings, alone))
    assert [record["output"].replace("all/", "one/") for record in together] == [r["output"] for r in alone]
    assert {record["rank"] for record in together} == {0, 1, 2}
    for name in ("evaluations", "full_evaluations"):
        assert sum(r[name] / r["batch"] for r in together) == sum(r[name] / r["batch"] for r in alone)
    assert ended.lines == []
    before = {path: path.stat().st_ino for path in (tmp_path / "all").rglob("*.png") if path.name != SHEET}
    again = json.loads(launches.run(2, *words, "--output", "all/", "--overwrite").out)
    assert all(record["made"] for record in again) and list(map(_settings, again)) == list(map(_settings, alone))
    assert all(path.stat().st_ino != inode for path, inode in before.items())


def _settings(record):
    return {name: value for name, value in record.items() if not _is_fact(name)}


def _is_fact(name):
    return name == "output" or name == "rank" or name.endswith(("seconds", "seconds_median"))


# Rank 1 must not load the model.
UNLOADED = """
from mlx_sd.cli import models
if rank == "1":
    def load(*_): raise AssertionError("rank 1 loads a model")
    models.load = load
"""


@pytest.mark.slow
def test_only_what_is_missing_or_broken_is_made_and_only_by_ranks_that_have_work(launches, tmp_path):
    words = ("--prompts", "prompts.txt", "--count", "2")
    launches.run(1, *COMMAND, *words, "--index", "--output", "p/")
    before = contents(tmp_path / "p")
    lost, broken = tmp_path / "p/a-tent-4.png", tmp_path / "p/in/hut-3.png"
    content = broken.read_bytes()
    lost.unlink()
    broken.write_bytes(content[:-200])
    ended = launches.run(2, *_loud(COMMAND), *words, "--output", "p/")
    assert [name for name in ended.out.split() if name.endswith("4.png") or "hut" in name] == [
        "p/a-tent-4.png",
        "p/in/hut-3.png",
    ]
    assert any("10 of 12 pictures are there already" in line for line in ended.lines)
    assert (tmp_path / "p/in/hut-3.broken.png").read_bytes() == content[:-200]
    (tmp_path / "p/in/hut-3.broken.png").unlink()
    assert contents(tmp_path / "p") == before
    lost.unlink()
    ended = launches.run(2, *program(UNLOADED), *words, "--output", "p/")
    assert (ended.lines, ended.codes()) == ([], {}) and contents(tmp_path / "p") == before


REFUSED = {
    "other settings": (
        (),
        ("--prompts", "plain.txt", "--output", "{number}.png", "--guidance", "2"),
        "1.png was made with other settings (guidance 3.0, here 2.0); choose another name, or --overwrite replaces it",
    ),
    "another file of prompts": (
        (APART, 'Path("prompts.txt").write_text("a tent" if rank == "1" else "a house")'),
        ("--output", "p/"),
        "rank 1 has another file of prompts than rank 0; all ranks need the same",
    ),
    "another model": (
        (
            "from mlx_sd import load\nhash_of = load.model_hash\n"
            'load.model_hash = lambda about: "0" * 12 if rank == "1" else hash_of(about)',
        ),
        ("--output", "p/"),
        "rank 1: it has another model than the rank that decides; all need the same",
    ),
    "another device": (
        ('from mlx_sd.core import device\ndevice.describe = lambda coreml=False: f"Apple M{rank} (gpu)"',),
        ("--output", "p/", "--same-device-only"),
        "--same-device-only: rank 0 on Apple M0 (gpu); rank 1 on Apple M1 (gpu); leave the flag or some of the hosts",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", REFUSED)
def test_what_ranks_cannot_do_together_is_one_line_before_any_picture(fault, launches, tmp_path):
    changes, words, message = REFUSED[fault]
    if fault == "other settings":
        (tmp_path / "plain.txt").write_text("a tent\na house\n")
        launches.run(1, *COMMAND, "--prompts", "plain.txt", "--output", "{number}.png")
    before = contents(tmp_path)
    ended = launches.run(2, *program(*changes), *(() if "--prompts" in words else ("--prompts", "prompts.txt")), *words)
    [line] = [line for line in ended.lines if not line.startswith("usage:")]
    assert message in line and ended.out == "" and set(ended.codes().values()) == {2}
    after = {name: digest for name, digest in contents(tmp_path).items() if name.endswith(".png")}
    assert after == {name: digest for name, digest in before.items() if name.endswith(".png")}
    assert not (tmp_path / "p").exists()


@pytest.mark.slow
def test_different_devices_are_said_and_recorded(launches, tmp_path):
    change = 'from mlx_sd.core import device\ndevice.describe = lambda coreml=False: f"Apple M{rank} (gpu)"'
    words = [word for word in program(change) if word not in ("--quiet", "--seed", "3")]
    ended = launches.run(2, *words, "--prompts", "prompts.txt", "--count", "2", "--output", "p/", "--json")
    records = json.loads(ended.out)
    assert [record["seed"] - records[0]["seed"] for record in records[:5]] == [0, 1, 0, 1, 0]  # one was drawn for all
    assert ended.lines[0].endswith(
        "rank 0 on Apple M0 (gpu); rank 1 on Apple M1 (gpu): the bytes of their pictures may differ; each records its "
        "device"
    )
    for record in json.loads(ended.out):
        assert (
            record["device"] == metadata.read(tmp_path / record["output"])["device"] == f"Apple M{record['rank']} (gpu)"
        )


@pytest.mark.slow
def test_hosts_without_a_common_folder_make_each_its_share_of_the_same_pictures(launches, tmp_path):
    words = ("--prompts", "../prompts.txt", "--count", "3", "--json", "--output", "p/")
    (tmp_path / "one").mkdir()
    alone = launches.run(1, *program('os.chdir("one")'), *words, "--index")
    program_words = [word for word in program(APART) if word != "--quiet"]
    ended = launches.run(2, *program_words, *words)
    records = json.loads(ended.out)
    assert [r["output"] for r in records] == [r["output"] for r in json.loads(alone.out)]
    assert [r["rank"] for r in records] == [i % 2 for i in range(len(records))]
    [line] = [line for line in ended.lines if "not one folder" in line]
    assert "p is not one folder for rank 0 and rank 1: each rank makes 1 of 2 batches" in line
    expected, together = contents(tmp_path / "one/p"), {}
    for rank in range(2):
        files = contents(tmp_path / f"host{rank}/p")
        index = [json.loads(line) for line in (tmp_path / f"host{rank}/p/index.jsonl").read_text().splitlines()]
        assert [entry["name"] for entry in index] == [r["output"][2:] for r in records if r["rank"] == rank]
        together |= {name: digest for name, digest in files.items() if name.endswith(".png") and "/" not in name}
        together |= {name: digest for name, digest in files.items() if name.startswith("in/")}
    sheets = ("contact-sheet.png", "index.jsonl")
    assert {n: d for n, d in together.items() if n not in sheets} == {
        n: d for n, d in expected.items() if n not in sheets
    }
