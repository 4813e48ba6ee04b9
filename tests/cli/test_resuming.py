"""The same command again: only what is missing or broken is made, and nothing of other settings is mixed in."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from mlx_sd import jobs, metadata
from tests.support.effort import slow_but

pytestmark = pytest.mark.usefixtures("tiny_once")

FAST = ("--steps", 1, "--width", 32, "--height", 32)
MANY = ("a tent", *FAST, "--seed", 5, "--count", 3)


def _bytes(folder="."):
    return {path.name: path.read_bytes() for path in Path(folder).glob("*.*") if path.is_file()}


@pytest.mark.parametrize("output", slow_but(["pictures/"], ["pictures/", "pictures/p.png", "pictures/{seed}.webp"]))
def test_the_same_command_makes_only_what_is_missing(run, tmp_path, output):
    (tmp_path / "pictures").mkdir()
    code, first, err = run(*MANY, "--output", output)
    assert (code, len(first.split()), err) == (0, 3, "")
    pictures, lost = _bytes("pictures"), Path(first.split()[1])
    assert run(*MANY, "--output", output)[1:] == (
        "",
        "mlx_sd.generate: all 3 pictures are there already; --overwrite makes them again\n",
    )
    lost.unlink()
    code, out, err = run(*MANY, "--output", output)
    assert (code, out) == (0, f"{lost}\n") and "2 of 3 pictures are there already" in err
    assert _bytes("pictures") == pictures
    assert len(run(*MANY, "--output", output, "--overwrite")[1].split()) == 3
    assert _bytes("pictures") == pictures
    (*older, newer) = json.loads(run(*MANY[:-1], 4, "--output", output, "--json")[1])
    assert [record["made"] for record in older] == [False] * 3 and newer["made"] and newer["seed"] == 8
    assert older[0]["prompt"] == "a tent" and "seconds" not in older[0]


def test_a_picture_that_is_broken_is_made_again_and_the_old_file_stays(run, tmp_path):
    assert run(*MANY, "--output", "p/")[0] == 0
    before = _bytes("p")
    victim = Path("p/a-tent-6.png")
    victim.write_bytes(before["a-tent-6.png"][:-300])
    code, out, err = run(*MANY, "--output", "p/")
    assert (code, out) == (0, "p/a-tent-6.png\n")
    assert "p/a-tent-6.png was damaged or edited; it is p/a-tent-6.broken.png now" in err
    after = _bytes("p")
    assert after.pop("a-tent-6.broken.png") == before["a-tent-6.png"][:-300] and after == before
    jobs.claim_path(victim).touch()  # of a process that was killed after it had saved
    assert "all 3 pictures are there already" in run(*MANY, "--output", "p/")[2]
    assert not jobs.claim_path(victim).exists()
    victim.write_bytes(b"")  # of a disk that was full: nothing to keep
    assert run(*MANY, "--output", "p/")[1] == "p/a-tent-6.png\n"


@pytest.mark.slow
def test_other_settings_are_never_mixed_in(run, tmp_path):
    other = (*MANY[:2], 2, *MANY[3:])
    assert run(*MANY, "--output", "p/")[0] == 0 and run(*MANY, "--output", "n.png")[0] == 0
    before = _bytes("p") | _bytes()
    code, out, err = run(*other, "--output", "n.png")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "n-5.png was made with other settings (steps 1, here 2); choose another name, or --overwrite" in err
    names = ["p/a-tent-5.2.png", "p/a-tent-6.2.png", "p/a-tent-7.2.png"]
    assert run(*other, "--output", "p/")[1].split() == names
    assert run(*other, "--output", "p/")[2].count("all 3 pictures are there already") == 1
    assert run(*MANY, "--output", "p/")[2].count("all 3 pictures are there already") == 1
    assert before.items() <= (_bytes("p") | _bytes()).items()


@pytest.mark.slow
def test_pictures_of_a_random_seed_are_gone_on_with_by_that_seed(run):
    flags = ("a {red|blue} tent", *FAST, "--count", 3, "--output", "{number}.png")
    seed = int(run(*flags)[2].split()[-1])
    code, _, err = run(*flags)
    assert (code == 2 and "(prompt 'a " in err) or f"(seed {seed}, here " in err
    assert f"; --seed {seed} goes on with it; or choose another name" in err
    Path("2.png").unlink()
    assert run(*flags, "--seed", seed)[1] == "2.png\n"


@pytest.mark.slow
def test_one_picture_and_names_here_are_new_each_time(run):
    one = ("a tent", *FAST, "--seed", 5)
    assert [run(*one, "--output", "p/")[1] for _ in range(2)] == ["p/a-tent-5.png\n", "p/a-tent-5.2.png\n"]
    assert run(*one, "--count", 2)[1].split() == ["a-tent-5.png", "a-tent-6.png"]
    assert run(*one, "--count", 2)[1].split() == ["a-tent-5.2.png", "a-tent-6.2.png"]


@pytest.mark.slow
def test_a_file_of_prompts_that_grew_and_moved_is_gone_on_with(run, tmp_path):
    flags = ("--prompts", "prompts.txt", *FAST, "--seed", 0, "--output", "p/")
    Path("prompts.txt").write_text("a tent\na house\na tent\n")
    assert run(*flags)[1].split() == ["p/a-tent-0.png", "p/a-house-0.png", "p/a-tent-0.2.png"]
    Path("prompts.txt").write_text("# more\na moon\na house\n\na tent\n")
    assert run(*flags)[1].split() == ["p/a-moon-0.png"]


@pytest.mark.slow
def test_a_model_that_moved_is_the_same_and_another_is_not(run, tmp_path, original):
    flags = (*MANY, "--output", "p.png", "--model")
    (tmp_path / "a").symlink_to(original)
    assert run(*flags, "a")[0] == 0
    (tmp_path / "b").symlink_to(original)
    assert "all 3 pictures are there already" in run(*flags, "b")[2]
    assert "p-5.png was made with other settings" in run(*flags, "tiny")[2]


@pytest.mark.slow
def test_without_metadata_nothing_is_known_to_be_done(run):
    assert run(*MANY, "--output", "p.png", "--no-metadata")[0] == 0
    with Image.open("p-5.png") as image:
        assert image.info == {}
    code, _, err = run(*MANY, "--output", "p.png")
    assert code == 2 and "p-5.png exists and does not say that mlx-sd made it" in err
    assert run(*MANY, "--output", "p.png", "--no-metadata", "--overwrite")[0] == 0
    assert len(run(*MANY, "--output", "./", "--no-metadata")[1].split()) == 3
    assert run(*MANY, "--output", "./", "--no-metadata")[1].split()[0] == "a-tent-5.2.png"


def test_what_another_process_is_making_is_left_to_it(run, tmp_path):
    (tmp_path / "p").mkdir()
    claim = jobs.claim(tmp_path / "p" / "a-tent-6.png")
    code, out, err = run(*MANY, "--output", "p/")
    assert (code, out.split()) == (0, ["p/a-tent-5.png", "p/a-tent-7.png"])
    assert "1 of 3 pictures is being made by another process" in err
    assert run("a tent", *FAST, "--seed", 6, "--output", "p/")[1] == "p/a-tent-6.2.png\n"  # a name chosen here
    code, _, err = run("a tent", *FAST, "--seed", 6, "--output", "p/a-tent-6.png")
    assert code == 1 and "another process is writing p/a-tent-6.png" in err
    claim.release()
    assert run(*MANY, "--output", "p/")[1] == "p/a-tent-6.png\n"


@pytest.mark.slow
def test_two_processes_share_a_list_and_make_each_picture_once(tmp_path):
    words = ["a tent", *map(str, FAST), "--seed", "0", "--count", "8", "--output", "p/"]
    command = [sys.executable, "-m", "mlx_sd.generate", *words]
    workers = [subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    names = [name for worker in workers for name in worker.communicate(timeout=120)[0].split()]
    assert [worker.returncode for worker in workers] == [0, 0]
    assert sorted(names) == sorted(f"p/a-tent-{seed}.png" for seed in range(8))
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == sorted(Path(name).name for name in names)
    assert {metadata.read(tmp_path / name)["seed"] for name in names} == {*range(8)}


@pytest.mark.slow
def test_one_picture_that_is_there_is_one(run, tmp_path):
    (tmp_path / "prompts.txt").write_text("a tent\n")
    words = ("--prompts", "prompts.txt", "--steps", 1, "--width", 32, "--height", 32, "--seed", 5, "--output", "p/")
    assert run(*words)[0] == 0
    assert "the picture is there already; --overwrite makes it again" in run(*words)[2]
    (tmp_path / "prompts.txt").write_text("a tent\na house\n")
    assert "1 of 2 pictures is there already; --overwrite makes it again" in run(*words)[2]
