"""How far each DeepCache policy ends from the uncached run, on the embedded checkpoint: python -m bench policies."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mlx_sd import Adaptive, DeepCache, NonUniform, StableDiffusion
from mlx_sd.core import command
from mlx_sd.pipeline import Result
from mlx_sd.reuse.deepcache import Policy

from .. import results
from ..machine import describe
from ..prompts import SHOWCASE as PROMPTS
from ..prompts import SHOWCASE_SEED as SEED
from . import fidelity

STEPS, INTERVALS, DEGREES = (25, 50), (3, 5), (0, 1, 2)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    p = command.Parser(prog="python -m bench policies", description=__doc__)
    p.add_argument("--branch", type=int, default=0, help="where the UNet is cut, default 0")
    p.add_argument("--sampler", help="default: the checkpoint's")
    p.add_argument("--json", type=Path, metavar="FILE", help="write the results there, too")
    arguments = p.parse_args(argv)
    return command.run("bench policies", lambda: _run(arguments.branch, arguments.sampler, arguments.json))


def _run(branch: int, sampler: str | None, path: Path | None) -> None:
    sd = StableDiffusion.load("tiny", dtype="float32")
    prompts = list(PROMPTS[:3])

    def made(steps: int, policy: Policy | None, texts: list[str] = prompts) -> Result:
        how: dict[str, Any] = {"steps": steps, "sampler": sampler, "seed": SEED, "batch": 3, "output": "latent"}
        return sd.generate(texts, deepcache=policy, **how)

    rows = []
    for steps in STEPS:
        whole = made(steps, None)
        for interval in INTERVALS:
            due = len(DeepCache(interval).due(whole.evaluations))
            for kind in (DeepCache(interval, branch), NonUniform(interval, branch=branch), Adaptive(branch=branch)):
                for degree in DEGREES:
                    policy: Policy = replace(kind, forecast=degree)
                    if isinstance(policy, Adaptive):
                        policy = matched(lambda p, steps=steps: made(steps, p, prompts[:1]).full, policy, due)
                    result = made(steps, policy)
                    full = result.full * whole.evaluations / result.evaluations  # of a picture
                    rms = fidelity.rms(np.array(result.latents), np.array(whole.latents)).tolist()
                    row = {"steps": steps, "interval": interval, "policy": str(result.settings.deepcache)}
                    rows.append(row | {"full": round(full, 2), "rms": [round(r, 4) for r in rms]})
                    print(f"{steps} {row['policy']:32} {full:5.1f} {sum(rms) / len(rms):.4f}", flush=True)
    deviation = round(float(np.std(np.array(whole.latents))), 4)
    found = {"sampler": whole.settings.sampler, "deviation": deviation, "runs": rows, "machine": describe()}
    if path:
        results.write(path, found)


def matched(full: Any, policy: Adaptive, wanted: int) -> Adaptive:
    """The policy with a threshold at which `wanted` evaluations are full, or nearly, by bisection."""
    low, high = 0.0, 2.0
    for _ in range(10):
        middle = round((low + high) / 2, 4)
        found = full(policy := replace(policy, threshold=middle))
        if found == wanted:
            break
        low, high = (low, middle) if found < wanted else (middle, high)
    return policy


if __name__ == "__main__":
    sys.exit(main())
