"""Memory and time of converting, loading and stepping full-size models: python -m bench footprint.

The weights are random. Each stage runs in a process of its own, whose peak resident memory is then read. "read" is
MLX's own reading of the same files, which no loading can be faster than. Without --step nothing is computed: with
float16 on a CPU an evaluation of SDXL takes very long.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mlx_sd.core import command
from mlx_sd.core.files import tensors

from .. import arguments, models, process, results
from ..machine import describe

_READ = (
    "import mlx.core as mx; from pathlib import Path; "
    "arrays = [mx.load(str(file)) for file in Path(folder).glob('*.safetensors')]; mx.eval(arrays)"
)
_LOAD = "from mlx_sd import StableDiffusion; sd = StableDiffusion.load(folder, dtype{}); "
_STEP = "sd.generate('a red tent', steps=1, seed=0, output='latent')"
_STAGES = {
    "write": "from pathlib import Path; from bench import models; models.write(model, Path(checkpoint), dtype)",
    "convert": "from convert.__main__ import main; main(['--model', checkpoint, '--out', folder])",
    "read": _READ,
    "load": _LOAD.format(""),
    "load, low memory": _LOAD.format(", low_memory=True"),
}
_WITH_STEPS = {
    "load and step": _LOAD.format("") + _STEP,
    "load and step, low memory": _LOAD.format(", low_memory=True") + _STEP,
}
_EXAMPLES = """examples:
  python -m bench footprint --step --json bench/results/footprint-sd15-cpu.json
  python -m bench footprint --model sdxl --dtype float16 --json bench/results/footprint-sdxl-cpu.json
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    p = arguments.parser("footprint", __doc__, _EXAMPLES)
    p.add_argument("--model", choices=tuple(models.NAMES), default="sd15", help="of random weights")
    p.add_argument("--dtype", choices=("float16", "float32"), default="float32", help="of the weights")
    p.add_argument("--step", action="store_true", help="also take one step, at the model's size")
    arguments.add_json(p)
    options = p.parse_args(argv)
    return command.run("bench footprint", lambda: results.report(_measure(options), options.json))


def _measure(options: argparse.Namespace) -> results.Results:
    codes = _STAGES | (_WITH_STEPS if options.step else {})
    with tempfile.TemporaryDirectory() as home:
        checkpoint, folder = Path(home, "checkpoint"), Path(home, "folder")
        head = f"model, dtype, checkpoint, folder = {options.model!r}, {options.dtype!r}, {str(checkpoint)!r}, "
        head += f"{str(folder)!r}; "
        usages = {name: process.run(head + code) for name, code in codes.items()}
        weights = sum(t.end - t.start for file in folder.glob("*.safetensors") for t in tensors(file))
    stages = {
        name: {
            "seconds": usage.seconds,
            "peak_bytes": usage.peak_bytes,
            "peak_over_weights": round(usage.peak_bytes / weights, 3),
        }
        for name, usage in usages.items()
    }
    model = f"{options.model}, {options.dtype}"
    return {"model": model, "weights_bytes": weights, "stages": stages, "machine": describe()}


if __name__ == "__main__":
    sys.exit(main())
