"""Lists of small pictures that several ranks make, and what is left of them in a folder."""

import hashlib
from pathlib import Path

FAST = ("--steps", "1", "--size", "32x32", "--seed", "3", "--quiet")
COMMAND = ("-m", "mlx_sd.generate", *FAST)
# Programs that are the command, with something else in it before it runs; words follow them.
_START = """
import os, sys, time
from pathlib import Path
rank = os.environ.get("MLX_RANK", "0")
{change}
from mlx_sd.cli.generate import main
sys.exit(main())
"""
# Each rank waits a little before it writes a picture, and then notes it in one file. Where BEGUN is the number of
# ranks, each makes one picture and waits until all have: on a loaded machine a rank may start when others are done.
NOTED = """
from mlx_sd import metadata
save = metadata.save
notes = Path(os.environ["SAVED"])
def ranks_that_saved():
    return {line.split()[0] for line in notes.read_text().splitlines()}
def noted(image, path, *arguments, **options):
    time.sleep(float(os.environ.get("PAUSE", "0")))
    save(image, path, *arguments, **options)
    with open(notes, "a") as file:
        file.write(f"{rank} {path}\\n")
    while len(ranks_that_saved()) < int(os.environ.get("BEGUN", "0")):
        time.sleep(0.05)
metadata.save = noted
"""
# Each rank has a folder of its own, as on a host of its own.
APART = """
folder = Path(f"host{rank}")
folder.mkdir(exist_ok=True)
os.chdir(folder)
"""


def program(*changes: str) -> tuple[str, ...]:
    """Returns the words of a program that makes changes before it runs the command."""
    return ("-c", _START.format(change="\n".join(changes)), *FAST)


def contents(folder: Path) -> dict[str, str]:
    """Returns the files of a folder, hidden ones too, with hashes of their bytes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def saved(file: Path) -> list[tuple[int, str]]:
    """Returns the ranks and pictures that NOTED has written, in order."""
    rows = [line.split(" ", 1) for line in file.read_text(encoding="utf-8").splitlines()]
    return [(int(rank), path) for rank, path in rows]
