"""Time, memory and operations of lowering full-size UNets to Core ML: python -m bench lowering.

This project's route, from MLX's recorded graph, beside PyTorch's, which most exporters take: diffusers' network is
traced, and coremltools converts the trace. Weights are random, float16 in the packages. Each lowering runs in a process
of its own, whose peak memory is then read; the routes take turns, so that both meet the same load of the machine.
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

from .. import arguments, process, results
from ..machine import describe
from ..models import UNETS, Config

TARGET = "iOS16"


class Case(NamedTuple):
    """One lowering: the UNet, the route, the form of the attention, and the packages written."""

    model: str
    route: str
    attention: str
    packages: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.model} {self.route} {self.attention}"


# Only this project's route has DeepCache's shallow half. PyTorch's needs more memory for SDXL than most machines have.
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
    p = arguments.parser("lowering", __doc__, _EXAMPLES)
    for option, field in (("--models", "model"), ("--route", "route")):
        names = ",".join(_names(field))
        p.add_argument(option, default=names, metavar="NAME,...", help=f"default {names}")
    p.add_argument("--repeat", type=int, default=2, metavar="N", help="how often each is measured (default 2)")
    arguments.add_json(p)
    options = p.parse_args(argv)
    return command.run("bench lowering", lambda: _lowering(options))


def _names(field: str) -> list[str]:
    """The values of a field of Case, such as "model", in all cases."""
    return list(dict.fromkeys(getattr(case, field) for case in CASES))


def _split(field: str, text: str) -> list[str]:
    """The names in "a,b"; InputError for a name that no case has in that field."""
    names = text.split(",")
    for name in names:
        if name not in _names(field):
            raise InputError(f"there is no {field} {name!r} to measure; there are {', '.join(_names(field))}")
    return names


def _lowering(options: argparse.Namespace) -> None:
    models, routes = _split("model", options.models), _split("route", options.route)
    cases = [case for case in CASES if case.model in models and case.route in routes]
    if not cases:
        raise InputError(f"{options.models} is not lowered by the route {options.route}; see --help")
    libraries = ["coremltools", "numpy", *(("torch", "diffusers") if "torch" in routes else ())]
    values: results.Results = {
        "settings": {"dtype": "float16", "batch": 2, "target": TARGET},
        "models": {model: {"parameters": _parameters(UNETS[model])} for model in models},
        "cases": {str(case): {"runs": []} for case in cases},
        "machine": describe() | {name: version(name) for name in libraries},
    }
    with tempfile.TemporaryDirectory() as home:
        for _ in range(options.repeat):
            for case in cases:
                run, packages = measure(UNETS[case.model], case, Path(home))
                values["cases"][str(case)]["runs"].append(run)
                values["cases"][str(case)]["packages"] = packages
                print(f"{case}: {json.dumps(run)}", file=sys.stderr, flush=True)
                if options.json:  # at once, for the next case may take long
                    results.write(options.json, values)
    results.report(values, None)


def measure(config: Config, case: Case, home: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Lowers in a process of its own; returns seconds and peak bytes, and a description of each package.

    home: a folder where weights are written once and stay.
    """
    weights = home / f"{case.model}.safetensors"
    if case.route == "ours" and not weights.is_file():
        _call("write", config, str(weights))
    with tempfile.TemporaryDirectory(dir=home) as out:
        if case.route == "ours":
            usage = _call("lower", config, str(weights), case.attention, case.packages, out)
        else:
            usage = _call("convert", config, out)
        packages = {name: describe_package(Path(out, f"{name}.mlpackage")) for name in case.packages}
    return json.loads(usage.output) | {"peak_bytes": usage.peak_bytes}, packages


def _call(function: str, *arguments: Any) -> process.Usage:
    call = f"lowering.{function}(*json.loads({json.dumps(arguments)!r}))"
    return process.run(f"import json; from bench.memory import lowering; print(json.dumps({call}))")


def describe_package(path: Path) -> dict[str, Any]:
    """Counts what a saved package holds: bytes, operations without constants, and the most axes of a value."""
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


# ------------------------------------------------------------------------------------- this project's route


def write(config: Config, file: str) -> None:
    """Writes random float16 weights of a UNet, named and shaped as in `mlx_sd`, one tensor at a time."""
    rng = np.random.default_rng(0)
    parameters = shapes(build("unet", config, "unet"))
    ends = list(itertools.accumulate(2 * math.prod(shape) for shape in parameters.values()))
    header = {
        name: {"dtype": "F16", "shape": shape, "data_offsets": [end - 2 * math.prod(shape), end]}
        for (name, shape), end in zip(parameters.items(), ends, strict=True)
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with Path(file).open("wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for shape in parameters.values():
            numbers = rng.standard_normal(shape, dtype=np.float32) / np.sqrt(np.prod(shape[1:]) or 1)
            f.write(numbers.astype(np.float16).tobytes())


def lower(config: Config, weights: str, attention: str, kinds: Sequence[str], folder: str) -> dict[str, Any]:
    """Lowers a UNet's `kinds`, full or shallow, into packages of these names; returns the seconds of each."""
    unet: Any = build("unet", config, "unet")
    packages = _packages(unet.config)
    specs = {"full": packages.full(), "shallow": packages.shallow(packages.deep_shape(unet))}
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


# ------------------------------------------------------------------------------------- PyTorch's route


def convert(config: Config, folder: str) -> dict[str, Any]:
    """Traces diffusers' UNet and lets coremltools convert it into the package `full`; returns the seconds.

    The network is built before the clock starts, and its attention is the one that diffusers has by default.
    """
    import torch
    from diffusers import UNet2DConditionModel

    class _Call(torch.nn.Module):  # type: ignore[misc]
        """The UNet with positional arguments and one output, as tracing needs it."""

        def __init__(self, unet: Any) -> None:
            super().__init__()
            self.unet = unet

        def forward(self, x: Any, t: Any, context: Any) -> Any:
            """Returns the UNet's prediction alone."""
            return self.unet(x, t, context, return_dict=False)[0]

    _accept_arrays_of_one_element()
    torch.manual_seed(0)
    network = _Call(UNet2DConditionModel(**config)).eval()
    ports = _packages(build("unet", config, "unet").config).inputs()
    inputs = [torch.ones(port.stored if port.name == "sample" else port.shape) for port in ports]
    clock = _Clock()
    with torch.no_grad():
        traced = torch.jit.trace(network, inputs, check_trace=False)
    with quiet(), redirect_stderr(StringIO()):
        ct.convert(
            traced,
            inputs=[
                ct.TensorType(port.name, tuple(x.shape), dtype=np.float16)
                for port, x in zip(ports, inputs, strict=True)
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


def _accept_arrays_of_one_element() -> None:
    # coremltools 9 calls int() on arrays of one element, which numpy has refused since 2.4.
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
        """Notes the seconds since the lap before, or since the start, under a name."""
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
