"""The flags of python -m mlx_sd.generate: those of a request, from its fields, and those of the command itself."""

import argparse
from pathlib import Path
from typing import Any

from ..core import command
from ..core.version import VERSION
from ..request import SETTINGS
from ..setting import Setting

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
"""

_GROUPS = {
    "image": "begin with an image; its size is the default, in multiples of 8",
    "solver": "what only some samplers and schedules take; each has its own default",
}


def parser(name: str) -> argparse.ArgumentParser:
    """Returns the parser. Flags of a request have no default, so that a flag can be told from none."""
    p = command.Parser(
        prog=f"python -m {name}",
        description="Make pictures from a prompt.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    schedules = p.add_mutually_exclusive_group()
    groups: dict[str, Any] = {"picture": p}
    groups |= {group: p.add_argument_group(group, text) for group, text in _GROUPS.items()}
    for field, setting in SETTINGS.items():
        if not setting.hidden:
            _add(schedules if field == "schedule" else groups[setting.group], field, setting)
    schedules.add_argument(
        "--timesteps", metavar="T,T,...", help="the timesteps themselves, going down, instead of a schedule"
    )
    schedules.add_argument("--sigmas", metavar="S,S,...", help="the noise levels themselves, one more than steps")

    work = p.add_argument_group("command", "which pictures to make, and where they go")
    work.add_argument("--prompts", type=Path, metavar="FILE", help="a text file with one prompt a line")
    work.add_argument("--from-image", type=Path, metavar="PNG", help="make a picture again; other flags change it")
    work.add_argument("--count", type=int, default=1, help="pictures of each prompt, default 1")
    work.add_argument("--batch", type=int, default=1, help="pictures computed together, default 1")
    work.add_argument(
        "--output", metavar="PATH", help="a .png file, or a folder (default: named after the prompt, here)"
    )
    work.add_argument("--preview", metavar="FOLDER", help="write an image of each step while the picture is made")
    work.add_argument(
        "--animate",
        nargs="?",
        const="",
        metavar="PATH",
        help="write all steps as an animated .png or .gif (default: beside the picture)",
    )
    work.add_argument("--json", action="store_true", help="print the pictures' settings and times as JSON")
    work.add_argument("--version", action="version", version=f"mlx-sd {VERSION}")
    return p


def _add(group: Any, field: str, setting: Setting) -> None:
    """Adds the flag of one field of a request."""
    text = setting.help
    if setting.range is not None:
        text += f"; {setting.range.words(setting.unit)}"
    options: dict[str, Any] = {"help": text.replace("%", "%%"), "dest": field, "metavar": setting.metavar}
    if setting.kind is bool:
        options |= {"action": argparse.BooleanOptionalAction}
        del options["metavar"]
    elif setting.kind in (int, float):
        options |= {"type": setting.kind}
    if setting.choices:
        options |= {"choices": tuple(setting.choices)}
    if setting.repeat:
        options |= {"action": "append"}
    if setting.without_value is not None:
        options |= {"nargs": "?", "const": setting.without_value}
    flag = setting.flag or f"--{field.replace('_', '-')}"
    if flag.startswith("--"):
        group.add_argument(flag, **options)
    else:  # the prompt, which has a place and no flag
        del options["dest"]
        group.add_argument(flag, nargs="?", **options)
