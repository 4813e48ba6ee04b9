"""Searches for the full evaluations of DeepCache, at a fixed number of them: python -m bench search.

The list is that whose final latents end nearest to those of the run that caches nothing, on a few prompts and seeds.
From the best of some regular lists, each evaluation in turn moves to where the distance is least, until a sweep over
all of them moves none: a local minimum. Nothing is drawn, so that the same settings find the same list. All distances
are in the file of --json from the moment that they are measured; a search that was interrupted goes on there.

--deepcache takes the list that is printed, and presets can hold it as `At(...)`.
"""

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mlx_sd import At, DeepCache, NonUniform, Spectrum, StableDiffusion
from mlx_sd.completion import table_of
from mlx_sd.core import command
from mlx_sd.core.errors import InputError
from mlx_sd.request import Request
from mlx_sd.reuse.policy import Policy

from .. import arguments, prompts, results
from ..machine import describe
from ..quality import fidelity

_EXAMPLES = """examples:
  python -m bench search --steps 25 --full 9 --json at-25-9.json
  python -m mlx_sd.generate "a red tent on green grass" --steps 25 --deepcache at=0,2,4,7,10,13,16,19,22
"""

Evaluations = tuple[int, ...]
Distance = Callable[[Evaluations], float]


class Sweep(NamedTuple):
    """The list after a sweep, and how far its latents end from those of the run that caches nothing."""

    evaluations: Evaluations
    distance: float


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    p = arguments.parser("search", __doc__, _EXAMPLES)
    p.add_argument("--model", default="tiny", help="as python -m mlx_sd.generate takes it")
    p.add_argument("--sampler", help="default: the checkpoint's")
    p.add_argument("--schedule", help="default: the checkpoint's")
    p.add_argument("--steps", type=int, default=25, help="default 25")
    p.add_argument("--full", type=int, required=True, metavar="K", help="how many evaluations are full")
    p.add_argument("--branch", type=int, default=0, help="where the UNet is cut, default 0")
    p.add_argument("--forecast", type=int, default=0, choices=(0, 1, 2), help="of the deep features, default 0")
    p.add_argument("--guidance", type=float, help="default: the model's")
    p.add_argument("--prompts", type=Path, metavar="FILE", help="one prompt a line; default: those of the README")
    p.add_argument("--pictures", type=int, default=3, help="pictures, of prompts in turn, default 3")
    p.add_argument(
        "--seed", type=int, default=prompts.SHOWCASE_SEED, help="of the first picture; the next has one more"
    )
    p.add_argument("--reach", type=int, default=2, help="evaluations that one moves at most in a sweep, default 2")
    p.add_argument("--sweeps", type=int, default=10, help="sweeps at most, default 10")
    p.add_argument(
        "--json",
        type=arguments.results_file,
        required=True,
        metavar="FILE",
        help="write the list and all distances here, and go on from what is there",
    )
    options = p.parse_args(argv)
    return command.run("bench search", lambda: _search(options))


def _search(options: argparse.Namespace) -> None:
    if min(options.pictures, options.reach, options.sweeps) < 1:
        raise InputError("--pictures, --reach and --sweeps must be at least 1")
    texts = prompts.read(options.prompts) if options.prompts else list(prompts.SHOWCASE)
    texts = [texts[i % len(texts)] for i in range(options.pictures)]
    settings = {name: getattr(options, name) for name in ("sampler", "schedule", "steps", "guidance")}
    sd = StableDiffusion.load(options.model, "float32" if options.model == "tiny" else None)
    first = sd.complete(Request(prompt=texts[0], seed=options.seed, **settings))
    count = len(table_of(sd.model, first).rows)
    if not 1 <= options.full <= count:
        raise InputError(f"--full must be from 1 to {count}, the evaluations that there are, not {options.full}")
    shape = {"branch": options.branch, "forecast": options.forecast}
    about = {"model": options.model, "model_hash": sd.model.hash, "evaluations": count, "full": options.full, **shape}
    about |= {name: getattr(first, name) for name in settings} | {"seed": options.seed, "prompts": texts}
    journal = Journal(options.json, about)
    latents = Latents(sd, texts, options.seed, settings)
    distances = journal.measured(lambda evaluations: latents.distance(At(evaluations, **shape)))
    sweeps = search(starts(count, options.full), count, distances, options.reach, options.sweeps)
    print("--deepcache", journal.end(sweeps, At(sweeps[-1].evaluations, **shape)))


class Latents:
    """The final latents of some prompts with a policy, beside those of the run that caches nothing."""

    def __init__(self, sd: StableDiffusion, texts: Sequence[str], seed: int, settings: dict[str, Any]):
        """seed: of the first prompt; the next has one more. settings: of each request."""
        pairs = enumerate(texts)
        self._sd = sd
        self._requests = [Request(prompt=text, seed=seed + i, **settings) for i, text in pairs]
        self._uncached: np.ndarray | None = None

    def distance(self, policy: Policy) -> float:
        """Returns the root mean square distance to the uncached latents, the mean of all pictures."""
        if self._uncached is None:
            self._uncached = self._of(None)
        return float(np.mean(fidelity.rms(self._of(policy), self._uncached)))

    def _of(self, policy: Policy | None) -> np.ndarray:
        requests = [request.with_values(deepcache=policy) for request in self._requests]
        batches = self._sd.stream(requests, batch=len(requests), output="latent")
        return np.concatenate([np.array(result.latents, np.float64) for result in batches])


class Journal:
    """The file of a search: its settings and every distance, written as soon as it is measured."""

    def __init__(self, path: Path, about: dict[str, Any]):
        """Reads the distances of an earlier search of the same settings; InputError for another one's file."""
        self._path, self._about = path, about
        self._distances: dict[str, float] = {}
        if path.exists():
            values = results.read(path)
            others = [name for name in about if values.get(name) != about[name]]
            if others:
                raise InputError(f"{path} is of a search with another {others[0]}; name another file by --json")
            self._distances = values["distances"]

    def measured(self, distance: Distance) -> Distance:
        """Returns a function that measures each list once."""

        def once(evaluations: Evaluations) -> float:
            """Returns the distance of a list, measured now or before."""
            name = ",".join(map(str, evaluations))
            if name not in self._distances:
                self._distances[name] = distance(evaluations)
                self._write({})
                print(f"{name} {self._distances[name]:.4f}", file=sys.stderr, flush=True)
            return self._distances[name]

        return once

    def end(self, sweeps: Sequence[Sweep], policy: Policy) -> str:
        """Writes the result of a search, and returns the policy as text."""
        listed = [{"evaluations": list(sweep.evaluations), "distance": sweep.distance} for sweep in sweeps]
        self._write({"policy": str(policy), "distance": sweeps[-1].distance, "sweeps": listed, "machine": describe()})
        return str(policy)

    def _write(self, values: dict[str, Any]) -> None:
        results.write(self._path, self._about | values | {"distances": self._distances})


def starts(count: int, full: int) -> list[Evaluations]:
    """Returns regular lists of `full` of `count` evaluations: those of policies, stretched to this number.

    They are evenly spaced, denser around 3/10 of the way, and densest at the start.
    """
    interval = max(1, count // full)
    lists = [DeepCache(interval).full_evaluations(count), Spectrum().full_evaluations(count)]
    with contextlib.suppress(InputError):  # no power spreads so few
        lists.append(NonUniform(interval).full_evaluations(count))
    return list(dict.fromkeys(_stretched(listed, count, full) for listed in lists))


def _stretched(listed: Sequence[int], count: int, full: int) -> Evaluations:
    """Returns `full` evaluations, from 0 up, that lie along the curve through a list and its end."""
    curve = [*listed, count]
    places = np.interp(np.linspace(0, len(listed), full + 1)[:-1], np.arange(len(curve)), curve)
    evaluations: list[int] = []
    for i, place in enumerate(places):
        lowest, highest = evaluations[-1] + 1 if evaluations else 0, count - (full - i)
        evaluations.append(min(max(int(place), lowest), highest))
    return tuple(evaluations)


def search(
    beginnings: Sequence[Evaluations], count: int, distance: Distance, reach: int = 2, most: int = 10
) -> list[Sweep]:
    """Returns the list after each sweep, first the nearest of `beginnings`; the last is of one that moves nothing.

    distance: of lists of `count` evaluations that begin with 0. reach: how far one evaluation moves in a sweep.
    most: sweeps, after which it ends in any case.
    """
    nearest = min(beginnings, key=distance)  # the first of equals
    sweeps = [Sweep(nearest, distance(nearest))]
    for _ in range(most):
        evaluations, least = sweeps[-1]
        for index in range(1, len(evaluations)):
            for moved in moves(evaluations, index, count, reach):
                if (new := distance(moved)) < least:
                    evaluations, least = moved, new
        sweeps.append(Sweep(evaluations, least))
        if sweeps[-1] == sweeps[-2]:
            break
    return sweeps


def moves(evaluations: Evaluations, index: int, count: int, reach: int) -> Iterator[Evaluations]:
    """Yields the lists in which one evaluation lies elsewhere between its neighbours, at most `reach` away."""
    before, place = evaluations[index - 1], evaluations[index]
    after = evaluations[index + 1] if index + 1 < len(evaluations) else count
    for other in range(max(before + 1, place - reach), min(after, place + reach + 1)):
        if other != place:
            yield (*evaluations[:index], other, *evaluations[index + 1 :])


if __name__ == "__main__":
    sys.exit(main())
