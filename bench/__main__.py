"""Measurements of mlx-sd, one command each: python -m bench NAME ..."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

from mlx_sd.core.parser import program


class Command(NamedTuple):
    """One measurement: the folder of its module, which has the command's name, and one line about it.

    over_ranks: processes that mlx.launch starts share its pictures. Otherwise the first alone does all of it.
    """

    folder: str
    summary: str
    over_ranks: bool = False

    def module(self, name: str) -> str:
        """Returns the full name of the module that runs the command `name`."""
        return f"bench.{self.folder}.{name}"


COMMANDS = {
    "latency": Command("speed", "seconds of steps and loops with DeepCache and T-GATE, beside diffusers"),
    "batches": Command("speed", "pictures a minute of several ranks that mlx.launch starts, against one process"),
    "learning": Command("speed", "seconds of a training step, beside diffusers' in PyTorch"),
    "startup": Command("speed", "seconds beside the sampling loop of one picture, of two versions"),
    "predict": Command("speed", "predicted seconds of a step and a loop on an Apple chip"),
    "cluster": Command("speed", "simulated batches on 1 to 64 Macs, and pictures that two Macs share; no measurement"),
    "truth": Command("quality", "share of captions that come true by rules on pixels, embedded checkpoint", True),
    "quality": Command("quality", "PSNR, SSIM, CLIP score and FID of DeepCache and T-GATE, on any model", True),
    "solvers": Command("quality", "quality against evaluations of the network, for every solver", True),
    "curves": Command("quality", "quality against cost of DeepCache, T-GATE and fewer steps", True),
    "tokens": Command("quality", "truth and quality against calls of the network, every sampler of tokens", True),
    "policies": Command("quality", "how far each DeepCache policy ends from the uncached run"),
    "distillation": Command(
        "distillation", "caching beside pruning and distillation, on the embedded checkpoint", True
    ),
    "quantization": Command("quality", "loss of quality with --quantize"),
    "bits": Command("quality", "mixed bits of Core ML's palettes against uniform ones, and the time of their search"),
    "classes": Command("quality", "quality of the embedded class-conditional checkpoint, beside true pictures", True),
    "adapters": Command("adapters", "makes the small adapters for the embedded checkpoint, and measures them"),
    "ays": Command("schedules", "optimises a schedule of few steps (Align Your Steps)"),
    "search": Command("schedules", "searches for DeepCache's full evaluations at a fixed number of them"),
    "footprint": Command("memory", "memory and time of converting, loading and stepping SD 1.5"),
    "conversion": Command("memory", "time and memory of converting SD 1.5 from a single file"),
    "lowering": Command("memory", "time and memory of lowering UNets to Core ML, beside PyTorch's route"),
    "exports": Command("memory", "time and memory of Core ML and Core AI exports; errors in Apple's runtime"),
    "training": Command("memory", "memory of a training step, counted and measured; the guide's table"),
    "peaks": Command("memory", "memory of a picture with and without --low-memory, counted from shapes"),
    "sizes": Command("memory", "bytes and multiplications of every Core ML package"),
    "report": Command("report", "tables and plots of the results, in the pages that hold them"),
    "pages": Command("report", "the pictures of the guide, by the commands that its pages show"),
    "showcase": Command("report", "the README's picture"),
    "tiny": Command("tiny", "trains the embedded checkpoints again"),
}
_EXAMPLES = """examples:
  python -m bench latency --model tiny
  python -m bench predict "M2 Pro"
  python -m bench report --check
  mlx.launch -n 2 -- python -m bench truth
  python -m bench latency --help"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code; 2 for a name that is not a command."""
    name, *arguments = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        print(f"usage: {program('bench')} NAME ...\n\n{__doc__}\n\n{_listing()}\n\n{_EXAMPLES}")
        return 0
    if name not in COMMANDS:
        names = ", ".join(COMMANDS)
        print(f"bench: no command {name!r}; the commands are {names} (--help describes them)", file=sys.stderr)
        return 2
    if not COMMANDS[name].over_ranks and (rank := int(os.environ.get("MLX_RANK", "0"))):
        if rank == 1:
            print(f"bench: {name} is not dealt out over ranks; the first process does all of it", file=sys.stderr)
        return 0
    module = import_module(COMMANDS[name].module("__main__" if name == "tiny" else name))
    code: int = module.main(arguments)
    return code


def _listing() -> str:
    """All commands with their summaries, under the folder of each."""
    width = max(map(len, COMMANDS))
    lines: list[str] = []
    for name, command in COMMANDS.items():
        head = f"{command.folder} (bench/{command.folder}):"
        lines += [head] if head not in lines else []
        lines.append(f"  {name:{width}}  {command.summary}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
