"""Does a saved package compute what the network computes?  python -m coreml verify PACKAGE --model M

Off a Mac the package is read back from disk and interpreted, operation by operation.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_sd import StableDiffusion
from mlx_sd.checkpoint.model_folder import TEXT
from mlx_sd.core import command
from mlx_sd.core.errors import Failure, InputError
from mlx_sd.core.parser import Parser, program

from . import info, manifest
from .drive import Run, predictor
from .interpret.package import Package
from .lowering.interfaces import FunctionSpec
from .mil.package import KEY
from .plan import Options, plan

LOWEST_PSNR = 35.0  # dB: what Apple requires of a conversion

_LIMITS = (
    "Interpreted, not run: this shows that the saved numbers and operations are right, and what storing float16 costs. "
    "It cannot show compilation, placement on the Neural Engine, speed, or sums kept in float16; a Mac does."
)
_PROMPT, _SEED, _TIMESTEP = "a photo of a red tent on green grass", 0, 481

Chain = list[tuple[Path, dict[str, Any]]]  # packages that run one after the other, each with its metadata


@dataclass(frozen=True)
class Check:
    """One output of one function, computed by a package, compared with MLX."""

    package: str
    function: str
    output: str
    arithmetic: str  # "float32", "rounded to float16" or "Core ML"
    error: float  # the largest difference over the largest number
    psnr: float  # dB, relative to the largest number

    def to_json(self) -> dict[str, Any]:
        """Returns the check as `--json` prints it."""
        return {
            "package": self.package,
            "function": self.function,
            "output": self.output,
            "how": self.arithmetic,
            "error": self.error,
            "psnr": self.psnr,
        }


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code: 1 where a package is below LOWEST_PSNR."""
    p = Parser(prog=f"{program('coreml')} verify", description=__doc__)
    p.add_argument("package", type=Path, help="a .mlpackage, or a folder that python -m coreml wrote")
    p.add_argument("--model", default="tiny", help="what it was made from (default: the embedded model)")
    p.add_argument("--json", action="store_true", help="print the results as JSON")
    arguments = p.parse_args(argv)
    return command.run("coreml verify", lambda: _verify(arguments))


def _verify(arguments: argparse.Namespace) -> None:
    every_chain = list(chains(arguments.package))
    sd = StableDiffusion.load(arguments.model, "float32")
    checks = []
    for chain in every_chain:
        for check in verify(chain, sd):
            checks.append(check)
            if not arguments.json:
                print(line(check), flush=True)
    if arguments.json:
        print(json.dumps([check.to_json() for check in checks], indent=2))
    elif sys.platform != "darwin":
        print(_LIMITS)
    compressed = any(metadata["compress"] for chain in every_chain for _, metadata in chain)
    for check in checks:
        if check.psnr < LOWEST_PSNR and not compressed:  # what a palette costs is for the eye to judge
            raise Failure(f"{check.package}: {check.output} is at {check.psnr:.1f} dB, below {LOWEST_PSNR:.0f}")


def line(check: Check) -> str:
    """Returns one check as a line for a terminal."""
    place = f"{check.package}{'' if check.function == 'main' else ':' + check.function} {check.output}"
    return f"{place:48} {check.arithmetic:20} PSNR {check.psnr:6.1f} dB   max error {check.error:.1e}"


def chains(path: Path) -> Iterator[Chain]:
    """Yields the packages of a folder, or the one package, with the pieces of one function together.

    Before the first, the files of a folder are compared with its manifest. Raises InputError for a file that differs, a
    piece without the others, and for packages that `python -m coreml` did not write.
    """
    if path.suffix == ".mlpackage":
        metadata = _metadata(path)
        if metadata["piece"][1] > 1:
            raise InputError(f"{path.name} is one piece of {metadata['piece'][1]}; verify the folder that it is in")
        yield [(path, metadata)]
        return
    chain: Chain = []
    content = info.read(path)
    manifest.check(path, content["files"])
    for name in content["packages"]:
        metadata = _metadata(path / f"{name}.mlpackage")
        chain.append((path / f"{name}.mlpackage", metadata))
        if metadata["piece"][0] == metadata["piece"][1]:
            yield chain
            chain = []


def _metadata(path: Path) -> dict[str, Any]:
    text = Package.load(path).metadata.get(KEY)
    if text is None:
        raise InputError(f"{path} was not written by python -m coreml: its metadata has no entry {KEY}")
    metadata: dict[str, Any] = json.loads(text)
    return metadata


def verify(chain: Chain, sd: StableDiffusion) -> Iterator[Check]:
    """Runs every function of a chain of packages on inputs as of a real generation, and compares with MLX."""
    packages = [Package.load(path) for path, _ in chain]
    path, metadata = chain[0]
    for function, entry in metadata["functions"].items():
        batch = next(iter(packages[0].inputs(function).values()))[0][0]
        specs = _specs(sd, entry["size"], metadata["branch"], batch)
        if entry["role"] not in specs:
            raise InputError(f"{path} is a {entry['role']}, which the model {sd.model.name} does not have")
        spec = specs[entry["role"]]
        inputs = _inputs(sd, specs, spec)
        outputs = spec.call(_networks(sd)[spec.part], *inputs)
        expected = {port.name: np.array(y) for port, y in zip(spec.outputs, outputs, strict=True)}
        ports = {port.name: port for port in spec.outputs}
        feeds = {port.name: port.store(x) for port, x in zip(spec.inputs, inputs, strict=True)}
        for arithmetic, runs in _runs(chain, packages, function).items():
            arrays, results = dict(feeds), {}
            for package, run in zip(packages, runs, strict=True):
                results = run({n: arrays[n].astype(dtype) for n, (_, dtype) in package.inputs(function).items()})
                arrays |= results
            for name, result in results.items():
                array = np.array(ports[name].load(result))
                yield _compare(path.stem, function, name, arithmetic, array, expected[name])


def _networks(sd: StableDiffusion) -> dict[str, Any]:
    return {"unet": sd.unet, "vae": sd.vae, **dict(zip(TEXT, sd.model.text_encoders, strict=False))}


def _specs(sd: StableDiffusion, size: Sequence[int] | None, branch: int, batch: int) -> dict[str, FunctionSpec]:
    """Returns what this model's packages compute, by role, in float32."""
    width, height = size or (None, None)
    options = Options(
        "float32", target="iOS18", unets=("functions", "chunks"), branch=branch, sizes=((width, height),), batch=batch
    )
    items = plan(_networks(sd), options, sd.model.name)
    return {entry.role: entry.spec for item in items for entry in item.functions.values()}


def _inputs(sd: StableDiffusion, specs: Mapping[str, FunctionSpec], spec: FunctionSpec) -> list[mx.array]:
    """Returns the inputs of a function as a step in the middle of a generation would give them."""
    rng = np.random.default_rng(_SEED)
    tokenizer = sd.model.tokenizers[TEXT.index(spec.part) if spec.part in TEXT else 0]
    context, pooled = sd.encode_prompt(_PROMPT, chunks=1)
    arrays = {
        "input_ids": mx.array(tokenizer.chunks(_PROMPT)[:1]),
        "timestep": mx.array([_TIMESTEP]),
        "encoder_hidden_states": context,
        "text_embeds": pooled,
    }
    inputs: list[mx.array] = []
    for port in spec.inputs:
        noise = mx.array(rng.standard_normal(port.shape, dtype=np.float32))
        value = arrays.get(port.name)
        if port.name == "time_ids":
            height, width = (side * sd.vae.config.downsampling for side in spec.inputs[0].shape[1:3])
            value = mx.array([height, width, 0, 0, height, width][: port.shape[1]])
        elif port.name == "z":
            value = sd.vae.unscale(noise)
        elif port.name == "x":
            value = mx.clip(noise / 2, -1, 1)
        elif port.name == "deep_feature":
            (value,) = specs["unet_deep"].call(sd.unet, *inputs)
        inputs.append(mx.broadcast_to(noise if value is None else value, port.shape).astype(port.network_dtype))
    return inputs


def _runs(chain: Chain, packages: Sequence[Package], function: str) -> dict[str, list[Run]]:
    """Returns the arithmetics that are possible on this machine, each with what runs every package of the chain."""

    def interpreted(rounding: bool) -> list[Run]:
        """Returns what interprets each package."""
        return [partial(package.run, function=function, rounding=rounding) for package in packages]

    runs = {"float32": interpreted(False), "rounded to float16": interpreted(True)}
    if sys.platform == "darwin":
        runs["Core ML"] = [predictor(path, function) for path, _ in chain]
    return runs


def _compare(
    package: str, function: str, output: str, arithmetic: str, array: np.ndarray, expected: np.ndarray
) -> Check:
    largest = float(np.abs(expected).max())
    difference = array.astype(np.float64) - expected
    rms = float(np.sqrt((difference**2).mean()))
    psnr = 20 * math.log10(largest / rms) if rms else math.inf
    return Check(package, function, output, arithmetic, float(np.abs(difference).max()) / largest, psnr)
