"""Quality against cost of DeepCache, T-GATE and fewer steps, on the embedded checkpoint: python -m bench curves.

A configuration is a solver, a number of steps, and a loop (DeepCache, T-GATE, both or neither). All start from the same
noise and the same prompts. The cost is multiplications, counted as they would run, in forwards of the whole guided
UNet. The quality is the share of captions that come true by rules on pixels, the Frechet distance to true pictures, the
CLIP score with the prompts, and the errors against the same solver and steps with every step full.

Finished blocks are stored in --work and not computed again; runs may share it.
"""

import argparse
import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from mlx_sd.completion import table_of
from mlx_sd.cost import passes_of
from mlx_sd.ranks.exchange import Ranks
from mlx_sd.request import GUIDANCE_EMBEDDED, Request
from mlx_sd.sampling import loop

from .. import arguments, dealing, results
from ..speed.loops import Loop
from ..tiny.claims import COUNT, claims
from . import blocks, fidelity, solvers

_EXAMPLES = """examples:
  python -m bench curves --work curves-work --json curves.json
  python -m bench curves --images 128 --work curves-work --json curves.json
"""
GUIDANCE = GUIDANCE_EMBEDDED
PAPER = "ddim"  # the solver of the papers' tables, in 50 steps
INTERVALS = (1, 2, 3, 5, 10, 20)


class Configuration(NamedTuple):
    """A solver, its steps and its loop; the group is that of its marker in the plot."""

    group: str
    sampler: str
    steps: int
    loop: str = "full"  # in the form that Loop.parse reads

    @property
    def full(self) -> "Configuration":
        """Returns the same solver and steps with every step full."""
        return self._replace(group="", loop="full")


def configurations() -> list[Configuration]:
    """Returns all configurations that are compared, the most important first."""
    c = Configuration
    return [
        *(c("DeepCache", PAPER, 50, str(n) if n > 1 else "full") for n in INTERVALS),
        *(c("all", "dpmpp_2m", n, text) for n, text in ((15, "3/tgate:6"), (15, "2/tgate:6"))),
        *(c("fewer steps", PAPER, n) for n in (25, 15, 10, 8, 6, 5)),
        *(c("fewer steps", "dpmpp_2m", n) for n in (25, 15, 10, 8, 6, 5, 4, 3)),
        *(c("fewer steps", "dpmpp_2m_sde", n) for n in (25, 15, 10, 8)),
        *(c("T-GATE", "dpmpp_2m_sde", n, f"tgate:{gate}") for n, gate in ((8, 4), (10, 5))),
        *(c("T-GATE", "dpmpp_2m", n, f"tgate:{gate}") for n, gate in ((5, 3), (6, 3), (8, 4), (10, 5))),
        *(c("DeepCache", "dpmpp_2m", n, "2") for n in (6, 8, 10)),
        *(c("all", "dpmpp_2m", n, text) for n, text in ((8, "2/tgate:4"), (10, "2/tgate:5"))),
        *(c("all", "dpmpp_2m", n, f"2+forecast1/tgate:{gate}") for n, gate in ((10, 5), (15, 7))),
        *(c("T-GATE", PAPER, 50, f"tgate:{gate}") for gate in ("10", "20", "30")),
        *(c("DeepCache, T-GATE", PAPER, 50, text) for text in ("3/tgate:10", "5/tgate:10", "5/tgate:20")),
        *(c("DeepCache", "dpmpp_2m", 25, text) for text in ("2", "3", "5", "3+forecast1")),
        *(c("DeepCache", "dpmpp_2m", 15, text) for text in ("2", "3", "2+forecast1")),
        *(c("T-GATE", "dpmpp_2m", 25, f"tgate:{gate}") for gate in ("5", "10", "15")),
        c("all", "dpmpp_2m", 25, "3/tgate:10"),
        *(c("DeepCache", PAPER, 50, f"nonuniform:{n}") for n in (5, 10, 20)),
        *(c("DeepCache", PAPER, 50, f"{n}+forecast1") for n in (5, 10)),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    p = arguments.parser("curves", __doc__, _EXAMPLES)
    blocks.add_arguments(p, 4 * blocks.BLOCK, "curves-work")
    arguments.add_json(p)
    options = p.parse_args(argv)
    blocks.check_images(p, options.images, COUNT)
    return dealing.run("curves", lambda ranks: _curves(options, ranks))


def _curves(options: argparse.Namespace, ranks: Ranks) -> None:
    if ranks.rank == 0:
        options.work.mkdir(parents=True, exist_ok=True)
    comparison, compared = ReuseComparison(options.work), configurations()
    dealing.check_same(ranks, comparison.sd, (compared, options.images))
    count = range(options.images // blocks.BLOCK)
    jobs = dict(comparison.job(configuration, block) for block in count for configuration in compared)
    blocks.finish(ranks, jobs, options.so_far)
    machine = dealing.machine(ranks)
    if ranks.rank == 0:
        results.report(comparison.results(compared, options.images) | machine, options.json)


class ReuseComparison:
    """Compares configurations on the embedded checkpoint; finished blocks are stored in a folder."""

    def __init__(self, work: Path):
        self.work, self.solvers = work, solvers.SolverComparison(work)
        self.sd = self.solvers.sd

    def settings(self, configuration: Configuration) -> Request:
        """Returns the completed request of a configuration, with an empty prompt."""
        request = Request(
            prompt="",
            seed=0,
            sampler=configuration.sampler,
            steps=configuration.steps,
            guidance=GUIDANCE,
            **Loop.parse(configuration.loop)._asdict(),
        )
        return self.sd.complete(request)

    def block(self, configuration: Configuration, block: int) -> blocks.Arrays:
        """Returns of one block the final latents (16, h, w, C), the pictures (16, H, W, 3), and what `judged` does."""
        return blocks.load(*self.job(configuration, block))

    def job(self, configuration: Configuration, block: int) -> tuple[Path, Callable[[], Mapping[str, Any]]]:
        """Returns the file of one block, and what computes its arrays."""
        return self._path(configuration, block), partial(self._compute, configuration, block)

    def _compute(self, configuration: Configuration, block: int) -> Mapping[str, Any]:
        settings, side = self.settings(configuration), self.sd.unet.config.sample_size
        normal = blocks.noises(block, side)
        texts = [claims()[number].caption for number in blocks.scenes(block)]
        predict = self.sd.predictor([settings.with_values(prompt=text) for text in texts])
        latents = loop.run(table_of(self.sd.model, settings), predict, normal(), normal)
        pixels = self.sd.decode(latents)
        pictures = mx.round((pixels + 1) * 127.5).astype(mx.uint8)
        return {"latents": latents, "pictures": pictures} | self.solvers.judged(pixels, block)

    def cost(self, configuration: Configuration) -> float:
        """Counts the multiplications of the whole loop, in those of one forward of the whole guided UNet."""
        (counted,) = passes_of(self.sd.model, self.settings(configuration))
        return sum(counted.macs) / counted.macs[0]

    def results(self, compared: Sequence[Configuration], images: int) -> dict[str, Any]:
        """Returns the results of all configurations whose blocks, and those of their full loops, are finished."""
        finished = [c for c in compared if self._finished(c, images) and self._finished(c.full, images)]
        return {
            "model": "tiny",
            "guidance": GUIDANCE,
            "images": images,
            "true_images": solvers.TRUE,
            "other_true": self.solvers.distances_of_true_pictures(images),
            "ways": [self.measure(configuration, images) for configuration in finished],
        }

    def _finished(self, configuration: Configuration, images: int) -> bool:
        return all(self._path(configuration, block).exists() for block in range(images // blocks.BLOCK))

    def measure(self, configuration: Configuration, images: int) -> dict[str, Any]:
        """Returns a configuration, its cost, its scores and its errors against every step full."""
        arrays, full = self._all(configuration, images), self._all(configuration.full, images)
        psnr = np.median([fidelity.psnr(*pair) for pair in zip(arrays["pictures"], full["pictures"], strict=True)])
        return {
            **configuration._asdict(),
            "evaluations": len(table_of(self.sd.model, self.settings(configuration)).rows),
            "forwards": round(self.cost(configuration), 3),
            **self.solvers.picture_scores(arrays["features"]),
            **solvers.share_true(arrays),
            "drift_rms": round(float(np.median(fidelity.rms(arrays["latents"], full["latents"]))), 5),
            "psnr": round(float(psnr), 2) if np.isfinite(psnr) else None,
        }

    @cache  # noqa: B019 - one comparison a process
    def _all(self, configuration: Configuration, images: int) -> blocks.Arrays:
        return blocks.concatenate([self.block(configuration, block) for block in range(images // blocks.BLOCK)])

    def _path(self, configuration: Configuration, block: int) -> Path:
        name = hashlib.sha256(repr(configuration[1:]).encode()).hexdigest()[:16]
        return self.work / f"{name}-{block}.npz"


if __name__ == "__main__":
    sys.exit(main())
