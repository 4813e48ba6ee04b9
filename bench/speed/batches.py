"""Pictures a minute of several ranks on this machine, against one process; every process has one thread.

Each round makes the same list of pictures of the embedded checkpoint by one process and by the ranks, and then runs
both commands again, when nothing is left to do: that is the time of the launcher, of Python, of the start that ranks
make together, and of the end. Both speeds are of whole commands, the launcher's time included.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mlx_sd.core import command
from mlx_sd.core.errors import Failure, InputError

from .. import results
from ..arguments import add_json, parser
from ..machine import describe
from ..results import Results

_ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS", "VECLIB_MAXIMUM")}
_PROMPTS = ("a red tent on green grass", "a blue tent on yellow desert", "a large moon, a night sky", "a small tent")
_EXAMPLES = """examples:
  python -m bench batches
  python -m bench batches --ranks 2 --pictures 240 --rounds 3 --json bench/results/batches-tiny-cpu.json"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    p = parser("batches", __doc__, _EXAMPLES)
    p.add_argument("--ranks", type=int, default=2, help="ranks on this machine")
    p.add_argument("--pictures", type=int, default=240, help="pictures of the list")
    p.add_argument("--steps", type=int, default=10, help="steps of each picture")
    p.add_argument("--size", type=int, default=64, metavar="PIXELS", help="width and height of each picture")
    p.add_argument("--rounds", type=int, default=3, help="runs of each kind")
    add_json(p)
    a = p.parse_args(argv)
    return command.run(
        "bench batches", lambda: results.report(measure(a.ranks, a.pictures, a.steps, a.size, a.rounds), a.json)
    )


def measure(ranks: int, pictures: int, steps: int, size: int, rounds: int) -> Results:
    """Returns the seconds of each round, and of them the medians and what they mean."""
    if ranks < 2 or pictures < ranks or rounds < 1:
        raise InputError("batches takes 2 --ranks or more, as many --pictures or more, and 1 of --rounds or more")
    launcher = Path(sys.executable).with_name("mlx.launch")
    if not launcher.exists():
        raise InputError(f"{launcher} is missing; install mlx into this environment")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = _words(folder, pictures, steps, size)
        together = [str(launcher), "-n", str(ranks), "--", *words]
        _run([*words, "--output", "first/", "--count", "1"], folder)  # converts the checkpoint, where it has not been
        measured = []
        for _ in range(rounds):
            entry = {}
            for kind, start in (("one_process", words), ("ranks", together)):
                shutil.rmtree(folder / kind, ignore_errors=True)
                run = [*start, "--output", f"{kind}/", "--index"]
                entry[kind] = _run(run, folder)
                entry[f"{kind}_nothing_to_do"] = _run(run, folder)
            _check_same(folder / "one_process", folder / "ranks", pictures)
            measured.append(entry)
    medians = {kind: round(statistics.median(entry[kind] for entry in measured), 2) for kind in measured[0]}
    return {
        "model": "tiny",
        "ranks": ranks,
        "pictures": pictures,
        "steps": steps,
        "size": size,
        "seconds": medians,
        "pictures_a_minute": {kind: round(pictures / medians[kind] * 60, 1) for kind in ("one_process", "ranks")},
        "speedup": _ratio(measured, lambda entry, kind: entry[kind]),
        "speedup_while_making": _ratio(measured, lambda entry, kind: entry[kind] - entry[f"{kind}_nothing_to_do"]),
        "launcher_seconds": round(medians["ranks_nothing_to_do"] - medians["one_process_nothing_to_do"], 2),
        "rounds": measured,
        "load_average": os.getloadavg()[0],
        "machine": describe() | {"threads": 1},
    }


def _words(folder: Path, pictures: int, steps: int, size: int) -> list[str]:
    """Returns a command that makes so many pictures; its prompts are written into a file."""
    lines = [_PROMPTS[i % len(_PROMPTS)] for i in range(pictures)]
    (folder / "prompts.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    numbers = {"--steps": steps, "--width": size, "--height": size, "--seed": 0}
    flags = [word for name, number in numbers.items() for word in (name, str(number))]
    return [sys.executable, "-m", "mlx_sd.generate", "--prompts", "prompts.txt", *flags, "--quiet"]


def _run(words: Sequence[str], folder: Path) -> float:
    """Runs a command in a folder and returns its seconds; Failure where it fails."""
    clock = time.perf_counter()
    tree = str(Path(__file__).resolve().parents[2])  # what is measured, whatever is installed
    environment = {**os.environ, **_ONE_THREAD, "PYTHONPATH": os.pathsep.join((tree, *sys.path))}
    # The launcher reads its standard input, and is fast while that stays open and silent.
    with subprocess.Popen(
        words, cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        errors = process.stderr.read().decode(errors="replace").strip().splitlines()
    if process.returncode:
        raise Failure(f"a measured command failed: {errors[-1] if errors else process.returncode}")
    return round(time.perf_counter() - clock, 2)


def _check_same(first: Path, second: Path, pictures: int) -> None:
    """Raises Failure where two folders do not hold the same pictures."""
    contents: list[Mapping[str, bytes]] = [
        {path.name: path.read_bytes() for path in folder.iterdir()} for folder in (first, second)
    ]
    if contents[0] != contents[1] or len(contents[0]) != pictures + 2:
        raise Failure("the ranks have not made the pictures of one process")


def _ratio(rounds: Sequence[Mapping[str, float]], seconds: Callable[[Mapping[str, float], str], float]) -> Results:
    """Returns median, least and most of the speed of ranks over that of one process."""
    ratios = [seconds(entry, "one_process") / seconds(entry, "ranks") for entry in rounds]
    values = statistics.median(ratios), min(ratios), max(ratios)
    return dict(zip(("median", "least", "most"), (round(value, 3) for value in values), strict=True))
