"""Sampler tables as JSON: which timestep, which coefficients and which deep features each evaluation has.

Everything that depends on the sampler, the schedule, the prediction type and the cache policy is in the numbers: an app
runs every table with the one loop of `loop.run`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_sd.core.errors import InputError
from mlx_sd.request import STEPS
from mlx_sd.reuse import deepcache
from mlx_sd.reuse.feature_cache import FeatureCache
from mlx_sd.reuse.policy import Policy
from mlx_sd.sampling import names, samplers
from mlx_sd.sampling.scheduler import Scheduler
from mlx_sd.sampling.schedules import step_count
from mlx_sd.sampling.steps import Level
from mlx_sd.sampling.table import Mix, Options, Table
from mlx_sd.schedule_file import read_schedule

FORMAT, VERSION = "mlx-sd sampler table", 1

# prediction type -> (a, b) of the image and of the noise, as a * latents + b * prediction at a level; see
# `mlx_sd.sampling.denoise`.
_Linear = Callable[[Level], tuple[float, float]]
_IMAGE: dict[str, _Linear] = {
    "epsilon": lambda level: (1 / level.signal, -level.noise / level.signal),
    "v_prediction": lambda level: (level.signal, -level.noise),
    "edm": lambda level: (level.signal, level.noise),
    "sample": lambda level: (0.0, 1.0),
}
_NOISE: dict[str, _Linear] = {
    "epsilon": lambda level: (0.0, 1.0),
    "v_prediction": lambda level: (level.noise, level.signal),
    "edm": lambda level: (level.noise, -level.signal),
    "sample": lambda level: (1 / level.noise, -level.signal / level.noise),
}


@dataclass(frozen=True)
class Setting:
    """One table's sampler, schedule, options of the sampler, steps and cache policy, completed and checked."""

    sampler: str
    schedule: str
    options: Options
    steps: int
    deepcache: Policy | None

    @property
    def name(self) -> str:
        """Returns the name of the table's file, without its suffix."""
        words = [self.sampler, self.schedule.partition("=")[0], str(self.steps)]
        if self.deepcache:
            words += ["deepcache", *re.findall(r"\w+", str(self.deepcache))]
        return "-".join(words)


def choose(
    scheduler: Scheduler,
    sampler_names: Sequence[str],
    schedule_names: Sequence[str],
    steps: Sequence[int],
    policies: Sequence[str],
    branch: int | None,
) -> list[Setting]:
    """Returns every combination of samplers, schedules and steps, without a cache and with each cache policy.

    scheduler: the checkpoint's. The names are those of `--sampler` and `--schedule`, other programs' names and .json
    files of schedules included; nothing stands for the checkpoint's own, and 25 steps. policies: as `--deepcache` takes
    them. branch: at which the packages are cut, None where they are not. Raises InputError for what does not exist or
    does not fit together, and for a table that is there twice.
    """
    caches = [None, *(_policy(text, branch) for text in policies)]
    lists: tuple[Sequence[Any], ...] = (sampler_names or [None], schedule_names or [None], steps or [None], caches)
    settings: list[Setting] = []
    for sampler_name, schedule_name, count, cache in product(*lists):
        if schedule_name is not None and schedule_name.endswith(".json"):
            schedule_name = read_schedule(Path(schedule_name))
        canonical = names.canonical(sampler_name, schedule_name, None)
        options = Options(kind=canonical.kind)
        sampler, schedule, options = samplers.choose(scheduler, canonical.sampler, canonical.schedule, options)
        listed = step_count(schedule)
        if listed is not None and count not in (None, listed):
            raise InputError(f"the schedule given is of {listed} steps, not {count}; leave --steps out")
        named = listed if count is None else count
        setting = Setting(sampler, schedule, options, STEPS if named is None else named, cache)
        describe(setting, table_of(setting, scheduler))  # what does not fit is said before any work
        if setting.name in (other.name for other in settings):
            raise InputError(f"the table {setting.name} is there twice; leave out what is given twice")
        settings.append(setting)
    return settings


def table_of(setting: Setting, scheduler: Scheduler) -> Table:
    """Returns the rows of a setting; InputError where there are too many steps."""
    return samplers.table(scheduler, setting.sampler, setting.schedule, setting.options, setting.steps)


def describe(setting: Setting, table: Table) -> dict[str, Any]:
    """Returns a table as JSON; what each number means is in the kit's README.

    Raises InputError where the numbers would depend on the picture.
    """
    if table.clip:
        raise InputError(f"{setting.sampler} clips its estimates here, which a table cannot say; choose another")
    linear = {"denoised": _IMAGE, "noise": _NOISE}.get(table.history, {}).get(table.prediction_type)
    reuse = _reuse(setting.deepcache, table)
    rows: list[dict[str, Any]] = []
    for i, row in enumerate(table.rows):
        latents, prediction = linear(row.level) if linear else (0.0, 1.0)
        later = {evaluation for weights in reuse[i + 1 :] for evaluation, _ in weights}
        rows.append(
            {
                "timestep": row.timestep,
                "full": not reuse[i],
                "deep": reuse[i],
                "forget": [],
                "estimate": {"latents": latents, "prediction": prediction},
                "correction": _mix(row.correction),
                "mix": _mix(row.mix),
                "fresh_noise": row.fresh_noise,
                "ends_step": row.ends_step,
            }
        )
        stored = {j for j in range(i + 1) if rows[j]["full"]} - {j for row in rows for j in row["forget"]}
        rows[i]["forget"] = sorted(stored - later)
    mixes = [mix for row in table.rows for mix in (row.mix, row.correction) if mix]
    return {
        "format": FORMAT,
        "version": VERSION,
        "sampler": setting.sampler,
        "schedule": setting.schedule,
        "steps": setting.steps,
        "options": {name: value for name, value in asdict(setting.options).items() if value is not None},
        "deepcache": None if setting.deepcache is None else str(setting.deepcache),
        "start": {"noise": table.noise_scale, "fresh_noise": table.churn_scale},
        "history": max(len(mix.estimates) for mix in mixes),
        "rows": rows,
    }


def full_evaluations(described: Mapping[str, Any]) -> int:
    """Returns how many evaluations of a described table run the whole UNet."""
    return sum(row["full"] for row in described["rows"])


def _policy(text: str, branch: int | None) -> Policy:
    policy = deepcache.parse(text)
    if branch is None:
        raise InputError("--deepcache needs a UNet that is cut in two: export with --unet chunks")
    if policy.branch != branch:
        raise InputError(f"--deepcache {text}: the UNet is cut at branch {branch}, not {policy.branch}; see --branch")
    if policy.decides_per_image:
        raise InputError(f"--deepcache {text} decides while a picture is made, so no table can say it; choose another")
    return policy


def _reuse(policy: Policy | None, table: Table) -> list[list[list[float]]]:
    """Returns for each evaluation [(full evaluation, weight of its deep features), ...]; nothing for a full one.

    The policy's own code runs on features that are unit vectors, one for each evaluation.
    """
    cache, count = FeatureCache(policy, table.log_snr), len(table.rows)
    weights: list[np.ndarray] = []

    def evaluate(deep: Any, depth: int) -> tuple[mx.array, mx.array]:
        """Notes which deep features are reused, and returns this evaluation's own."""
        weights.append(np.zeros(count) if deep is None else np.array(deep))
        return mx.zeros(1), mx.array(np.eye(count, dtype=np.float32)[len(weights) - 1])

    for _ in range(count):
        cache.evaluate(evaluate)
    return [[[int(i), float(row[i])] for i in np.flatnonzero(row)[::-1]] for row in weights]


def _mix(mix: Mix | None) -> dict[str, Any] | None:
    return None if mix is None else {"base": mix.base, "estimates": list(mix.estimates)}
