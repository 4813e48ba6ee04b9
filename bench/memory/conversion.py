"""Time and memory of converting Stable Diffusion 1.5 from a single file at full size: python -m bench conversion.

The weights are random, 4.3 GB of float32, and become float16. Copying the file and
converting it take turns, each in a process of its own, so that both meet the same machine.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
from safetensors.numpy import save_file

from mlx_sd.checkpoint.model_folder import TINY
from mlx_sd.core import command
from mlx_sd.core.errors import Failure
from tests.support import singles

from .. import results
from ..machine import describe
from ..models import SD15_TEXT, UNETS, VAE, random_weights

_ROUNDS = 3
_WRITE = "import sys; from pathlib import Path; from bench.memory.conversion import write; write(Path(sys.argv[1]))"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    p = command.Parser(
        prog="python -m bench conversion", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    p.add_argument("--dir", type=Path, help="where the files go, 11 GB of them for a while (default: the system's)")
    arguments = p.parse_args(argv)
    return command.run("bench conversion", lambda: _conversion(arguments.dir, arguments.json))


def write(file: Path, seed: int = 0) -> None:
    """Writes Stable Diffusion 1.5's shapes with random float32 weights as one file in LDM names (4.3 GB)."""
    configs = {"text_encoder": SD15_TEXT, "unet": {"layers_per_block": 2} | UNETS["sd15"], "vae": VAE}
    rng = np.random.default_rng(seed)
    weights = {part: random_weights(part, config, rng) for part, config in configs.items()}
    save_file(singles.arrays("sd1", configs, weights), file, {"format": "pt"})


def _conversion(home: Path | None, output: Path | None) -> None:
    with tempfile.TemporaryDirectory(dir=home) as name:
        file, copy, out = Path(name, "sd15.safetensors"), Path(name, "copy"), Path(name, "out")
        _run(sys.executable, "-c", _WRITE, str(file))
        size = file.stat().st_size
        rounds: dict[str, list[dict[str, float]]] = {"copy": [], "convert": []}
        for _ in range(_ROUNDS):
            rounds["copy"].append(_run("cp", str(file), str(copy)))
            del rounds["copy"][-1]["peak_bytes"]  # of this process, which it began as
            copy.unlink()
            flags = ["--tokenizer", str(TINY / "tokenizer"), "--dtype", "float16", "--out", str(out)]
            rounds["convert"].append(_run(sys.executable, "-m", "convert", "--model", str(file), *flags))
            _run("rm", "-r", str(out))
    seconds = {name: median(r["seconds"] for r in found) for name, found in rounds.items()}
    found: results.Results = {
        "model": "sd15, single file, float32 to float16",
        "bytes": size,
        "rounds": rounds,
        "convert_over_copy": round(seconds["convert"] / seconds["copy"], 2),
        "peak_bytes": max(r["peak_bytes"] for r in rounds["convert"]),
        "machine": describe(),
    }
    results.report(found, output)


def _run(*call: str) -> dict[str, float]:
    """Wall and processor seconds of a command, and its peak resident bytes."""
    clock = time.perf_counter()
    child = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise Failure(f"{' '.join(call)} failed")
    peak = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)  # macOS counts bytes
    seconds, busy = time.perf_counter() - clock, used.ru_utime + used.ru_stime
    return {"seconds": round(seconds, 2), "processor_seconds": round(busy, 2), "peak_bytes": peak}


if __name__ == "__main__":
    sys.exit(main())
