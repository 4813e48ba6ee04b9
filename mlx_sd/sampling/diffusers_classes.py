"""The scheduler classes of diffusers: which sampler each one means, and which values of its fields are supported."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..core.config_fields import ConfigFields
from ..core.errors import InputError
from .table import Options


@dataclass(frozen=True)
class Field:
    """A config field that changes nothing here: its value when it is absent, and the values that are accepted."""

    default: Any
    accepted: tuple[Any, ...]


@dataclass(frozen=True)
class Algorithm:
    """What one value of algorithm_type means: a sampler, and the values of solver_order, the default first."""

    sampler: str
    orders: tuple[int, ...]


@dataclass(frozen=True)
class SchedulerClass:
    """A class of diffusers: its sampler, or one for each algorithm_type, and its fields beside those of every class."""

    sampler: str | None = None
    algorithms: Mapping[str | None, Algorithm] = field(default_factory=dict)  # the default first
    solver_types: tuple[str, ...] = ()  # values of solver_type, the default first
    fields: Mapping[str, Field] = field(default_factory=dict)


def _only(value: Any) -> Field:
    return Field(value, (value,))


CLIPPING = ("DDIMScheduler", "DDPMScheduler")  # classes that clip estimates unless clip_sample is false

_DPM_TYPES, _UNIPC_TYPES = ("midpoint", "heun"), ("bh2", "bh1")
# Another class's solver_type means the class's own default, as in diffusers.
_SOLVER_TYPES = (*_DPM_TYPES, *_UNIPC_TYPES, "logrho")

_DPMPP_2M = Algorithm("dpmpp_2m", (2, 1, 3))
_DPMPP_2M_SDE = Algorithm("dpmpp_2m_sde", (2, 1))
_DPM_2M = Algorithm("dpm_2m", (2, 1, 3))
_DPMPP_2S = Algorithm("dpmpp_2s", (2, 1, 3))
_DEIS = Algorithm("deis", (2, 1, 3))
_UNIPC = Algorithm("unipc", (2, 1, 3))

_EVERY_CLASS = {
    "clip_sample": _only(False),
    "thresholding": _only(False),
    "use_flow_sigmas": _only(False),
    "use_dynamic_shifting": _only(False),
}
_CLIPPED = {"clip_sample": Field(True, (True, False)), "thresholding": Field(False, (False, True))}
_VARIANCE = Field("fixed_small", ("fixed_small", "fixed_small_log", "fixed_large"))
_SIGMA_RANGE = {"sigma_min": _only(None), "sigma_max": _only(None)}
_DPM_FIELDS = {
    "lambda_min_clipped": Field(-float("inf"), (-float("inf"), None)),
    "variance_type": _only(None),
    "use_lu_lambdas": _only(False),
}
_EULER_FIELDS = {"interpolation_type": _only("linear"), "timestep_type": _only("discrete")}
_UNIPC_FIELDS = {
    "predict_x0": _only(True),
    "disable_corrector": _only([]),
    "solver_p": _only(None),
    "shift_terminal": _only(None),
}
# Read only together with a field that is refused above, or read by `Scheduler.from_hf`.
_WITHOUT_EFFECT = (
    "clip_sample_range",
    "dynamic_thresholding_ratio",
    "sample_max_value",
    "flow_shift",
    "tensor_format",  # of the first versions, like the next
    "timestep_values",
    "time_shift_type",
)

CLASSES: dict[str, SchedulerClass] = {
    "DDIMScheduler": SchedulerClass("ddim", fields=_CLIPPED),
    "DDPMScheduler": SchedulerClass("ddpm", fields={**_CLIPPED, "variance_type": _VARIANCE}),
    "PNDMScheduler": SchedulerClass("plms"),
    "LMSDiscreteScheduler": SchedulerClass("lms"),
    "EulerDiscreteScheduler": SchedulerClass("euler", fields={**_SIGMA_RANGE, **_EULER_FIELDS}),
    "EulerAncestralDiscreteScheduler": SchedulerClass("euler_ancestral"),
    "HeunDiscreteScheduler": SchedulerClass("heun"),
    "DPMSolverMultistepScheduler": SchedulerClass(
        algorithms={
            "dpmsolver++": _DPMPP_2M,
            "sde-dpmsolver++": _DPMPP_2M_SDE,
            "dpmsolver": _DPM_2M,
            "deis": _DPMPP_2M,
        },
        solver_types=_DPM_TYPES,
        fields=_DPM_FIELDS,
    ),
    "DPMSolverSinglestepScheduler": SchedulerClass(
        algorithms={"dpmsolver++": _DPMPP_2S}, solver_types=_DPM_TYPES, fields=_DPM_FIELDS
    ),
    "DEISMultistepScheduler": SchedulerClass(
        algorithms={"deis": _DEIS, "dpmsolver": _DEIS, "dpmsolver++": _DEIS}, fields={"variance_type": _only(None)}
    ),
    "UniPCMultistepScheduler": SchedulerClass(
        algorithms={None: _UNIPC, "dpmsolver++": _UNIPC},
        solver_types=_UNIPC_TYPES,
        fields={**_SIGMA_RANGE, **_UNIPC_FIELDS},
    ),
    "LCMScheduler": SchedulerClass("lcm"),
    "TCDScheduler": SchedulerClass("tcd"),
    "EDMEulerScheduler": SchedulerClass("euler"),
    "EDMDPMSolverMultistepScheduler": SchedulerClass(
        algorithms={"dpmsolver++": _DPMPP_2M, "sde-dpmsolver++": _DPMPP_2M_SDE}, solver_types=_DPM_TYPES
    ),
}


def sampler_of(config: ConfigFields, class_name: str) -> tuple[str, Options]:
    """Returns the sampler, with its options, that a config's class and fields mean; takes those fields.

    Raises InputError that names the class or the field with no equal here.
    """
    if class_name not in CLASSES:
        raise InputError(f"{config.where}: {class_name} is not among the samplers here")
    meaning = CLASSES[class_name]
    sampler, order, kind = meaning.sampler, None, None
    rho = config.take("rho") if class_name.startswith("EDM") else None
    if sampler is None:
        algorithm = meaning.algorithms[config.only("algorithm_type", *meaning.algorithms)]
        sampler, order = algorithm.sampler, config.only("solver_order", *algorithm.orders)
        solver_type = config.only("solver_type", *meaning.solver_types, *_SOLVER_TYPES)
        kind = solver_type if solver_type in meaning.solver_types else None
        if sampler == "dpmpp_2m" and order == 3:
            sampler, order = "dpmpp_3m", None
    for name, entry in {**_EVERY_CLASS, **meaning.fields}.items():
        value = config.take(name, entry.default)
        if value not in entry.accepted:
            raise config.unsupported(name, value, entry.accepted)
    config.ignore(_WITHOUT_EFFECT)
    config.done()
    return sampler, Options(order=order, kind=kind, rho=rho)
