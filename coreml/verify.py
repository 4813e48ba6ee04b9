"""Does a saved package compute what the network computes?  python -m coreml verify PACKAGE --model M

Off a Mac the package is read back from disk and interpreted, operation by operation.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mlx_sd import StableDiffusion
from mlx_sd.core import command
from mlx_sd.core.errors import Failure, InputError
from mlx_sd.core.parser import Parser, program

from . import asset_checks, control_networks, info, manifest
from .checks import Check, compare, evaluation, line, specs_of
from .interpret.package import Package
from .mil.package import KEY
from .package_set import Run, predictor
from .plan import Options

LOWEST_PSNR = 35.0  # dB: what Apple requires of a conversion

_LIMITS = (
    "Interpreted, not run: this shows that the saved numbers and operations are right, and what storing float16 costs. "
    "It cannot show compilation, placement on the Neural Engine, speed, or sums kept in float16; a Mac does."
)

Chain = list[tuple[Path, dict[str, Any]]]  # packages that run one after the other, each with its metadata


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code: 1 where a package is below LOWEST_PSNR."""
    p = Parser(prog=f"{program('coreml')} verify", description=__doc__)
    p.add_argument("package", type=Path, help="a .mlpackage, an .aimodel, or a folder that python -m coreml wrote")
    p.add_argument("--model", default="tiny", help="what it was made from (default: the embedded model)")
    p.add_argument(
        "--control", action="append", metavar="NETWORK", help="what its control networks were made from, in that order"
    )
    p.add_argument("--full", action="store_true", help="run float16 assets at their own size, however long it takes")
    p.add_argument("--json", action="store_true", help="print the results as JSON")
    arguments = p.parse_args(argv)
    return command.run("coreml verify", lambda: _verify(arguments))


def _verify(arguments: argparse.Namespace) -> None:
    path, model, networks = arguments.package, arguments.model, tuple(arguments.control or ())
    if asset_checks.is_core_ai(path):
        content, paths = asset_checks.content_of(path)
        compressed, limits = bool(content["options"].get("compress")), asset_checks.LIMITS
        note = partial(_note, silent=arguments.json)
        results = asset_checks.run(content, paths, model, arguments.full, note, networks)
    else:
        every_chain = list(chains(path))
        compressed = any(metadata["compress"] for chain in every_chain for _, metadata in chain)
        limits = _LIMITS if sys.platform != "darwin" else ""
        sd = StableDiffusion.load(model, "float32")
        results = (check for chain in every_chain for check in verify(chain, sd, networks))
    checks = []
    for check in results:
        checks.append(check)
        if not arguments.json:
            print(line(check), flush=True)
    if arguments.json:
        print(json.dumps([check.to_json() for check in checks], indent=2))
    elif limits:
        print(limits)
    for check in checks:
        if not check.psnr >= LOWEST_PSNR and not compressed:  # what a palette costs is for the eye to judge
            raise Failure(f"{check.package}: {check.output} is at {check.psnr:.1f} dB, below {LOWEST_PSNR:.0f}")


def _note(text: str, silent: bool) -> None:
    if not silent:
        print(text, flush=True)


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


def verify(chain: Chain, sd: StableDiffusion, networks: Sequence[str] = ()) -> Iterator[Check]:
    """Runs every function of a chain of packages on inputs as of a real generation, and compares with MLX.

    networks: the control networks of the export, where they do not lie where it found them.
    """
    packages = [Package.load(path) for path, _ in chain]
    path, metadata = chain[0]
    control = tuple(metadata.get("control", ()))
    roles = [entry["role"] for entry in metadata["functions"].values()]
    controls = control_networks.of_roles(roles, control, networks, sd.model)
    for function, entry in metadata["functions"].items():
        batch = next(iter(packages[0].inputs(function).values()))[0][0]
        width, height = entry["size"] or (None, None)
        options = Options(
            "float32",
            target="iOS18",
            unets=("functions", "chunks"),
            branch=metadata["branch"],
            sizes=((width, height),),
            batch=batch,
            control=control,
        )
        spec, feeds, expected = evaluation(sd, specs_of(sd, options, controls), entry["role"], path, controls)
        ports = {port.name: port for port in spec.outputs}
        for arithmetic, runs in _runs(chain, packages, function).items():
            arrays = dict(feeds)
            results: dict[str, np.ndarray] = {}
            for package, run in zip(packages, runs, strict=True):
                if unfed := [name for name in package.inputs(function) if name not in arrays]:
                    raise InputError(f"{path} takes {', '.join(unfed)}, which {sd.model.name} does not: another model?")
                results |= run({n: arrays[n].astype(dtype) for n, (_, dtype) in package.inputs(function).items()})
                arrays |= results
            for name in filter(ports.__contains__, results):  # without what passes from piece to piece
                array = np.array(ports[name].load(results[name]))
                yield compare(path.stem, function, name, arithmetic, array, expected[name])


def _runs(chain: Chain, packages: Sequence[Package], function: str) -> dict[str, list[Run]]:
    """Returns the arithmetics that are possible on this machine, each with what runs every package of the chain."""

    def interpreted(rounding: bool) -> list[Run]:
        """Returns what interprets each package."""
        return [partial(package.run, function=function, rounding=rounding) for package in packages]

    runs = {"float32": interpreted(False), "rounded to float16": interpreted(True)}
    if sys.platform == "darwin":
        runs["Core ML"] = [predictor(path, function) for path, _ in chain]
    return runs
