"""Time and memory of converting Stable Diffusion 1.5 from a single file at full size: python -m bench conversion.

The weights are random, 4.3 GB of float32, and become float16. Copying the file and converting it take turns, each in a
process of its own, so that both meet the same load of the machine. Runs in a checkout only: the file is written with
the tests' helpers.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
from safetensors.numpy import save_file

from mlx_sd.core import command
from mlx_sd.core.embedded import TINY

from .. import arguments, results
from ..machine import describe
from ..models import SD15_TEXT, UNETS, VAE, random_weights
from ..process import run_command

_ROUNDS = 3
_WRITE = "import sys; from pathlib import Path; from bench.memory.conversion import write; write(Path(sys.argv[1]))"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    p = arguments.parser("conversion", __doc__)
    arguments.add_json(p)
    p.add_argument("--dir", type=Path, help="where the files go, 11 GB of them for a while (default: the system's)")
    options = p.parse_args(argv)
    return command.run("bench conversion", lambda: _conversion(options.dir, options.json))


def write(file: Path, seed: int = 0) -> None:
    """Writes Stable Diffusion 1.5's shapes with random float32 weights as one file in LDM names (4.3 GB)."""
    from tests.support import singles  # of the checkout: the tests write such files without the converter's own tables

    configs = {"text_encoder": SD15_TEXT, "unet": {"layers_per_block": 2} | UNETS["sd15"], "vae": VAE}
    rng = np.random.default_rng(seed)
    weights = {part: random_weights(part, config, rng) for part, config in configs.items()}
    save_file(singles.arrays("sd1", configs, weights), file, {"format": "pt"})


def _conversion(home: Path | None, output: Path | None) -> None:
    with tempfile.TemporaryDirectory(dir=home) as name:
        file, copy, out = Path(name, "sd15.safetensors"), Path(name, "copy"), Path(name, "out")
        run_command(sys.executable, "-c", _WRITE, str(file))
        size = file.stat().st_size
        rounds: dict[str, list[dict[str, float]]] = {"copy": [], "convert": []}
        for _ in range(_ROUNDS):
            rounds["copy"].append(run_command("cp", str(file), str(copy)))
            del rounds["copy"][-1]["peak_bytes"]  # of this process, with which the count began
            copy.unlink()
            flags = ["--tokenizer", str(TINY / "tokenizer"), "--dtype", "float16", "--out", str(out)]
            rounds["convert"].append(run_command(sys.executable, "-m", "convert", "--model", str(file), *flags))
            run_command("rm", "-r", str(out))
    seconds = {name: median(usage["seconds"] for usage in usages) for name, usages in rounds.items()}
    values: results.Results = {
        "model": "sd15, single file, float32 to float16",
        "bytes": size,
        "rounds": rounds,
        "convert_over_copy": round(seconds["convert"] / seconds["copy"], 2),
        "peak_bytes": max(usage["peak_bytes"] for usage in rounds["convert"]),
        "machine": describe(),
    }
    results.report(values, output)


if __name__ == "__main__":
    sys.exit(main())
