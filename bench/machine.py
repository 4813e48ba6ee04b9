"""The machine of a measurement: device, processor, versions and threads."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_sd.core import blas
from mlx_sd.core.errors import InputError


def use(device: str | None) -> None:
    """Makes "cpu" or "gpu" MLX's device, None leaves it; InputError where MLX does not have it."""
    if device is None:
        return
    if not mx.is_available(getattr(mx, device)):
        raise InputError(f"MLX has no {device} here; leave out --device")
    mx.set_default_device(getattr(mx, device))


def describe() -> dict[str, Any]:
    """Returns machine, versions and BLAS, as every results file records them."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": str(mx.default_device()),
        "python": platform.python_version(),
        "mlx": version("mlx"),
        "mlx_sd": version("mlx-sd"),
        "blas": Path(blas.preload() or "none").name,
        "threads": threads(),
    }


def threads() -> int:
    """Returns the number of threads of the BLAS under MLX: its environment variable, or else the cores."""
    variables = (os.environ.get(f"{library}_NUM_THREADS") for library in ("MKL", "OPENBLAS", "OMP"))
    return int(next(filter(None, variables), os.cpu_count() or 1))


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
