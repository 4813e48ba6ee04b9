"""A folder as a user may have one, and commands run in it in this process: what they print, and what they change."""

import contextlib
import hashlib
import importlib
import io
import json
import os
import shlex
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx
from PIL import Image

from tests.support import controls

_MAINS = {"mlx-sd": "mlx_sd.cli.main", "mlx_sd.generate": "mlx_sd.cli.generate"}


class Outcome(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str


def write_folder(folder: Path) -> None:
    """Writes pictures, prompts, schedules, weights and things that look like them into an empty folder."""
    photo = Image.linear_gradient("L").resize((64, 48)).convert("RGB")
    photo.save(folder / "photo.png")
    photo.save(folder / "photo.jpg")
    (folder / "link.png").symlink_to("photo.png")
    mask = Image.new("L", (64, 48), 0)
    mask.save(folder / "black.png")
    mask.paste(255, (0, 0, 32, 48))
    mask.save(folder / "mask.png")
    Image.new("L", (64, 48), 255).save(folder / "white.png")
    spot = Image.new("L", (64, 48), 0)
    spot.paste(255, (28, 20, 36, 28))
    spot.save(folder / "spot.png")
    Image.new("L", (64, 48), 200).save(folder / "grey.png")
    photo.convert("RGBA").save(folder / "opaque.png")
    Image.new("RGBA", (64, 48), (255, 0, 0, 0)).save(folder / "clear.png")
    (folder / "empty.png").write_bytes(b"")
    (folder / "broken.png").write_bytes((folder / "photo.png").read_bytes()[:100])
    (folder / "text.txt").write_text("not a picture\n")
    (folder / "prompts.txt").write_text("a tent\na house\n")
    (folder / "empty.txt").write_text("")
    (folder / "latin1.txt").write_bytes("ein H\xfcgel\n".encode("latin-1"))
    (folder / "lines.jsonl").write_text('{"prompt": "a tent", "steps": "many"}\n')
    (folder / "schedule.json").write_text('{"timesteps": [900, 400]}')
    (folder / "rising.json").write_text('{"timesteps": [400, 900]}')
    (folder / "broken.json").write_text('{"timesteps": [900, ')
    (folder / "weights.ckpt").write_bytes(b"\x80\x02}q\x00.")
    (folder / "weights.safetensors").write_bytes(b"\xff" * 40)
    mx.save_safetensors(str(folder / "foreign.safetensors"), {"layer.weight": mx.zeros((2, 2))})
    (folder / "folder").mkdir()
    (folder / "folder" / "note.txt").write_text("keep me\n")
    controls.write_folder(folder / "xl-control", controls.config("sdxl"))
    (folder / "unfinished").mkdir()
    (folder / "unfinished" / "model.json").write_text(json.dumps({"format": "mlx-sd", "version": 99}))
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), _inside(folder):
        run("mlx-sd 'a tent' --steps 1 --size 32x32 --seed 1 --output picture.png")


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """Works in a folder until the block ends."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def run(command: str | Sequence[str]) -> Outcome:
    """Runs a command in the present folder and in this process; a traceback is an exception."""
    words = shlex.split(command) if isinstance(command, str) else list(command)
    if words[:2] == ["python", "-m"]:
        module, *arguments = words[2:]
    else:
        module, *arguments = words
    main = importlib.import_module(_MAINS.get(module, f"{module}.__main__")).main
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        try:
            code = main(arguments)
        except SystemExit as stop:  # argparse's way
            code = stop.code
    return Outcome(code, out.getvalue(), err.getvalue())


def state(folder: Path) -> dict[str, str]:
    """Returns the hash of every file below a folder, and the target of every link, by its path."""
    return {
        str(path.relative_to(folder)): f"-> {path.readlink()}"
        if path.is_symlink()
        else "folder"
        if path.is_dir()
        else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
    }
