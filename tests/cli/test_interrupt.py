"""Ctrl-C at any time: one line and exit code 130; what was made stays, and the message says how to go on."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import mlx_sd
from mlx_sd import metadata
from tests.support.effort import slow_but

ROOT = Path(mlx_sd.__file__).parent.parent
FAST = ("--steps", "2", "--width", "32", "--height", "32", "--seed", "5")

# Sends Ctrl-C to the process at the first import of a module; sitecustomize is imported by every Python.
AT_IMPORT = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
"""

# Sends Ctrl-C when a function is called for the n-th time.
AT_CALL = """
import os, signal, sys
def interrupted(function, calls=[0]):
    def call(*arguments, **keywords):
        calls[0] += 1
        if calls[0] == {number}:
            os.kill(os.getpid(), signal.SIGINT)
        return function(*arguments, **keywords)
    return call
import importlib
module = importlib.import_module({module!r})
holder, name = module, {function!r}
*path, name = name.split(".")
for part in path:
    holder = getattr(holder, part)
setattr(holder, name, interrupted(getattr(holder, name)))
from mlx_sd.cli.generate import main
sys.exit(main(sys.argv[1:]))
"""


def _run(tmp_path, *command, interruption=None):
    environment = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    if interruption is not None:
        (tmp_path / "sitecustomize.py").write_text(interruption)
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    (tmp_path / "sitecustomize.py").unlink(missing_ok=True)
    return done


IMPORTS = [
    ("mlx_sd.generate", "ctypes"),
    ("mlx_sd.generate", "mlx_sd.cli.flags"),
    ("mlx_sd.generate", "argparse"),
    ("mlx_sd.generate", "numpy"),
    ("mlx_sd.generate", "mlx.core"),
    ("mlx_sd.generate", "PIL.Image"),
    ("convert", "safetensors"),
    ("coreml", "mlx.core"),
    ("bench", "bench.speed.latency"),
]


@pytest.mark.parametrize("place", slow_but([IMPORTS[0]], IMPORTS))
def test_ctrl_c_during_the_imports_is_one_line(tmp_path, interruptible, place):
    command, module = place
    words = {"bench": ["latency"], "coreml": ["--out", "x"], "convert": ["--verify", "x"]}.get(command, ["a tent"])
    interruption = AT_IMPORT.format(module=module)
    done = _run(tmp_path, sys.executable, "-m", command, *words, interruption=interruption)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.strip().endswith("interrupted") and len(done.stderr.split("\n")) <= 3, done.stderr
    assert [path.name for path in tmp_path.iterdir() if path.suffix not in (".pyc",)] in ([], ["__pycache__"])


def test_a_library_handles_no_signals(tmp_path, interruptible):
    code = "import signal, mlx_sd; assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    assert _run(tmp_path, sys.executable, "-c", code).returncode == 0
    (tmp_path / "main.py").write_text(code)
    assert _run(tmp_path, sys.executable, "main.py").returncode == 0


@pytest.mark.slow
def test_the_installed_script_is_a_command_too(tmp_path, interruptible):
    script = tmp_path / "mlx-sd"
    script.write_text("import sys\nfrom mlx_sd.cli.main import main\nsys.exit(main())\n")
    interruption = AT_IMPORT.format(module="mlx.core")
    done = _run(tmp_path, sys.executable, script, "a tent", interruption=interruption)
    assert done.returncode == 130 and done.stderr.strip() == "interrupted"


MOMENTS = {
    "loading": ("mlx_sd.pipeline", "load", 1),
    "sampling": ("mlx_sd.sampling.denoise", "guide", 3),
    "decoding": ("mlx_sd.codec", "decode", 2),
    "saving": ("mlx_sd.metadata", "save", 2),
    "after saving": ("mlx_sd.cli.report", "Report.add", 2),
}


@pytest.mark.parametrize("moment", slow_but(["saving"], MOMENTS))
def test_ctrl_c_leaves_whole_pictures_and_says_how_to_go_on(tmp_path, interruptible, moment):
    module, function, number = MOMENTS[moment]
    flags = ("a tent", *FAST, "--count", "3", "--output", "p/")
    code = AT_CALL.format(module=module, function=function, number=number)
    done = _run(tmp_path, sys.executable, "-c", code, *flags)
    assert done.returncode == 130 and "Traceback" not in done.stderr, done.stderr
    printed = done.stdout.split()
    files = sorted(f"p/{path.name}" for path in (tmp_path / "p").glob("*")) if (tmp_path / "p").exists() else []
    assert files == sorted(printed)  # no half file, no claim, and nothing that was not said
    assert all(metadata.is_whole(tmp_path / name) for name in printed)
    if moment == "loading":
        assert done.stderr == "\nmlx_sd.generate: interrupted\n"
        return
    assert len(printed) == {"sampling": 1, "decoding": 1}.get(moment, 2)
    way, verb = "the same command makes only what is missing", "is" if len(printed) == 1 else "are"
    assert done.stderr == f"\nmlx_sd.generate: interrupted; {len(printed)} of 3 pictures {verb} there; {way}\n"
    again = _run(tmp_path, sys.executable, "-m", "mlx_sd.generate", *flags)
    assert again.returncode == 0 and len(again.stdout.split()) == 3 - len(printed)


@pytest.mark.parametrize(
    ("flags", "way"),
    [
        (("--output", "p/"), "the same command with --seed SEED makes only what is missing"),
        pytest.param((), "the same command with --output ./ --seed SEED makes only", marks=pytest.mark.slow),
        pytest.param(("--output", "p/", "--no-metadata"), "1 of 3 pictures is there\n", marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_the_way_on_names_the_seed_that_was_drawn(tmp_path, interruptible, flags, way):
    flags = ("a tent", *FAST[:-2], "--count", "3", "--json", *flags)
    code = AT_CALL.format(module="mlx_sd.codec", function="decode", number=2)
    done = _run(tmp_path, sys.executable, "-c", code, *flags)
    (record,) = json.loads(done.stdout)  # what was made is reported
    assert way.replace("SEED", str(record["seed"])) in done.stderr and (tmp_path / record["output"]).exists()
    if "SEED" in way:
        again = ("--output", "./") if "./" in way else ()
        rest = _run(
            tmp_path, sys.executable, "-m", "mlx_sd.generate", *flags, *again, "--seed", str(record["seed"])
        ).stdout
        assert [one["made"] for one in json.loads(rest)] == [False, True, True]


@pytest.mark.slow
def test_ctrl_c_is_ignored_where_it_was_ignored(tmp_path):
    """As in a shell's background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        interruption = AT_IMPORT.format(module="mlx.core")
        done = _run(tmp_path, sys.executable, "-m", "mlx_sd.generate", "a tent", *FAST, interruption=interruption)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (done.returncode, done.stdout) == (0, "a-tent-5.png\n")
