"""The flags of python -m mlx_sd.generate."""

import argparse
from pathlib import Path

from ..checkpoint.model import DTYPES
from ..core import command
from ..core.version import VERSION
from ..reuse import presets
from ..sampling import samplers
from ..sampling import schedules as schedule
from ..sampling.low_res import HIGHEST, LEVEL
from ..settings import (
    GUIDANCE,
    GUIDANCE_CLASSES,
    GUIDANCE_UPSCALER,
    GUIDANCE_XL,
    STEPS,
    STEPS_LDM,
    STEPS_UPSCALER,
    TILE,
)
from ..tasks.painting import PADDING, STRENGTH
from ..tasks.refiner import AT

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


def parser(name: str) -> argparse.ArgumentParser:
    """All options. Those that a picture can replay have no default here, so that a flag can be told from none."""
    p = command.Parser(
        prog=f"python -m {name}",
        description="Make pictures from a prompt.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("prompt", nargs="?", help="what the picture shows; left out with models that take no prompt")
    p.add_argument("--prompts", type=Path, metavar="FILE", help="a text file with one prompt a line, instead")
    p.add_argument("--class", metavar="ID[,ID...]", help="classes by number or name, with models that know classes")
    p.add_argument("--from-image", type=Path, metavar="PNG", help="make a picture again; other flags change it")
    p.add_argument("--negative", metavar="TEXT", help="what to steer away from")
    p.add_argument(
        "--model", help="a converted or diffusers folder, a .safetensors file or a hub id (default: embedded)"
    )
    p.add_argument(
        "--coreml", metavar="FOLDER", help="run the packages that python -m coreml wrote, instead of --model"
    )
    p.add_argument("--dtype", choices=tuple(DTYPES), help="default: float16 on a GPU, float32 on the CPU")
    p.add_argument(
        "--lora",
        action="append",
        metavar="PATH[:SCALE[:W,W,...]]",
        help="merge a LoRA or its kin: a safetensors file, a folder or a hub id; may be repeated",
    )
    p.add_argument(
        "--quantize", metavar="BITS[:GROUP]", help="the UNet's linear layers in 4 or 8 bits; or NETWORK=BITS,..."
    )
    p.add_argument("--refiner", metavar="MODEL", help="goes on with the latents at --refine-at, on the same schedule")
    p.add_argument("--refine-at", type=float, metavar="SHARE", help=f"of the way, above 0, below 1; default {AT}")
    p.add_argument(
        "--speed",
        choices=presets.NAMES,
        help="sampler, steps, DeepCache and T-GATE together, from measured curves; flags of their own overrule",
    )
    p.add_argument("--steps", type=int, help=f"default {STEPS}; of upscalers {STEPS_UPSCALER} or {STEPS_LDM}")
    p.add_argument(
        "--guidance",
        type=float,
        metavar="SCALE",
        help=f"default {GUIDANCE}; SDXL {GUIDANCE_XL}, the x4 upscaler {GUIDANCE_UPSCALER}, classes {GUIDANCE_CLASSES}",
    )
    p.add_argument("--guidance-rescale", type=float, metavar="PHI", help="0 to 1, default 0")
    p.add_argument("--sampler", metavar="NAME", help=f"{', '.join(samplers.names())} (default: the checkpoint's)")
    at = p.add_mutually_exclusive_group()
    at.add_argument(
        "--schedule",
        metavar="NAME",
        help=f"{', '.join(schedule.names())}, or a JSON file with timesteps or sigmas (default: the checkpoint's)",
    )
    at.add_argument(
        "--timesteps", metavar="T,T,...", help="the timesteps themselves, going down, instead of a schedule"
    )
    at.add_argument("--sigmas", metavar="S,S,...", help="the noise levels themselves, one more than steps")
    p.add_argument("--seed", type=int, help="of the first picture; the next take seed + 1, seed + 2, ... (default 0)")
    p.add_argument("--width", type=int, help="in pixels, a multiple of 8 (default: the checkpoint's)")
    p.add_argument("--height", type=int, help="in pixels, a multiple of 8 (default: the checkpoint's)")
    p.add_argument("--clip-skip", type=int, metavar="LAYERS", help="text encoder layers to leave out, default 0")
    p.add_argument(
        "--deepcache",
        metavar="N[:BRANCH]",
        help="run the whole UNet only every N-th time; or nonuniform:N, at=0,4,9, adaptive:0.1; +forecast1 after any",
    )
    p.add_argument(
        "--tgate",
        metavar="GATE[,SP[,FI[,WARM_UP]]]",
        help="from evaluation GATE on, no prompt and no guidance; self-attention every SP-th time before (default 5)",
    )
    p.add_argument(
        "--freeu", nargs="?", const="", metavar="B1,B2,S1,S2", help="FreeU (default factors: those published)"
    )
    p.add_argument(
        "--tile", type=int, metavar="PIXELS", help="decode in tiles; 0 never (default: above 192 latents a side)"
    )
    p.add_argument(
        "--denoise-tile",
        type=int,
        metavar="LATENTS",
        help=f"denoise in overlapping tiles of so many latents a side; 0 never (default: upscalers {TILE})",
    )
    image = p.add_argument_group("image", "begin with a picture; its size is the default, in multiples of 8")
    image.add_argument("--init-image", metavar="FILE", help="of any size and kind; what is transparent is white")
    image.add_argument(
        "--strength",
        type=float,
        help=f"how much of it changes, above 0, to 1: the share of the steps that run (default {STRENGTH}; masked 1)",
    )
    image.add_argument(
        "--mask",
        metavar="FILE",
        help="paint only where this is white; or alpha: where the image is transparent. The rest stays as it is",
    )
    image.add_argument("--mask-blur", type=float, metavar="PIXELS", help="fade in from the mask's edge, default 0")
    image.add_argument(
        "--only-masked",
        action=argparse.BooleanOptionalAction,
        help="cut out the mask's surroundings, paint them at the size of a whole picture, and put them back",
    )
    image.add_argument(
        "--noise-level",
        type=int,
        metavar="N",
        help=f"of an x4 upscaler, which is given the image: more invents more, 0 to {HIGHEST}, default {LEVEL}",
    )
    image.add_argument("--padding", type=int, metavar="PIXELS", help=f"of those surroundings, default {PADDING}")
    solver = p.add_argument_group("solver", "what only some samplers and schedules take; each has its own default")
    solver.add_argument("--eta", type=float, help="fresh noise in ddim (default 0) and euler_ancestral (1), 0 to 1")
    solver.add_argument("--gamma", type=float, help="fresh noise in tcd, 0 to 1, default 0.3")
    solver.add_argument("--order", type=int, help="1 to 3, default 2; lms 4")
    solver.add_argument("--kind", help="midpoint or heun, of the dpm samplers; bh2 or bh1, of unipc")
    solver.add_argument(
        "--corrector",
        action=argparse.BooleanOptionalAction,
        help="UniPC's corrector after each step of any deterministic multistep sampler (default: unipc only)",
    )
    solver.add_argument("--rho", type=float, help="how unevenly karras is spaced, default 7")
    solver.add_argument("--s-churn", type=float, metavar="S", help="noise that edm adds, over all steps; default 0")
    solver.add_argument("--s-tmin", type=float, metavar="S", help="the lowest sigma at which it does, default 0")
    solver.add_argument("--s-tmax", type=float, metavar="S", help="the highest, default any")
    solver.add_argument("--s-noise", type=float, metavar="S", help="deviation of that noise, default 1")
    p.add_argument("--count", type=int, default=1, help="pictures of each prompt, default 1")
    p.add_argument("--batch", type=int, default=1, help="pictures computed together, default 1")
    p.add_argument("--output", metavar="PATH", help="a .png file, or a folder (default: named after the prompt, here)")
    p.add_argument("--preview", metavar="FOLDER", help="write what each step thinks the picture is, as it goes")
    p.add_argument(
        "--animate",
        nargs="?",
        const="",
        metavar="PATH",
        help="all steps as a .png or .gif (default: beside the picture)",
    )
    p.add_argument("--json", action="store_true", help="print what was made as JSON")
    p.add_argument("--version", action="version", version=f"mlx-sd {VERSION}")
    return p
