"""The wheel, built from a copy of the sources and installed outside the checkout.

`python -m tests.support.wheel PYTHON...` installs it with its dependencies into a clean environment of each
interpreter, and makes the demo picture there.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("mlx_sd", "convert", "coreml", "bench")
# Measurements that the documentation quotes, and weights in training; nothing reads them outside a checkout.
CHECKOUT_ONLY = ("bench/results/",)
HIDDEN = {".swift-format"}
DEMO = ["a red tent in the center on green grass, under a clear day sky", "--deepcache", "3", "--output", "demo.png"]


def copy_sources(destination: Path) -> Path:
    """Copies the checkout without what is built or installed in it, so that no leftover gets into the wheel."""
    leftovers = shutil.ignore_patterns(".*", "build", "dist", "site", "__pycache__", "*.egg-info", "goldens", "*-work")

    def ignore(folder: str, names: list[str]) -> set[str]:
        """Returns the names to leave out: hidden files are left over, but those of the packages."""
        return leftovers(folder, names) - HIDDEN

    shutil.copytree(ROOT, destination, ignore=ignore)
    return destination


def build(sources: Path, destination: Path) -> Path:
    """Builds the wheel of `sources` with this environment's setuptools, offline, and returns its path."""
    flags = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *flags, str(destination), str(sources)], check=True)
    (wheel,) = destination.glob("*.whl")
    return wheel


def files() -> Iterator[str]:
    """Yields what the wheel must hold: every module and data file of the packages, relative to the root."""
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*")):
            name = file.relative_to(ROOT).as_posix()
            hidden = {part for part in file.relative_to(ROOT).parts if part.startswith(".")} - HIDDEN
            if file.is_file() and not hidden and "__pycache__" not in name and not name.startswith(CHECKOUT_ONLY):
                yield name


def environment(place: Path, wheel: Path) -> Path:
    """Installs the wheel alone into a new environment that takes its dependencies from this one; returns its Python.

    A path file is read for paths only, so that this environment's editable install of the checkout is not seen.
    """
    venv.create(place, with_pip=False)
    (packages,) = place.glob("lib/python3*/site-packages")
    own = [path for path in map(Path, sys.path) if path.name == "site-packages"]
    (packages / "dependencies.pth").write_text("".join(f"{path}\n" for path in own), encoding="utf-8")
    flags = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-index", "--target"]
    subprocess.run([sys.executable, "-m", "pip", "install", *flags, str(packages), str(wheel)], check=True)
    return place / "bin" / "python"


def demo(python: Path, folder: Path, arguments: list[str]) -> Image.Image:
    """Makes a picture in `folder` with an environment's own packages, and returns it."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    clean["MLX_SD_CACHE"] = str(folder / "cache")
    blas = sorted(Path(sys.prefix, "lib").glob("libmkl_rt.so*"))
    if blas and not list(python.parent.parent.glob("lib/libmkl_rt.so*")):
        clean["MLX_SD_BLAS"] = str(blas[-1])
    subprocess.run([str(python), "-m", "mlx_sd.generate", *arguments], cwd=folder, env=clean, check=True)
    picture = Image.open(folder / arguments[-1])
    picture.load()
    return picture


def main(interpreters: list[str]) -> int:
    """Builds the wheel and makes the demo with a clean environment of each interpreter."""
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        wheel = build(copy_sources(home / "sources"), home / "wheels")
        for number, interpreter in enumerate(interpreters):
            start = time.monotonic()
            place = home / str(number)
            subprocess.run([interpreter, "-m", "venv", str(place)], check=True)
            python, extra = place / "bin" / "python", f"mlx-sd[cpu] @ {wheel.as_uri()}"
            subprocess.run(
                [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", extra], check=True
            )
            version = subprocess.run([python, "--version"], capture_output=True, text=True, check=True).stdout.strip()
            size = demo(python, place, DEMO).size
            print(f"{version}: {wheel.name} makes a picture of {size}; {time.monotonic() - start:.0f} s")
            shutil.rmtree(place)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or [sys.executable]))
