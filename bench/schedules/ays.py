"""Align Your Steps: optimises the schedule of N steps for a model, a solver and prompts: python -m bench ays.

The bound of bench/schedules/klub.py is minimised as by Sabour, Fidler and Kreis (2024). Ten steps come first: each in
turn moves to where the bound is least, until the final latents get no nearer to the fine solution (the bound is about
paths, not about their ends). Then the steps are halved in log sigma, to 20 and to 40, and only the new ones move. Other
numbers of steps interpolate the 40. Paths begin at pictures that the model itself makes of the prompts.

--schedule takes the file written. For the embedded model, --json also has the quality of its pictures with it.
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
from mlx_sd.predictor import latent_shape
from mlx_sd.request import Request
from mlx_sd.sampling import loop, samplers, schedules
from mlx_sd.sampling.denoise import estimate_image
from mlx_sd.sampling.steps import Level
from mlx_sd.schedule_file import read_schedule

from .. import arguments, prompts, results
from ..machine import describe
from ..quality import fidelity
from ..quality.solvers import SolverComparison
from . import klub

_EXAMPLES = """examples:
  python -m bench ays --prompts prompts.txt --steps 10 --out schedule.json
  python -m mlx_sd.generate "a red tent on green grass" --schedule schedule.json
"""
# Solvers with one evaluation a step; each with the solver that is the same without fresh noise.
SOLVERS = {
    **{name: name for name in ("euler", "ddim", "dpmpp_2m", "dpmpp_3m", "dpm_2m", "deis")},
    **{"ddpm": "ddim", "euler_ancestral": "euler", "dpmpp_2m_sde": "dpmpp_2m"},
}
FINE, FINE_STEPS = "dpmpp_2m", 100  # the fine solution, whose pictures paths begin at
FIRST, DIVIDED = 10, {20: 2, 40: 1}  # steps at first, then after each division: the least edges between neighbours
PATIENCE = 2  # sweeps without improvement of the latents, after which the best sweep is taken
COMPARED = ("karras", "ays")

_BATCH = 16

Levels = NDArray[np.float64]  # k = s / a, falling


class Sweep(NamedTuple):
    """The nodes after a sweep, their bound, and the error of the latents on them."""

    nodes: list[int]
    bound: float
    rmse: float


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    p = arguments.parser("ays", __doc__, _EXAMPLES)
    p.add_argument("--model", default="tiny", help="as python -m mlx_sd.generate takes it")
    p.add_argument("--sampler", default="dpmpp_2m", choices=tuple(SOLVERS), metavar="NAME", help=", ".join(SOLVERS))
    p.add_argument("--steps", type=int, default=FIRST, help="default 10")
    p.add_argument("--prompts", type=Path, required=True, metavar="FILE", help="one prompt a line")
    p.add_argument("--guidance", type=float, help="default: the model's")
    p.add_argument("--paths", type=int, default=16, help="paths, from prompts in turn, default 16")
    p.add_argument("--strata", type=int, default=96, help="times along a path, default 96")
    p.add_argument("--seed", type=int, default=0, help="of the first path")
    p.add_argument("--out", type=Path, required=True, metavar="FILE", help="the schedule")
    p.add_argument(
        "--json",
        type=arguments.results_file,
        metavar="FILE",
        help="write the sweeps and a comparison with other schedules here",
    )
    p.add_argument("--work", type=Path, default=Path("solvers-work"), metavar="DIR", help="as in solvers")
    p.add_argument("--images", type=int, default=16, help="pictures of the comparison, default 16")
    options = p.parse_args(argv)
    return command.run("bench ays", lambda: _ays(options))


def _ays(options: argparse.Namespace) -> None:
    fewest_strata = 8 * FIRST
    if options.paths < 1 or options.strata < fewest_strata or options.steps < 2:
        raise InputError(f"there must be at least 1 path, {fewest_strata} strata and 2 steps")
    texts = prompts.read(options.prompts)
    sd = StableDiffusion.load(options.model)
    texts = [texts[i % len(texts)] for i in range(options.paths)]
    model = PromptedModel(sd, texts, options.guidance, options.seed)
    solver = Solver(sd, options.sampler)
    paths = _paths(model, solver, options.strata, options.seed)
    sweeps = optimise(paths, solver, lambda levels: model.rmse(solver, levels))
    best = min(sweeps, key=lambda sweep: sweep.rmse)
    nodes = refine(paths, solver, best.nodes, options.steps)
    levels = spread(paths.edges[nodes], options.steps)
    about = {"model": options.model, "model_hash": sd.model.hash, "sampler": options.sampler}
    about |= {"steps": options.steps, "guidance": model.guidance}
    with atomic_file(options.out) as f:
        f.write(json.dumps(solver.schedule(levels) | {"about": about}, indent=1).encode() + b"\n")
    print(options.out)
    if options.json:
        sampling = {"paths": options.paths, "strata": options.strata, "seed": options.seed, "images": options.images}
        optimisation = {"sweeps": [sweep._asdict() for sweep in sweeps], "kept": sweeps.index(best)}
        compared = _compare(options, sd, paths, solver, model.guidance)
        values = about | sampling | optimisation | {"schedules": compared, "machine": describe()}
        results.write(options.json, values)


def _compare(
    options: argparse.Namespace, sd: StableDiffusion, paths: klub.Paths, solver: "Solver", guidance: float
) -> dict[str, dict[str, Any]]:
    """The bound of the solver's own schedule, of COMPARED and of the file written; their quality for "tiny"."""
    names = {name: name for name in (solver.spacing, *COMPARED)} | {"aligned": read_schedule(options.out)}
    compared: dict[str, dict[str, Any]] = {}
    for name, text in names.items():
        places = snapped(paths.edges, solver.levels(options.steps, schedules.resolve(text, sd.model.scheduler)))
        compared[name] = {"bound": klub.bound(paths, places, solver.orders(options.steps))}
    if options.model == "tiny":
        options.work.mkdir(parents=True, exist_ok=True)
        comparison = SolverComparison(options.work)
        for name, text in names.items():
            point = comparison.point(options.sampler, options.steps, text)
            compared[name] |= comparison.measure(point, guidance, options.images)
    return compared


class PromptedModel:
    """A model with prompts and first latents; its fine solution is where paths begin."""

    def __init__(self, sd: StableDiffusion, texts: Sequence[str], guidance: float | None, seed: int):
        """Draws first latents for the prompts, and computes the fine solution."""
        settings = sd.complete(Request(prompt="", seed=0, guidance=guidance))
        self.guidance = settings.guidance or 0.0
        self._scheduler = sd.model.scheduler
        parts = [range(i, min(i + _BATCH, len(texts))) for i in range(0, len(texts), _BATCH)]
        requests = [settings.with_values(prompt=text) for text in texts]
        self._predictors = [(part, sd.predictor([requests[i] for i in part])) for part in parts]
        shape = (len(texts), *latent_shape(sd.model, settings))
        normal = np.random.RandomState(seed).standard_normal(shape)
        self._noise = mx.array(normal.astype(np.float32))
        self._fine = self._sample(FINE, None, FINE_STEPS)

    @property
    def images(self) -> NDArray[np.float32]:
        """Returns the fine solution's latents (N, h, w, C), divided by the standard deviation of the data."""
        return (self._fine / self._scheduler.sigma_data).astype(np.float32)

    def denoise(self, y: NDArray[np.float32], k: float) -> NDArray[np.float32]:
        """Returns the model's estimate of the image in y = image + k * noise, both (N, h, w, C)."""
        a = 1 / np.sqrt(1 + k * k)
        x, t = mx.array(y * np.float32(a)), float(self._scheduler.timestep(k))
        outputs = [predict(x[part.start : part.stop], t) for part, predict in self._predictors]
        output, level = mx.concatenate(outputs), Level(float(a), float(k * a))
        return np.array(estimate_image(self._scheduler.prediction_type, x, output, level))

    def rmse(self, solver: "Solver", levels: Levels) -> float:
        """Returns the error of the solver's latents, without fresh noise, on these levels: the median over pictures."""
        schedule = solver.schedule(levels)
        text = next(f"{kind}={','.join(map(str, values))}" for kind, values in schedule.items())
        latents = self._sample(SOLVERS[solver.sampler], text, len(levels) - 1)
        return float(np.median(fidelity.rms(latents, self._fine)))

    def _sample(self, sampler: str, spacing: str | None, steps: int) -> NDArray[np.float32]:
        method = samplers.choose(self._scheduler, sampler, spacing)
        # noise_scale 1: from the same first latents, which diffusers' Euler family would scale a little.
        table = samplers.table(self._scheduler, *method, steps)._replace(noise_scale=1.0)
        latents = []
        for part, predict in self._predictors:
            noise = self._noise[part.start : part.stop]
            latents.append(loop.run(table, predict, noise, lambda: noise))  # noqa: B023 - none is drawn
        return np.array(mx.concatenate(latents))


class Solver:
    """A sampler on a model: the estimates it interpolates, and the noise levels k = sigma / alpha of its steps."""

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
        """Returns how many estimates each of `steps` steps combines."""
        table = samplers.table(self._scheduler, self.sampler, self.spacing, self._options, steps)
        return [len(row.mix.estimates) for row in table.rows]

    def levels(self, steps: int, spacing: str | None = None) -> Levels:
        """Returns the levels at which the steps of a schedule, by default its own, begin; and the end of the paths."""
        method = samplers.SAMPLERS[self.sampler]
        grid = method.grid(self._scheduler, steps, spacing or self.spacing, schedules.RHO)
        return np.array([*(p.start.sigma for p in grid.steps), self.low])

    def schedule(self, levels: Levels) -> dict[str, list[float]]:
        """Returns the levels as a schedule file holds them: sigmas, or timesteps where the sampler takes only these.

        The last step ends where the sampler's own last step does, which for most is zero.
        """
        method, k = samplers.SAMPLERS[self.sampler], levels[:-1]
        if "sigmas" not in method.schedules:
            return {"timesteps": [int(t) for t in np.round(self._scheduler.timestep(k))]}
        last = method.grid(self._scheduler, FIRST, self.spacing, schedules.RHO).steps[-1]
        end = self.low if last.end.noise else 0.0
        return {"sigmas": [round(float(v) * self._scheduler.sigma_data, 5) for v in (*k, end)]}


def _paths(model: PromptedModel, solver: Solver, strata: int, seed: int) -> klub.Paths:
    with tqdm(total=2 * strata + 1, unit="level", disable=not sys.stderr.isatty()) as bar:

        def denoise(y: NDArray[np.float32], k: float) -> NDArray[np.float32]:
            """Calls the model, and moves the bar."""
            bar.update()
            return model.denoise(y, k)

        return klub.follow(denoise, model.images, solver.low, solver.high, strata, seed, solver.history)


def optimise(paths: klub.Paths, solver: Solver, rmse: Callable[[Levels], float]) -> list[Sweep]:
    """Sweeps over the first ten steps of the solver's own schedule until sweeps no longer help; returns each state."""
    orders, gap = solver.orders(FIRST), 2 * len(DIVIDED)
    nodes = snapped(paths.edges, solver.levels(FIRST), gap)
    sweeps = [Sweep(nodes, klub.bound(paths, nodes, orders), rmse(paths.edges[nodes]))]
    while len(sweeps) - 1 - min(range(len(sweeps)), key=lambda i: sweeps[i].rmse) < PATIENCE:
        nodes = klub.sweep(paths, nodes, orders, range(1, FIRST), gap)
        if nodes == sweeps[-1].nodes:
            break
        sweeps.append(Sweep(nodes, klub.bound(paths, nodes, orders), rmse(paths.edges[nodes])))
    return sweeps


def refine(paths: klub.Paths, solver: Solver, nodes: list[int], steps: int) -> list[int]:
    """Divides ten steps until there are `steps` or 40; the nodes of earlier steps stay where they are."""
    for count, gap in DIVIDED.items():
        if steps == len(nodes) - 1:
            break
        nodes, before = klub.divided(nodes), nodes
        while nodes != before:
            before, nodes = nodes, klub.sweep(paths, nodes, solver.orders(count), range(1, count, 2), gap)
    return nodes


def snapped(edges: Levels, levels: Levels, gap: int = 1) -> list[int]:
    """Returns the nearest edges, from the highest to the lowest, with at least `gap` between neighbours."""
    steps = len(levels) - 1
    logs = np.interp(np.log(levels), np.log(edges), np.arange(len(edges))).round().astype(int)
    nodes = [len(edges) - 1]
    for i in range(1, steps):
        nodes.append(int(max(min(logs[i], nodes[-1] - gap), gap * (steps - i))))
    return [*nodes, 0]


def spread(levels: Levels, steps: int) -> Levels:
    """Returns levels of `steps` steps over the same range, interpolated linearly in the logarithm."""
    places = np.linspace(0, len(levels) - 1, steps + 1)
    return np.asarray(np.exp(np.interp(places, np.arange(len(levels)), np.log(levels))))


if __name__ == "__main__":
    sys.exit(main())
