"""What the owner of a Mac measures with one command and sends: a file of a fixed form; the table of those received.

A file holds the machine, its versions, step times of full and cached evaluations, memory, a hash of one picture, and
what mlx-sd tune has measured there before.
It names no user, no host and no folder. `mine.schema.json` is its form.
"""

import hashlib
import platform
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from mlx_sd import StableDiffusion, memory
from mlx_sd.checkpoint.model import default_dtype
from mlx_sd.checkpoint.model_folder import build
from mlx_sd.core.errors import InputError
from mlx_sd.core.files import read_json
from mlx_sd.tuning import record
from mlx_sd.tuning import report as tuning_report

from .. import results
from ..machine import describe
from ..markdown import table
from ..models import NAMES, UNETS
from ..speed import latency
from ..speed.loops import Loop, config, setting

KIND = "mine"
SCHEMA = Path(__file__).with_name("mine.schema.json")
RECEIVED = "received"  # the folder, in the folder of results, with the files that were sent
LOOPS = ("3:0", "5:0")
STEPS = 10
PICTURE = {"prompt": "a red tent in the center on green grass, under a clear day sky", "seed": 0, "steps": 10}
_ROOM = 1.5  # times the weights of a UNet, which a step and the system need


def models_for(size: int) -> list[str]:
    """Returns the models whose steps fit into so many bytes; on a CPU the embedded one alone, in minutes."""
    if mx.default_device() == mx.cpu:
        return ["tiny"]
    return ["tiny", *(name for name in UNETS if _weights(name) * _ROOM < size)]


def measure(path: Path, models: Sequence[str] = (), steps: int = STEPS) -> results.Results:
    """Measures this machine, writes the file after each part, and returns what it holds.

    models: of `bench latency`; none means those that fit. Ctrl-C leaves a valid file with what is measured by then.
    InputError where the file is there already.
    """
    _validator()  # before expensive work: it may be missing
    if path.exists():
        raise InputError(f"{path} exists; give another name to --mine, or remove it")
    values: results.Results = {"kind": KIND, "machine": machine(), "picture": picture(), "models": []}
    for name in models or models_for(memory.available()):
        results.write(path, values)
        print(f"{NAMES.get(name, name)}: {steps} steps of {1 + len(LOOPS)} loops, in turn", file=sys.stderr)
        values["models"].append(step_times(name, steps))
    values["tuning"] = tuning()
    check(values, str(path))
    results.write(path, values)
    return values


def machine() -> dict[str, Any]:
    """Returns what decides the times: chip, memory in bytes, system and versions."""
    about, release = describe(), platform.mac_ver()[0] or platform.release()
    chip = about["processor"] if mx.default_device() == mx.cpu else str(mx.device_info()["device_name"])
    return about | {"chip": chip, "memory": memory.available(), "release": release}


def tuning() -> list[dict[str, Any]]:
    """Returns what mlx-sd tune has measured on this machine; nothing where it was not run."""
    try:
        entries = record.of_this_machine(record.read(record.path()))
    except InputError as error:
        print(error, file=sys.stderr)
        return []
    return [tuning_report.describe(entry) for entry in entries]


def picture() -> dict[str, Any]:
    """Returns settings, hash, colours and seconds of a picture of the embedded checkpoint, in float32."""
    result = StableDiffusion.load("tiny", dtype="float32").generate(**PICTURE)  # type: ignore[arg-type]
    pixels = np.asarray(result.images[0])
    phases = result.phases[0]._asdict()
    return {
        **PICTURE,
        "sha256": hashlib.sha256(pixels.tobytes()).hexdigest(),
        "mean": [round(float(value), 3) for value in pixels.mean((0, 1))],
        "seconds": {name: round(seconds, 4) for name, seconds in phases.items()},
    }


def step_times(name: str, steps: int) -> dict[str, Any]:
    """Measures a guided loop of a model's shapes, full and cached in turn: seconds of steps, and the peak of memory."""
    loops = [Loop(), *(Loop.parse(text) for text in LOOPS)]
    measured = latency.measure(setting(name, steps, guided=True, dtype=default_dtype()), loops)
    names = ("model", "latents", "guided", "dtype", "steps", "peak_memory_over_weights", "kinds", "load")
    shown = ("loop", "ideal", "speedup", "speedup_by_medians")
    loops_shown = [{key: loop[key] for key in shown} for loop in measured["loops"]]
    return {key: measured[key] for key in names} | {"loops": loops_shown}


def check(values: Any, where: str) -> None:
    """Raises InputError for values that are not of the form of `mine.schema.json`; names the first wrong place."""
    error = next(iter(_validator().iter_errors(values | {"version": results.VERSION})), None)
    if error is not None:
        place = ".".join(map(str, error.instance_path)) or "the whole file"
        raise InputError(f"{where}: {place}: {error.message}")


def read(path: Path) -> results.Results:
    """Reads a file that `measure` wrote; InputError for another file."""
    values = results.read(path)
    check(values, str(path))
    return values


def section(folder: Path) -> str:
    """Returns the table of the files received: one row a machine and model."""
    files = sorted((folder / RECEIVED).glob("*.json"))
    if not files:
        return "None yet."
    rows = [row for file in files for row in _rows(read(file))]
    header = ("chip", "memory", "MLX", "model", "full step", "`--deepcache 3:0`", "`--deepcache 5:0`", "peak / weights")
    return table(header, rows)


def _rows(values: results.Results) -> list[tuple[str, ...]]:
    about = values["machine"]
    return [
        (
            about["chip"],
            f"{about['memory'] / 2**30:.0f} GiB",
            about["mlx"],
            NAMES.get(model["model"], model["model"]),
            f"{max(kind['median'] for kind in model['kinds']):.3f} s",
            *(f"{loop['speedup_by_medians']:.2f} times" for loop in model["loops"][1:]),
            f"{model['peak_memory_over_weights']:.2f}",
        )
        for model in values["models"]
    ]


def _weights(name: str) -> int:
    """Counts the bytes of a UNet in float16; nothing is computed."""
    unet: Any = build("unet", config(name), name)
    arrays: Any = tree_flatten(unet.parameters())
    numbers: int = sum(array.size for _, array in arrays)
    return numbers * mx.float16.size


@cache
def _validator() -> Any:
    try:
        import jsonschema_rs
    except ImportError:
        raise InputError("jsonschema-rs is missing; pip install 'mlx-sd[bench]'") from None
    return jsonschema_rs.validator_for(read_json(SCHEMA))
