"""The flags of python -m mlx_sd.generate: those of a request, from its fields, and those of the command itself."""

import argparse
from typing import Any

from ..core.errors import InputError
from ..core.parser import Parser, program
from ..core.version import VERSION
from ..request import SETTINGS
from ..setting_flags import add_setting, home, path, spell_setting, text
from ..spellings import COUNT, COUNT_ALIASES, RATIO, count_words, folder_words, parse_size

_EXAMPLES = """examples:
  python -m mlx_sd.generate "a red tent in the center on green grass, under a clear day sky"
  python -m mlx_sd.generate "a lighthouse" --deepcache 3 --steps 50 --count 4 --output pictures/
  python -m mlx_sd.generate "a photo of an astronaut" --model stabilityai/stable-diffusion-2-1 --dtype float16
  python -m mlx_sd.generate "a lighthouse" --model models/sd15 --lora style.safetensors:0.8
  python -m mlx_sd.generate "a blue tent on yellow desert" --init-image tent.png --strength 0.6
  python -m mlx_sd.generate "a large moon, a night sky" --init-image tent.png --mask sky.png --only-masked
  python -m mlx_sd.generate --model models/ddpm-cat --steps 1000 --count 4
  python -m mlx_sd.generate --model models/cin256 --class 207,281 --guidance 3
  python -m mlx_sd.generate --model stabilityai/stable-diffusion-x4-upscaler --init-image small.png --deepcache 3
  python -m mlx_sd.generate "a lighthouse" --model models/sdxl --refiner models/refiner
  python -m mlx_sd.generate --from-image picture.png --seed 7
  python -m mlx_sd.generate --prompts prompts.txt --json > results.json
  python -m mlx_sd.generate --prompts prompts.txt --count 4 --output pictures/ --index

several processes, and several Macs, share one list by MLX's launcher:
  mlx.launch -n 2 -- python -m mlx_sd.generate --prompts prompts.txt --count 4 --output pictures/
  mlx.launch --hostfile hosts.json -- python -m mlx_sd.generate --prompts prompts.txt --output pictures/ --keep-going

options of diffusers, AUTOMATIC1111, ComfyUI and mflux, such as --num-inference-steps and --cfg-scale, are taken too:
docs/guide/coming-from.md
"""

_GROUPS = {
    "image": "begin with an image; its size is the default, in multiples of 8",
    "control": "let control networks see images, beside the prompt",
    "solver": "what only some samplers and schedules take; each has its own default",
}


def parser(name: str) -> Parser:
    """Returns the parser. Flags of a request have no default, so that a flag can be told from none."""
    p = Parser(
        prog=program(name),
        description="Make pictures from a prompt.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    schedules = p.add_mutually_exclusive_group()
    groups: dict[str, Any] = {"picture": p}
    groups |= {group: p.add_argument_group(group, text) for group, text in _GROUPS.items()}
    for field, setting in SETTINGS.items():
        if not setting.hidden:
            action = add_setting(schedules if field == "schedule" else groups[setting.group], field, setting)
            spell_setting(p, action, setting)
            if field == "height":
                size = p.add_argument("--size", action=_Size, metavar="WIDTHxHEIGHT", help="both, for example 512x768")
                p.add_spellings(size, aliases="resolution res dimensions image-size", false_friends=RATIO)
    schedules.add_argument(
        "--timesteps", metavar="T,T,...", help="the timesteps themselves, going down, instead of a schedule"
    )
    schedules.add_argument("--sigmas", metavar="S,S,...", help="the noise levels themselves, one more than steps")
    _add_command(p, p.add_argument_group("command", "which pictures to make, and where they go"))
    _add_ranks(p.add_argument_group("ranks", "several processes that mlx.launch starts; one alone does as without"))
    return p


def _add_ranks(ranks: Any) -> None:
    """Adds the flags of several processes."""
    ranks.add_argument(
        "--keep-going", action="store_true", help="where a rank is lost or fails, the others make its pictures"
    )
    ranks.add_argument(
        "--same-device-only",
        action="store_true",
        help="an error where the devices of ranks differ, since the bytes of pictures may then differ too",
    )


def _add_command(p: Parser, work: Any) -> None:
    """Adds the flags of the command itself."""
    prompts = work.add_argument(
        "--prompts",
        type=path,
        metavar="FILE",
        help="one prompt a line, or JSON with settings; - is the standard input",
    )
    p.add_spellings(prompts, aliases="prompt-file prompts-file prompts-from-file from-file")
    source = work.add_argument(
        "--from-image", type=path, metavar="FILE", help="make a picture again; other flags change it"
    )
    p.add_spellings(source, aliases="config-from-metadata C from-metadata from-png png-info")
    work.add_argument(
        "--allow-changed",
        action="store_true",
        help="with --from-image: go on where the model, a LoRA or an image is not what it was",
    )
    work.add_argument(
        "--no-wildcards", dest="wildcards", action="store_false", help="take {a|b} in prompts as it stands"
    )
    grid = work.add_argument(
        "--grid",
        type=text,
        metavar="AXES",
        help='a sheet over settings, such as "steps=10,20;sampler=euler,dpmpp_2m", and its single pictures in a folder '
        "of its name",
    )
    p.add_spellings(grid, aliases="xyz-grid xyz-plot xy-plot")
    work.add_argument(
        "--explain-prompt",
        action="store_true",
        help="print how the prompt is read, in pieces, weights, chunks and tokens, and make no picture",
    )
    count = work.add_argument("--count", type=int, default=1, help="pictures of each prompt, default 1")
    p.add_spellings(
        count,
        aliases=COUNT_ALIASES,
        conversions={"n": count_words},
        false_friends=dict.fromkeys(("n-iter", "batch-count", "num-batches"), COUNT),
    )
    batch = work.add_argument("--batch", type=int, default=1, help="pictures computed together, default 1")
    p.add_spellings(batch, false_friends=dict.fromkeys(("batch-size", "n-samples", "b"), f"{COUNT} --batch {{value}}"))
    output = work.add_argument(
        "--output",
        type=text,
        metavar="PATH",
        help="a .png, .jpg or .webp file, a folder/, or a pattern as {seed}-{prompt}.png (default: named after the "
        "prompt, here)",
    )
    p.add_spellings(
        output,
        aliases="o out output-path output-file outfile save",
        conversions=dict.fromkeys(("outdir", "out-dir", "output-dir", "output-folder", "save-dir"), folder_words),
        false_friends=dict.fromkeys(("format", "output-format", "extension"), "say --output NAME.{value}"),
    )
    work.add_argument(
        "--index", action="store_true", help="write index.jsonl and a contact sheet of all pictures into the folder"
    )
    work.add_argument("--overwrite", action="store_true", help="replace what exists, and make again what is there")
    work.add_argument("--lossless", action="store_true", help="WebP without loss; its quality is 95 otherwise")
    work.add_argument(
        "--no-metadata", dest="metadata", action="store_false", help="write no settings into the pictures"
    )
    loras = work.add_argument(
        "--lora-folder", type=path, metavar="DIR", help="where LoRAs given by name lie (default: MLX_SD_LORAS)"
    )
    p.add_spellings(loras, aliases="lora-dir lora-model-dir")
    work.add_argument(
        "--lora-strict", action="store_true", help="a LoRA that fits the model only in part is an error, not a warning"
    )
    preview = work.add_argument(
        "--preview", type=text, metavar="FOLDER", help="write an image of each step while the picture is made"
    )
    p.add_spellings(preview, aliases="preview-dir stepwise-image-output-dir")
    method = work.add_argument(
        "--preview-method",
        type=text,
        metavar="METHOD",
        help="of the images of steps: linear, colours alone (default), taesd, or another tiny autoencoder",
    )
    p.add_spellings(method, aliases="preview-type live-preview-method")
    animate = work.add_argument(
        "--animate",
        nargs="?",
        const="",
        type=home,
        metavar="PATH",
        help="write all steps as an animated .png or .gif (default: beside the picture)",
    )
    p.add_spellings(animate, aliases="animation", form=r"\S.*\.(png|apng|gif|webp|mp4|webm|mov|jpe?g)")
    work.add_argument(
        "--split",
        choices=("guidance", "tiles"),
        help="share each picture between the processes of mlx.launch: its rows with and without the prompt, or the "
        "tiles of --denoise-tile",
    )
    memory = work.add_argument(
        "--low-memory",
        action="store_true",
        help="keep each network in memory only while it works, guide one row after the other, and decode in tiles",
    )
    p.add_spellings(memory, aliases="lowvram medvram low-ram reduce-memory")
    work.add_argument("--json", action="store_true", help="print the pictures' settings and times as JSON")
    amount = work.add_mutually_exclusive_group()
    quiet = amount.add_argument(
        "--quiet", action="store_true", help="print errors, and with --json the JSON; nothing else"
    )
    p.add_spellings(quiet, aliases="silent")
    verbose = amount.add_argument(
        "--verbose", action="store_true", help="print the seconds of each phase, and what is tuned"
    )
    p.add_spellings(verbose, aliases="v")
    version = work.add_argument("--version", action="version", version=f"mlx-sd {VERSION}")
    p.add_spellings(version, aliases="V")


class _Size(argparse.Action):
    """--size: width and height in one."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, value: Any, option: str | None = None) -> None:
        try:
            namespace.width, namespace.height = parse_size(value)
        except InputError as error:
            raise argparse.ArgumentError(self, str(error)) from None
