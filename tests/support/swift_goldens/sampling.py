"""Golden files of the samplers: tables of every sampler and schedule, and the latents that they lead to.

`sampling/index.json` lists checkpoints and cases; `tables.f64` and `latents.f32` hold their numbers one after another,
in the order of the cases. Cases that Python refuses have no numbers.
"""

import json
import operator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_sd.core.errors import InputError
from mlx_sd.sampling import loop, samplers
from mlx_sd.sampling.scheduler import Scheduler
from mlx_sd.sampling.table import Mix, Options, Row, Table
from tests.support.swift_goldens.sampling_cases import CHECKPOINTS, cases, scheduler_of

LATENTS = 24  # numbers of a run
# Configs whose class and fields are read, whatever the tables are.
_CONFIGS: tuple[dict[str, Any], ...] = (
    {"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3, "algorithm_type": "dpmsolver"},
    {"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3},
    {"_class_name": "DPMSolverMultistepScheduler", "solver_order": 4},
    {"_class_name": "DPMSolverMultistepScheduler", "thresholding": True},
    {"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -5.1},
    {"_class_name": "DPMSolverSinglestepScheduler", "solver_type": "bh2"},
    {"_class_name": "DEISMultistepScheduler", "solver_type": "logrho", "algorithm_type": "deis"},
    {"_class_name": "UniPCMultistepScheduler", "solver_type": "bh1", "disable_corrector": [0]},
    {"_class_name": "UniPCMultistepScheduler", "solver_type": "bh1", "solver_order": 3},
    {"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": True},
    {"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": True, "use_beta_sigmas": True},
    {"_class_name": "EulerDiscreteScheduler", "interpolation_type": "log_linear"},
    {"_class_name": "EulerDiscreteScheduler", "prediction_type": "flow"},
    {"_class_name": "EulerDiscreteScheduler", "beta_schedule": "sigmoid"},
    {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "odd"},
    {"_class_name": "EulerDiscreteScheduler", "a_new_field": 1},
    {"_class_name": "LCMScheduler", "original_inference_steps": 40, "timestep_scaling": 8.0},
    {"_class_name": "TCDScheduler"},
    {"_class_name": "HeunDiscreteScheduler"},
    {"_class_name": "LMSDiscreteScheduler"},
    {"_class_name": "EulerAncestralDiscreteScheduler"},
    {"_class_name": "EDMEulerScheduler"},
    {},
)


def table_of(case: dict[str, Any], scheduler: Scheduler) -> Table:
    """Returns the table of a case; InputError where there is none."""
    options = Options(**case.get("options", {}))
    choice = samplers.choose(scheduler, case.get("sampler"), case.get("schedule"), options)
    begin, strength, steps = None, case.get("strength"), case["steps"]
    if strength is not None:
        running = int(steps * strength)
        if running < 1:
            raise InputError("no step is left")
        begin = steps - running
    return samplers.table(scheduler, *choice, steps, begin)


def numbers_of(table: Table) -> list[float]:
    """Returns a table as numbers, NaN in the place of None."""
    nan = float("nan")
    clip = table.clip
    numbers = [
        len(table.rows),
        ("denoised", "noise", "prediction").index(table.history),
        table.noise_scale,
        nan if table.image_scale is None else table.image_scale,
        table.churn_scale,
        table.sigma_data,
        *table.end,
        nan if clip is None else clip.limit,
        nan if clip is None or clip.quantile is None else clip.quantile,
    ]
    for row in table.rows:
        numbers += _row(row)
    return numbers


def _row(row: Row) -> list[float]:
    return [
        row.timestep,
        *row.level,
        row.fresh_noise,
        float(row.ends_step),
        row.clip_weight,
        *_mix(row.mix),
        *_mix(row.correction),
    ]


def _mix(mix: Mix | None) -> list[float]:
    return [0.0] if mix is None else [1.0 + len(mix.estimates), mix.base, *mix.estimates]


def draw(k: int) -> np.ndarray:
    """Returns "noise" number k, float32, of about unit variance, that any language computes alike."""
    j = np.arange(LATENTS)
    numbers: np.ndarray = np.sqrt(2.0) * np.cos(1.7 * j + 2.3 * k + 0.5)
    return numbers.astype(np.float32).reshape(1, 1, LATENTS, 1)


def final_latents(table: Table) -> np.ndarray:
    """Runs a table with a network in closed form, 0.3 sin(timestep / 100) x + a cosine of the evaluation."""
    evaluation, draws = 0, 0

    def predict(x: mx.array, timestep: float) -> mx.array:
        """Returns the prediction of the next evaluation."""
        nonlocal evaluation
        offset = np.cos(0.37 * np.arange(LATENTS) + 0.9 * evaluation).astype(np.float32).reshape(x.shape)
        evaluation += 1
        return mx.array(np.float32(0.3 * np.sin(0.01 * timestep))) * x + mx.array(offset)

    def normal() -> mx.array:
        """Returns the next fresh noise."""
        nonlocal draws
        draws += 1
        return mx.array(draw(draws))

    image = None if table.image_scale is None else mx.array(draw(100))
    return np.array(loop.run(table, predict, mx.array(draw(0)), normal, image=image)).reshape(-1)


def _sensitivity(table: Table, latents: np.ndarray) -> float:
    """Returns how far the final latents move, of the largest, where every estimate's weight moves by 1e-7 of itself.

    That is how much logarithms in float32 differ from processor to processor.
    """
    rows = []
    for i, row in enumerate(table.rows):
        factors = [1 + 1e-7 * (-1) ** (i + j) for j in range(len(row.mix.estimates))]
        estimates = tuple(map(operator.mul, row.mix.estimates, factors))
        rows.append(row._replace(mix=Mix(row.mix.base, estimates)))
    moved = final_latents(table._replace(rows=tuple(rows)))
    return float(np.abs(moved - latents).max() / np.abs(latents).max())


def write(folder: Path) -> None:
    """Writes the tables, runs and configs into folder/sampling."""
    out = folder / "sampling"
    out.mkdir(parents=True, exist_ok=True)
    (out / "configs.json").write_text(json.dumps([_config(config) for config in _CONFIGS]), encoding="utf-8")
    listed, numbers, latents = [], list[float](), list[np.ndarray]()
    schedulers = {name: scheduler_of(name) for name in CHECKPOINTS}
    for case in cases():
        try:
            table = table_of(case, schedulers[case["checkpoint"]])
        except (InputError, ValueError, IndexError, ZeroDivisionError) as error:
            listed.append(case | {"refused": str(error), "crash": not isinstance(error, InputError)})
            continue
        numbers += numbers_of(table)
        runs = CHECKPOINTS[case["checkpoint"]][3] and len(table.rows) < 100
        if runs:
            latents.append(final_latents(table))
            case |= {"sensitivity": _sensitivity(table, latents[-1])}
        listed.append(case | {"runs": runs})
    np.array(numbers, "<f8").tofile(out / "tables.f64")
    np.concatenate(latents).astype("<f4").tofile(out / "latents.f32")
    checkpoints = {name: {"config": config, "xl": xl} for name, (config, xl, _, _) in CHECKPOINTS.items()}
    index = {"checkpoints": checkpoints, "cases": listed}
    (out / "index.json").write_text(json.dumps(index), encoding="utf-8")


def _config(config: dict[str, Any]) -> dict[str, Any]:
    try:
        scheduler = Scheduler.from_hf(config)
    except InputError as error:
        return {"config": config, "refused": str(error)}
    options = {name: value for name, value in vars(scheduler.options).items() if value is not None}
    return {
        "config": config,
        "sampler": scheduler.sampler,
        "options": options,
        "sigma_schedule": scheduler.sigma_schedule,
        "alphas_cumprod": [scheduler.alphas_cumprod()[i] for i in (0, 100, 500, 998, 999)],
    }
