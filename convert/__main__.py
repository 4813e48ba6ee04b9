"""The command line: python -m convert --model X --out DIR."""

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
from mlx.nn import Module

from mlx_sd.checkpoint.lora import Lora
from mlx_sd.checkpoint.model import DTYPES
from mlx_sd.checkpoint.model_folder import build, read_model_json
from mlx_sd.core import command
from mlx_sd.core.embedded import CHECKPOINTS, place
from mlx_sd.core.errors import InputError
from mlx_sd.core.parser import Parser, program
from mlx_sd.networks import quantization

from . import verify
from .adapters.merge import open_adapters
from .inspection import describe
from .sources.checkpoint import SourceOptions
from .sources.open_checkpoint import open_checkpoint
from .sources.single_file_kinds import KINDS, PREDICTIONS
from .writers.diffusers_folder import write_diffusers_folder
from .writers.model_folder import write_model_folder

NAME = "convert"

_OPTIONS = tuple(field.name for field in dataclasses.fields(SourceOptions))

_KINDS = "\n".join(f"  {name:<14}{kind.title}" for name, kind in KINDS.items())
_EXAMPLES = f"""examples:
  python -m convert --model stabilityai/stable-diffusion-2-1 --out models/sd21 --dtype float16
  python -m convert --model ~/checkpoints/my-diffusers-folder --out models/mine
  python -m convert --model dreamy.safetensors --vae vae-ft-mse.safetensors --out models/dreamy
  python -m convert --model dreamy.safetensors --lora style.safetensors:0.8 --lora owner/name --out models/styled
  python -m convert --model stabilityai/stable-diffusion-2-1 --quantize unet=4,text_encoder=8 --out models/sd21-small
  python -m convert --model models/dreamy --to diffusers --out folders/dreamy
  python -m convert --inspect style.safetensors
  python -m convert --verify models/dreamy

kinds of single files (found from names and shapes; only turbo cannot be told from the others):
{_KINDS}
"""


def parser() -> argparse.ArgumentParser:
    """Returns the parser of all options."""
    p = Parser(
        prog=program(NAME),
        description="Convert a Stable Diffusion checkpoint into a model folder for mlx_sd, or back.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    model = p.add_argument(
        "--model",
        help="a diffusers folder, a single .safetensors file, a hub id, or an embedded one: "
        "tiny, tiny-classes, tiny-tokens",
    )
    p.add_spellings(model, aliases="m")
    out = p.add_argument("--out", type=Path, metavar="DIR", help="the folder to write; must not exist")
    p.add_spellings(out, aliases="o output")
    p.add_argument("--to", choices=("mlx", "diffusers"), default="mlx", help="what to write (default: mlx)")
    p.add_argument("--verify", type=Path, metavar="DIR", help="check a converted folder instead")
    p.add_argument("--inspect", metavar="FILE", help="describe a safetensors file; with --model, say whether it fits")
    p.add_argument("--dtype", choices=tuple(DTYPES), help="of the weights (default: as they are stored)")
    p.add_argument("--variant", help="prefer this variant of a folder's files where it has one, as fp16")
    p.add_argument("--vae", type=Path, metavar="PATH", help="another VAE: a file or a folder")
    p.add_argument("--text-encoder", type=Path, metavar="PATH", help="another text encoder: a file or a folder")
    p.add_argument("--text-encoder-2", type=Path, metavar="PATH", help="SDXL's second")
    p.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="PATH[:SCALE[:W,W,...]]",
        help="merge a LoRA, LoHa, LoKr, DoRA ...: a safetensors file, a folder or a hub id; may be repeated",
    )
    p.add_argument("--lora-folder", metavar="DIR", help="where LoRAs given by name lie (default: MLX_SD_LORAS)")
    p.add_argument(
        "--lora-strict", action="store_true", help="a LoRA that fits the model only in part is an error, not a warning"
    )
    bits = p.add_argument(
        "--quantize",
        metavar="BITS[:GROUP]",
        help="the UNet's linear layers in 4 or 8 bits, groups of 32, 64 (default) or 128; or NETWORK=BITS[:GROUP],...",
    )
    p.add_spellings(bits, aliases="q")
    single = p.add_argument_group("single files")
    single.add_argument("--kind", choices=tuple(KINDS), metavar="KIND", help="see below (default: by names and shapes)")
    single.add_argument("--prediction", choices=PREDICTIONS, help="what the UNet predicts (default: from the file)")
    single.add_argument("--ema", action="store_true", help="the averaged weights, where the file has both")
    single.add_argument(
        "--tokenizer", type=Path, metavar="DIR", help="CLIP's vocab.json and merges.txt (default: from the hub)"
    )
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    p = parser()
    arguments = p.parse_args(argv)
    mode = "verify" if arguments.verify is not None else "inspect" if arguments.inspect is not None else None
    if mode is not None:
        taken = ("verify",) if mode == "verify" else ("inspect", "model", *_OPTIONS)
        for name, value in vars(arguments).items():
            if name not in taken and value != p.get_default(name):
                p.error(f"--{mode} takes no --{name.replace('_', '-')}; leave it out")
    if arguments.verify is not None:
        return command.run(NAME, lambda: print(verify.verify(arguments.verify)))
    if arguments.inspect is not None:
        return command.run(NAME, lambda: _inspect(arguments))
    if not (arguments.model and arguments.out):
        p.error("give --model and --out, --inspect or --verify")
    return command.run(NAME, lambda: _convert(arguments))


def _convert(arguments: argparse.Namespace) -> None:
    out: Path = arguments.out
    if out.exists():  # before anything is downloaded
        raise InputError(f"{out} exists; choose another name or remove it first")
    options = _options(arguments)
    folder = Path(arguments.model).expanduser()
    if arguments.to == "mlx":
        _write(arguments, options, out)
    elif arguments.quantize:
        raise InputError("diffusers does not read what --quantize writes; leave it out with --to diffusers")
    elif (folder / "model.json").is_file():
        if options != SourceOptions() or arguments.lora:
            raise InputError(f"{folder} is converted already; of the options only --dtype can be given with it")
        write_diffusers_folder(folder, out, _dtype(arguments))
    else:
        with tempfile.TemporaryDirectory(dir=out.absolute().parent if out.parent.is_dir() else None) as home:
            _write(arguments, options, Path(home, "model"))
            write_diffusers_folder(Path(home, "model"), out)
    print(out)


def _write(arguments: argparse.Namespace, options: SourceOptions, out: Path) -> None:
    if arguments.quantize:
        quantization.parse(arguments.quantize)
    adapters = open_adapters((Lora.parse(text) for text in arguments.lora), arguments.lora_folder)
    checkpoint = open_checkpoint(arguments.model, options)
    source = {"model": arguments.model}
    reports = write_model_folder(
        checkpoint, out, source, _dtype(arguments), adapters, arguments.quantize, arguments.lora_strict
    )
    summary = f"{arguments.model}: {checkpoint.summary}" if checkpoint.summary else ""
    for line in (summary, checkpoint.warning, *reports):
        if line:  # at the end, so that an error is the only line
            print(f"{NAME}: {line}", file=sys.stderr)


def _inspect(arguments: argparse.Namespace) -> None:
    networks = _networks(arguments) if arguments.model else None
    for line in describe(arguments.inspect, arguments.model, networks):
        print(line)


def _networks(arguments: argparse.Namespace) -> dict[str, Module]:
    folder = place(arguments.model, CHECKPOINTS)
    if (folder / "model.json").is_file():
        configs = read_model_json(folder)["networks"]
    else:
        checkpoint = open_checkpoint(arguments.model, _options(arguments))
        configs = {part: component.config for part, component in checkpoint.components.items()}
    return {part: build(part, config, f"{arguments.model}: {part}") for part, config in configs.items()}


def _options(arguments: argparse.Namespace) -> SourceOptions:
    return SourceOptions(**{name: getattr(arguments, name) for name in _OPTIONS})


def _dtype(arguments: argparse.Namespace) -> mx.Dtype | None:
    return DTYPES[arguments.dtype] if arguments.dtype else None


if __name__ == "__main__":
    sys.exit(main())
