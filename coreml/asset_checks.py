"""Assets of Core AI, run by Apple's own CPU runtime in a process without MLX and compared with MLX."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mlx_sd import StableDiffusion
from mlx_sd.core.errors import Failure, InputError
from mlx_sd.core.files import read_json

from . import control_networks, info, manifest
from .checks import Check, compare, evaluation, specs_of
from .compression import schemes
from .control_networks import ControlSource
from .coreai import availability, speed
from .coreai.asset_files import BYTECODE, HASH, SUFFIX
from .coreai.runtime import PLACE, Runtime, check
from .lowering.interfaces import FunctionSpec
from .plan import Options, defaults

LIMITS = (
    f"Run by {PLACE}: this shows that the saved numbers and operations are right. It cannot show what the GPU and the "
    "Neural Engine of a device compute, nor how fast; only a device does."
)
PATIENCE = 600.0  # seconds: float16 that takes longer is checked at a smaller size, or as its float32 twin

_SMALL = 2  # a small size, in the smallest that the model has
Report = Callable[[str], None]


def is_core_ai(path: Path) -> bool:
    """Returns whether a path is an asset, or a folder of assets."""
    if path.suffix == SUFFIX:
        return True
    about = path / "info.json"
    return about.is_file() and read_json(about).get("format") == info.FORMATS["coreai"]


def content_of(path: Path) -> tuple[dict[str, Any], dict[str, Path]]:
    """Checks the files of an asset, or of a folder of them; returns the content of info.json, and the assets by name.

    Raises InputError for a file that is missing, damaged, or of another export.
    """
    if path.suffix == SUFFIX:
        content = check(path)
        info.check_asset(content, path)
        name = _name_of(path, content["packages"])
        if name is None:
            raise InputError(f"{path}: its metadata knows no {path.stem}; give the asset its own name again")
        return content, {name: path}
    content = info.read(path)
    manifest.check(path, content["files"])
    paths = {name: path / f"{name}{SUFFIX}" for name in content["packages"]}
    for name, asset in paths.items():
        hashed = content["files"].get(f"{asset.name}/{BYTECODE}")  # the manifest's check has read it
        check_asset(asset, content["packages"][name], hashed and hashed["sha256"])
    return content, paths


def _name_of(path: Path, packages: Iterable[str]) -> str | None:
    """Returns the name of an asset among those of info.json, None where it has none; networks lie in a folder."""
    names = [name for name in packages if Path(name).name == path.stem]
    folder = path.resolve().parent.name
    return max(names, key=lambda name: Path(name).parent.name == folder, default=None)


def check_asset(path: Path, description: Mapping[str, Any], digest: str | None = None) -> None:
    """Raises InputError where an asset is missing, damaged, or not the one that info.json describes.

    digest: SHA-256 of its bytecode where that has just been read.
    """
    if not path.is_dir():
        raise InputError(f"{path} of info.json is missing; export again")
    check(path, digest)
    if (path / HASH).read_bytes().hex() != description.get("sha256"):
        raise InputError(f"{path} is of another export than the info.json beside it; export again")


def check_functions(runtime: Runtime, functions: Mapping[str, Any]) -> None:
    """Raises InputError where a loaded asset does not have the functions that info.json describes, with their ports."""
    for name, description in functions.items():
        if name not in runtime.functions:
            raise InputError(f"{runtime.path} has no function {name}, which info.json describes; export again")
        ports = runtime.functions[name]
        info.check_ports(runtime.path, name, description, {**ports["inputs"], **ports["states"]}, ports["outputs"])


def run(
    content: Mapping[str, Any],
    paths: Mapping[str, Path],
    model: str,
    full: bool,
    report: Report,
    networks: Sequence[str] = (),
) -> Iterator[Check]:
    """Runs every function of the assets that `content_of` has returned, and yields the comparisons with MLX.

    full: run float16 at its own size, however long that takes. report(line) is called before anything runs. networks:
    the control networks of the export, where they do not lie where it found them. Raises InputError
    for assets that are damaged or of another model, Failure where a function is not what it should be.
    """
    availability.check()
    total = predicted(content, paths)
    report(f"{PLACE}, one thread: {speed.words(total)}")
    sd = StableDiffusion.load(model, "float32")
    roles = [function["role"] for name in paths for function in content["packages"][name]["functions"].values()]
    controls = control_networks.of_roles(roles, _options(content).control, networks, sd.model)
    if content["options"]["dtype"] == "float16" and total > PATIENCE and not full:
        yield from _twin(content, set(paths), sd, report, controls)
        return
    yield from _checks(content, paths, sd, controls)


def predicted(content: Mapping[str, Any], names: Any) -> float:
    """Predicts the seconds of one run of every function of the assets of those names."""
    attention = content["options"]["attention"]
    functions = (f for name in names for f in content["packages"][name]["functions"].values())
    return sum(speed.seconds(function, attention) for function in functions)


def _twin(
    content: Mapping[str, Any], names: set[str], sd: StableDiffusion, report: Report, controls: Sequence[ControlSource]
) -> Iterator[Check]:
    """Checks the same functions, written again for small pictures, in float16 where that is quick enough."""
    from .export import export  # that module checks nothing

    model = sd.model.name
    side = _SMALL * sd.vae.config.downsampling * sd.unet.config.downsampling
    for dtype in ("float16", "float32"):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary, "twin")
            compress = schemes.restore(content.get("compression"), sd.model.hash, Path(temporary, "bits.json"))
            options = replace(_options(content), dtype=dtype, sizes=((side, side),), compress=compress)
            twin = export(model, folder, options, report=lambda line: None, controls=controls)
            duration = predicted(twin, names)
            if dtype == "float16" and duration > PATIENCE:
                continue
            report(f"in their place twins of {side}x{side}, {dtype}: {speed.words(duration)}; --full runs them all")
            yield from _checks(twin, {name: folder / f"{name}{SUFFIX}" for name in names}, sd, controls)
            return


def _checks(
    content: Mapping[str, Any], paths: Mapping[str, Path], sd: StableDiffusion, controls: Sequence[ControlSource] = ()
) -> Iterator[Check]:
    attention = content["options"]["attention"]
    for name, path in paths.items():
        runtime = Runtime(path)
        check_functions(runtime, content["packages"][name]["functions"])
        plain: dict[str, dict[str, np.ndarray]] = {}  # size, as text -> outputs of the function full
        for function, description in content["packages"][name]["functions"].items():
            size = description.get("size")
            options = replace(_options(content), dtype="float32", sizes=((size[0], size[1]) if size else (None, None),))
            specs = specs_of(sd, options, controls)
            _check_shapes(path, function, description, specs)
            spec, feeds, expected = evaluation(sd, specs, description["role"], path, controls)
            duration = speed.seconds(description, attention)
            ports = runtime.functions[function]["inputs"]
            results = runtime.run(function, *_feeds(feeds, ports, description), duration)
            for port in spec.outputs:
                array = np.array(port.load(results[port.name]))
                yield compare(name, function, port.name, PLACE, array, expected[port.name])
            if description["role"] == "unet_full":
                plain[str(size)] = results
            elif description["role"] == "unet_refresh":
                if str(size) not in plain:
                    raise InputError(f"{path}: info.json describes no full that {function} equals; export again")
                _check_equal(path, function, results, plain[str(size)])
            elif description["role"] == "unet_shallow" and str(size) in plain:
                deep = feeds | {"deep_feature": plain[str(size)]["deep_feature"]}
                again = runtime.run(function, *_feeds(deep, ports, description), duration)
                _check_equal(path, function, again, plain[str(size)])
        runtime.close()


def _check_shapes(path: Path, function: str, description: Mapping[str, Any], specs: Mapping[str, FunctionSpec]) -> None:
    """Raises InputError where a function does not have the shapes that the model's function of its role has."""
    if (role := description["role"]) not in specs:
        return  # its evaluation says so
    spec, ports = specs[role], {**description["inputs"], **description["outputs"]}
    for port in (*spec.inputs, *spec.outputs):
        shape = ports.get(port.name, {"shape": "none"})["shape"]
        if shape != list(port.stored):
            raise InputError(
                f"{path}: {function} has {port.name} of {shape}, and {role} of this model and size has "
                f"{list(port.stored)}; is it of another model?"
            )


def _feeds(
    arrays: Mapping[str, np.ndarray], ports: Mapping[str, Any], description: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns a function's inputs in the types that it has, with zeros for its states, and the names of those."""
    feeds = {name: array.astype(ports[name][1]) if name in ports else array for name, array in arrays.items()}
    states = list(description["states"])
    for name in states:
        port = description["inputs"][name]
        feeds[name] = np.zeros(port["shape"], port["dtype"])
    return feeds, states


def _check_equal(path: Path, function: str, results: Mapping[str, np.ndarray], plain: Mapping[str, np.ndarray]) -> None:
    """Raises Failure where a function does not give exactly what full gives, from its own deep feature."""
    for name, array in results.items():
        if not np.array_equal(array, plain[name]):
            raise Failure(f"{path}: {function} does not equal full: {name} differs; export again, and report this")


def _options(content: Mapping[str, Any]) -> Options:
    """Returns the options of an export without sizes and compression; metadata of an asset has no nulls."""
    o, d = content["options"], defaults("coreai")
    return replace(
        d,
        dtype=o["dtype"],
        attention=o["attention"],
        unets=tuple(o["unets"]),
        branch=o["branch"],
        batch=o["batch"],
        stateful=o.get("stateful", False),
        control=tuple(o.get("control", ())),
    )
