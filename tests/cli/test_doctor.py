"""The doctor's report names versions and places, and no person and no host."""

import getpass
import platform
import re
from pathlib import Path

import pytest

from mlx_sd.cli import doctor
from mlx_sd.core import places


def test_it_names_what_a_report_of_a_problem_needs(capsys):
    assert doctor.main([]) == 0
    out, err = capsys.readouterr()
    facts = dict(re.split(r"  +", line, maxsplit=1) for line in out.splitlines())
    assert err == "" and set(facts) == {
        *("mlx-sd", "Python", "system", "libraries", "device", "BLAS", "memory", "cache", "hub's cache", "tuning"),
        *("here", "models", "environment", "text"),
    }
    assert platform.python_version() in facts["Python"] and "mlx 0." in facts["libraries"]
    assert "CPU" in facts["device"] and "3 embedded" in facts["models"]


def test_it_names_no_person_no_host_and_no_token(capsys, monkeypatch, tmp_path):
    home = tmp_path / "home" / "alice"
    home.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("MLX_SD_CACHE", str(home / "cache"))
    monkeypatch.setenv("MLX_SD_BLAS", "/media/alice/libopenblas.so")
    monkeypatch.setenv("HF_HUB_TOKEN", "hf_secret")
    monkeypatch.setattr(platform, "node", lambda: "alices-mac")
    monkeypatch.chdir(home)
    assert doctor.main([]) == 0
    out = capsys.readouterr().out
    assert "~/cache" in out and "/media/USER/libopenblas.so" in out
    assert not re.search(r"alice|secret|" + re.escape(str(tmp_path)), out)
    assert getpass.getuser() == "root" or getpass.getuser() not in out


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/home/bob/x", "~/x"),
        ("/home/bob", "~"),
        ("/srv/bob/x", "/srv/USER/x"),
        ("/srv/bobby", "/srv/bobby"),
        ("a", "a"),
    ],
)
def test_a_path_is_shown_without_names(monkeypatch, path, text):
    monkeypatch.setattr(Path, "home", lambda: Path("/home/bob"))
    assert places.shown(path) == text
