"""Quality against cost of all that is reused, on the embedded checkpoint: python -m bench curves.

Each way to a picture (solver, steps, DeepCache, T-GATE) starts from the same noise and the same prompts. Its cost is
multiplications, counted as it would run, in forwards of the whole guided UNet; its quality is the Frechet distance to
true pictures, the CLIP score with the prompts, and how far it ends from the same solver and steps without reuse.

What is computed is kept in --work, block by block, and not computed again; runs may share it.
"""

import argparse
import hashlib
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from mlx_sd.core import command
from mlx_sd.core.files import atomic_file
from mlx_sd.sampling import loop
from mlx_sd.settings import Settings, table

from .. import results
from ..machine import describe
from ..speed.loops import Loop
from ..speed.operations import counting
from . import fidelity, landscapes, solvers

_EXAMPLES = """examples:
  python -m bench curves --work curves-work --json curves.json
  python -m bench curves --images 128 --work curves-work --json curves.json
"""
BLOCK, GUIDANCE = solvers.BLOCK, 7.5
PAPER = "ddim"  # the solver of the papers' tables, in 50 steps
INTERVALS = (1, 2, 3, 5, 10, 20)


class Way(NamedTuple):
    """One way to a picture."""

    group: str
    sampler: str
    steps: int
    loop: str = "full"  # as bench.loops reads it

    @property
    def whole(self) -> "Way":
        """The same without reuse."""
        return self._replace(group="", loop="full")


def ways() -> list[Way]:
    """All that is compared, what matters most first."""
    found = [Way("DeepCache", PAPER, 50, str(n) if n > 1 else "full") for n in INTERVALS]
    found += [Way("all", "dpmpp_2m", *how) for how in ((15, "3/tgate:6"), (15, "2/tgate:6"))]
    found += [Way("fewer steps", PAPER, n) for n in (25, 15, 10, 8, 6, 5)]
    found += [Way("fewer steps", "dpmpp_2m", n) for n in (25, 15, 10, 8, 6, 5, 4, 3)]
    found += [Way("T-GATE", "dpmpp_2m", n, f"tgate:{gate}") for n, gate in ((5, 3), (6, 3), (8, 4), (10, 5))]
    found += [Way("DeepCache", "dpmpp_2m", n, "2") for n in (6, 8, 10)]
    found += [Way("all", "dpmpp_2m", *how) for how in ((8, "2/tgate:4"), (10, "2/tgate:5"))]
    found += [Way("all", "dpmpp_2m", n, f"2+forecast1/tgate:{gate}") for n, gate in ((10, 5), (15, 7))]
    found += [Way("T-GATE", PAPER, 50, f"tgate:{gate}") for gate in ("10", "20", "30")]
    found += [Way("DeepCache, T-GATE", PAPER, 50, how) for how in ("3/tgate:10", "5/tgate:10", "5/tgate:20")]
    found += [Way("DeepCache", "dpmpp_2m", 25, how) for how in ("2", "3", "5", "3+forecast1")]
    found += [Way("DeepCache", "dpmpp_2m", 15, how) for how in ("2", "3", "2+forecast1")]
    found += [Way("T-GATE", "dpmpp_2m", 25, f"tgate:{gate}") for gate in ("5", "10", "15")]
    found += [Way("all", "dpmpp_2m", *how) for how in ((25, "3/tgate:10"),)]
    found += [Way("DeepCache", PAPER, 50, f"nonuniform:{n}") for n in (5, 10, 20)]
    found += [Way("DeepCache", PAPER, 50, f"{n}+forecast1") for n in (5, 10)]
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    p = command.Parser(
        prog="python -m bench curves",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--images", type=int, default=4 * BLOCK, help=f"pictures a way, a multiple of {BLOCK}, default 64")
    p.add_argument("--work", type=Path, default=Path("curves-work"), metavar="DIR", help="what is computed so far")
    p.add_argument("--so-far", action="store_true", help="make no more pictures; only ways that have all of them")
    p.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    arguments = p.parse_args(argv)
    if arguments.images < BLOCK or arguments.images % BLOCK:
        p.error(f"--images must be a multiple of {BLOCK}, not {arguments.images}")
    return command.run("bench curves", lambda: _curves(arguments))


def _curves(arguments: argparse.Namespace) -> None:
    arguments.work.mkdir(parents=True, exist_ok=True)
    bench, every = Bench(arguments.work), ways()
    jobs = [(block, way) for block in range(arguments.images // BLOCK) for way in every]
    for block, way in tqdm([] if arguments.so_far else jobs, unit="way", disable=not sys.stderr.isatty()):
        bench.cell(way, block)
    results.report(bench.results(every, arguments.images) | {"machine": describe()}, arguments.json)


class Bench:
    """The embedded checkpoint, and the folder of what was computed with it."""

    def __init__(self, work: Path):
        self.work, self.world = work, solvers.Bench(work)

    def settings(self, way: Way) -> Settings:
        """What the pipeline makes of it."""
        loop = Loop.parse(way.loop)
        how: dict[str, Any] = {"sampler": way.sampler, "steps": way.steps, "guidance": GUIDANCE}
        return self.world.sd.settings(**how, deepcache=loop.deepcache, tgate=loop.tgate)

    def cell(self, way: Way, block: int) -> dict[str, NDArray[Any]]:
        """Final latents (16, h, w, C), pictures (16, H, W, 3) and their features, of one block."""
        path = self._path(way, block)
        if not path.exists():
            chosen, sd = self.settings(way), self.world.sd
            stream, side = np.random.RandomState(block), sd.unet.config.sample_size
            noise = mx.array(stream.standard_normal((BLOCK, side, side, 4)).astype(np.float32))
            predict = sd.predictor(landscapes.captions(solvers.scenes(block)), None, chosen)
            latents = loop.run(table(sd.model, chosen), predict, noise, lambda: noise)
            pixels = sd.decode(latents)
            seen = np.array(mx.round((pixels + 1) * 127.5).astype(mx.uint8))
            with atomic_file(path) as f:
                np.savez(f, latents=np.array(latents), pictures=seen, features=self.world.scorer.images(pixels))
        with np.load(path) as kept:
            return dict(kept)

    def cost(self, way: Way) -> float:
        """Multiplications of the whole loop, in those of one forward of the whole guided UNet."""
        chosen, sd = self.settings(way), self.world.sd
        predict, side = sd.predictor([""], None, chosen), sd.unet.config.sample_size
        with counting(sd.unet) as operations:
            ends = []
            for row in table(sd.model, chosen).rows:
                predict(mx.zeros((1, side, side, 4)), row.timestep)
                ends.append(sum(o.macs for o in operations))
        return ends[-1] / ends[0]

    def results(self, every: Sequence[Way], images: int) -> dict[str, Any]:
        """All that was measured, of the ways of which all blocks are there."""
        blocks = range(images // BLOCK)
        whole = [w for w in every if all(self._path(v, b).exists() for v in (w, w.whole) for b in blocks)]
        return {
            "model": "tiny",
            "guidance": GUIDANCE,
            "images": images,
            "true_images": solvers.TRUE,
            "other_true": self.world.near(images),
            "ways": [self._told(way, images) for way in whole],
        }

    def _told(self, way: Way, images: int) -> dict[str, Any]:
        found, before = self._all(way, images), self._all(way.whole, images)
        decibels = np.median([fidelity.psnr(*pair) for pair in zip(found["pictures"], before["pictures"], strict=True)])
        return {
            **way._asdict(),
            "evaluations": len(table(self.world.sd.model, self.settings(way)).rows),
            "forwards": round(self.cost(way), 3),
            **self.world.worth(found["features"]),
            "drift_rms": round(float(np.median(fidelity.rms(found["latents"], before["latents"]))), 5),
            "psnr": round(float(decibels), 2) if np.isfinite(decibels) else None,
        }

    @cache  # noqa: B019 - there is one bench
    def _all(self, way: Way, images: int) -> dict[str, NDArray[Any]]:
        cells = [self.cell(way, block) for block in range(images // BLOCK)]
        return {name: np.concatenate([cell[name] for cell in cells]) for name in cells[0]}

    def _path(self, way: Way, block: int) -> Path:
        name = hashlib.sha256(repr(way[1:]).encode()).hexdigest()[:16]
        return self.work / f"{name}-{block}.npz"


if __name__ == "__main__":
    sys.exit(main())
