"""The command line: python -m coreml --model M --out DIR, and python -m coreml verify, drive or bits ..."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from mlx_sd.core import command
from mlx_sd.core.errors import InputError
from mlx_sd.core.parser import Parser, program

from .compression.schemes import EXAMPLES
from .kit.selection import Selection
from .lowering.attention import ATTENTIONS
from .plan import FORMATS, TARGETS, Options, defaults

_EXAMPLES = """examples:
  python -m coreml --model tiny --out Resources
  python -m coreml --model stable-diffusion-v1-5/stable-diffusion-v1-5 --compress palettize6 --out Resources
  python -m coreml --model M --unet functions --size 512x512 --size 512x768 --target iOS18 --out Resources
  python -m coreml --model M --format coreai --size 512x512 --size 768x768 --out Assets
  python -m coreml --model tiny --kit --sampler "DPM++ 2M Karras" --steps 12 --deepcache 3 --out Resources
  python -m coreml --model tiny --swift Landscapes.swiftpm
  python -m coreml --model M --control lllyasviel/sd-controlnet-canny --unet chunks --out Resources
  python -m coreml bits --model M --bits 4 --out bits.json
  python -m coreml --model M --compress bits.json --target iOS18 --out Resources4
  python -m coreml verify Resources/UnetChunk1.mlpackage --model M
  python -m coreml drive Resources "a red tent on green grass" --deepcache 3
"""


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the options of an export."""
    p = Parser(
        prog=program("coreml"),
        description="Write the Core ML packages or Core AI assets that an app needs, without PyTorch.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    d, assets = Options(), defaults("coreai")
    p.add_argument(
        "--format",
        choices=FORMATS,
        default=d.format,
        help="coreml: .mlpackage, on any system (default); coreai: .aimodel, for iOS and macOS 27 (mlx-sd[coreai])",
    )
    p.add_argument(
        "--model", default="tiny", help="as python -m mlx_sd.generate takes it (default: the embedded model)"
    )
    p.add_argument("--out", type=Path, metavar="DIR", help="folder for the app's resources")
    p.add_argument(
        "--swift",
        type=Path,
        metavar="DIR",
        help="in the place of --out: a folder for a whole app, with a model set and its kit (DIR/ModelSet), the Swift "
        "package that runs it (DIR/MLXSDKit) and a sample app around both; call it NAME.swiftpm for Xcode",
    )
    p.add_argument("--force", action="store_true", help="replace an earlier export in DIR")
    p.add_argument(
        "--dtype",
        choices=("float16", "float32"),
        default=d.dtype,
        help=f"of weights and activations, default {d.dtype}",
    )
    p.add_argument("--branch", type=int, default=d.branch, help="where DeepCache cuts the UNet in two, default 0")
    p.add_argument("--width", type=int, help="of the pictures, in pixels (default: the model's)")
    p.add_argument("--height", type=int, help="of the pictures, in pixels (default: the model's)")
    p.add_argument("--size", action="append", metavar="WxH", help="the same, once for each size")
    p.add_argument("--batch", type=int, choices=(1, 2), default=d.batch, help="of the UNet, 2 for guidance (default)")
    p.add_argument(
        "--target", choices=TARGETS, help=f"the oldest system, default {d.target}, of Core AI always {assets.target}"
    )
    p.add_argument(
        "--attention",
        choices=tuple(ATTENTIONS),
        help="split-einsum for the Neural Engine (Core ML's default), original for the GPU, fused for it from iOS 18 "
        "(Core AI's default)",
    )
    p.add_argument("--compress", metavar="NAME", help=f"of weights (default: none): {EXAMPLES}")
    p.add_argument(
        "--unet",
        metavar="KIND,...",
        help="full: Unet; chunks: UnetChunk1 (deep) and UnetChunk2 (shallow); halves: the same names for two halves of "
        f"equal weight, without DeepCache; functions: all in one package, iOS 18 (default {','.join(d.unets)}). "
        "Core AI has functions, its default, or full: main alone",
    )
    p.add_argument(
        "--stateful",
        action="store_true",
        help="of Core AI: Unet gets refresh too, which keeps its deep feature in a state",
    )
    p.add_argument(
        "--control",
        action="append",
        metavar="NETWORK",
        help="a ControlNet (folder, file or hub id; of a union NETWORK@MODE) to write too; may be repeated. The UNet "
        "then takes residuals, of which zeros are no control: ControlledUnet, ... stand in the place of Unet, ...",
    )
    p.add_argument("--split", action="store_true", help="cut packages above 1 GB, which iOS does not load")
    _add_kit(p)
    return p


def _add_kit(p: Parser) -> None:
    group = p.add_argument_group(
        "an app's kit", "each of these options may be repeated; there is a table for every combination"
    )
    group.add_argument(
        "--kit",
        action="store_true",
        help="write kit/ too: sampler tables, token ids, noise and a golden picture for an app",
    )
    group.add_argument("--sampler", action="append", metavar="NAME", help="of its tables (default: the checkpoint's)")
    group.add_argument(
        "--schedule", action="append", metavar="NAME", help="a name or a .json file (default: the checkpoint's)"
    )
    group.add_argument("--steps", action="append", type=int, metavar="N", help="of its tables (default 25)")
    group.add_argument(
        "--deepcache",
        action="append",
        metavar="N[:BRANCH]",
        help="a cache policy for tables beside those without one (default 3, where the UNet is cut)",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["verify"]:
        from .verify import main as verify

        return verify(words[1:])
    if words[:1] == ["bits"]:
        from .compression.bits import main as bits

        return bits(words[1:])
    if words[:1] == ["drive"]:
        from .drive import main as drive

        return drive(words[1:])
    p = parser()
    arguments = p.parse_args(words)
    if arguments.out is None and arguments.swift is None:
        p.error("the following arguments are required: --out (or --swift)")
    return command.run("coreml", lambda: _export(arguments))


def _export(arguments: argparse.Namespace) -> None:
    from . import app_folder  # not for --help
    from .export import export

    d, app = defaults(arguments.format), arguments.swift
    if app and arguments.out:
        raise InputError(f"--swift writes the model set to {app / app_folder.MODEL_SET}: leave --out out")
    if app and arguments.format == "coreml":  # one UNet is enough for an app
        d = replace(d, unets=("chunks",))
    options = Options(
        format=arguments.format,
        dtype=arguments.dtype,
        attention=arguments.attention or d.attention,
        target=arguments.target or d.target,
        compress=arguments.compress,
        unets=tuple(arguments.unet.split(",")) if arguments.unet else d.unets,
        stateful=arguments.stateful,
        branch=arguments.branch,
        sizes=_sizes(arguments),
        batch=arguments.batch,
        split=arguments.split,
        control=tuple(arguments.control or ()),
    )
    selection = _selection(arguments)
    if not app:
        export(arguments.model, arguments.out, options, arguments.force, kit=selection)
        print(arguments.out)
        return
    app_folder.check(app, arguments.force)
    with app_folder.writing(app) as out:
        export(arguments.model, out, options, arguments.force, kit=selection)
    print(app)


def _selection(arguments: argparse.Namespace) -> Selection | None:
    """Returns which tables the kit has, or None without one."""
    lists = {name: tuple(getattr(arguments, name) or ()) for name in ("sampler", "schedule", "steps", "deepcache")}
    if not arguments.kit and not arguments.swift:
        for name, values in lists.items():
            if values:
                raise InputError(f"--{name} is of the kit's tables: add --kit, or leave it out")
        return None
    return Selection(lists["sampler"], lists["schedule"], lists["steps"], lists["deepcache"])


def _sizes(arguments: argparse.Namespace) -> tuple[tuple[int | None, int | None], ...]:
    from mlx_sd.spellings import parse_size  # not for --help

    sides: tuple[int | None, int | None] = (arguments.width, arguments.height)
    if arguments.size and sides != (None, None):
        raise InputError("give --size, or --width and --height, not both")
    sizes = tuple(parse_size(text) for text in arguments.size) if arguments.size else (sides,)
    for side in chain.from_iterable(sizes):
        if side is not None and side < 1:
            raise InputError(f"width and height must be at least 1 pixel, not {side}")
    return sizes


if __name__ == "__main__":
    sys.exit(main())
