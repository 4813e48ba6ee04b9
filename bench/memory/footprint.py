"""Memory and time of converting, loading and stepping Stable Diffusion 1.5 at full size: python -m bench footprint.

The weights are random. Each stage runs in a process of its own, whose peak resident memory is then read.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mlx_sd.core.files import tensors

from .. import arguments, process, results

_STAGES = {
    "write": "from pathlib import Path; from bench import models; models.write('sd15', Path(checkpoint))",
    "convert": "from convert.__main__ import main; main(['--model', checkpoint, '--out', folder])",
    "load": "from mlx_sd import StableDiffusion; StableDiffusion.load(folder, 'float32')",
    "load and step": (
        "from mlx_sd import StableDiffusion; sd = StableDiffusion.load(folder, 'float32'); "
        "sd.generate('a red tent', steps=1, seed=0, output='latent')"
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    return arguments.run_measurement("footprint", __doc__, _measure, argv)


def _measure() -> results.Results:
    with tempfile.TemporaryDirectory() as home:
        checkpoint, folder = Path(home, "checkpoint"), Path(home, "folder")
        head = f"checkpoint, folder = {str(checkpoint)!r}, {str(folder)!r}; "
        usages = {name: process.run(head + code) for name, code in _STAGES.items()}
        weights = sum(t.end - t.start for file in folder.glob("*.safetensors") for t in tensors(file))
    stages = {
        name: {
            "seconds": usage.seconds,
            "peak_bytes": usage.peak_bytes,
            "peak_over_weights": round(usage.peak_bytes / weights, 3),
        }
        for name, usage in usages.items()
    }
    return {"model": "sd15, float32, 512 x 512, guided", "weights_bytes": weights, "stages": stages}


if __name__ == "__main__":
    sys.exit(main())
