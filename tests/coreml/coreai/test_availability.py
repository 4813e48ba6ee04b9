"""Where coreai-core is missing, one line says why and what to do, and the rest of the program works without it."""

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from coreml.coreai import availability
from mlx_sd.core.errors import InputError

ROOT = Path(__file__).parent.parent.parent.parent
GLIBC = ("glibc", "2.36")


def test_the_extra_pins_the_version_that_the_code_is_written_for():
    pins = re.findall(r'"coreai-core==([^;]+);', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert set(pins) == {availability.VERSION}


@pytest.mark.parametrize(
    ("machine", "words"),
    (
        (("linux", "x86_64", (3, 10), GLIBC), "Python 3.11 to 3.14, and this is 3.10"),
        (("linux", "x86_64", (3, 15), GLIBC), "this is 3.15"),
        (("linux", "aarch64", (3, 12), GLIBC), "Linux on x86-64"),
        (("darwin", "x86_64", (3, 12), ("", "")), "Apple silicon"),
        (("win32", "AMD64", (3, 12), ("", "")), "Linux on x86-64"),
        (("linux", "x86_64", (3, 12), ("glibc", "2.31")), "glibc 2.31"),
        (("linux", "x86_64", (3, 12), ("", "")), "another C library"),
    ),
)
def test_a_machine_without_a_wheel_is_told_why(machine, words):
    assert words in (availability._obstacle(*machine) or "")


@pytest.mark.parametrize("machine", (("linux", "x86_64", (3, 11), GLIBC), ("darwin", "arm64", (3, 14), ("", ""))))
def test_a_machine_with_a_wheel_is_told_to_install_it(machine, monkeypatch):
    assert availability._obstacle(*machine) is None
    monkeypatch.setattr(availability, "_obstacle", lambda *_: None)

    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    with pytest.raises(InputError, match=r'not installed; install it with pip install "mlx-sd\[coreai\]"$'):
        availability.check()


def test_another_version_is_refused(monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda _: "1.0.0b2")
    with pytest.raises(InputError, match=r"1\.0\.0b3, not 1\.0\.0b2"):
        availability.check()


@pytest.mark.slow
def test_an_export_to_core_ai_imports_no_coremltools(model, tmp_path):
    """Neither in this process, which makes the kit, nor in those that write and run the assets."""
    pytest.importorskip("coreai", reason="the extra coreai is not installed")
    (tmp_path / "coremltools").mkdir()
    (tmp_path / "coremltools/__init__.py").write_text("raise ImportError('there is no coremltools here')")
    code = (
        "import sys; from coreml.__main__ import main;"
        "words = ['--format', 'coreai', '--compress', 'palettize4', '--model', sys.argv[2]];"
        "kit = ['--kit', '--sampler', 'euler', '--steps', '1'];"
        "code = main([*words, *kit, '--out', sys.argv[1]]);"
        "sys.exit(code or any(name.split('.')[0] == 'coremltools' for name in sys.modules))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "out"), model("small").model.name]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/kit/kit.json").is_file()


def test_nothing_imports_coreai_core_before_it_is_used():
    code = (
        "import sys, coreml.__main__, coreml.export, coreml.drive, coreml.verify;"
        "sys.exit(any(name.split('.')[0] == 'coreai' for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
