"""Time, memory and operations of lowering full-size UNets to Core ML: python -m bench lowering.

Ours beside PyTorch's, which most exporters take: diffusers' network, traced, and coremltools' conversion of the trace.
Weights are random, float16 in the packages. Each lowering runs in a process of its own, whose peak memory is then
read; the routes take turns, so that whatever else the machine does falls on all.
"""

import argparse
import itertools
import json
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stderr
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from coreml.interpret.package import Package
from coreml.lowering.graph import record
from coreml.lowering.interfaces import UNetFunctions
from coreml.mil import package
from coreml.mil.coremltools import ct, mb, quiet
from coreml.mil.emitter import uncompressed
from mlx_sd.checkpoint.model_folder import build, shapes
from mlx_sd.core import command
from mlx_sd.core.errors import InputError
from mlx_sd.core.files import tensors

from .. import process, results
from ..machine import describe
from ..models import UNETS, Config

TARGET = "iOS16"


class Case(NamedTuple):
    """One lowering: of which UNet, by which route, with attention in which form, into which packages."""

    model: str
    route: str
    attention: str
    packages: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.model} {self.route} {self.attention}"


# The shallow half is DeepCache's and ours alone. PyTorch's route takes SDXL more memory than most machines have.
CASES = (
    Case("sd15", "ours", "split-einsum", ("full", "shallow")),
    Case("sd15", "torch", "diffusers", ("full",)),
    Case("sd15", "ours", "original", ("full", "shallow")),
    Case("sdxl", "ours", "split-einsum", ("full",)),
)

_EXAMPLES = """examples:
  python -m bench lowering --json bench/results/lowering.json
  python -m bench lowering --models sd15 --route ours --repeat 1
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    p = command.Parser(
        prog="python -m bench lowering",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for option, name in (("--models", "model"), ("--route", "route")):
        known = ",".join(_known(name))
        p.add_argument(option, default=known, metavar="NAME,...", help=f"default {known}")
    p.add_argument("--repeat", type=int, default=2, metavar="N", help="how often each is measured (default 2)")
    p.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    arguments = p.parse_args(argv)
    return command.run("bench lowering", lambda: _lowering(arguments))


def _known(name: str) -> list[str]:
    return list(dict.fromkeys(getattr(case, name) for case in CASES))


def _chosen(name: str, text: str) -> list[str]:
    chosen = text.split(",")
    for given in chosen:
        if given not in _known(name):
            raise InputError(f"there is no {name} {given!r} to measure; there are {', '.join(_known(name))}")
    return chosen


def _lowering(arguments: argparse.Namespace) -> None:
    models, routes = _chosen("model", arguments.models), _chosen("route", arguments.route)
    cases = [case for case in CASES if case.model in models and case.route in routes]
    if not cases:
        raise InputError(f"{arguments.models} is not lowered by the route {arguments.route}; see --help")
    libraries = ["coremltools", "numpy", *(("torch", "diffusers") if "torch" in routes else ())]
    found: results.Results = {
        "settings": {"dtype": "float16", "batch": 2, "target": TARGET},
        "models": {model: {"parameters": _parameters(UNETS[model])} for model in models},
        "cases": {str(case): {"runs": []} for case in cases},
        "machine": describe() | {name: version(name) for name in libraries},
    }
    with tempfile.TemporaryDirectory() as home:
        for _ in range(arguments.repeat):
            for case in cases:
                run, packages = measure(UNETS[case.model], case, Path(home))
                found["cases"][str(case)]["runs"].append(run)
                found["cases"][str(case)]["packages"] = packages
                print(f"{case}: {json.dumps(run)}", file=sys.stderr, flush=True)
                if arguments.json:  # now, for the next may take long
                    results.write(arguments.json, found)
    results.report(found, None)


def measure(config: Config, case: Case, home: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a lowering takes, in a process of its own, and what each package of it holds.

    home: a folder where weights lie and stay.
    """
    weights = home / f"{case.model}.safetensors"
    if case.route == "ours" and not weights.is_file():
        _call("write", config, str(weights))
    with tempfile.TemporaryDirectory(dir=home) as out:
        if case.route == "ours":
            done = _call("lower", config, str(weights), case.attention, case.packages, out)
        else:
            done = _call("convert", config, out)
        packages = {name: describe_package(Path(out, f"{name}.mlpackage")) for name in case.packages}
    return json.loads(done.said) | {"peak_bytes": done.peak_bytes}, packages


def _call(function: str, *arguments: Any) -> process.Stage:
    call = f"lowering.{function}(*json.loads({json.dumps(arguments)!r}))"
    return process.run(f"import json; from bench.memory import lowering; print(json.dumps({call}))")


def describe_package(path: Path) -> dict[str, Any]:
    """What a saved package holds: bytes, operations without constants, and the most axes that a value has."""
    saved = Package.load(path)
    kinds = saved.kinds()
    ranks = [len(t.shape) for o in saved.operations() if o.kind != "const" for t in o.outputs.values()]
    return {
        "bytes": package.size(path),
        "operations": kinds.total(),
        "transposes": kinds["transpose"],
        "reshapes": sum(kinds[kind] for kind in ("reshape", "expand_dims", "squeeze")),
        "rank": max(ranks),
        "kinds": dict(kinds.most_common()),
    }


# ------------------------------------------------------------------------------------------------ ours


def write(config: Config, file: str) -> None:
    """Writes random float16 weights of a UNet, named and shaped as `mlx_sd` has them, one at a time."""
    rng = np.random.default_rng(0)
    wanted = shapes(build("unet", config, "unet"))
    ends = list(itertools.accumulate(2 * math.prod(shape) for shape in wanted.values()))
    header = {
        name: {"dtype": "F16", "shape": shape, "data_offsets": [end - 2 * math.prod(shape), end]}
        for (name, shape), end in zip(wanted.items(), ends, strict=True)
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with Path(file).open("wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for shape in wanted.values():
            numbers = rng.standard_normal(shape, dtype=np.float32) / np.sqrt(np.prod(shape[1:]) or 1)
            f.write(numbers.astype(np.float16).tobytes())


def lower(config: Config, weights: str, attention: str, kinds: Sequence[str], folder: str) -> dict[str, Any]:
    """Lowers a UNet's `kinds`, full or shallow, into packages of these names; returns what each took."""
    unet: Any = build("unet", config, "unet")
    made = _packages(unet.config)
    specs = {"full": made.full(), "shallow": made.shallow(made.deep_shape(unet))}
    stored = {t.name: t for t in tensors(Path(weights))}
    clock = _Clock()
    for kind in kinds:
        graph = record(specs[kind], unet)
        path = Path(folder, f"{kind}.mlpackage")
        package.write(
            specs[kind], graph, lambda name: np.array(stored[name].read()), uncompressed, attention, TARGET, path
        )
        clock.lap(kind)
    return clock.laps


def _packages(config: Any) -> UNetFunctions:
    side, pooled = config.sample_size, (config.added_inputs or 0) - 6 * (config.added_time_dims or 0)
    return UNetFunctions(config, 77, pooled, side, side, 2, mx.float16, 1)


# ------------------------------------------------------------------------------------------------ PyTorch's


def convert(config: Config, folder: str) -> dict[str, Any]:
    """Traces diffusers' UNet and lets coremltools convert it into the package `full`; returns what that took.

    The network is there when the clock starts, and its attention is the one that diffusers has by default.
    """
    import torch
    from diffusers import UNet2DConditionModel

    class Call(torch.nn.Module):  # type: ignore[misc]
        def __init__(self, unet: Any) -> None:
            super().__init__()
            self.unet = unet

        def forward(self, x: Any, t: Any, context: Any) -> Any:
            return self.unet(x, t, context, return_dict=False)[0]

    _mend()
    torch.manual_seed(0)
    network = Call(UNet2DConditionModel(**config)).eval()
    ports = _packages(build("unet", config, "unet").config).inputs()
    given = [torch.ones(port.stored if port.name == "sample" else port.shape) for port in ports]
    clock = _Clock()
    with torch.no_grad():
        traced = torch.jit.trace(network, given, check_trace=False)
    with quiet(), redirect_stderr(StringIO()):
        ct.convert(
            traced,
            inputs=[
                ct.TensorType(port.name, tuple(x.shape), dtype=np.float16) for port, x in zip(ports, given, strict=True)
            ],
            outputs=[ct.TensorType("noise_pred", dtype=np.float32)],
            convert_to="mlprogram",
            compute_precision=ct.precision.FLOAT16,
            minimum_deployment_target=package.TARGETS[TARGET],
            skip_model_load=True,
            package_dir=str(Path(folder, "full.mlpackage")),
        )
    clock.lap("full")
    return clock.laps


def _mend() -> None:
    # coremltools 9 makes integers of arrays of one element, which numpy has refused since 2.4.
    from coremltools.converters.mil.frontend.torch import ops
    from coremltools.converters.mil.frontend.torch.torch_op_registry import register_torch_op

    usual = ops._int

    def _int(context: Any, node: Any) -> None:
        x = context[node.inputs[0]]
        if x.val is None:
            usual(context, node)
        else:
            context.add(mb.const(val=int(np.asarray(x.val).item()), name=node.name))

    register_torch_op(_int, torch_alias=["int"], override=True)


class _Clock:
    """Wall and processor seconds from one lap to the next."""

    def __init__(self) -> None:
        self.laps: dict[str, dict[str, float]] = {"seconds": {}, "processor_seconds": {}}
        self._last = self._now()

    def lap(self, name: str) -> None:
        now = self._now()
        for kind, before, after in zip(self.laps, self._last, now, strict=True):
            self.laps[kind][name] = round(after - before, 2)
        self._last = now

    @staticmethod
    def _now() -> tuple[float, float]:
        return time.perf_counter(), time.process_time()


def _parameters(config: Config) -> int:
    return sum(math.prod(shape) for shape in shapes(build("unet", config, "unet")).values())


if __name__ == "__main__":
    sys.exit(main())
