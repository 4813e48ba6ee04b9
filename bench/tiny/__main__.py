"""`python -m bench tiny --out DIR`: make the embedded checkpoints again, from nothing or from an earlier one."""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

from mlx_sd.core import interrupt

from .stages import BY_NAME, OUTSIDE_WORK, STAGES, Plan, RecipeError, run, say

SCENES = 1536
FEWEST_SCENES = 16
TRAINING = {stage.name: stage.minutes for stage in STAGES if stage.minutes is not None}
SMOKE_SCENES = 64
SMOKE_MINUTES = {"vae": 0.25, "clip": 0.15, "unet": 0.4, "decoder": 0.15, "class-unet": 0.25}
SMOKE_MINUTES |= {"vq": 0.2, "token-unet": 0.2}
PACKAGES = ("torch", "diffusers", "transformers", "safetensors", "tqdm")


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        """Print `message` and exit with code 2."""
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def description() -> str:
    """Returns the text of --help: the stages, their times and the files written."""
    rows = [
        f"  {stage.name:13} {f'{stage.minutes:.0f} min' if stage.minutes else '':>7}  {stage.summary}"
        for stage in STAGES
    ]
    return "\n".join(
        [
            "Train the embedded checkpoints from scratch on drawn landscapes: a small Stable Diffusion, and",
            "a smaller latent diffusion model that is told a class in place of a prompt, and a model of tokens.",
            "",
            "stages, with their training time on two cores (the others take a few minutes together):",
            *rows,
            "",
            "DIR/work holds the result of each stage, under 1 GB; a result that is there is not made again.",
            "Training is saved every minute: after Ctrl-C or a kill the same command goes on from there.",
            "Every epoch paints new scenes. None of the captions that `bench truth` measures is trained on.",
            "DIR/checkpoint is the result, 45 MB: model_index.json, scheduler, text_encoder, tokenizer,",
            "unet and vae. Copy its contents into mlx_sd/tiny to embed it.",
            "DIR/judge is what measures it, 6 MB: a text encoder and an image tower, trained as CLIP is. Figures",
            "of two checkpoints compare only with the same judge: the one in bench/quality/judge stays as it is.",
            "DIR/classes is the other, 12 MB: model_index.json, scheduler, unet and vqvae; it is embedded in",
            "mlx_sd/tiny_classes. To train it alone, on the embedded model: copy mlx_sd/tiny to DIR/checkpoint.",
            "DIR/token_model, under 10 MB, makes pictures of tokens: model_index.json, scheduler, text_encoder,",
            "tokenizer, unet and vqvae; it is embedded in mlx_sd/tiny_tokens. Its text encoder is that of",
            "DIR/checkpoint, or of --start. To train its denoiser further: copy its vqvae to DIR/work/vq.",
        ]
    )


EXAMPLES = """examples:
  python -m bench tiny --out tiny                      all of it, nine hours on two cores
  python -m bench tiny --out tiny --start mlx_sd/tiny  train the embedded checkpoint further
  python -m bench tiny --out trial --smoke             a useless checkpoint in two minutes, to try the recipe
  python -m bench tiny --out tiny --minutes 60         the training stages share an hour, in proportion
  python -m bench tiny --out tiny --minutes unet=300   more time for one stage
  python -m bench tiny --out tiny --only decoder       one stage, from the results of those before it
  python -m bench tiny --out tiny --only class-unet    so is each stage of the class-conditional one
  python -m bench tiny --out tiny --start mlx_sd/tiny --only vq,tokens,token-unet,token-export
                                                       the token model, with the embedded text encoder
  python -m bench tiny --out tiny --start mlx_sd/tiny_tokens --only tokens,token-unet,token-export
                                                       its denoiser further, once DIR/work/vq is there"""


def parser() -> argparse.ArgumentParser:
    """Builds the parser of the command line."""
    p = OneLineParser(
        "python -m bench tiny",
        description=description(),
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to work and to write")
    p.add_argument("--start", type=Path, metavar="CHECKPOINT", help="begin with the weights of this diffusers folder")
    p.add_argument("--first-epoch", type=int, default=0, help="paint the scenes of epochs from this one on (default 0)")
    p.add_argument("--scenes", type=int, help=f"pictures painted for each epoch (default {SCENES})")
    p.add_argument(
        "--minutes",
        nargs="+",
        default=[],
        metavar="N|STAGE=N",
        help=f"training time in all (default {sum(TRAINING.values()):.0f}), or of one stage",
    )
    p.add_argument("--only", metavar="STAGE,...", help="make the results of these stages alone")
    p.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="default: one per core")
    p.add_argument("--smoke", action="store_true", help="few scenes, seconds of training: a test of the recipe")
    return p


def split_minutes(texts: list[str], defaults: dict[str, float]) -> dict[str, float]:
    """Returns the minutes of each training stage: a bare number is shared out in proportion, STAGE=N sets one."""
    minutes = dict(defaults)
    overrides: dict[str, float] = {}
    for text in texts:
        stage, equals, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            raise RecipeError(f"--minutes {text}: not a number") from None
        if not (value > 0 and math.isfinite(value)):
            raise RecipeError(f"--minutes {text}: must be more than 0")
        if equals and stage not in defaults:
            raise RecipeError(f"--minutes {text}: the training stages are {', '.join(defaults)}")
        if equals:
            overrides[stage] = value
        else:
            minutes = {name: value * share / sum(defaults.values()) for name, share in defaults.items()}
    return minutes | overrides


def stage_names(text: str | None) -> list[str]:
    """Returns the stages that `--only` lists, in the order of the recipe; without it, all."""
    listed = text.split(",") if text is not None else list(BY_NAME)
    for name in listed:
        if name not in BY_NAME:
            raise RecipeError(f"--only {text}: no stage is called {name!r}; there are {', '.join(BY_NAME)}")
    return [name for name in BY_NAME if name in listed]


def plan_from(arguments: argparse.Namespace) -> Plan:
    """Check the arguments and the directory; RecipeError says what is wrong."""
    scenes = arguments.scenes if arguments.scenes is not None else SMOKE_SCENES if arguments.smoke else SCENES
    if scenes < FEWEST_SCENES:
        raise RecipeError(f"--scenes {scenes}: at least {FEWEST_SCENES} are needed")
    if arguments.first_epoch < 0:
        raise RecipeError(f"--first-epoch {arguments.first_epoch}: must be at least 0")
    if arguments.threads < 1:
        raise RecipeError(f"--threads {arguments.threads}: must be at least 1")
    minutes = split_minutes(arguments.minutes, SMOKE_MINUTES if arguments.smoke else TRAINING)
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise RecipeError(f"these packages are needed and not installed: {', '.join(missing)}")
    directory = arguments.out.resolve()
    try:
        (directory / "work").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory / "work"):
            pass
    except OSError as error:
        raise RecipeError(f"cannot write in {directory}: {error.strerror}") from None
    if arguments.start and not (arguments.start / "unet" / "config.json").is_file():
        raise RecipeError(f"--start {arguments.start}: no unet/config.json there; name a folder in diffusers' layout")
    return Plan(directory, scenes, minutes, arguments.threads, arguments.start, arguments.first_epoch)


def main(argv: list[str] | None = None) -> int:
    """Run the recipe; the exit code is 0, 1 after a failure, 2 for bad input, 130 after Ctrl-C."""
    try:
        arguments = parser().parse_args(argv)
        names = stage_names(arguments.only)
        plan = plan_from(arguments)
        # Set before the import: it warns of image processors that are not used here.
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        with interrupt.raising():
            run(plan, names)
    except RecipeError as error:
        say(f"python -m bench tiny: {error}")
        return 2
    except (OSError, FloatingPointError) as error:
        say(f"python -m bench tiny: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted: the same command goes on from what is saved")
        return 130
    for name in OUTSIDE_WORK:
        if name in names:
            print(plan.result(name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
