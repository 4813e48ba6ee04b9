"""Which bits does each layer of a UNet get?  python -m coreml bits --model M --bits 4 --out bits.json

The output's sensitivity to each weight is measured on inputs of real generations. Then each layer gets a palette of 1
to 8 bits, or stays as it is, so that the error of the output is least at the bytes of uniform palettes.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlx_sd import StableDiffusion
from mlx_sd.core import command
from mlx_sd.core.errors import InputError
from mlx_sd.core.files import atomic_file, check_writable
from mlx_sd.core.parser import Parser, program
from mlx_sd.core.version import VERSION as PROGRAM
from mlx_sd.spellings import parse_size

from .networks import weights_of
from .schemes import MIXED, MIXED_VERSION, PALETTE_BITS
from .search import Choice, allocate, budget, choices
from .sensitivity import Sensitivity, measure, spread, trajectory

# Those that the embedded checkpoint was trained on, and those that other checkpoints know.
PROMPTS = (
    "a red tent in the center on green grass, under a clear day sky",
    "a sailboat with blue sails on the left on the blue sea, under a sunset sky",
    "a snowman on white snow, a night sky",
    "a green cactus on the right on yellow sand, under a stormy sky",
    "a house with a yellow roof on the right on white snow, snowy mountains, a small moon on the left",
    "a pink lighthouse in the center on a calm sea, white clouds, under a bright blue sky",
    "a photo of a cat on a sofa",
    "portrait of an old sailor, oil on canvas",
    "a bowl of fruit, studio light",
    "a street in the rain at night, neon signs",
    "a castle on a hill, watercolour",
    "macro photo of a dew drop on a leaf",
)
STEPS, INPUTS, SEED = 8, 32, 0
_SYSTEMS = {"iOS16": (1, 2, 4, 6, 8), "iOS17": (1, 2, 4, 6, 8), "iOS18": PALETTE_BITS}  # palettes that these have

_EXAMPLES = """examples:
  python -m coreml bits --model tiny --bits 4 --out bits.json
  python -m coreml --model tiny --compress bits.json --target iOS18 --out Resources4
"""


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the search's options."""
    p = Parser(
        prog=f"{program('coreml')} bits",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "--model", default="tiny", help="as python -m mlx_sd.generate takes it (default: the embedded model)"
    )
    p.add_argument("--bits", type=float, default=4.0, help="of uniform palettes, whose bytes are the limit (default 4)")
    p.add_argument("--out", type=Path, required=True, metavar="FILE", help="the file, NAME.json")
    p.add_argument("--force", action="store_true", help="replace FILE")
    p.add_argument("--target", choices=tuple(_SYSTEMS), default="iOS18", help="3 bits need iOS18, the default")
    p.add_argument("--prompts", type=Path, metavar="FILE", help="one prompt a line (default: 12 prompts)")
    p.add_argument("--steps", type=int, default=STEPS, help=f"of each generation, default {STEPS}")
    p.add_argument("--inputs", type=int, default=INPUTS, help=f"evaluations that are measured, default {INPUTS}")
    p.add_argument("--size", metavar="WxH", help="of the pictures, in pixels (default: the model's); smaller is faster")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    arguments = parser().parse_args(argv)
    return command.run("coreml bits", lambda: _search(arguments))


def _search(arguments: argparse.Namespace) -> None:
    out: Path = arguments.out
    if out.suffix != ".json":
        raise InputError(f"--out {out}: the file is NAME.json, as --compress takes it")
    if out.exists() and not arguments.force:
        raise InputError(f"{out} exists; --force replaces it")
    check_writable(out.parent, "--out", must_exist=True)
    if arguments.steps < 1 or arguments.inputs < 1:
        raise InputError(f"--steps and --inputs must be at least 1, not {arguments.steps} and {arguments.inputs}")
    size = parse_size(arguments.size) if arguments.size else None
    prompts = _prompts(arguments.prompts) if arguments.prompts else list(PROMPTS)
    sd = StableDiffusion.load(arguments.model, "float32")
    if sd.model.tokens:
        raise InputError(
            f"{arguments.model}: bits are measured on latents, and its pictures are tokens; see --compress"
        )
    sizes = {name: array.size for name, array in weights_of(sd.unet).items()}
    limit = budget(sizes, arguments.bits)
    inputs = spread(list(trajectory(sd, prompts, arguments.steps, SEED, size)), arguments.inputs)
    selected = search(sizes, measure(sd.unet, inputs), limit, _SYSTEMS[arguments.target])
    content = describe(sd.model.name, sd.model.hash, selected, arguments.bits, limit)
    content["measured_on"] = {"prompts": prompts, "steps": arguments.steps, "inputs": len(inputs), "seed": SEED}
    with atomic_file(out) as file:
        file.write((json.dumps(content, indent=1) + "\n").encode())
    print(out)


def search(
    sizes: dict[str, int], sensitivities: dict[str, Sensitivity], limit: int, bits: Sequence[int] = PALETTE_BITS
) -> dict[str, Choice]:
    """Returns the choice for each weight, by its size in numbers and its sensitivity; limit: bytes of all together."""
    return allocate({name: choices(size, sensitivities[name], bits) for name, size in sizes.items()}, limit)


def describe(name: str, model_hash: str, selected: dict[str, Choice], bits: float, limit: int) -> dict[str, Any]:
    """Returns the content of a file that `schemes.mixed` reads. bits, limit: of the uniform palettes."""
    return {
        "format": MIXED,
        "version": MIXED_VERSION,
        "made_by": f"mlx-sd {PROGRAM}",
        "model": {"name": name, "hash": model_hash},
        "bits": bits,
        "limit": limit,
        "bytes": sum(choice.bytes for choice in selected.values()),
        "others": f"palettize{min(number for number in PALETTE_BITS if number >= bits)}",
        "layers": {name: choice._asdict() for name, choice in selected.items()},
    }


def _prompts(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--prompts {file}: {getattr(error, 'strerror', None) or 'it is not UTF-8'}") from None
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise InputError(f"--prompts {file}: there is no prompt in it")
    return prompts
