"""Measurements of mlx-sd, one command each: python -m bench NAME ..."""

import sys
from collections.abc import Sequence
from importlib import import_module

# What each module of this package measures, or makes of what was measured.
COMMANDS = {
    "latency": "seconds of steps and loops with DeepCache and T-GATE, beside counted ideals and diffusers",
    "predict": "what a step and a loop should take on an Apple chip; a prediction",
    "report": "tables and plots of the results, in the pages that hold them",
    "footprint": "memory and time of converting, loading and stepping SD 1.5",
    "conversion": "time and memory of converting SD 1.5 from a single file",
    "lowering": "time and memory of lowering UNets to Core ML, beside PyTorch's route",
    "sizes": "bytes and multiplications of every Core ML package",
    "quantization": "what --quantize costs in quality",
    "policies": "how far each DeepCache policy ends from the uncached run",
    "quality": "drift, CLIP score, FID and Inception Score of DeepCache and T-GATE, on any model",
    "solvers": "quality against evaluations of the network, for every solver",
    "curves": "quality against cost of all that is reused",
    "classes": "quality of the embedded classes, beside true pictures of them",
    "figure": "draws what solvers measured",
    "ays": "optimises a schedule of few steps (Align Your Steps)",
    "showcase": "the README's picture",
    "tiny": "trains the embedded checkpoints again",
}
_EXAMPLES = """examples:
  python -m bench latency --model tiny
  python -m bench predict "M2 Pro"
  python -m bench report --check
  python -m bench latency --help"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code, 2 where there is none of that name."""
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        listed = "\n".join(f"  {command:{width}}  {what}" for command, what in COMMANDS.items())
        print(f"usage: python -m bench NAME ...\n\n{__doc__}\n\ncommands:\n{listed}\n\n{_EXAMPLES}")
        return 0
    if name not in COMMANDS:
        print(
            f"bench: there is no {name!r}; there are {', '.join(COMMANDS)} (--help says what they do)", file=sys.stderr
        )
        return 2
    module = import_module(f"bench.{name}.__main__" if name == "tiny" else f"bench.{name}")
    code: int = module.main(rest)
    return code


if __name__ == "__main__":
    sys.exit(main())
