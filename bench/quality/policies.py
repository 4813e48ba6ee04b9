"""How far each DeepCache policy ends from the uncached run, on the embedded checkpoint: python -m bench policies.

Intervals and thresholds are compared at one number of full evaluations. Spectrum and SADA have a number of their own:
beside each stand evenly spaced lists of as many.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mlx_sd import SADA, Adaptive, At, DeepCache, NonUniform, Spectrum, StableDiffusion
from mlx_sd.core import command
from mlx_sd.result import Result
from mlx_sd.reuse.policy import Policy

from .. import arguments, results
from ..machine import describe
from ..prompts import SHOWCASE as PROMPTS
from ..prompts import SHOWCASE_SEED as SEED
from . import fidelity

STEPS, INTERVALS, DEGREES = (25, 50), (3, 5), (0, 1, 2)
RULES = (Spectrum(2), Spectrum(4), SADA(4), SADA(8))  # the authors' numbers, and some that save more


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    p = arguments.parser("policies", __doc__)
    p.add_argument("--branch", type=int, default=0, help="where the UNet is cut, default 0")
    p.add_argument("--sampler", help="default: the checkpoint's")
    arguments.add_json(p)
    options = p.parse_args(argv)
    return command.run("bench policies", lambda: _run(options.branch, options.sampler, options.json))


def _run(branch: int, sampler: str | None, path: Path | None) -> None:
    """Compares every policy, at every degree of forecast, with the uncached run of the same number of steps."""
    sd = StableDiffusion.load("tiny", dtype="float32")
    prompts = list(PROMPTS[:3])

    def latents(steps: int, policy: Policy | None, texts: list[str] = prompts) -> Result:
        """Generates the latents of the prompts, without images."""
        return sd.generate(texts, deepcache=policy, steps=steps, sampler=sampler, seed=SEED, batch=3, output="latent")

    def count_full(steps: int, policy: Policy) -> int:
        """Counts the full evaluations of the first prompt."""
        return latents(steps, policy, prompts[:1]).full

    runs: list[dict[str, Any]] = []
    rules: list[dict[str, Any]] = []

    def measure(steps: int, policy: Policy, uncached: Result) -> dict[str, Any]:
        """Measures a policy against the uncached run: the full evaluations of one image, and each image's error."""
        result = latents(steps, policy)
        full = result.full * uncached.evaluations / result.evaluations
        rms = fidelity.rms(np.array(result.latents), np.array(uncached.latents)).tolist()
        name = str(result.requests[0].deepcache)
        print(f"{steps} {name:44} {full:5.1f} {sum(rms) / len(rms):.4f}", flush=True)
        return {"policy": name, "full": round(full, 2), "rms": [round(r, 4) for r in rms]}

    for steps in STEPS:
        uncached = latents(steps, None)
        for interval in INTERVALS:
            target = len(DeepCache(interval).full_evaluations(uncached.evaluations))
            for base in (DeepCache(interval, branch), NonUniform(interval, branch=branch), Adaptive(branch=branch)):
                for degree in DEGREES:
                    policy: Policy = replace(base, forecast=degree)
                    if isinstance(policy, Adaptive):
                        policy = matched(partial(count_full, steps), policy, target)
                    runs.append({"steps": steps, "interval": interval} | measure(steps, policy, uncached))
        for rule in RULES:
            run = measure(steps, replace(rule, branch=branch), uncached)
            lists = [even(round(run["full"]), uncached.evaluations, branch, degree) for degree in DEGREES[:2]]
            rules.append({"steps": steps} | run | {"even": [measure(steps, at, uncached) for at in lists]})
    if path:
        deviation = round(float(np.std(np.array(uncached.latents))), 4)
        sampler = uncached.requests[0].sampler
        results.write(
            path, {"sampler": sampler, "deviation": deviation, "runs": runs, "rules": rules, "machine": describe()}
        )


def even(full: int, evaluations: int, branch: int, forecast: int) -> At:
    """Returns the evenly spaced list of `full` of the evaluations, from the first on."""
    return At(tuple(i * evaluations // full for i in range(full)), branch, forecast)


def matched(count_full: Callable[[Adaptive], int], policy: Adaptive, target: int) -> Adaptive:
    """Returns the policy with a threshold at which about `target` evaluations are full, found by bisection.

    count_full: runs a generation with a policy and returns how many of its evaluations were full.
    """
    low, high = 0.0, 2.0
    for _ in range(10):
        middle = round((low + high) / 2, 4)
        full = count_full(policy := replace(policy, threshold=middle))
        if full == target:
            break
        low, high = (low, middle) if full < target else (middle, high)
    return policy


if __name__ == "__main__":
    sys.exit(main())
