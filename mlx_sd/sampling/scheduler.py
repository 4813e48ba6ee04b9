"""What a checkpoint's scheduler_config.json says: the noise it was trained on, and the sampler it asks for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..core.config_fields import ConfigFields
from ..core.errors import InputError
from .table import Clip, Options

SPACINGS = ("leading", "linspace", "trailing")


class Edm(NamedTuple):
    """Noise as Karras et al. (2022) have it, where a checkpoint was trained on sigmas instead of timesteps."""

    low: float
    high: float
    data: float  # deviation of the images


@dataclass(frozen=True)
class Scheduler:
    """A scheduler config; None where it leaves the choice to the sampler."""

    class_name: str
    prediction: str  # "epsilon", "v_prediction", "sample" or, of the EDM kind, "edm"
    timesteps: int  # of training
    beta_start: float
    beta_end: float
    beta_schedule: str
    trained_betas: tuple[float, ...] | None
    zero_snr: bool
    spacing: str | None
    sigmas: str | None  # "karras", "exponential" or "beta" instead of a spacing
    offset: int
    ends_clean: bool | None  # set_alpha_to_one: DDIM and PLMS end at alpha 1 rather than at that of timestep 0
    final_zero: bool  # final_sigmas_type "zero" rather than "sigma_min"
    lower_order_final: bool
    euler_at_final: bool
    runge_kutta: bool  # how PLMS starts
    distilled: int  # original_inference_steps: LCM and TCD know so many timesteps
    timestep_scaling: float
    clip: Clip | None  # of the estimates, in DDIM and DDPM
    large_variance: bool  # of DDPM: the forward step's
    edm: Edm | None
    sampler: str | None  # its own; None with a `problem`
    options: Options  # of its own sampler
    problem: str | None  # why its own sampler cannot be honoured as the config has it
    ays: tuple[float, ...]  # what Align Your Steps found for this kind of network: timesteps, or of the EDM kind sigmas

    @classmethod
    def from_hf(
        cls, values: Mapping[str, Any], where: str = "scheduler/scheduler_config.json", xl: bool = False
    ) -> "Scheduler":
        """Reads a diffusers scheduler config.

        InputError names a field that no sampler could honour; one that only the config's own class reads becomes the
        `problem`, for the user may choose another sampler.
        """
        f = ConfigFields(values, where)
        class_name = str(values.get("_class_name", "PNDMScheduler"))
        edm = None
        if class_name.startswith("EDM"):
            edm = Edm(f.take("sigma_min", 0.002), f.take("sigma_max", 80.0), f.take("sigma_data", 0.5))
        prediction = f.only("prediction_type", "epsilon", "v_prediction", "sample")
        betas = f.take("trained_betas")
        read = {
            "prediction": "edm" if edm and prediction == "epsilon" else prediction,
            "timesteps": f.take("num_train_timesteps", 1000),
            "beta_start": f.take("beta_start", 0.0001),
            "beta_end": f.take("beta_end", 0.02),
            "beta_schedule": f.only("beta_schedule", "linear", "scaled_linear", "squaredcos_cap_v2"),
            "trained_betas": None if betas is None else tuple(betas),
            "zero_snr": bool(f.take("rescale_betas_zero_snr", False)),
            "spacing": f.only("timestep_spacing", None, *SPACINGS),
            "offset": f.take("steps_offset", 0),
            "ends_clean": f.take("set_alpha_to_one"),
            "final_zero": f.only("final_sigmas_type", "zero", "sigma_min") == "zero",
            "lower_order_final": bool(f.take("lower_order_final", class_name != "DPMSolverSinglestepScheduler")),
            "euler_at_final": bool(f.take("euler_at_final", False)),
            "runge_kutta": not f.take("skip_prk_steps", class_name != "PNDMScheduler"),
            "distilled": f.take("original_inference_steps", 50),
            "timestep_scaling": f.take("timestep_scaling", 10.0),
            "clip": _clip(f, class_name),
            "large_variance": values.get("variance_type") == "fixed_large",
        }
        sigmas, sampler, options, problem = None, None, Options(), None
        try:
            sigmas = _sigmas(f, edm)
            sampler, options = _own(f, class_name)
        except InputError as error:
            problem = str(error)
        return cls(
            class_name,
            **read,
            sigmas=sigmas,
            edm=edm,
            sampler=sampler,
            options=options,
            problem=problem,
            ays=_AYS_VIDEO if edm else _AYS_XL if xl else _AYS,
        )

    @property
    def deviation(self) -> float:
        """Of the images; latents are in units of it while sampling."""
        return self.edm.data if self.edm else 1.0

    def alphas_cumprod(self, exact_zero: bool = False) -> NDArray[np.float64]:
        """alpha-bar per training timestep, from betas in float32 as in training.

        With zero terminal SNR the last is 0 if `exact_zero` (DDIM), else 2^-24 so that its sigma is finite.
        """
        n = self.timesteps
        if self.trained_betas is not None:
            betas = np.asarray(self.trained_betas, np.float32)
        elif self.beta_schedule == "linear":
            betas = np.linspace(self.beta_start, self.beta_end, n, dtype=np.float32)
        elif self.beta_schedule == "scaled_linear":
            betas = np.linspace(self.beta_start**0.5, self.beta_end**0.5, n, dtype=np.float32) ** 2
        else:  # Nichol and Dhariwal 2021, eq. 17
            bar = np.cos((np.arange(n + 1) / n + 0.008) / 1.008 * np.pi / 2) ** 2
            betas = np.minimum(1 - bar[1:] / bar[:-1], 0.999).astype(np.float32)
        alphas = _cumprod(1 - betas)
        if self.zero_snr:  # Lin et al. 2023, algorithm 1, by way of betas in float32 as in training
            root = np.sqrt(alphas)
            bar = ((root - root[-1]) * (root[0] / (root[0] - root[-1]))) ** 2
            alphas = _cumprod(1 - (1 - np.append(bar[:1], bar[1:] / bar[:-1])))
            alphas[-1] = 0.0 if exact_zero else 2.0**-24
        return alphas.astype(np.float64)

    def sigma_table(self) -> NDArray[np.float32]:
        """sigma = s / a per training timestep, rising, in float32 as diffusers has it."""
        bar = self.alphas_cumprod().astype(np.float32)
        sigmas: NDArray[np.float32] = np.sqrt((1 - bar) / bar)
        return sigmas

    def timestep(self, k: Any) -> Any:
        """What the network is told at k = s / a, which need not be a level of training."""
        if self.edm:
            return np.log(k * self.edm.data) / 4
        logs = np.log(self.sigma_table())
        return np.interp(np.log(k), logs, np.arange(len(logs)))


# Sabour et al. 2024, table 3, as timesteps with that of the lowest level at the end. The one list of a network that
# knows sigmas, of any height, is that of Stable Video Diffusion.
_AYS = (999, 850, 736, 645, 545, 455, 343, 233, 124, 24, 0)
_AYS_XL = (999, 845, 730, 587, 443, 310, 193, 116, 53, 13, 0)
_AYS_VIDEO = (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002)


def _clip(f: ConfigFields, class_name: str) -> Clip | None:
    """DDIM and DDPM clip unless they are told not to, other classes leave it to those that a user puts in their place.

    Read for those two; the fields stay, for another class has its own say about them.
    """
    values = f.unread
    if values.get("thresholding"):
        return Clip(values.get("sample_max_value", 1.0), values.get("dynamic_thresholding_ratio", 0.995))
    if values.get("clip_sample", class_name in _CLIPPING):
        return Clip(values.get("clip_sample_range", 1.0))
    return None


def _cumprod(alphas: NDArray[np.float32]) -> NDArray[np.float32]:
    # Summed up in float64 and rounded at each timestep, which is what PyTorch does.
    return np.cumprod(alphas, dtype=np.float64).astype(np.float32)


def _sigmas(f: ConfigFields, edm: Edm | None) -> str | None:
    if edm:
        return str(f.only("sigma_schedule", "karras", "exponential"))
    asked = [name for name in ("karras", "exponential", "beta") if f.take(f"use_{name}_sigmas", False)]
    if len(asked) > 1:
        raise InputError(f"{f.where}: use_{asked[0]}_sigmas and use_{asked[1]}_sigmas exclude each other")
    return asked[0] if asked else None


def _own(f: ConfigFields, class_name: str) -> tuple[str, Options]:
    """The sampler, with its options, that a config's class and fields mean; InputError names what has no equal here."""
    if class_name not in _CLASSES:
        raise InputError(f"{f.where}: {class_name} is not among the samplers here")
    sampler, kinds, fields = _CLASSES[class_name]
    options = Options(rho=f.take("rho")) if class_name.startswith("EDM") else Options()
    if isinstance(sampler, dict):
        sampler, orders = sampler[f.only("algorithm_type", *sampler)]
        order = f.only("solver_order", *orders)
        kind = f.only("solver_type", *kinds, *_KINDS)
        if sampler == "dpmpp_2m" and order == 3:
            sampler, order = "dpmpp_3m", None
        options = Options(order=order, kind=kind if kind in kinds else None, rho=options.rho)
    for name, (default, *allowed) in (_FIXED | fields).items():
        value = f.take(name, default)
        if value not in (allowed or [default]):
            raise f.unsupported(name, value, allowed or [default])
    f.ignore(_WITHOUT_EFFECT)
    f.done()
    return sampler, options


_DPM_KINDS, _UNI_KINDS = ("midpoint", "heun"), ("bh2", "bh1")
_KINDS = (*_DPM_KINDS, *_UNI_KINDS, "logrho")  # another solver's kind means one's own first, as in diffusers
_DPM = {
    "dpmsolver++": ("dpmpp_2m", (2, 1, 3)),
    "sde-dpmsolver++": ("dpmpp_2m_sde", (2, 1)),
    "dpmsolver": ("dpm_2m", (2, 1, 3)),
}
_CLIPPING = ("DDIMScheduler", "DDPMScheduler")
_CLIPPED: dict[str, tuple[Any, ...]] = {"clip_sample": (True, True, False), "thresholding": (False, False, True)}
_VARIANCES = ("fixed_small", "fixed_small", "fixed_small_log", "fixed_large")
_RANGE: dict[str, tuple[Any, ...]] = {"sigma_min": (None,), "sigma_max": (None,)}
_CONSISTENCY: dict[str, tuple[Any, ...]] = {"clip_sample": (False,)}
_LIMITED: dict[str, tuple[Any, ...]] = {
    "lambda_min_clipped": (-float("inf"), -float("inf"), None),
    "variance_type": (None,),
    "use_lu_lambdas": (False,),
}

# A class of diffusers -> its sampler, or by algorithm_type the sampler and the orders it comes in, its own first;
# what solver_type may say; and fields beside _FIXED: what leaving them out means, and what is taken if not that.
_CLASSES: dict[str, tuple[Any, tuple[str, ...], dict[str, tuple[Any, ...]]]] = {
    "DDIMScheduler": ("ddim", (), _CLIPPED),
    "DDPMScheduler": (
        "ddpm",
        (),
        _CLIPPED | {"variance_type": ("fixed_small", "fixed_small", "fixed_small_log", "fixed_large")},
    ),
    "PNDMScheduler": ("plms", (), {}),
    "LMSDiscreteScheduler": ("lms", (), {}),
    "EulerDiscreteScheduler": (
        "euler",
        (),
        _RANGE | {"interpolation_type": ("linear",), "timestep_type": ("discrete",)},
    ),
    "EulerAncestralDiscreteScheduler": ("euler_ancestral", (), {}),
    "HeunDiscreteScheduler": ("heun", (), {}),
    "DPMSolverMultistepScheduler": ({**_DPM, "deis": _DPM["dpmsolver++"]}, _DPM_KINDS, _LIMITED),
    "DPMSolverSinglestepScheduler": ({"dpmsolver++": ("dpmpp_2s", (2, 1, 3))}, _DPM_KINDS, _LIMITED),
    "DEISMultistepScheduler": (
        dict.fromkeys(("deis", "dpmsolver", "dpmsolver++"), ("deis", (2, 1, 3))),
        (),
        {"variance_type": (None,)},
    ),
    "UniPCMultistepScheduler": (
        dict.fromkeys((None, "dpmsolver++"), ("unipc", (2, 1, 3))),
        _UNI_KINDS,
        _RANGE | {"predict_x0": (True,), "disable_corrector": ([],), "solver_p": (None,), "shift_terminal": (None,)},
    ),
    "LCMScheduler": ("lcm", (), _CONSISTENCY),
    "TCDScheduler": ("tcd", (), _CONSISTENCY),
    "EDMEulerScheduler": ("euler", (), {}),
    "EDMDPMSolverMultistepScheduler": ({k: v for k, v in _DPM.items() if k != "dpmsolver"}, _DPM_KINDS, {}),
}
_FIXED: dict[str, tuple[Any, ...]] = {
    "clip_sample": (False,),
    "thresholding": (False,),
    "use_flow_sigmas": (False,),
    "use_dynamic_shifting": (False,),
}
# Read only together with a field that is refused above, or read elsewhere.
_WITHOUT_EFFECT = (
    "clip_sample_range",
    "dynamic_thresholding_ratio",
    "sample_max_value",
    "flow_shift",
    "tensor_format",  # of the first versions, like the next
    "timestep_values",
    "time_shift_type",
)
