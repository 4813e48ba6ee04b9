"""Align Your Steps: the schedule of N steps that suits a model, a solver and some prompts: python -m bench ays.

The bound of bench.klub is minimised as by Sabour, Fidler and Kreis (2024): ten steps first, one after the other going
where the bound is least, until the latents get no nearer to the fine solution (the bound is of paths, not of what they
end in); then halved in log sigma to 20 and to 40 steps, of which only the new ones move. Other numbers of steps
interpolate the 40. Paths begin at pictures that the model itself makes of the prompts.

The file written is what --schedule takes. Of the embedded model, --json also says how good its pictures are with it.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from mlx_sd import StableDiffusion
from mlx_sd.core import command
from mlx_sd.core.errors import InputError
from mlx_sd.core.files import atomic_file
from mlx_sd.sampling import loop, samplers
from mlx_sd.sampling import schedules as schedule
from mlx_sd.sampling.denoise import estimate_image
from mlx_sd.sampling.steps import Level

from .. import prompts, results
from ..machine import describe
from ..quality import fidelity
from ..quality.solvers import Bench
from . import klub

_EXAMPLES = """examples:
  python -m bench ays --prompts prompts.txt --steps 10 --out schedule.json
  python -m mlx_sd.generate "a red tent on green grass" --schedule schedule.json
"""
# Solvers that ask once a step and look back, and for those that add noise, which does the same without.
SOLVERS = {
    **{name: name for name in ("euler", "ddim", "dpmpp_2m", "dpmpp_3m", "dpm_2m", "deis")},
    **{"ddpm": "ddim", "euler_ancestral": "euler", "dpmpp_2m_sde": "dpmpp_2m"},
}
FINE, FINE_STEPS = "dpmpp_2m", 100  # what makes the pictures that paths begin at
FIRST, DIVIDED = 10, {20: 2, 40: 1}  # steps; and after division, the edges that stay between neighbours
PATIENCE = 2  # sweeps that bring the latents no nearer, after which the nearest are it
COMPARED = ("karras", "ays")

_BATCH = 16

Levels = NDArray[np.float64]  # k = s / a, falling


class Sweep(NamedTuple):
    """Where a sweep left the nodes, their bound, and the error of the latents on them."""

    nodes: list[int]
    bound: float
    rmse: float


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    p = command.Parser(
        prog="python -m bench ays",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--model", default="tiny", help="as python -m mlx_sd.generate takes it")
    p.add_argument("--sampler", default="dpmpp_2m", choices=tuple(SOLVERS), metavar="NAME", help=", ".join(SOLVERS))
    p.add_argument("--steps", type=int, default=FIRST, help="default 10")
    p.add_argument("--prompts", type=Path, required=True, metavar="FILE", help="one prompt a line")
    p.add_argument("--guidance", type=float, help="default: the model's")
    p.add_argument("--paths", type=int, default=16, help="paths, from prompts in turn, default 16")
    p.add_argument("--strata", type=int, default=96, help="times along a path, default 96")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=Path, required=True, metavar="FILE", help="the schedule")
    p.add_argument("--json", type=Path, metavar="FILE", help="write how it went here")
    p.add_argument("--work", type=Path, default=Path("solvers-work"), metavar="DIR", help="of bench.solvers")
    p.add_argument("--images", type=int, default=16, help="pictures that tell how good the schedule is, default 16")
    arguments = p.parse_args(argv)
    return command.run("bench ays", lambda: _ays(arguments))


def _ays(arguments: argparse.Namespace) -> None:
    least = 8 * FIRST
    if arguments.paths < 1 or arguments.strata < least or arguments.steps < 2:
        raise InputError(f"there must be at least 1 path, {least} strata and 2 steps")
    texts = prompts.read(arguments.prompts)
    sd = StableDiffusion.load(arguments.model)
    texts = [texts[i % len(texts)] for i in range(arguments.paths)]
    model = Prompted(sd, texts, arguments.guidance, arguments.seed)
    solver = Solver(sd, arguments.sampler)
    paths = _paths(model, solver, arguments.strata, arguments.seed)
    sweeps = optimise(paths, solver, lambda levels: model.rmse(solver, levels))
    best = min(sweeps, key=lambda sweep: sweep.rmse)
    nodes = refined(paths, solver, best.nodes, arguments.steps)
    levels = spread(paths.edges[nodes], arguments.steps)
    about = {"model": arguments.model, "model_hash": sd.model.hash, "sampler": arguments.sampler}
    about |= {"steps": arguments.steps, "guidance": model.guidance}
    with atomic_file(arguments.out) as f:
        f.write(json.dumps(solver.listed(levels) | {"about": about}, indent=1).encode() + b"\n")
    print(arguments.out)
    if not arguments.json:
        return
    names = {name: name for name in (solver.spacing, *COMPARED)} | {"aligned": str(arguments.out)}
    compared: dict[str, dict[str, Any]] = {}
    for name, text in names.items():
        places = snapped(paths.edges, solver.levels(arguments.steps, schedule.resolve(text, sd.model.scheduler)))
        compared[name] = {"bound": klub.bound(paths, places, solver.orders(arguments.steps))}
    if arguments.model == "tiny":
        arguments.work.mkdir(parents=True, exist_ok=True)
        bench = Bench(arguments.work)
        for name, text in names.items():
            point = bench.point(arguments.sampler, arguments.steps, text)
            compared[name] |= bench.score(point, model.guidance, arguments.images)
    settings = {"paths": arguments.paths, "strata": arguments.strata, "seed": arguments.seed}
    kept = {"sweeps": [sweep._asdict() for sweep in sweeps], "kept": sweeps.index(best)}
    shown = {**about, **settings, "images": arguments.images, **kept, "schedules": compared, "machine": describe()}
    results.write(arguments.json, shown)


class Prompted:
    """A model with prompts and first latents; paths begin at the pictures it makes of them."""

    def __init__(self, sd: StableDiffusion, texts: Sequence[str], guidance: float | None, seed: int):
        chosen = sd.settings(guidance=guidance)
        self.guidance = chosen.guidance
        self._scheduler = sd.model.scheduler
        parts = [range(i, min(i + _BATCH, len(texts))) for i in range(0, len(texts), _BATCH)]
        self._predictors = [(part, sd.predictor([texts[i] for i in part], None, chosen)) for part in parts]
        shape = (len(texts), chosen.height // sd.vae.config.downsampling, chosen.width // sd.vae.config.downsampling)
        normal = np.random.RandomState(seed).standard_normal((*shape, sd.vae.config.latent_channels))
        self._noise = mx.array(normal.astype(np.float32))
        self._fine = self._sample(FINE, None, FINE_STEPS)

    @property
    def images(self) -> NDArray[np.float32]:
        """The pictures' latents (N, h, w, C), in units of the deviation that the levels are in."""
        return (self._fine / self._scheduler.sigma_data).astype(np.float32)

    def denoise(self, y: NDArray[np.float32], k: float) -> NDArray[np.float32]:
        """What the model takes y = image + k * noise for."""
        a = 1 / np.sqrt(1 + k * k)
        x, t = mx.array(y * np.float32(a)), float(self._scheduler.timestep(k))
        said = [predict(x[part.start : part.stop], t) for part, predict in self._predictors]
        output, level = mx.concatenate(said), Level(float(a), float(k * a))
        return np.array(estimate_image(self._scheduler.prediction_type, x, output, level))

    def rmse(self, solver: "Solver", levels: Levels) -> float:
        """How far from the fine solution the solver, without fresh noise, ends on these levels: the median picture."""
        found = solver.listed(levels)
        text = next(f"{kind}={','.join(map(str, values))}" for kind, values in found.items())
        latents = self._sample(SOLVERS[solver.sampler], text, len(levels) - 1)
        return float(np.median(fidelity.rms(latents, self._fine)))

    def _sample(self, sampler: str, spacing: str | None, steps: int) -> NDArray[np.float32]:
        chosen = samplers.choose(self._scheduler, sampler, spacing)
        # From the same first latents, which diffusers' Euler family would scale a little.
        table = samplers.table(self._scheduler, *chosen, steps)._replace(noise_scale=1.0)
        made = []
        for part, predict in self._predictors:
            noise = self._noise[part.start : part.stop]
            made.append(loop.run(table, predict, noise, lambda: noise))  # noqa: B023 - none is drawn
        return np.array(mx.concatenate(made))


class Solver:
    """A sampler on a model: what it looks back on, and the levels it goes through."""

    def __init__(self, sd: StableDiffusion, sampler: str):
        self.sampler, self._scheduler = sampler, sd.model.scheduler
        _, self.spacing, self._options = samplers.choose(self._scheduler, sampler)
        table = self._scheduler.train_sigmas()
        edm = self._scheduler.edm
        self.low, self.high = float(table[0]), float(table[-1])
        if edm:
            self.low, self.high = edm.sigma_min / edm.sigma_data, edm.sigma_max / edm.sigma_data
        self.history = samplers.table(self._scheduler, sampler, self.spacing, self._options, FIRST).history

    def orders(self, steps: int) -> list[int]:
        """How many estimates each of so many steps is made of."""
        table = samplers.table(self._scheduler, self.sampler, self.spacing, self._options, steps)
        return [len(row.mix.estimates) for row in table.rows]

    def levels(self, steps: int, spacing: str | None = None) -> Levels:
        """Where the steps of a schedule, by default its own, begin; and the lowest of training, where paths end."""
        method = samplers.SAMPLERS[self.sampler]
        grid = method.grid(self._scheduler, steps, spacing or self.spacing, schedule.RHO)
        return np.array([*(p.start.sigma for p in grid.steps), self.low])

    def listed(self, levels: Levels) -> dict[str, list[float]]:
        """The levels as a schedule file holds them: sigmas, or timesteps where the sampler knows only these.

        The last step ends where the solver's own do, most at zero.
        """
        method, k = samplers.SAMPLERS[self.sampler], levels[:-1]
        if "sigmas" not in method.schedules:
            return {"timesteps": [int(t) for t in np.round(self._scheduler.timestep(k))]}
        last = method.grid(self._scheduler, FIRST, self.spacing, schedule.RHO).steps[-1]
        end = self.low if last.end.noise else 0.0
        return {"sigmas": [round(float(v) * self._scheduler.sigma_data, 5) for v in (*k, end)]}


def _paths(model: Prompted, solver: Solver, strata: int, seed: int) -> klub.Paths:
    with tqdm(total=2 * strata + 1, unit="level", disable=not sys.stderr.isatty()) as bar:

        def denoise(y: NDArray[np.float32], k: float) -> NDArray[np.float32]:
            bar.update()
            return model.denoise(y, k)

        return klub.follow(denoise, model.images, solver.low, solver.high, strata, seed, solver.history)


def optimise(paths: klub.Paths, solver: Solver, rmse: Callable[[Levels], float]) -> list[Sweep]:
    """The first ten steps, as the solver's own schedule has them and after each sweep, until sweeps no longer help."""
    orders, gap = solver.orders(FIRST), 2 * len(DIVIDED)
    nodes = snapped(paths.edges, solver.levels(FIRST), gap)
    done = [Sweep(nodes, klub.bound(paths, nodes, orders), rmse(paths.edges[nodes]))]
    while len(done) - 1 - min(range(len(done)), key=lambda i: done[i].rmse) < PATIENCE:
        nodes = klub.sweep(paths, nodes, orders, range(1, FIRST), gap)
        if nodes == done[-1].nodes:
            break
        done.append(Sweep(nodes, klub.bound(paths, nodes, orders), rmse(paths.edges[nodes])))
    return done


def refined(paths: klub.Paths, solver: Solver, nodes: list[int], steps: int) -> list[int]:
    """Ten steps divided to so many, or to 40; what was there before stays where it is."""
    for count, gap in DIVIDED.items():
        if steps == len(nodes) - 1:
            break
        nodes, before = klub.divided(nodes), nodes
        while nodes != before:
            before, nodes = nodes, klub.sweep(paths, nodes, solver.orders(count), range(1, count, 2), gap)
    return nodes


def snapped(edges: Levels, levels: Levels, gap: int = 1) -> list[int]:
    """The nearest edges, from the highest to the lowest, with so many at least between neighbours."""
    steps = len(levels) - 1
    logs = np.interp(np.log(levels), np.log(edges), np.arange(len(edges))).round().astype(int)
    nodes = [len(edges) - 1]
    for i in range(1, steps):
        nodes.append(int(max(min(logs[i], nodes[-1] - gap), gap * (steps - i))))
    return [*nodes, 0]


def spread(levels: Levels, steps: int) -> Levels:
    """So many steps over the same levels, log-linear between them."""
    places = np.linspace(0, len(levels) - 1, steps + 1)
    return np.asarray(np.exp(np.interp(places, np.arange(len(levels)), np.log(levels))))


if __name__ == "__main__":
    sys.exit(main())
