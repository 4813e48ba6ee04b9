"""A fast BLAS, and a heap that keeps its pages, for MLX's CPU back end on Linux.

The Linux wheel of MLX links a reference BLAS, which is 60 times slower than an optimised one. A BLAS whose symbols are
global in the process before `mlx.core` is loaded takes its place. On macOS MLX uses Accelerate, and nothing is done.
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

# Of mkl_types.h: the best instructions of the processor, and sums that do not depend on the shape of the matrices
_MKL_CBWR_AUTO, _MKL_CBWR_STRICT = 2, 0x10000

_loaded: str | None = None
_late = False


def preload() -> str | None:
    """Loads a fast BLAS with global symbols and returns its name, or None where none is found.

    It must run before `mlx.core` is imported, which binds the symbols. It does nothing on other systems than Linux and
    with MLX_SD_BLAS=off; MLX_SD_BLAS=PATH names the library to load.
    """
    global _loaded, _late
    choice = os.environ.get("MLX_SD_BLAS", "")
    _late = _loaded is None and "mlx.core" in sys.modules
    if _loaded or _late or not sys.platform.startswith("linux") or choice == "off":
        return _loaded
    _keep_pages()
    for name in [choice] if choice else [*_mkl(), *_SYSTEM]:
        try:
            library = ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        _sum_alike(library)
        _loaded = name
        return name
    return None


def problem() -> str | None:
    """Returns one line on why this process has no fast BLAS and what to do about it, or None where it needs no more."""
    if _loaded or not sys.platform.startswith("linux"):
        return None
    return _LATE if _late else _MISSING


def _mkl() -> list[str]:
    try:
        Path.cwd()
    except OSError:  # the folder was removed, and MKL would end the process with a line of its own
        return []
    # The `mkl` wheel puts its libraries in the environment's lib folder, with the major version in the name.
    return [str(path) for path in sorted(Path(sys.prefix, "lib").glob("libmkl_rt.so*"), reverse=True)]


def _sum_alike(library: ctypes.CDLL) -> None:
    """Makes each row of MKL's products the same whatever the number of rows, where the processor has that mode.

    By default the last bits differ with it, and so with the batch. The mode is as fast. It is refused on processors
    without AVX2, and without effect on AMD's; the user's MKL_CBWR has precedence.
    """
    choose = getattr(library, "MKL_CBWR_Set", None)
    if choose is not None and "MKL_CBWR" not in os.environ:
        choose(_MKL_CBWR_AUTO | _MKL_CBWR_STRICT)


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
