"""The command mlx-sd doctor: prints what a report of a problem needs, and nothing private."""

import argparse
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

from .. import model_list
from ..core import blas, command
from ..core.parser import Parser, program
from ..core.places import cache_folder, free_space, hub_folder, shown
from ..core.version import VERSION
from .model_command import size

NAME = "doctor"
_LIBRARIES = ("mlx", "numpy", "scipy", "safetensors", "tokenizers", "huggingface_hub", "Pillow", "coremltools")
_VARIABLES = ("MLX_SD_", "HF_HOME", "HF_HUB_", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def parser() -> Parser:
    """Returns the parser, which takes no options."""
    return Parser(
        prog=program(NAME),
        description="Print what a report of a problem needs: versions, device, memory, disk, cache. The home folder is "
        "shown as ~; names of users, hosts and tokens are not shown.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    parser().parse_args(argv)
    return command.run(f"mlx-sd {NAME}", _report)


def _report() -> None:
    facts = list(_facts())
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        print(f"{name:{width}}  {value}")


def _facts() -> Iterator[tuple[str, str]]:
    """Yields names of facts and their values."""
    yield "mlx-sd", f"{VERSION}, {'wheel' if 'site-packages' in __file__ else 'checkout'}"
    yield "Python", f"{platform.python_version()} ({platform.python_implementation()})"
    yield "system", _system()
    yield "libraries", ", ".join(f"{name} {_version(name)}" for name in _LIBRARIES)
    yield "device", _device()
    yield "BLAS", _blas()
    yield "memory", _memory()
    for name, folder in (("cache", cache_folder()), ("hub's cache", hub_folder())):
        yield name, f"{shown(folder)}{'' if folder.is_dir() else ', not made yet'}, {_free(folder)}"
    yield "tuning", _tuning()
    yield "here", _free(Path.cwd())
    models = model_list.entries()
    yield (
        "models",
        ", ".join(f"{sum(m.place == place for m in models)} {place}" for place in ("cache", "hub", "embedded")),
    )
    variables = [name for name in sorted(os.environ) if name.startswith(_VARIABLES) and "TOKEN" not in name]
    yield "environment", ", ".join(f"{name}={shown(os.environ[name])}" for name in variables) or "nothing set"
    yield "text", f"{sys.stdout.encoding}, {'terminal' if sys.stdout.isatty() else 'no terminal'}"


def _system() -> str:
    if sys.platform == "darwin":
        return f"macOS {platform.mac_ver()[0]}, {platform.machine()}"
    return f"{platform.system()} {platform.release().partition('-')[0]}, {platform.machine()}"


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "missing"


def _device() -> str:
    cores = f"{os.cpu_count()} CPU cores"
    try:
        import mlx.core as mx

        if mx.default_device() == mx.cpu:
            return f"the CPU, {cores}"
        about = mx.device_info()
        return f"the GPU, {about.get('device_name', 'unknown')}, {cores}"
    except Exception as error:  # whatever is wrong with MLX is a fact to report
        return f"MLX does not work: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}; {cores}"


def _blas() -> str:
    if sys.platform == "darwin":
        return "Accelerate"
    return shown(library) if (library := blas.preload()) else f"none: {blas.problem()}"


def _tuning() -> str:
    """What mlx-sd tune has measured here."""
    try:
        from ..tuning import record

        entries = record.of_this_machine(record.read(record.path()))
    except Exception as error:  # a damaged file, or whatever is wrong with MLX, is a fact to report
        return str(error).splitlines()[0] if str(error) else type(error).__name__
    sizes = [f"{key['family']} {key['width']} x {key['height']} {key['dtype']}" for key in (e.key for e in entries)]
    return ", ".join(sizes) or "nothing measured with these versions; mlx-sd tune does that"


def _memory() -> str:
    page, total = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_PHYS_PAGES")
    free = os.sysconf("SC_AVPHYS_PAGES") if "SC_AVPHYS_PAGES" in os.sysconf_names else None
    return f"{size(page * total)}" + (f", {size(page * free)} free" if free else "")


def _free(folder: Path) -> str:
    return f"{size(free_space(folder))} of disk free"
