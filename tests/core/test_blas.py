"""On Linux MLX's matrix products go to the preloaded BLAS, and a warning names a missing or a late one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="macOS needs no BLAS of ours")


def _run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )


@linux
def test_mlx_binds_sgemm_to_the_preloaded_library():
    """The dynamic linker itself says which library libmlx's cblas_sgemm went to."""
    ask = "from mlx_sd import blas; print(blas.preload())"
    loaded = _run(ask).stdout.strip()
    if loaded == "None":
        pytest.skip("no fast BLAS on this machine")
    bindings = _run("import mlx_sd, mlx.core", LD_DEBUG="bindings").stderr.splitlines()
    sgemm = [line for line in bindings if "`cblas_sgemm'" in line and "libmlx.so" in line.split(" to ")[0]]
    assert sgemm, "libmlx has no cblas_sgemm to bind: MLX's CPU back end has changed"
    assert all(Path(loaded).name in line.split(" to ")[1] for line in sgemm), sgemm


@linux
def test_a_missing_blas_is_named_once_with_the_way_out():
    code = "import mlx_sd; mlx_sd.StableDiffusion.load()"
    stderr = _run(code, MLX_SD_BLAS="/no/such/library.so").stderr
    assert stderr.count("60 times slower") == 1
    assert "mlx-sd[cpu]" in stderr


@linux
def test_a_late_import_is_named():
    stderr = _run("import mlx.core, mlx_sd; mlx_sd.StableDiffusion.load()").stderr
    assert "import mlx_sd first" in stderr


_ROWS = """
import ctypes, mlx_sd
from mlx_sd.core import blas
import mlx.core as mx
library = ctypes.CDLL(blas.preload()) if blas.preload() else None
if not hasattr(library, "MKL_CBWR_Get") or not library.MKL_CBWR_Get(-1) & 0x10000:
    print("none")
else:
    for inner, outer in ((27, 32), (128, 32), (320, 1280), (576, 64)):
        x, weight = mx.random.normal((308, inner)), mx.random.normal((outer, inner))
        all_rows = x @ weight.T
        parts = (n for n in (1, 2, 3, 5, 8, 12, 77, 154) if not mx.array_equal(x[:n] @ weight.T, all_rows[:n]))
        print(*parts)
"""


def _is_intel() -> bool:
    return "GenuineIntel" in Path("/proc/cpuinfo").read_text(encoding="utf-8")


@linux
def test_a_row_of_a_product_is_the_same_whatever_the_number_of_rows():
    """Else the last bits of a picture would depend on the batch, and on how many processes share it."""
    differing = _run(_ROWS).stdout
    if differing == "none\n":
        pytest.skip("no MKL, or a processor without the mode")
    # Elsewhere MKL takes the mode and does not follow it; `networks/few_rows.py` knows which rows then differ.
    assert {*differing.split()} <= (set() if _is_intel() else {"1", "2", "3"})
    assert _run(_ROWS, MKL_CBWR="COMPATIBLE").stdout == "none\n"  # the user's choice has precedence


@linux
def test_large_arrays_reuse_their_pages():
    """A 64 MB result written a hundred times faults its pages in once, not a hundred times."""
    code = (
        "import {first} mlx.core as mx, resource\n"
        "a = mx.ones((1 << 24,)); mx.eval(a)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(100): mx.eval(a * a)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    pages = (1 << 26) // os.sysconf("SC_PAGE_SIZE")
    faults = int(_run(code.format(first="mlx_sd,")).stdout)
    assert faults < 3 * pages, f"{faults} page faults for {pages} pages"
