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

from . import info
from .drive import Run, predictor
from .interpret import Package
from .networks import Spec
from .package import KEY
from .plan import Options, plan

BAR = 35.0  # dB: what Apple asks of a conversion

_CANNOT = (
    "Interpreted, not run: this shows that the saved numbers and operations are right, and what storing float16 costs. "
    "It cannot show compilation, placement on the Neural Engine, speed, or sums kept in float16; a Mac does."
)
_PROMPT, _SEED, _TIMESTEP = "a photo of a red tent on green grass", 0, 481


@dataclass(frozen=True)
class Check:
    """One output of one function, computed in one way, against MLX."""

    package: str
    function: str
    output: str
    how: str  # "float32", "rounded to float16" or "Core ML"
    error: float  # the largest difference over the largest number
    psnr: float  # dB, against the largest number


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code: 1 where a package falls below the bar."""
    p = command.Parser(prog="python -m coreml verify", description=__doc__)
    p.add_argument("package", type=Path, help="a .mlpackage, or a folder that python -m coreml wrote")
    p.add_argument("--model", default="tiny", help="what it was made from (default: the embedded model)")
    p.add_argument("--json", action="store_true", help="print the results as JSON")
    arguments = p.parse_args(argv)
    return command.run("coreml verify", lambda: _verify(arguments))


def _verify(arguments: argparse.Namespace) -> None:
    todo = list(chains(arguments.package))
    sd = StableDiffusion.load(arguments.model, "float32")
    found = []
    for chain in todo:
        for check in verify(chain, sd):
            found.append(check)
            if not arguments.json:
                print(line(check), flush=True)
    if arguments.json:
        print(json.dumps([vars(check) for check in found], indent=2))
    elif sys.platform != "darwin":
        print(_CANNOT)
    compressed = any(what["compress"] for chain in todo for _, what in chain)
    for check in found:
        if check.psnr < BAR and not compressed:  # what a palette costs is for the eye to judge
            raise Failure(f"{check.package}: {check.output} is at {check.psnr:.1f} dB, below {BAR:.0f}")


def line(check: Check) -> str:
    """One check for the reader of a terminal."""
    place = f"{check.package}{'' if check.function == 'main' else ':' + check.function} {check.output}"
    return f"{place:48} {check.how:20} PSNR {check.psnr:6.1f} dB   max error {check.error:.1e}"


Chain = list[tuple[Path, dict[str, Any]]]  # packages that run one after the other, and what each is


def chains(path: Path) -> Iterator[Chain]:
    """The packages of a folder, or the one package, pieces of one function together."""
    if path.suffix == ".mlpackage":
        what = _what(path)
        if what["piece"][1] > 1:
            raise InputError(f"{path.name} is one piece of {what['piece'][1]}; verify the folder that it is in")
        yield [(path, what)]
        return
    told = info.read(path)
    chain: Chain = []
    for name in told["packages"]:
        what = _what(path / f"{name}.mlpackage")
        chain.append((path / f"{name}.mlpackage", what))
        if what["piece"][0] == what["piece"][1]:
            yield chain
            chain = []


def _what(path: Path) -> dict[str, Any]:
    metadata = Package.load(path).metadata
    if KEY not in metadata:
        raise InputError(f"{path} was not written by python -m coreml: it does not say what it is")
    what: dict[str, Any] = json.loads(metadata[KEY])
    return what


def verify(chain: Chain, sd: StableDiffusion) -> Iterator[Check]:
    """Runs every function of a chain of packages on what a real generation would give it, and compares with MLX."""
    packages = [Package.load(path) for path, _ in chain]
    path, what = chain[0]
    for function, about in what["functions"].items():
        batch = next(iter(packages[0].inputs(function).values()))[0][0]
        specs = _specs(sd, about["size"], what["branch"], batch)
        if about["role"] not in specs:
            raise InputError(f"{path} is a {about['role']}, which the model {sd.model.name} does not have")
        spec = specs[about["role"]]
        given = _inputs(sd, specs, spec)
        outputs = spec.function(_networks(sd)[spec.part], *given)
        wanted = {port.name: np.array(y) for port, y in zip(spec.outputs, outputs, strict=True)}
        ports = {port.name: port for port in spec.outputs}
        feeds = {port.name: port.store(x) for port, x in zip(spec.inputs, given, strict=True)}
        for how, runs in _ways(chain, packages, function).items():
            known, made = dict(feeds), {}
            for package, run in zip(packages, runs, strict=True):
                made = run({n: known[n].astype(dtype) for n, (_, dtype) in package.inputs(function).items()})
                known |= made
            for name, got in made.items():
                yield _compare(path.stem, function, name, how, np.array(ports[name].load(got)), wanted[name])


def _networks(sd: StableDiffusion) -> dict[str, Any]:
    return {"unet": sd.unet, "vae": sd.vae, **dict(zip(TEXT, sd.model.text_encoders, strict=False))}


def _specs(sd: StableDiffusion, size: Sequence[int] | None, branch: int, batch: int) -> dict[str, Spec]:
    """What this model's packages compute, by role, in float32."""
    width, height = size or (None, None)
    options = Options(
        "float32", target="iOS18", unets=("functions", "chunks"), branch=branch, sizes=((width, height),), batch=batch
    )
    items = plan(_networks(sd), options, sd.model.name)
    return {entry.role: entry.spec for item in items for entry in item.functions.values()}


def _inputs(sd: StableDiffusion, specs: Mapping[str, Spec], spec: Spec) -> list[mx.array]:
    """What a step in the middle of a generation would give the function."""
    rng = np.random.default_rng(_SEED)
    tokenizer = sd.model.tokenizers[TEXT.index(spec.part) if spec.part in TEXT else 0]
    context, pooled = sd.encode_prompt(_PROMPT, chunks=1)
    known = {
        "input_ids": mx.array(tokenizer.chunks(_PROMPT)[:1]),
        "timestep": mx.array([_TIMESTEP]),
        "encoder_hidden_states": context,
        "text_embeds": pooled,
    }
    values: list[mx.array] = []
    for port in spec.inputs:
        noise = mx.array(rng.standard_normal(port.shape, dtype=np.float32))
        value = known.get(port.name)
        if port.name == "time_ids":
            height, width = (side * sd.vae.config.downsampling for side in spec.inputs[0].shape[1:3])
            value = mx.array([height, width, 0, 0, height, width][: port.shape[1]])
        elif port.name == "z":
            value = sd.vae.unscale(noise)
        elif port.name == "x":
            value = mx.clip(noise / 2, -1, 1)
        elif port.name == "deep_feature":
            (value,) = specs["unet_deep"].function(sd.unet, *values)
        values.append(mx.broadcast_to(noise if value is None else value, port.shape).astype(port.inside))
    return values


def _ways(chain: Chain, packages: Sequence[Package], function: str) -> dict[str, list[Run]]:
    """How the packages can be run here."""

    def interpreted(rounding: bool) -> list[Run]:
        return [partial(package.run, function=function, rounding=rounding) for package in packages]

    ways = {"float32": interpreted(False), "rounded to float16": interpreted(True)}
    if sys.platform == "darwin":
        ways["Core ML"] = [predictor(path, function) for path, _ in chain]
    return ways


def _compare(package: str, function: str, output: str, how: str, got: np.ndarray, wanted: np.ndarray) -> Check:
    largest = float(np.abs(wanted).max())
    difference = got.astype(np.float64) - wanted
    rms = float(np.sqrt((difference**2).mean()))
    psnr = 20 * math.log10(largest / rms) if rms else math.inf
    return Check(package, function, output, how, float(np.abs(difference).max()) / largest, psnr)
