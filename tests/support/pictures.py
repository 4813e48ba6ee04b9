"""Pictures of every task, sampler and cache, made by the command line: the proof that no change moves a pixel.

`python -m tests.support.pictures OTHER_TREE` makes them with the code of another checkout (say a git worktree of an
earlier commit) and with this one's, on this machine, and compares the pixels byte for byte. With --write those of
OTHER_TREE become the fixtures in tests/goldens/pictures, to which tests/test_pictures.py compares within one level.
"""

import argparse
import functools
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.support import adapters, families, singles, unprompted, upscalers

ROOT = Path(__file__).parent.parent.parent
GOLDENS = ROOT / "tests" / "goldens"
FOLDER = GOLDENS / "pictures"

_TENT = "a red tent in the center on green grass, under a clear day sky"
_LONG = "a (red:1.3) tent, " + "a very long prompt with a [dark] sky and many words, " * 9 + "a moon"
_SMALL = "--width 64 --height 64"

# Name -> the prompt, if any, and the flags. Files and checkpoints are those of SOURCES, by their names.
_CASES: dict[str, tuple[str | None, str]] = {
    # The embedded checkpoint's defaults, and every sampler on some schedule.
    "demo": (_TENT, "--deepcache 3 --seed 0"),
    "euler-karras": ("a tent", f"--sampler euler --schedule diffusers_karras --rho 5 --steps 5 --seed 1 {_SMALL}"),
    "euler-ancestral-trailing": (
        "a house",
        f"--sampler euler_ancestral --schedule trailing --steps 5 --seed 7 --negative night {_SMALL}",
    ),
    "heun-exponential": ("a moon", f"--sampler heun --schedule diffusers_exponential --steps 4 --seed 2 {_SMALL}"),
    "lms": ("a tent", f"--sampler lms --steps 6 --seed 3 {_SMALL}"),
    "ddim-eta-linspace": ("a tent", f"--sampler ddim --schedule linspace --eta 0.5 --steps 5 --seed 4 {_SMALL}"),
    "ddpm": ("a tent", f"--sampler ddpm --steps 6 --seed 5 {_SMALL}"),
    "plms-leading": ("a boat", f"--sampler plms --schedule leading --steps 6 --seed 6 {_SMALL}"),
    "dpmpp-2m-sde-beta": ("a tree", f"--sampler dpmpp_2m_sde --schedule diffusers_beta --steps 5 --seed 8 {_SMALL}"),
    "dpmpp-3m-uniform": ("a tree", f"--sampler dpmpp_3m --schedule diffusers_sgm_uniform --steps 6 --seed 9 {_SMALL}"),
    "dpmpp-2s-simple": ("a tree", f"--sampler dpmpp_2s --schedule simple --steps 4 --seed 10 {_SMALL}"),
    "dpm-2m-midpoint": ("a tree", f"--sampler dpm_2m --kind midpoint --steps 5 --seed 11 {_SMALL}"),
    "deis-corrector": ("a tree", f"--sampler deis --order 3 --corrector --steps 6 --seed 12 {_SMALL}"),
    "unipc-ays": ("a tree", f"--sampler unipc --schedule ays --steps 6 --seed 13 {_SMALL}"),
    "edm-churn": ("a tree", f"--sampler edm --s-churn 3 --s-noise 1.1 --steps 4 --seed 14 {_SMALL}"),
    "lcm": ("a tree", f"--sampler lcm --steps 3 --seed 15 {_SMALL}"),
    "tcd-gamma": ("a tree", f"--sampler tcd --gamma 0.2 --steps 4 --seed 16 {_SMALL}"),
    "timesteps": ("a tree", f"--timesteps 900,500,20 --seed 17 {_SMALL}"),
    "sigmas": ("a tree", f"--sampler heun --sigmas 9,3,1,0 --seed 18 {_SMALL}"),
    # Reuse.
    "branch": ("a tent", f"--deepcache 2:1 --steps 6 --seed 19 {_SMALL}"),
    "nonuniform": ("a tent", f"--deepcache nonuniform:3,1 --steps 7 --seed 20 {_SMALL}"),
    "at": ("a tent", f"--deepcache at=0,2,5:2 --steps 7 --seed 21 {_SMALL}"),
    "adaptive": ("a tent", f"--deepcache adaptive:0.3 --steps 7 --seed 22 {_SMALL}"),
    "forecast": ("a tent", f"--deepcache 2+forecast2 --steps 8 --seed 23 {_SMALL}"),
    "tgate": ("a tent", f"--tgate 4,2,1,2 --steps 7 --seed 24 {_SMALL}"),
    "freeu-deepcache-tgate": ("a tent", f"--freeu --deepcache 2 --tgate 4 --steps 7 --seed 25 {_SMALL}"),
    "freeu-constant": ("a tent", f"--freeu constant:1.2,1.3,0.9,0.5 --steps 4 --seed 26 {_SMALL}"),
    "speed-fast": ("a tent", "--speed fast --seed 27"),
    "speed-fastest": ("a house", f"--speed fastest --seed 28 {_SMALL}"),
    # Prompts, guidance, batches, number formats.
    "long-prompt": (_LONG, f"--negative 'a dark stormy sky' --clip-skip 1 --steps 4 --seed 29 {_SMALL}"),
    "rescale": ("a tent", f"--guidance 12 --guidance-rescale 0.7 --steps 4 --seed 30 {_SMALL}"),
    "no-guidance": ("a tent", "--guidance 1 --steps 4 --seed 31 --width 72 --height 40"),
    "batch": ("a tent", f"--count 3 --batch 2 --sampler euler_ancestral --deepcache 2 --steps 4 --seed 32 {_SMALL}"),
    "float16": ("a tent", f"--dtype float16 --steps 3 --seed 33 {_SMALL}"),
    "quantized": ("a tent", f"--quantize 8 --steps 4 --seed 34 {_SMALL}"),
    "tiles": ("a tent", f"--tile 32 --steps 3 --seed 35 {_SMALL}"),
    "denoise-tiles": ("a tent", "--denoise-tile 16 --deepcache 2 --steps 3 --seed 36 --width 320 --height 128"),
    # Pictures to begin with.
    "image-to-image": ("a blue tent", "--init-image scene.png --strength 0.6 --steps 7 --seed 37"),
    "mask-blur": ("a moon", "--init-image scene.png --mask mask.png --mask-blur 3 --steps 5 --seed 38 --deepcache 2"),
    "mask-alpha": ("a moon", "--init-image hole.png --mask alpha --strength 0.8 --steps 6 --seed 39"),
    "only-masked": ("a moon", "--init-image scene.png --mask mask.png --only-masked --padding 8 --steps 4 --seed 40"),
    # Other checkpoints: the embedded one of classes, then random ones.
    "classes": (
        None,
        f"--model tiny-classes --class snowman,sailboat --guidance 3 --deepcache 3 --steps 6 --seed 0 {_SMALL}",
    ),
    "sd1": (families.PROMPT, "--model sd1 --steps 6 --seed 41 --clip-skip 1"),
    "sd1-lora": (families.PROMPT, "--model sd1 --lora lora.safetensors:0.8 --steps 5 --seed 42"),
    "single-file": (None, "--model ldm-classes.safetensors --class 3 --guidance 2 --steps 5 --seed 43"),
    "sd2v": (families.PROMPT, "--model sd2v --deepcache 2:1 --steps 6 --seed 44"),
    "sd2v-quantized": (families.PROMPT, "--model sd2v --quantize 4:32 --sampler unipc --steps 5 --seed 45"),
    "sdxl": (families.PROMPT, "--model sdxl --negative night --deepcache 3 --steps 7 --seed 46"),
    "sdxl-image": ("a moon", "--model sdxl --init-image scene.png --strength 0.5 --steps 6 --seed 47"),
    "sdxl-refiner": (families.PROMPT, "--model sdxl --refiner refiner --refine-at 0.6 --steps 8 --seed 48"),
    "refiner": (families.PROMPT, "--model refiner --init-image scene.png --strength 0.4 --steps 6 --seed 49"),
    "inpaint9": ("a moon", "--model inpaint9 --init-image scene.png --mask mask.png --steps 5 --seed 50"),
    "x4": (families.PROMPT, "--model x4 --init-image small.png --noise-level 30 --deepcache 2 --steps 4 --seed 51"),
    "x4-tiles": (None, "--model x4 --init-image small.png --denoise-tile 16 --steps 3 --seed 52"),
    "ldm-super-resolution": (None, "--model ldm_sr --init-image small.png --steps 4 --seed 53"),
    "ddpm-model": (None, "--model ddpm --steps 5 --count 2 --seed 54"),
    "ddim-model": (None, "--model ddim --steps 5 --seed 55"),
    "ldm-model": (None, "--model ldm --deepcache 2 --steps 6 --seed 56"),
}


def _arguments(name: str) -> list[str]:
    prompt, flags = _CASES[name]
    return ([] if prompt is None else [prompt]) + shlex.split(flags) + ["--output", f"pictures/{name}.png"]


CASES: dict[str, list[str]] = {name: _arguments(name) for name in _CASES}

# ------------------------------------------------------------------------------------------------ sources


@functools.cache
def _shapes() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((GOLDENS / "shapes.json").read_text(encoding="utf-8"))
    return content


def _scene(channels: int) -> Image.Image:
    """A smooth random picture of 64 x 64; the fourth channel is opaque outside a square."""
    coarse = np.clip(128 + 60 * families.numbers("scene", 5, 5, 3), 0, 255).astype(np.uint8)
    picture = Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC)
    if channels == 4:
        alpha = np.full((64, 64), 255, np.uint8)
        alpha[10:40, 24:60] = 0
        picture.putalpha(Image.fromarray(alpha))
    return picture


def _mask() -> Image.Image:
    """White in a rectangle that touches no multiple of 8."""
    mask = np.zeros((64, 64), np.uint8)
    mask[21:43, 11:37] = 255
    return Image.fromarray(mask)


def _adapter(path: Path) -> None:
    adapters.save(path, adapters.kohya(adapters.every_layer(_shapes()["sd1"], pick=adapters.attention, alpha=2.0)))


def _write_family(name: str, path: Path) -> None:
    families.write_folder(name, _shapes()[name], path)


def _write_unprompted(name: str, path: Path) -> None:
    unprompted.write_folder(name, unprompted.shapes()[name], path)


# Name -> what writes the file or folder.
SOURCES: Mapping[str, Callable[[Path], Any]] = {
    "scene.png": lambda path: _scene(3).save(path),
    "hole.png": lambda path: _scene(4).save(path),
    "mask.png": lambda path: _mask().save(path),
    "small.png": lambda path: upscalers.picture(24, 20).save(path),
    "lora.safetensors": _adapter,
    "ldm-classes.safetensors": lambda path: unprompted.write_single("ldm-classes", path),
    "refiner": lambda path: singles.refiner_folder(_shapes(), path),
    "x4": lambda path: upscalers.write(_shapes(), path),
    **{name: functools.partial(_write_family, name) for name in families.FAMILIES},
    **{name: functools.partial(_write_unprompted, name) for name in ("ddpm", "ddim", "ldm", "ldm_sr")},
}


def write_sources(folder: Path, arguments: Iterable[str]) -> None:
    """Writes into `folder` the files and checkpoints that a command's `arguments` name, if they are not there."""
    (folder / "pictures").mkdir(exist_ok=True)
    for argument in arguments:
        name = argument.partition(":")[0]
        if name in SOURCES and not (folder / name).exists():
            SOURCES[name](folder / name)


def pixels(folder: Path, name: str) -> np.ndarray:
    """Returns the uint8 pixels of all pictures of a case, beside each other: height x width x 3."""
    files = sorted(folder.glob(f"{name}.png")) or sorted(folder.glob(f"{name}-[0-9]*.png"))
    if not files:
        raise FileNotFoundError(f"no picture of {name} in {folder}")
    return np.concatenate([np.asarray(Image.open(file).convert("RGB")) for file in files], axis=1)


# ------------------------------------------------------------------------------------------------ two trees

# Runs in a process of its own, where PYTHONPATH names the checkout.
_DRIVER = """
import json, pathlib, runpy, sys, traceback, warnings
warnings.simplefilter("ignore", RuntimeWarning)  # of runpy, at the second case
tree, cases = sys.argv[1], json.loads(sys.stdin.read())
import mlx_sd
assert pathlib.Path(mlx_sd.__file__).is_relative_to(tree), mlx_sd.__file__
for name, arguments in cases.items():
    sys.argv = ["mlx_sd.generate", *arguments]
    try:
        runpy.run_module("mlx_sd.generate", run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        if stop.code:
            print(f"{name}: exit code {stop.code}", file=sys.stderr)
"""


def make(tree: Path, sources: Path, cases: Mapping[str, list[str]]) -> None:
    """Makes the pictures of `cases` in sources/pictures with the code of the checkout `tree`."""
    environment = os.environ | {"PYTHONPATH": str(tree), "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as cache:
        subprocess.run(
            [sys.executable, "-c", _DRIVER, str(tree)],
            input=json.dumps(cases),
            text=True,
            cwd=sources,
            env=environment | {"MLX_SD_CACHE": cache},
            check=True,
            stdout=subprocess.DEVNULL,
        )


def about(folder: Path, name: str) -> dict[str, Any]:
    """Returns the settings that the first PNG of a case records, whatever their order, and its other texts."""
    file = next(iter(sorted(folder.glob(f"{name}.png")) or sorted(folder.glob(f"{name}-[0-9]*.png"))))
    with Image.open(file) as image:
        texts = dict(image.info)
    return texts | {"mlx-sd": json.loads(texts["mlx-sd"])}


def main(argv: list[str] | None = None) -> int:
    """Compares two checkouts, and returns 1 if a picture differs by a byte."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.pictures", description=__doc__)
    parser.add_argument("tree", type=Path, help="another checkout")
    parser.add_argument("--write", action="store_true", help="its pictures become the fixtures")
    parser.add_argument("--only", nargs="*", default=list(CASES), metavar="NAME", help="the cases, all by default")
    arguments = parser.parse_args(argv)
    cases = {name: CASES[name] for name in arguments.only}
    with tempfile.TemporaryDirectory() as temporary:
        sources = Path(temporary) / "sources"
        sources.mkdir()
        write_sources(sources, [argument for case in cases.values() for argument in case])
        folders = {}
        for side, tree in (("before", arguments.tree.resolve()), ("now", ROOT)):
            if side == "now" and arguments.write:
                continue
            make(tree, sources, cases)
            folders[side] = (sources / "pictures").rename(Path(temporary) / side)
            (sources / "pictures").mkdir()
        if arguments.write:
            FOLDER.mkdir(exist_ok=True)
            for name in cases:
                Image.fromarray(pixels(folders["before"], name)).save(FOLDER / f"{name}.png", optimize=True)
            return 0
        unequal = [n for n in cases if not _equal(pixels(folders["before"], n), pixels(folders["now"], n))]
        other = [n for n in cases if about(folders["before"], n) != about(folders["now"], n)]
    print(f"{len(cases)} pictures, {len(cases) - len(unequal)} equal byte for byte; unequal: {unequal or 'none'}")
    print(f"their metadata: {len(cases) - len(other)} equal; unequal: {other or 'none'}")
    return int(bool(unequal))


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and bool((a == b).all())


if __name__ == "__main__":
    sys.exit(main())
