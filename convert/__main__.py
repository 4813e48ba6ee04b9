"""The command line: python -m convert --model X --out DIR."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mlx.nn import Module

from mlx_sd import command, quantization
from mlx_sd.errors import InputError
from mlx_sd.files import read_json
from mlx_sd.load import DTYPES, TINY, build
from mlx_sd.lora import Lora

from . import checkpoint, hub, lora, write
from .describe import describe

NAME = "convert"

_EXAMPLES = """examples:
  python -m convert --model stabilityai/stable-diffusion-2-1 --out models/sd21 --dtype float16
  python -m convert --model ~/checkpoints/my-diffusers-folder --out models/mine
  python -m convert --model tiny --lora style.safetensors:0.8 --lora owner/name --out models/styled
  python -m convert --model stabilityai/stable-diffusion-2-1 --quantize unet=4,text_encoder=8 --out models/sd21-small
  python -m convert --inspect style.safetensors
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    p = command.Parser(
        prog=f"python -m {NAME}",
        description="Convert a Hugging Face checkpoint into a model folder for mlx_sd.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--model", help='a diffusers folder, a hub id, or "tiny" (the embedded checkpoint)')
    p.add_argument("--out", type=Path, metavar="DIR", help="the folder to write; must not exist")
    p.add_argument("--dtype", choices=tuple(DTYPES), help="of the weights (default: as they are stored)")
    p.add_argument("--variant", help="which variant of the files to read, for example fp16")
    p.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="PATH[:SCALE]",
        help="merge a LoRA, LoHa, LoKr, DoRA ...: a safetensors file, a folder or a hub id; may be repeated",
    )
    p.add_argument(
        "--quantize",
        metavar="BITS[:GROUP]",
        help="the UNet's linear layers in 4 or 8 bits, groups of 32, 64 (default) or 128; or NETWORK=BITS[:GROUP],...",
    )
    p.add_argument("--inspect", metavar="FILE", help="say what a safetensors file is; with --model, whether it fits")
    arguments = p.parse_args(argv)
    if arguments.inspect is None and None in (arguments.model, arguments.out):
        p.error("give --model and --out, or --inspect")
    return command.run(NAME, lambda: _inspect(arguments) if arguments.inspect else _convert(arguments))


def _convert(arguments: argparse.Namespace) -> None:
    if arguments.out.exists():  # before anything is downloaded
        raise InputError(f"{arguments.out} exists; choose another name or remove it first")
    if arguments.quantize:
        quantization.parse(arguments.quantize)
    adapters = lora.read(Lora.parse(text) for text in arguments.lora)
    source = checkpoint.read(_folder(arguments), arguments.variant)
    dtype = arguments.dtype and DTYPES[arguments.dtype]
    about = {"model": arguments.model}
    for remark in write.write(source, arguments.out, about, dtype, adapters, arguments.quantize):
        print(f"{NAME}: {remark}", file=sys.stderr)
    print(arguments.out)


def _inspect(arguments: argparse.Namespace) -> None:
    networks = None if arguments.model is None else _networks(_folder(arguments), arguments.variant)
    for line in describe(arguments.inspect, arguments.model, networks):
        print(line)


def _networks(folder: Path, variant: str | None) -> dict[str, Module]:
    if (folder / "model.json").is_file():
        configs = read_json(folder / "model.json").get("networks", {})
    else:
        configs = {part: found.config for part, found in checkpoint.read(folder, variant).components.items()}
    return {part: build(part, config, f"{folder}: {part}") for part, config in configs.items()}


def _folder(arguments: argparse.Namespace) -> Path:
    folder = TINY if arguments.model == "tiny" else Path(arguments.model).expanduser()
    if not folder.exists() and hub.is_id(arguments.model):
        folder = hub.fetch(arguments.model, arguments.variant)
    return folder


if __name__ == "__main__":
    sys.exit(main())
