"""A model folder is whole or not there, says whether it is what was written, and goes back to diffusers unchanged."""

import errno
import itertools
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from convert import __main__ as command
from convert.files.diffusers_names import current_name
from mlx_sd.core.errors import InputError
from mlx_sd.core.files import atomic_folder, tensors
from tests.support import families, singles
from tests.support.effort import slow_but

UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(original, tmp_path):
    """A diffusers folder of its own, to be spoilt."""
    return Path(shutil.copytree(original, tmp_path / "checkpoint"))


@pytest.fixture
def model(original, tmp_path):
    assert command.main(["--model", str(original), "--out", str(tmp_path / "model")]) == 0
    return tmp_path / "model"


def convert(source, out, *flags):
    return command.main(["--model", str(source), "--out", str(out), *flags])


def verify(folder, capsys):
    capsys.readouterr()
    code = command.main(["--verify", str(folder)])
    said = capsys.readouterr()
    assert (said.out + said.err).count("\n") == 1
    return code, said.out + said.err


def edit(path, change):
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def bytes_of(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# ------------------------------------------------------------------------------------------------ verify


def test_a_folder_as_written_is_ok(model, capsys):
    code, said = verify(model, capsys)
    assert code == 0 and ": OK, 3 networks" in said and "6 files as written" in said
    assert set(json.loads((model / "model.json").read_text())["files"]) == bytes_of(model).keys() - {"model.json"}


def flip(path):
    with path.open("r+b") as f:
        f.seek(-1, os.SEEK_END)
        last = f.read(1)
        f.seek(-1, os.SEEK_END)
        f.write(bytes([last[0] ^ 1]))


DAMAGED = {
    "one bit": (lambda m: flip(m / "vae.safetensors"), 1, "vae.safetensors is not the file that was written"),
    "truncated": (lambda m: os.truncate(m / "unet.safetensors", 5000), 1, "unet.safetensors is damaged or incomplete"),
    "lost": (lambda m: (m / "vae.safetensors").unlink(), 1, "vae.safetensors is missing"),
    "lost tokenizer": (lambda m: shutil.rmtree(m / "tokenizer"), 1, "tokenizer has neither vocab.json"),
    "tokenizer": (lambda m: (m / "tokenizer/vocab.json").write_text("{"), 1, "vocab.json is not JSON"),
    "merges": (lambda m: flip(m / "tokenizer/merges.txt"), 1, "tokenizer/merges.txt is not the file that was written"),
    "config": (
        lambda m: edit(m / "model.json", lambda v: v["networks"]["unet"].update(in_channels=5)),
        1,
        "unet.safetensors does not fit model.json (down.stages.0.0.weight)",
    ),
    "unknown field": (
        lambda m: edit(m / "model.json", lambda v: v["networks"]["vae"].update(magic=1)),
        1,
        "vae: unknown field(s) magic",
    ),
    "scheduler": (
        lambda m: edit(m / "model.json", lambda v: v["scheduler"].update(prediction_type="x")),
        1,
        "prediction_type = 'x' is not supported",
    ),
    "dtype": (
        lambda m: edit(m / "model.json", lambda v: v.update(dtype="float16")),
        1,
        "holds F32, model.json says float16",
    ),
    "no networks": (lambda m: edit(m / "model.json", lambda v: v.pop("networks")), 1, "networks is missing or damaged"),
    "escape": (
        lambda m: edit(m / "model.json", lambda v: v["files"].update({"../x": "0"})),
        1,
        "names '../x', which is not in the folder",
    ),
    "no model.json": (lambda m: (m / "model.json").unlink(), 2, "model.json is missing"),
    "other format": (
        lambda m: edit(m / "model.json", lambda v: v.update(format="x")),
        2,
        "is not of the format mlx-sd",
    ),
    "future": (lambda m: edit(m / "model.json", lambda v: v.update(version=99)), 2, "convert the checkpoint again"),
    "nested": (lambda m: (m / "model.json").write_text("[" * 100_000), 2, "nested too deeply"),
    "huge number": (lambda m: (m / "model.json").write_text("1" * 5000), 2, "is not JSON"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_damaged_is_named(name, model, capsys):
    damage, wanted, message = DAMAGED[name]
    damage(model)
    code, said = verify(model, capsys)
    assert code == wanted and message in said, said


def test_many_problems_are_counted(model, capsys):
    for file in [*model.glob("*.safetensors"), *model.glob("tokenizer/*")]:
        file.unlink()
    assert "and 6 more" in verify(model, capsys)[1]


def test_a_hub_snapshot_is_recorded_by_its_commit(folder, tmp_path):
    commit = "0123456789abcdef" * 2 + "01234567"
    snapshot = tmp_path / "models--x--y" / "snapshots" / commit
    snapshot.parent.mkdir(parents=True)
    folder.rename(snapshot)
    assert convert(snapshot, tmp_path / "out") == 0
    about = json.loads((tmp_path / "out/model.json").read_text())
    assert about["source"]["revision"] == commit and about["source"]["converter"].startswith("mlx-sd ")


# ------------------------------------------------------------------------------------------------ round trip


@pytest.mark.parametrize("name", families.FAMILIES)
def test_back_to_diffusers_is_the_identity(name, shapes, tmp_path):
    """On names, shapes and numbers; and converted again, on every byte of the networks."""
    folder = families.write_folder(name, shapes[name], tmp_path / "folder")
    assert convert(folder, tmp_path / "model") == 0
    assert convert(tmp_path / "model", tmp_path / "back", "--to", "diffusers") == 0
    for part in families.networks(name):
        (first,), (second,) = (list((tmp_path / f / part).glob("*.safetensors")) for f in ("folder", "back"))
        one = {current_name(n): a for n, a in load_file(first).items()}
        two = {current_name(n): a for n, a in load_file(second).items()}
        assert first.name == second.name and one.keys() == two.keys()
        assert all(np.array_equal(one[n], two[n]) for n in one)
        configs = [json.loads((tmp_path / f / part / "config.json").read_text()) for f in ("folder", "back")]
        assert configs[0] == configs[1]
    assert bytes_of(tmp_path / "folder/tokenizer") == bytes_of(tmp_path / "back/tokenizer")
    index, back = (json.loads((tmp_path / f / "model_index.json").read_text()) for f in ("folder", "back"))
    assert back.items() >= index.items()
    assert convert(tmp_path / "back", tmp_path / "again") == 0
    one, two = bytes_of(tmp_path / "model"), bytes_of(tmp_path / "again")
    assert all(one[n] == two[n] for n in one if n != "model.json") and one.keys() == two.keys()


@pytest.mark.parametrize("name", slow_but(["sd1", "sdxl"], singles.NAMES))
def test_a_single_file_becomes_a_diffusers_folder_that_reads_the_same(name, shapes, tmp_path):
    file, weights = singles.write(name, shapes, tmp_path / "x.safetensors")
    families.write_tokenizer(tmp_path / "tokenizer", "!")
    flags = ["--tokenizer", str(tmp_path / "tokenizer"), "--to", "diffusers"]
    assert convert(file, tmp_path / "folder", *flags) == 0
    for part, arrays in weights.items():
        (found,) = (tmp_path / "folder" / part).glob("*.safetensors")
        written = {current_name(n): a for n, a in load_file(found).items()}
        assert written.keys() == {current_name(n) for n in arrays}
        assert all(np.array_equal(written[current_name(n)], a) for n, a in arrays.items())
    assert convert(tmp_path / "folder", tmp_path / "model") == 0
    assert (tmp_path / "folder/low_res_scheduler").is_dir() == (name == "upscaler")


def test_dtype_can_be_chosen_on_the_way_back_and_nothing_else(model, tmp_path, capsys):
    assert convert(model, tmp_path / "back", "--to", "diffusers", "--dtype", "float16") == 0
    assert {t.dtype for file in tmp_path.glob("back/*/*.safetensors") for t in tensors(file)} == {"F16"}
    assert convert(model, tmp_path / "other", "--to", "diffusers", "--variant", "fp16") == 2
    assert "is converted already; of the options only --dtype" in capsys.readouterr().err


def test_half_precision_stays_as_it_is_on_the_way_back(original, tmp_path):
    assert convert(original, tmp_path / "model", "--dtype", "bfloat16") == 0
    assert convert(tmp_path / "model", tmp_path / "back", "--to", "diffusers") == 0
    assert {t.dtype for file in tmp_path.glob("back/*/*.safetensors") for t in tensors(file)} == {"BF16"}


# ------------------------------------------------------------------------------------------------ links


def test_links_inside_a_folder_and_into_a_hubs_blobs_are_followed(folder, tmp_path):
    commit = "a" * 40
    home = tmp_path / "models--x--y"
    (home / "blobs").mkdir(parents=True)
    (home / "snapshots").mkdir()
    folder.rename(home / "snapshots" / commit)
    for number, file in enumerate([p for p in (home / "snapshots").rglob("*") if p.is_file()]):
        file.rename(home / "blobs" / f"{number}")
        file.symlink_to(os.path.relpath(home / "blobs" / f"{number}", file.parent))
    assert convert(home / "snapshots" / commit, tmp_path / "out") == 0
    (tmp_path / "link").symlink_to(home / "snapshots" / commit)  # the user's own name for it
    assert convert(tmp_path / "link", tmp_path / "out2") == 0


@pytest.mark.parametrize("name", [UNET, "tokenizer/merges.txt", "vae/config.json", "model_index.json", "unet"])
def test_links_out_of_a_folder_are_refused(name, folder, tmp_path, capsys):
    (folder / name).rename(tmp_path / "secret")
    (folder / name).symlink_to(tmp_path / "secret")
    assert convert(folder, tmp_path / "out") == 2
    err = capsys.readouterr().err
    assert "is a link out of" in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------------ disks, races, kills


def nothing_left(tmp_path):
    return sorted(p.name for p in tmp_path.iterdir())


def test_too_little_space_is_seen_before_anything_is_written(original, tmp_path, monkeypatch, capsys):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr("convert.writers.model_folder.write_tensors", None)
    assert convert(original, tmp_path / "out") == 1
    assert "and only 0.0 GB are free there" in capsys.readouterr().err
    assert nothing_left(tmp_path) == []


def test_a_disk_that_is_full_half_way_is_one_line_and_nothing_left(original, tmp_path, capsys):
    """A real limit of the system's: files stop growing at 100 kB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        code = convert(original, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    err = capsys.readouterr().err
    assert code == 1 and "File too large; nothing is left" in err and err.count("\n") == 1
    assert nothing_left(tmp_path) == []


def test_no_space_on_the_last_file_is_one_line_and_nothing_left(original, tmp_path, monkeypatch, capsys):
    def full(source, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    monkeypatch.setattr(shutil, "copyfile", full)
    assert convert(original, tmp_path / "out") == 1
    assert "No space left on device" in capsys.readouterr().err
    assert nothing_left(tmp_path) == []


def test_no_permission_is_one_line(original, tmp_path, capsys):
    assert convert(original, "/dev/null/out") == 2
    assert "/dev/null/out cannot be written" in capsys.readouterr().err
    if os.geteuid():  # root may write anywhere
        (tmp_path / "closed").mkdir(mode=0o500)
        assert convert(original, tmp_path / "closed" / "out") == 2
        assert "Permission denied" in capsys.readouterr().err


def test_of_two_conversions_to_one_place_the_first_wins(tmp_path):
    out = tmp_path / "out"
    with (
        pytest.raises(InputError, match="another conversion was first"),
        atomic_folder(out) as second,
    ):
        with atomic_folder(out) as first:
            (first / "whose").write_text("first")
        (second / "whose").write_text("second")
    assert bytes_of(tmp_path) == {"out/whose": b"first"}


def test_what_a_living_process_writes_is_not_swept_and_what_a_dead_one_left_is(tmp_path):
    out = tmp_path / "out"
    dead, other = tmp_path / ".out.abcdefgh.part", tmp_path / ".out.notes"
    for left in (dead, other):
        left.mkdir()
        (left / "unet.safetensors").touch()
    with atomic_folder(out) as first:
        with pytest.raises(ZeroDivisionError), atomic_folder(out):
            raise ZeroDivisionError
        assert first.is_dir() and not dead.exists() and other.exists()
    assert out.is_dir()


def test_no_conversion_sweeps_another_away(tmp_path):
    """Many that begin and fail at once, at one place: each finds its own folder until its end."""

    def work():
        for _ in range(100):
            with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "out") as folder:
                (folder / "file").touch()
                raise ZeroDivisionError

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work) for _ in range(4)]:
            done.result()
    assert nothing_left(tmp_path) == []


_CHANGES = ("os.rename", "os.mkdir", "os.chmod", "os.remove", "os.rmdir", "shutil.copyfile")


def _convert_in_child(source, out, ready, last):
    """Killed, where `last` is a number, just before so many changes to the disk."""
    changes = itertools.count(1)

    def watch(event, arguments):
        change = (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)) or event in _CHANGES
        if change and next(changes) == last:
            os.kill(os.getpid(), signal.SIGKILL)

    if last:
        sys.addaudithook(watch)
    ready.send(None)
    sys.exit(command.main(["--model", source, "--out", out]))


def begin(source, out, last=None):
    """A conversion in another process, at the moment it begins."""
    # A server that has imported everything forks at once; not on macOS, where Metal does not survive a fork.
    context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    context.set_forkserver_preload(["convert.__main__"])
    receive, send = context.Pipe(duplex=False)
    child = context.Process(target=_convert_in_child, args=(str(source), str(out), send, last))
    child.start()
    receive.recv()
    return child


def check_what_is_left(out, wanted):
    """Nothing, or the right thing; says whether there is something."""
    if out.exists():
        assert {n: b for n, b in bytes_of(out).items() if n != "model.json"} == wanted
        assert command.main(["--verify", str(out)]) == 0
        shutil.rmtree(out)
        return True
    return False


def test_two_processes_at_once_leave_one_whole_folder(original, tmp_path):
    pair = [begin(original, tmp_path / "out") for _ in range(2)]
    for child in pair:
        child.join()
    assert sorted(child.exitcode for child in pair) == [0, 2]
    assert command.main(["--verify", str(tmp_path / "out")]) == 0 and nothing_left(tmp_path) == ["out"]


def killed_at_random_moments(source, home, wanted, moments, seed):
    """How many of so many killed conversions were cut short; after all of them one succeeds and cleans up."""
    rng, longest, cut = random.Random(seed), 0.0, 0
    for moment in range(-1, moments):  # the first is not killed and tells how long one takes
        child, begun = begin(source, home / "out"), time.perf_counter()
        if moment >= 0:
            time.sleep(rng.uniform(0, longest))
            child.kill()
        child.join()
        longest = longest or time.perf_counter() - begun
        cut += not check_what_is_left(home / "out", wanted)
    assert convert(source, home / "out") == 0
    assert nothing_left(home) == ["out"]
    assert check_what_is_left(home / "out", wanted)
    return cut


@pytest.mark.slow
def test_killed_before_any_change_to_the_disk_it_leaves_nothing_that_is_wrong(original, model, tmp_path):
    """And the next run succeeds, and sweeps away what the killed one left. At random moments: test_kills.py."""
    wanted = {n: b for n, b in bytes_of(model).items() if n != "model.json"}
    (tmp_path / "home").mkdir()
    for last in itertools.count(1):
        child = begin(original, tmp_path / "home" / "out", last)
        child.join()
        there = check_what_is_left(tmp_path / "home" / "out", wanted)
        if child.exitcode == 0:
            break
        assert child.exitcode == -signal.SIGKILL
    assert there and last > 12 and nothing_left(tmp_path / "home") == []
