"""The command line: python -m mlx_sd.generate "PROMPT"."""

import argparse
import dataclasses
import itertools
import json
import re
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
from tqdm import tqdm

from .. import metadata as picture
from ..checkpoint.lora import Lora
from ..conditions import Subject
from ..core import command
from ..core.errors import InputError
from ..core.files import check_writable
from ..core.version import VERSION
from ..pipeline import Result, StableDiffusion
from ..reuse import deepcache, freeu, presets, tgate
from ..sampling import schedules as schedule
from ..sampling.table import Options
from ..settings import Settings
from ..tasks.painting import ALPHA
from . import animation as film
from . import flags
from .animation import Film

NAME = "mlx_sd.generate"

_SETTINGS = tuple(f.name for f in dataclasses.fields(Settings) if f.name != "options")
_MODEL = ("model", "coreml", "dtype", "quantize", "tile")
_OPTIONS = tuple(f.name for f in dataclasses.fields(Options))
_FILES = ("init_image", "mask")
_REFINER = ("refiner", "refine_at")
_IMAGE = (*_FILES, "mask_blur", "only_masked", "padding")
_BAR = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_inv_fmt}]"
_TYPES: dict[str, tuple[type, ...]] = {  # of what a picture says of itself, if not text
    **dict.fromkeys(
        (
            "seed",
            "steps",
            "width",
            "height",
            "clip_skip",
            "tile",
            "order",
            "padding",
            "class",
            "noise_level",
            "denoise_tile",
        ),
        (int,),
    ),
    **dict.fromkeys(("guidance", "guidance_rescale", "eta", "gamma", "rho"), (int, float)),
    **dict.fromkeys(("s_churn", "s_tmin", "s_tmax", "s_noise"), (int, float)),
    **dict.fromkeys(("strength", "mask_blur", "refine_at"), (int, float)),
    **dict.fromkeys(("corrector", "only_masked"), (bool,)),
    "loras": (list,),
}
_DEFAULTS: dict[str, Any] = {"model": "tiny", "seed": 0, "guidance_rescale": 0.0, "clip_skip": 0}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    arguments = flags.parser(NAME).parse_args(argv)
    return command.run(NAME, lambda: _generate(arguments))


def _generate(arguments: argparse.Namespace) -> None:
    wanted = _wanted(arguments)
    asked = _asked(arguments, wanted)
    targets = _targets(arguments.output, _titles(asked), wanted["seed"], arguments.count)
    filmed = film.plan(targets, arguments.preview, arguments.animate)
    sd = _packaged(arguments, wanted) if wanted["coreml"] else _loaded(wanted)
    refiner = StableDiffusion.load(wanted["refiner"], wanted["dtype"]) if wanted["refiner"] else None
    hashes = {"model": sd.model.hash, **_files(wanted)} | ({"refiner": refiner.model.hash} if refiner else {})
    for name, found in hashes.items():
        if wanted[f"{name}_hash"] not in (None, found):
            what = "the file" if name in _FILES else "the weights"
            print(f"{NAME}: {wanted[name]} is not {what} that the picture was made with", file=sys.stderr)
    settings = {name: wanted[name] for name in _SETTINGS}
    settings["speed"] = arguments.speed
    settings["options"] = Options(**{name: wanted[name] for name in _OPTIONS})
    settings["deepcache"] = deepcache.parse(wanted["deepcache"] or None)
    settings["tgate"] = tgate.parse(wanted["tgate"] or None)
    settings["freeu"] = freeu.parse(wanted["freeu"])
    if arguments.speed:
        print(f"{NAME}: {sd.preset(arguments.speed)}", file=sys.stderr)
    sd.settings(**settings)  # says what is wrong with them before a preview is fitted
    steps = Film(sd, filmed)
    made: list[dict[str, Any]] = []

    with tqdm(unit="step", disable=not sys.stderr.isatty(), bar_format=_BAR) as bar:

        def progress(evaluation: int, evaluations: int, image: mx.array) -> None:
            if evaluation == 1:
                bar.reset(total=evaluations)
                bar.set_description(f"{len(made) + 1}/{len(targets)}")
            bar.update()
            steps.see(len(made), evaluation, image)

        for result in sd.stream(
            asked.get("prompt"),
            wanted["negative"],
            classes=asked.get("classes"),
            seed=wanted["seed"],
            count=arguments.count,
            batch=arguments.batch,
            tile=wanted["tile"],
            callback=progress,
            image=wanted["init_image"],
            mask=wanted["mask"],
            mask_blur=wanted["mask_blur"] or 0.0,
            only_masked=bool(wanted["only_masked"]),
            padding=wanted["padding"],
            refiner=refiner,
            refine_at=wanted["refine_at"],
            **settings,
        ):
            for image, subject, seed in zip(result.images, result.subjects, result.seeds, strict=True):
                path = targets[len(made)]
                path.parent.mkdir(parents=True, exist_ok=True)
                about = _about(sd, result, wanted, hashes, subject, seed)
                picture.save(image, path, about)
                made.append({"output": str(path), **steps.end(len(made), image), **about, **_cost(result)})
                if not arguments.json:
                    bar.write(str(path), file=sys.stdout)
    if arguments.json:
        print(json.dumps(made, indent=2, ensure_ascii=False))


def _loaded(wanted: dict[str, Any]) -> StableDiffusion:
    sd = StableDiffusion.load(wanted["model"], wanted["dtype"], wanted["loras"], wanted["quantize"])
    for made_with, lora in zip(wanted["lora_hashes"], sd.model.loras, strict=False):
        if made_with != lora["sha256"]:
            print(f"{NAME}: the LoRA {lora['path']} is not the one the picture was made with", file=sys.stderr)
    return sd


def _files(wanted: dict[str, Any]) -> dict[str, str]:
    """SHA-256 of the files that a picture begins with."""
    paths = {name: wanted[name] for name in _FILES if wanted[name] is not None}
    return {name: picture.digest(path) for name, path in paths.items() if (name, path) != ("mask", ALPHA)}


def _packaged(arguments: argparse.Namespace, wanted: dict[str, Any]) -> StableDiffusion:
    if arguments.speed:
        raise InputError(
            "--speed is of networks in MLX; with --coreml choose --sampler, --steps and --deepcache yourself"
        )
    for flag in ("model", "dtype", "tile", "lora", "quantize"):
        if getattr(arguments, flag) is not None:
            raise InputError(f"--{flag} was decided when the packages were written; leave it out with --coreml")
    from coreml import drive  # coreml builds on this package

    sd = StableDiffusion(drive.load(Path(wanted["coreml"])))
    wanted["model"] = sd.model.name
    return sd


def _wanted(arguments: argparse.Namespace) -> dict[str, Any]:
    """Flags over what a replayed picture says over defaults; None where the checkpoint decides."""
    for kind in ("timesteps", "sigmas"):
        if (values := getattr(arguments, kind)) is not None:
            arguments.schedule = f"{kind}={values}"
    replayed = picture.read(arguments.from_image) if arguments.from_image else {}
    if arguments.sampler or arguments.schedule:  # another solver, another meaning of what was told to the first
        replayed = {name: value for name, value in replayed.items() if name not in _OPTIONS}
    if arguments.speed:
        replayed = {name: value for name, value in replayed.items() if name not in (*_OPTIONS, *presets.FIELDS)}
    if arguments.schedule and arguments.schedule not in schedule.names():
        replayed.pop("steps", None)
    if arguments.init_image:  # whose size counts
        replayed = {name: value for name, value in replayed.items() if name not in ("width", "height")}
    if arguments.prompt is not None or arguments.prompts is not None:
        replayed.pop("class", None)
    if getattr(arguments, "class") is not None:
        replayed.pop("prompt", None)
    for name, value in replayed.items():
        if value is not None and not isinstance(value, _TYPES.get(name, (str,))):
            raise InputError(f"{arguments.from_image}: it says {name} = {value!r}, which makes no sense")
    wanted = {
        name: flag if (flag := getattr(arguments, name)) is not None else replayed.get(name, _DEFAULTS.get(name))
        for name in ("prompt", "class", "negative", "seed", *_MODEL, *_SETTINGS, *_OPTIONS, *_IMAGE, *_REFINER)
    }
    # Another than the picture's is no surprise where the user asked for it.
    for name in ("model", "refiner", *_FILES):
        wanted[f"{name}_hash"] = replayed.get(f"{name}_hash") if getattr(arguments, name) is None else None
    if arguments.model is not None:
        wanted["coreml"] = arguments.coreml
    wanted["loras"], wanted["lora_hashes"] = _loras(arguments, replayed.get("loras") or [])
    return wanted


def _loras(arguments: argparse.Namespace, wanted: list[Any]) -> tuple[list[Lora], list[str]]:
    """The adapters of flags or of a replayed picture, and what the picture says they were."""
    if arguments.lora is not None:
        return [Lora.parse(text) for text in arguments.lora], []
    try:
        return [Lora.of((lora["path"], lora["scale"], lora.get("blocks", ()))) for lora in wanted], [
            lora["sha256"] for lora in wanted
        ]
    except (KeyError, TypeError):
        raise InputError(f"{arguments.from_image}: it says loras = {wanted!r}, which makes no sense") from None


def _asked(arguments: argparse.Namespace, wanted: dict[str, Any]) -> dict[str, list[str]]:
    """What pictures are to be of, as `stream` takes it: prompts, classes, or nothing for models that take neither."""
    if wanted["class"] is not None:
        if wanted["prompt"] is not None or arguments.prompts is not None:
            raise InputError("give a prompt or --class, not both")
        return {"classes": str(wanted["class"]).split(",")}
    if wanted["prompt"] is None and arguments.prompts is None and wanted["model"] != _DEFAULTS["model"]:
        return {}  # which of the two is missing, if any, the model says
    return {"prompt": _prompts(arguments, wanted)}


def _titles(asked: dict[str, list[str]]) -> list[str]:
    """What files are called after."""
    return asked.get("prompt") or [f"class {one}" for one in asked.get("classes", ())] or ["picture"]


def _prompts(arguments: argparse.Namespace, wanted: dict[str, Any]) -> list[str]:
    if arguments.prompts is None:
        if wanted["prompt"] is None:
            raise InputError("give a prompt, --prompts FILE or --from-image PNG")
        return [wanted["prompt"]]
    if arguments.prompt is not None:
        raise InputError("give a prompt or --prompts, not both")
    try:
        lines: list[str] = arguments.prompts.read_bytes().decode("utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{arguments.prompts}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        where = error.object[: error.start].count(b"\n") + 1
        raise InputError(f"{arguments.prompts}, line {where}: not UTF-8; save the file as UTF-8 text") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise InputError(f"{arguments.prompts}, line {number}: an empty line; give one prompt a line")
    if not lines:
        raise InputError(f"{arguments.prompts} is empty; give one prompt a line")
    return lines


def _targets(output: str | None, prompts: list[str], seed: int, count: int) -> list[Path]:
    """One path per picture, known to be writable; only names we choose ourselves avoid what exists."""
    several = len(prompts) * count > 1
    path = Path(output or ".")
    folder = output is None or path.is_dir() or output.endswith(("/", "\\"))
    if not folder and path.suffix.lower() != ".png":
        raise InputError(
            f"--output {output}: only .png can say how it was made; give a name ending in .png or a folder"
        )
    home = path if folder else path.parent
    check_writable(home, "--output", must_exist=not folder)  # a folder is made when there is something to put into it
    if not folder and not several:
        return [path]
    targets: list[Path] = []
    for number, prompt in enumerate(prompts, 1):
        for s in range(seed, seed + count):
            if folder:
                targets.append(_free(home, f"{_slug(prompt)}-{s}", targets))
            else:
                place = f"-{number}" if len(prompts) > 1 else ""
                targets.append(home / f"{path.stem}{place}-{s}.png")
    return targets


def _free(home: Path, stem: str, taken: list[Path]) -> Path:
    for i in itertools.count(1):
        path = home / (f"{stem}.png" if i == 1 else f"{stem}.{i}.png")
        if path not in taken and not path.exists():
            return path
    raise AssertionError("count is endless")


def _slug(prompt: str) -> str:
    return "-".join(re.findall(r"\w+", prompt.lower()))[:48].strip("-") or "picture"


def _about(
    sd: StableDiffusion, result: Result, wanted: dict[str, Any], hashes: dict[str, str], subject: Subject, seed: int
) -> dict[str, Any]:
    """Everything needed to make the picture again."""
    settings = {name: getattr(result.settings, name) for name in _SETTINGS}
    for name in ("deepcache", "tgate", "freeu"):
        settings[name] = str(settings[name]) if settings[name] else None
    return {
        "prompt": subject if isinstance(subject, str) else None,
        "class": subject if isinstance(subject, int) else None,
        "negative": wanted["negative"],
        "seed": seed,
        **settings,
        **{name: value for name, value in dataclasses.asdict(result.settings.options).items() if value is not None},
        "tile": wanted["tile"],
        **{name: wanted[name] for name in (*_IMAGE, *_REFINER) if wanted[name] is not None},
        "model": wanted["model"],
        **{f"{name}_hash": found for name, found in hashes.items()},
        "coreml": wanted["coreml"],
        "loras": list(sd.model.loras),
        "quantize": sd.model.quantization,
        "dtype": str(sd.model.dtype).rpartition(".")[2],
        "mlx_sd": VERSION,
    }


def _cost(result: Result) -> dict[str, Any]:
    """What the picture's batch took."""
    return {
        "evaluations": result.evaluations,
        "full_evaluations": result.full,
        "seconds": round(sum(result.seconds), 4),
        "step_seconds_median": round(statistics.median(result.seconds), 4),
    }


if __name__ == "__main__":
    sys.exit(main())
