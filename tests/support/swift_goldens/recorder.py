"""Pictures made from an exported set, with every number that goes into its networks and comes out of them.

A recording is a folder. `recording.json` lists the runs of packages in their order, with the place of each array in
`recording.f32` (float32, little-endian; offsets count numbers). Inputs are as the pipeline has them, before they are
converted to the type of the port; `dtype` is that type. `NAME.mlmodelc/replay.json` (for Core AI `NAME.aimodel`) has
the runs of one package for what stands in for Apple's frameworks.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from coreml import drive, info
from coreml.package_set import PackageSet, Run, channel_first
from mlx_sd import Request, StableDiffusion

NUMBERS = "recording.f32"
_IMAGES = {"image": "init_image", "mask": "mask"}  # arguments of `generate` that are pictures, and the request's names


class _Numbers:
    """The arrays of a recording, each stored once."""

    def __init__(self) -> None:
        self._offsets: dict[bytes, int] = {}
        self._pieces: list[bytes] = []
        self._length = 0

    def add(self, array: np.ndarray, dtype: str = "float32") -> dict[str, Any]:
        """Returns {"shape", "dtype", "offset"} of an array."""
        content = np.ascontiguousarray(array, "<f4").tobytes()
        if content not in self._offsets:
            self._offsets[content] = self._length
            self._pieces.append(content)
            self._length += len(content) // 4
        return {"shape": list(array.shape), "dtype": dtype, "offset": self._offsets[content]}

    def write(self, path: Path) -> None:
        """Writes all arrays, one after the other."""
        path.write_bytes(b"".join(self._pieces))


def record(
    export: Path,
    folder: Path,
    values: Mapping[str, Any],
    prompt: str,
    negative: str | None,
    also: Callable[[StableDiffusion], None] = lambda sd: None,
) -> None:
    """Makes a picture with an exported set and writes its recording into `folder`, with the set's own small files.

    values: other arguments of `StableDiffusion.generate`. also: runs more of the set's networks after the picture.
    """
    content, numbers, runs, estimates = info.read(export), _Numbers(), [], []

    def keep(evaluation: int, evaluations: int, denoised: mx.array) -> None:
        """Keeps the estimate of the picture after an evaluation."""
        estimates.append(numbers.add(channel_first(denoised)))

    with _recorded(content, numbers, runs):
        sd = StableDiffusion(drive.load(export))
        result = sd.generate(prompt, negative, callback=keep, **values)
        also(sd)
    _copy(export, folder, content)
    pictures = _write_pictures(folder, values)
    write_json(folder / "inputs.json", pictures)
    write_json(folder / "request.json", _request(values, prompt, negative))
    write_json(folder / "recording.json", runs)
    expected: dict[str, Any] = {
        "evaluations": result.evaluations,
        "full": result.full,
        "request": _without_paths(result.requests[0].to_json()),
        "estimates": estimates,
        "latents": numbers.add(channel_first(result.latents)),
        "image": _write_picture(folder, "expected", result.images[0]),
    }
    write_json(folder / "expected.json", expected)
    numbers.write(folder / NUMBERS)
    write_replays(folder, content, runs)


@contextmanager
def _recorded(content: Mapping[str, Any], numbers: _Numbers, runs: list[dict[str, Any]]) -> Iterator[None]:
    """Keeps what every package of a set takes and gives while the block runs."""
    run_role, make_runner = PackageSet.run, PackageSet._runner
    current: dict[str, Any] = {}

    def run(packages: PackageSet, role: str, size: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs the packages of a role."""
        current.update(role=role, size=size, inputs=inputs)
        return run_role(packages, role, size, inputs)

    def runner(packages: PackageSet, name: str, function: str) -> Run:
        """Returns what runs a function and keeps its arrays."""
        runs_it, ports = make_runner(packages, name, function), content["packages"][name]["functions"][function]

        def kept(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            """Runs the function."""
            outputs, raw = runs_it(feeds), current["inputs"]
            runs.append(
                {
                    "package": name,
                    "function": function,
                    "role": current["role"],
                    "size": current["size"],
                    "inputs": {
                        port: numbers.add(np.asarray(raw.get(port, array)), ports["inputs"][port]["dtype"])
                        for port, array in feeds.items()
                    },
                    "outputs": {
                        port: numbers.add(array, ports["outputs"][port]["dtype"]) for port, array in outputs.items()
                    },
                }
            )
            return outputs

        return kept

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PackageSet, "run", run)
        patch.setattr(PackageSet, "_runner", runner)
        yield


def write_replays(folder: Path, content: Mapping[str, Any], runs: list[dict[str, Any]]) -> None:
    """Writes replay.json of every package into a folder of the package's name."""
    suffix = ".aimodel" if content["format"] == info.FORMATS["coreai"] else ".mlmodelc"
    for name, package in content["packages"].items():
        own, depth = [run for run in runs if run["package"] == name], name.count("/") + 1
        replay = {
            "numbers": "../" * depth + NUMBERS,
            "functions": {
                function: {kind: entry.get(kind, {}) for kind in ("inputs", "outputs")}
                | {"states": entry.get("states", [])}
                for function, entry in package["functions"].items()
            },
            "runs": [{key: run[key] for key in ("function", "inputs", "outputs")} for run in own],
        }
        (folder / f"{name}{suffix}").mkdir(parents=True)
        write_json(folder / f"{name}{suffix}" / "replay.json", replay)


def _copy(export: Path, folder: Path, content: Mapping[str, Any]) -> None:
    """Copies an export without its packages."""
    names = [name for name in content["files"] if ".mlpackage/" not in name and ".aimodel/" not in name]
    for name in ("info.json", *names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(export / name, folder / name)


def _request(values: Mapping[str, Any], prompt: str, negative: str | None) -> dict[str, Any]:
    """Returns the request's JSON as a user would write it: pictures are in inputs.json, networks have their names."""
    pictures = (*_IMAGES, "controls")
    fields = {name: value for name, value in values.items() if name not in pictures}
    content: dict[str, Any] = Request(prompt=prompt, negative=negative, **fields).to_json()
    content = {name: value for name, value in content.items() if value is not None and name not in ("model", "dtype")}
    if controls := values.get("controls"):
        content["controls"] = [{"model": control[0], "scale": control[2]} for control in controls]
    return content


def _write_pictures(folder: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Writes the pictures of a request as bytes; returns the content of inputs.json."""
    pictures: dict[str, Any] = {
        field: _write_picture(folder, field, values[name]) for name, field in _IMAGES.items() if name in values
    }
    controls = values.get("controls", ())
    pictures["controls"] = [_write_picture(folder, f"control-{i}", entry[1]) for i, entry in enumerate(controls)]
    return pictures


def _write_picture(folder: Path, name: str, picture: Image.Image) -> dict[str, Any]:
    """Writes NAME.u8, rows of pixels of 1 or 3 bytes; returns {"file", "width", "height", "channels"}."""
    array = np.asarray(picture)
    (folder / f"{name}.u8").write_bytes(array.tobytes())
    height, width, channels = (*array.shape, 1)[:3]
    return {"file": f"{name}.u8", "width": width, "height": height, "channels": channels}


def _without_paths(request: dict[str, Any]) -> dict[str, Any]:
    """Returns a completed request without pictures and networks, which are elsewhere."""
    return {name: value for name, value in request.items() if name not in (*_IMAGES.values(), "controls", "model")}


def write_json(path: Path, content: Any) -> None:
    """Writes JSON on one line, without NaN and infinity."""
    path.write_text(json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
