"""Golden files of samplers' names, of DeepCache policies and of a kit's tables, beside those of `sampling`."""

import json
from pathlib import Path
from typing import Any

from coreml.kit import tables
from mlx_sd.core.errors import InputError
from mlx_sd.reuse import deepcache
from mlx_sd.sampling import names, samplers
from mlx_sd.sampling.table import Options
from tests.support.swift_goldens.sampling_cases import scheduler_of


def write(folder: Path) -> None:
    """Writes names.json, plans.json and kit.json into folder/sampling."""
    out = folder / "sampling"
    out.mkdir(parents=True, exist_ok=True)
    contents = {"names": _names(), "plans": _plans(), "kit": _kit_tables()}
    for name, content in contents.items():
        (out / f"{name}.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


_TEXTS = """DPM++ 2M Karras|DPM++ 2M SDE Karras|DPM++ 2M SDE Heun Exponential|Euler a|euler_ancestral|k_euler_a|k_lms
LMS Karras|DDIM|PLMS|UniPC|UniPC bh2|uni_pc_bh2|DPM++ 3M SDE|DPM++ SDE Karras|DPM2 a|Restart|LCM|TCD|Heun
dpmpp_2m_sde_gpu|EulerDiscreteScheduler|DPMSolverMultistepScheduler|PNDMScheduler|pndmScheduler|dpmSolverMultistepScheduler|PNDM
discreteFlowScheduler|FlowMatchEulerDiscreteScheduler|DEISMultistepScheduler|KDPM2DiscreteScheduler|ddim_inverse|deis_k
DPM fast|DPM adaptive|karras|Karras|SGM Uniform|dpmpp_2m_karras|Euler SGM|euler_ka|DPM++ 2M AYS|EDMEulerScheduler
Automatic|DPM++ 2S a|euler_cfg_pp|res_multistep|ipndm|sa_solver|er_sde|gradient_estimation|DDPM|ddim_uniform
dpmpp_2m simple|UniPC Trailing|||   |not a sampler|eulerr|DPM++ 2M Beta|DPM++ 2M Normal|heunpp2|seeds_2
LMSDiscreteScheduler|TCDScheduler|DPM-Solver++ |sde-dpmsolver++|DDIMParallelScheduler|k_dpmpp_2m
kdpm2|dpmpp 2m align your steps"""
_SCHEDULE_TEXTS = """Karras|karras|Automatic|Default|Use same scheduler|SGM Uniform|ddim_uniform|DDIM|Align Your Steps
polyexponential|uniform|simple|normal|beta57|KL Optimal|Turbo|linear_quadratic|gits|use_karras_sigmas|discrete|trailing
timesteps=5,4|sigmas=3,2,1|Euler a|karas|Exponential|Beta|diffusers_sgm_uniform|SGMUniformScheduler"""


def _names() -> list[dict[str, Any]]:
    texts = [text for line in _TEXTS.split("\n") for text in line.split("|")]
    listed = [text for line in _SCHEDULE_TEXTS.split("\n") for text in line.split("|")]
    pairs: list[tuple[str | None, str | None, str | None]] = [(text, None, None) for text in texts]
    pairs += [(None, text, None) for text in listed]
    pairs += [(text, schedule, None) for text in texts[:16] for schedule in listed[:9]]
    pairs += [("DPM++ 2M SDE Heun", None, kind) for kind in ("heun", "midpoint")]
    result = []
    for sampler, schedule, kind in pairs:
        entry: dict[str, Any] = {"arguments": [sampler, schedule, kind]}
        try:
            entry["choice"] = list(names.canonical(sampler, schedule, kind))
        except InputError as error:
            entry["refused"] = str(error)
        result.append(entry)
    return result


_POLICIES = (
    *(
        "1",
        "2",
        "3",
        "3:0",
        "5:2",
        "4+forecast1",
        "3:1+forecast2",
        "100",
        "0",
        "-1",
        "3:x",
        "x",
        "",
        "3:",
        "3+forecast3",
    ),
    *("at=0,4,9", "at=0", "at=1,2", "at=0,5,5", "at=", "at=0,1,2,3:0+forecast2", "at:0,3", "At=0,3"),
    *(f"nonuniform:{n}" for n in range(1, 9)),
    *(f"nonuniform:{n},{c},{p}" for n in (2, 3, 5) for c in (0, 1, 4, 7, 15) for p in (1.1, 1.2, 1.4, 2, 3, 10)),
    *(
        "nonuniform:5,,2.5",
        "nonuniform:5,-1",
        "nonuniform:5,3,1",
        "nonuniform:0",
        "nonuniform:2,,11",
        "nonuniform:1,2,3,4",
    ),
    *("adaptive:inf", "adaptive:0.1", "adaptive:-1", "adaptive:nan"),
)
_PLANNED = (("euler", "karras"), ("heun", "linspace"), ("unipc", "trailing"), ("lms", "exponential"))


def _plans() -> list[dict[str, Any]]:
    scheduler = scheduler_of("sd1")
    planned = {
        (sampler, steps): samplers.table(scheduler, *samplers.choose(scheduler, sampler, schedule), steps)
        for sampler, schedule in _PLANNED
        for steps in (1, 6, 20, 50)
    }
    result = []
    for text in _POLICIES:
        try:
            policy = deepcache.parse(text)
            if policy.decides_per_image:
                raise InputError("it decides per image")
        except InputError as error:
            result.append({"policy": text, "refused": str(error)})
            continue
        for (sampler, steps), table in planned.items():
            entry: dict[str, Any] = {"policy": text, "text": str(policy), "log_snr": table.log_snr}
            try:
                setting = tables.Setting(sampler, "", Options(), steps, policy)
                described = tables.describe(setting, table)
                entry["rows"] = [[row["full"], row["deep"], row["forget"]] for row in described["rows"]]
            except InputError as error:
                entry["misfit"] = str(error)
            result.append(entry)
    return result


def _kit_tables() -> list[dict[str, Any]]:
    """Returns tables as a kit has them, with the checkpoint they are of."""
    result = []
    for checkpoint, policies in (("sd1", ("3:0", "4:0+forecast1")), ("sd2-v", ("nonuniform:4",)), ("edm", ("3:0",))):
        scheduler = scheduler_of(checkpoint)
        for sampler in ("euler", "dpmpp_2m", "unipc", "heun", "dpmpp_2m_sde"):
            for setting in tables.choose(scheduler, [sampler], [], [12], policies, branch=0):
                described = tables.describe(setting, tables.table_of(setting, scheduler))
                result.append({"checkpoint": checkpoint, "table": described})
    return result
