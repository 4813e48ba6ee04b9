"""The packages or assets of a folder by the roles that they have in a generation, each loaded when it is first run."""

import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_sd.core.errors import InputError

from . import asset_checks, info
from .coreai import availability, speed
from .coreai.asset_files import SUFFIX
from .coreai.runtime import Runtime
from .lowering.interfaces import RESIDUAL
from .stock import TOKENIZER

Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


def runner(path: Path, function: str, description: Mapping[str, Any]) -> Run:
    """Returns what runs a package's function: Core ML on a Mac, else the interpreter, which rounds to float16.

    description: of the function in info.json; InputError where the package does not have such a function.
    """
    if sys.platform == "darwin":
        return predictor(path, function)
    from .interpret.package import Package  # coremltools takes seconds to import

    package = Package.load(path)
    inputs, outputs = (
        {name: (shape, dtype.name) for name, (shape, dtype) in ports.items()}
        for ports in (package.inputs(function), package.outputs(function))
    )
    info.check_ports(path, function, description, inputs, outputs)
    return partial(package.run, function=function, rounding=True)


def predictor(path: Path, function: str) -> Run:
    """Returns Core ML's own prediction of a package's function, which only a Mac has."""
    from .mil.coremltools import ct, quiet

    with quiet():
        model = ct.models.MLModel(str(path), function_name=None if function == "main" else function)
    predict: Run = model.predict
    return predict


class PackageSet:
    """The packages of a folder by the role they have in a generation; each is loaded when it is first run."""

    def __init__(self, folder: Path, content: Mapping[str, Any]):
        """Checks that the packages of info.json (`content`) are in the folder; InputError names those that are not.

        Assets of Core AI are compared with their hashes too: their runtime does not.
        """
        self._folder, self._content, self._suffix = folder, content, info.suffix(content)
        self._runners: dict[tuple[str, str], Run] = {}
        self._runtimes: dict[str, Runtime] = {}
        missing = [name for name in content["packages"] if not (folder / f"{name}{self._suffix}").is_dir()]
        if missing:
            raise InputError(f"{folder}: {', '.join(missing)}{self._suffix} of its info.json is missing; export again")
        if self.core_ai:
            availability.check()
            for name, description in content["packages"].items():
                asset_checks.check_asset(folder / f"{name}{self._suffix}", description)

    @property
    def core_ai(self) -> bool:
        """Returns whether these are assets of Core AI, whose contexts are (B, tokens, channels)."""
        return self._suffix == SUFFIX

    @property
    def controlled(self) -> bool:
        """Returns whether the UNet takes the residuals of control networks."""
        return bool(self._content["options"].get("control"))

    @property
    def tokenizer(self) -> Path:
        """Returns the folder with vocab.json and merges.txt."""
        return self._folder / TOKENIZER if self.core_ai else self._folder

    def seconds(self, role: str, size: str) -> float:
        """Predicts how long Apple's CPU runtime takes for one run of a role; 0 for packages of Core ML."""
        steps = self._steps(role, size) if self.core_ai else ()
        functions = (self._content["packages"][name]["functions"][function] for name, function in steps)
        return sum(speed.seconds(function, self._content["options"]["attention"]) for function in functions)

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Returns (width, height) in pixels of the pictures that the packages make."""
        sizes = [tuple(map(int, size.split("x"))) for size in self._content["roles"] if size != "any"]
        return tuple((width, height) for width, height in sizes)

    def size(self, latents: mx.array) -> str:
        """Returns the size of the picture of latents (B, h, w, C) as info.json lists it: WIDTHxHEIGHT in pixels."""
        factor = self._content["latents"]["factor"]
        return f"{latents.shape[2] * factor}x{latents.shape[1] * factor}"

    def has(self, role: str) -> bool:
        """Returns whether any package has this role."""
        return any(role in roles for roles in self._content["roles"].values())

    def inputs(self, role: str, size: str) -> dict[str, list[int]]:
        """Returns the name and shape of each input of a role's packages that none of them computes."""
        shapes: dict[str, list[int]] = {}
        computed: set[str] = set()
        for name, function in self._steps(role, size):
            description = self._content["packages"][name]["functions"][function]
            ports = {port: entry["shape"] for port, entry in description["inputs"].items()}
            shapes = {port: shape for port, shape in ports.items() if port not in computed} | shapes
            computed |= description["outputs"].keys()
        return shapes

    def run(self, role: str, size: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs the packages of a role one after the other and returns what they give that none of them takes.

        Each package takes, by name, from `inputs` and from the outputs of those before it.
        """
        arrays = dict(inputs)
        results: dict[str, np.ndarray] = {}
        for name, function in self._steps(role, size):
            if (name, function) not in self._runners:
                self._runners[name, function] = self._runner(name, function)
            ports = self._content["packages"][name]["functions"][function]["inputs"]
            if unfed := [key for key in ports if key not in arrays]:
                raise InputError(f"{self._folder}: {name} takes {', '.join(unfed)}, which nothing gives; export again")
            feeds = {key: arrays[key].astype(port["dtype"]) for key, port in ports.items()}
            outputs = self._runners[name, function](feeds)
            arrays |= outputs
            results = {key: array for key, array in results.items() if key not in ports} | outputs
        return results

    def step_inputs(
        self, x: mx.array, t: mx.array, context: mx.array | None, added: Mapping[str, mx.array | None]
    ) -> dict[str, np.ndarray]:
        """Returns the inputs of an evaluation for UNets and control networks, by port.

        x: latents (B, h, w, C). t: timesteps, one or B. context: (B, tokens, C). added: the others, by port.
        """
        tokens = np.array(context)
        return {
            "sample": channel_first(x),
            "timestep": np.broadcast_to(np.array(t, np.float32), x.shape[:1]),
            "encoder_hidden_states": tokens if self.core_ai else tokens.transpose(0, 2, 1)[:, :, None],
            **{name: np.array(array) for name, array in added.items() if array is not None},
        }

    def run_rows(self, role: str, size: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs a role in batches of the packages' size; the last batch is filled up with copies of its last row.

        inputs: of as many rows as `sample` has. Residuals that are missing are zeros. InputError for an input of
        another shape.
        """
        shapes, total = self.inputs(role, size), len(inputs["sample"])
        zeros = {
            name: np.broadcast_to(np.float32(0), (total, *shape[1:]))
            for name, shape in shapes.items()
            if name.startswith(RESIDUAL) and name not in inputs
        }
        inputs = zeros | dict(inputs)
        wrong = [name for name in shapes if name not in inputs or list(inputs[name].shape[1:]) != shapes[name][1:]]
        if wrong:
            name = wrong[0]
            shape = inputs[name].shape[1:] if name in inputs else "none"
            raise InputError(f"the packages take {name} of {shapes[name][1:]}, not {shape} (is the prompt too long?)")
        batch = shapes["sample"][0]
        outputs = []
        for start in range(0, total, batch):
            rows = np.minimum(np.arange(start, start + batch), total - 1)
            feeds = {name: inputs[name][rows[: shape[0]]] for name, shape in shapes.items()}
            outputs.append(self.run(role, size, feeds))
        return {name: np.concatenate([batch[name] for batch in outputs])[:total] for name in outputs[0]}

    def _runner(self, name: str, function: str) -> Run:
        path = self._folder / f"{name}{self._suffix}"
        functions = self._content["packages"][name]["functions"]
        description = functions[function]
        if not self.core_ai:
            return runner(path, function, description)
        if name not in self._runtimes:
            self._runtimes[name] = Runtime(path)
            asset_checks.check_functions(self._runtimes[name], functions)
        runtime = self._runtimes[name]
        duration = speed.seconds(description, self._content["options"]["attention"])
        return lambda inputs: runtime.run(function, inputs, seconds=duration)

    def _steps(self, role: str, size: str) -> list[list[str]]:
        steps: list[list[str]] = self._content["roles"].get(size, {}).get(role)
        if not steps:
            raise InputError(f"{self._folder} has no package for {role} at {size}; export it")
        return steps


def channel_first(x: mx.array) -> np.ndarray:
    """Returns an image (B, H, W, C) as packages take it, (B, C, H, W)."""
    first: np.ndarray = np.array(x).transpose(0, 3, 1, 2)
    return first


def channel_last(x: np.ndarray) -> mx.array:
    """Returns an image (B, C, H, W) of a package as float32 (B, H, W, C)."""
    return mx.array(x.astype(np.float32)).transpose(0, 2, 3, 1)
