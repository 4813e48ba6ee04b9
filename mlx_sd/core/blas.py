"""Linux only: a fast BLAS and a heap that keeps its pages, under MLX's CPU back end.

The Linux wheel of MLX links a reference BLAS, 60 times slower than a real one. A BLAS whose symbols are
global in the process before `mlx.core` is loaded takes its place. macOS needs none of this.
"""

import ctypes
import os
import sys
from pathlib import Path

_MISSING = (
    "no fast BLAS found, the CPU will be about 60 times slower than it can be; install one with "
    "`pip install 'mlx-sd[cpu]'` (x86-64) or your system's libopenblas"
)
_LATE = (
    "mlx.core was imported before mlx_sd, too late for a fast BLAS: the CPU will be about 60 times slower than it can "
    "be; import mlx_sd first"
)

_SYSTEM = ("libopenblas.so.0", "libopenblas.so", "libblis.so.4")

# glibc's mallopt parameters (malloc.h)
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8

_loaded: str | None = None
_late = False


def preload() -> str | None:
    """Loads a BLAS for MLX's CPU back end with global symbols and returns its name, or None where there is none.

    Must run before `mlx.core` is imported: symbols are bound there and then. Does nothing off Linux and where
    MLX_SD_BLAS=off; MLX_SD_BLAS=PATH names the library to load.
    """
    global _loaded, _late
    choice = os.environ.get("MLX_SD_BLAS", "")
    _late = _loaded is None and "mlx.core" in sys.modules
    if _loaded or _late or not sys.platform.startswith("linux") or choice == "off":
        return _loaded
    _keep_pages()
    for name in [choice] if choice else [*_mkl(), *_SYSTEM]:
        try:
            ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        _loaded = name
        return name
    return None


def problem() -> str | None:
    """One line on why this process computes on Linux without a fast BLAS and what to do, or None where all is well."""
    if _loaded or not sys.platform.startswith("linux"):
        return None
    return _LATE if _late else _MISSING


def _mkl() -> list[str]:
    # The `mkl` wheel puts its libraries in the environment's lib folder, with the major version in the name.
    return [str(path) for path in sorted(Path(sys.prefix, "lib").glob("libmkl_rt.so*"), reverse=True)]


def _keep_pages() -> None:
    # By default every large array is a fresh mapping whose pages fault in one by one: up to 6 times the cost
    # of an elementwise operation. One arena, no mappings and no trimming keep the pages in the process.
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # not glibc
        return
    mallopt(_M_ARENA_MAX, 1)
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
