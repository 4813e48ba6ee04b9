"""Pictures of the guide, made by the commands that its pages show: python -m bench pages.

A line "<!-- picture: PATH -->" before a block of commands or of Python says that the block writes a file of this name;
PATH is where the page shows it. The blocks of a page run in order, in one temporary folder, which has copies of the
weights beside the pictures.
"""

import argparse
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mlx_sd.core import command
from mlx_sd.core.embedded import CONTROLS, EMBEDDED, EMBEDDINGS, LORAS, TINY
from mlx_sd.core.errors import Failure, InputError
from mlx_sd.core.files import atomic_file

from .. import arguments

MARK = "mlx-sd-page"  # the text of a picture that names what made it
ROOT = Path(__file__).parents[2]
GUIDE, PICTURES = ROOT / "docs" / "guide", ROOT / "docs" / "pictures"
_BLOCK = re.compile(r"^<!-- picture: (\S+) -->\n+```(sh|python)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_EXAMPLES = """examples:
  python -m bench pages               make the pictures of all pages again
  python -m bench pages prompts       those of one page"""


class Block(NamedTuple):
    """A block of a page that writes a picture."""

    picture: str  # a path from the page's folder
    language: str  # sh or python
    text: str

    @property
    def origin(self) -> str:
        """Returns a digest of what makes the picture: the block, and weights embedded or beside the pictures."""
        digest = hashlib.sha256(self.text.encode())
        folders = [folder for name, folder in EMBEDDED.items() if folder == TINY or name in self.text]
        weights = [path for folder in folders for path in folder.rglob("*.safetensors")]
        adapters = [path for name, path in (LORAS | EMBEDDINGS | CONTROLS).items() if name in self.text]
        for path in sorted([*weights, *adapters, *PICTURES.glob("*.safetensors")]):
            digest.update(path.read_bytes())
        return digest.hexdigest()

    def words(self) -> list[list[str]]:
        """Returns the commands of the block as this interpreter runs them; InputError for any other program."""
        if self.language == "python":
            return [[sys.executable, "-c", self.text]]
        lines = self.text.replace("\\\n", " ").splitlines()
        commands = [shlex.split(line, comments=True) for line in lines]
        for words in commands:
            if words[:2] != ["python", "-m"]:
                raise InputError(f"{self.picture}: its block runs {' '.join(words[:2])!r}, not python -m")
        return [[sys.executable, *words[1:]] for words in commands]


def blocks(page: Path) -> list[Block]:
    """Returns the blocks of a page that write pictures, in order."""
    return [Block(*match) for match in _BLOCK.findall(page.read_text(encoding="utf-8"))]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    names = [page.stem for page in sorted(GUIDE.glob("*.md")) if blocks(page)]
    p = arguments.parser("pages", __doc__, _EXAMPLES)
    p.add_argument("pages", nargs="*", metavar="PAGE", help=f"of docs/guide; default: {' '.join(names)}")
    options = p.parse_args(argv)
    return command.run("bench pages", lambda: _pages(options, names))


def _pages(options: argparse.Namespace, names: Sequence[str]) -> None:
    for name in options.pages:
        if name not in names:
            raise InputError(f"no page {name!r} has a block with a picture; there are {', '.join(names)}")
    for name in options.pages or names:
        write(GUIDE / f"{name}.md")


def write(page: Path) -> None:
    """Runs the marked blocks of a page and writes their pictures; Failure where a command fails or writes none."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.getenv("PYTHONPATH"))))}
    with tempfile.TemporaryDirectory() as folder:
        for block in blocks(page):
            for weights in (page.parent / block.picture).parent.glob("*.safetensors"):
                shutil.copy(weights, folder)
            for words in block.words():
                done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
                if done.returncode:
                    raise Failure(f"{page.name}: {shlex.join(words[1:])[:200]} failed: {done.stderr.strip()}")
            target = page.parent / block.picture
            try:
                image = Image.open(Path(folder, target.name))
            except OSError as error:
                raise Failure(f"{page.name}: the block of {block.picture} wrote no {target.name}: {error}") from None
            target.parent.mkdir(parents=True, exist_ok=True)
            info = PngInfo()
            info.add_text(MARK, block.origin)
            with atomic_file(target) as f:
                image.convert("RGB").save(f, format="PNG", pnginfo=info, optimize=True)
            print(target)


if __name__ == "__main__":
    sys.exit(main())
