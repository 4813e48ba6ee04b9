"""Odd values of every option: numbers out of range, empty text, bytes that are not UTF-8. One line each."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_sd.core.errors import InputError
from mlx_sd.request import SETTINGS, Request
from tests.support.effort import slow_but

ROOT = str(Path(__file__).parents[2])
NUMBERS = [name for name, setting in SETTINGS.items() if setting.kind in (int, float) and not setting.hidden]
TEXTS = [name for name, setting in SETTINGS.items() if setting.kind is str and not setting.hidden]


@pytest.mark.parametrize("name", [name for name in NUMBERS if SETTINGS[name].range])
def test_what_is_below_or_above_a_range_is_refused_before_a_model_is_loaded(name):
    limits = SETTINGS[name].range
    outside = (
        [limits.minimum - 1, limits.maximum + 1] if SETTINGS[name].kind is int else [math.nan, math.inf, -math.inf]
    )
    for value in outside:
        if SETTINGS[name].kind is int and math.isinf(value):
            continue
        with pytest.raises(InputError) as error:
            Request(**{name: SETTINGS[name].kind(value)})
        assert str(error.value).startswith(f"{name.replace('_', ' ')} must be ")


def test_every_number_without_a_range_of_its_own_is_of_a_solver_that_has_one():
    without = {name for name in NUMBERS if not SETTINGS[name].range and not SETTINGS[name].parse}
    assert without <= {name for name, setting in SETTINGS.items() if setting.group == "solver"}


@pytest.mark.parametrize("name", TEXTS)
def test_text_that_is_not_utf_8_is_named(name):
    with pytest.raises(InputError, match=r"'a\\xff' is not UTF-8"):
        Request(**{name: "a\udcff"})


@pytest.mark.parametrize("name", ["init_image", "mask", "loras", "class_label"])
def test_so_are_names_of_files_that_pictures_record(name):
    with pytest.raises(InputError, match=r"'a\\xff' is not UTF-8"):
        Request(**{name: ["a\udcff"] if name == "loras" else "a\udcff"})


@pytest.mark.parametrize("name", TEXTS)
def test_empty_text_is_refused_where_it_means_nothing(name):
    if name in ("prompt", "negative", "prompt_2", "negative_2"):
        assert getattr(Request(**{name: ""}), name) == ""
        return
    with pytest.raises(InputError, match=f"{name.replace('_', ' ')} is empty"):
        Request(**{name: ""})


BYTES = {
    b"a \xff tent": "prompt 'a \\xff tent' is not UTF-8",
    b"x --model \xe9": "model '\\xe9' is not UTF-8",
    b"x --steps \xe9": "argument --steps: must be a whole number",
    b"x --\xe9": "unknown option --",
    b"--prompts \xe9.txt": "No such file",
    b"--from-image \xe9.png": "does not exist",
}


@pytest.mark.parametrize("text", slow_but(list(BYTES)[:1], BYTES))
def test_bytes_that_are_not_utf_8_are_one_line(tmp_path, text):
    words = [text] if b" tent" in text else text.split()
    done = subprocess.run(
        [sys.executable, "-m", "mlx_sd.generate", *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": ROOT, "PYTHONIOENCODING": "utf-8:strict"},
        capture_output=True,
    )
    err = done.stderr.decode(errors="replace")
    assert done.returncode == 2 and BYTES[text] in err and err.count("\n") == 1, err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_file_may_have_a_name_that_is_not_utf_8(tmp_path):
    words = [b"a tent", b"--steps", b"1", b"--size", b"32x32", b"--seed", b"1", b"--output", b"caf\xe9.png"]
    done = subprocess.run(
        [sys.executable, "-m", "mlx_sd.generate", *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": ROOT, "PYTHONIOENCODING": "utf-8:strict"},
        capture_output=True,
    )
    assert (done.returncode, done.stdout) == (0, b"caf\xe9.png\n"), done.stderr
    assert [os.fsencode(path.name) for path in tmp_path.iterdir()] == [b"caf\xe9.png"]
