"""A checkpoint's scheduler_config.json: the noise it was trained with, and the sampler it asks for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..core.config_fields import ConfigFields
from ..core.errors import InputError
from . import diffusers_classes
from .table import Clip, Options

SPACINGS = ("leading", "linspace", "trailing")

# Sabour et al. 2024, table 3, as timesteps, with that of the lowest sigma at the end. For networks that are trained on
# sigmas the one published list, whatever their highest sigma, is that of Stable Video Diffusion.
_AYS = (999, 850, 736, 645, 545, 455, 343, 233, 124, 24, 0)
_AYS_XL = (999, 845, 730, 587, 443, 310, 193, 116, 53, 13, 0)
_AYS_VIDEO = (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002)


class Edm(NamedTuple):
    """The sigmas of a checkpoint that was trained on them instead of on timesteps (Karras et al. 2022)."""

    sigma_min: float
    sigma_max: float
    sigma_data: float  # standard deviation of the images


@dataclass(frozen=True)
class Scheduler:
    """A scheduler config, under the config's own names; None leaves a choice to the sampler."""

    class_name: str
    prediction_type: str  # "epsilon", "v_prediction", "sample" or, for EDM checkpoints, "edm"
    num_train_timesteps: int
    beta_start: float
    beta_end: float
    beta_schedule: str
    trained_betas: tuple[float, ...] | None
    rescale_betas_zero_snr: bool
    timestep_spacing: str | None
    sigma_schedule: str | None  # "karras", "exponential" or "beta", used instead of a spacing
    steps_offset: int
    set_alpha_to_one: bool | None  # DDIM and PLMS end without noise rather than at the noise of timestep 0
    final_sigma_zero: bool  # final_sigmas_type is "zero" rather than "sigma_min"
    lower_order_final: bool
    euler_at_final: bool
    runge_kutta_start: bool  # of PLMS: skip_prk_steps is false
    original_inference_steps: int  # timesteps that LCM and TCD were distilled on
    timestep_scaling: float
    clip: Clip | None  # of the estimates, in DDIM and DDPM
    large_variance: bool  # of DDPM: variance_type is "fixed_large"
    edm: Edm | None
    sampler: str | None  # that the config's class means; None if there is a `problem`
    options: Options  # of that sampler
    problem: str | None  # why the sampler that the config asks for is not available
    ays: tuple[float, ...]  # Align Your Steps for this kind of network: timesteps, for EDM checkpoints sigmas

    @classmethod
    def from_hf(
        cls, values: Mapping[str, Any], where: str = "scheduler/scheduler_config.json", xl: bool = False
    ) -> "Scheduler":
        """Reads a diffusers scheduler config; `xl` selects the Align Your Steps list of SDXL.

        Raises InputError for a field that no sampler could honour. A field that only the config's own class reads
        becomes the `problem` instead, because the user may choose another sampler.
        """
        config = ConfigFields(values, where)
        class_name = str(values.get("_class_name", "PNDMScheduler"))
        edm = None
        if class_name.startswith("EDM"):
            edm = Edm(config.take("sigma_min", 0.002), config.take("sigma_max", 80.0), config.take("sigma_data", 0.5))
        prediction_type = config.only("prediction_type", "epsilon", "v_prediction", "sample")
        betas = config.take("trained_betas")
        training = {
            "prediction_type": "edm" if edm and prediction_type == "epsilon" else prediction_type,
            "num_train_timesteps": config.take("num_train_timesteps", 1000),
            "beta_start": config.take("beta_start", 0.0001),
            "beta_end": config.take("beta_end", 0.02),
            "beta_schedule": config.only("beta_schedule", "linear", "scaled_linear", "squaredcos_cap_v2"),
            "trained_betas": None if betas is None else tuple(betas),
            "rescale_betas_zero_snr": bool(config.take("rescale_betas_zero_snr", False)),
            "timestep_spacing": config.only("timestep_spacing", None, *SPACINGS),
            "steps_offset": config.take("steps_offset", 0),
            "set_alpha_to_one": config.take("set_alpha_to_one"),
            "final_sigma_zero": config.only("final_sigmas_type", "zero", "sigma_min") == "zero",
            "lower_order_final": bool(config.take("lower_order_final", class_name != "DPMSolverSinglestepScheduler")),
            "euler_at_final": bool(config.take("euler_at_final", False)),
            "runge_kutta_start": not config.take("skip_prk_steps", class_name != "PNDMScheduler"),
            "original_inference_steps": config.take("original_inference_steps", 50),
            "timestep_scaling": config.take("timestep_scaling", 10.0),
            "clip": _clip(config, class_name),
            "large_variance": values.get("variance_type") == "fixed_large",
        }
        sigma_schedule, sampler, options, problem = None, None, Options(), None
        try:
            sigma_schedule = _sigma_schedule(config, edm)
            sampler, options = diffusers_classes.sampler_of(config, class_name)
        except InputError as error:
            problem = str(error)
        return cls(
            class_name,
            **training,
            sigma_schedule=sigma_schedule,
            edm=edm,
            sampler=sampler,
            options=options,
            problem=problem,
            ays=_AYS_VIDEO if edm else _AYS_XL if xl else _AYS,
        )

    @property
    def sigma_data(self) -> float:
        """Returns the standard deviation of the images; while sampling, latents are divided by it."""
        return self.edm.sigma_data if self.edm else 1.0

    def alphas_cumprod(self, exact_zero: bool = False) -> NDArray[np.float64]:
        """Returns alpha-bar (num_train_timesteps,), from betas in float32 as in training.

        With zero terminal SNR the last is 0 if `exact_zero` (DDIM), else 2^-24 so that its sigma is finite.
        """
        n = self.num_train_timesteps
        if self.trained_betas is not None:
            betas = np.asarray(self.trained_betas, np.float32)
        elif self.beta_schedule == "linear":
            betas = np.linspace(self.beta_start, self.beta_end, n, dtype=np.float32)
        elif self.beta_schedule == "scaled_linear":
            betas = np.linspace(self.beta_start**0.5, self.beta_end**0.5, n, dtype=np.float32) ** 2
        else:  # Nichol and Dhariwal 2021, eq. 17
            alphas_cumprod = np.cos((np.arange(n + 1) / n + 0.008) / 1.008 * np.pi / 2) ** 2
            betas = np.minimum(1 - alphas_cumprod[1:] / alphas_cumprod[:-1], 0.999).astype(np.float32)
        alphas_cumprod = _cumprod(1 - betas)
        if self.rescale_betas_zero_snr:  # Lin et al. 2023, algorithm 1, by way of betas in float32 as in training
            root = np.sqrt(alphas_cumprod)
            shifted = ((root - root[-1]) * (root[0] / (root[0] - root[-1]))) ** 2
            betas = 1 - np.append(shifted[:1], shifted[1:] / shifted[:-1])
            alphas_cumprod = _cumprod(1 - betas)
            alphas_cumprod[-1] = 0.0 if exact_zero else 2.0**-24
        return alphas_cumprod.astype(np.float64)

    def train_sigmas(self) -> NDArray[np.float32]:
        """Returns sigma (num_train_timesteps,), rising, in float32 as diffusers has it."""
        alphas_cumprod = self.alphas_cumprod().astype(np.float32)
        sigmas: NDArray[np.float32] = np.sqrt((1 - alphas_cumprod) / alphas_cumprod)
        return sigmas

    def timestep(self, sigma: Any) -> Any:
        """Returns the timestep, perhaps fractional, that the network is called with at a sigma or array of sigmas."""
        if self.edm:
            return np.log(sigma * self.edm.sigma_data) / 4
        logs = np.log(self.train_sigmas())
        return np.interp(np.log(sigma), logs, np.arange(len(logs)))


def _clip(config: ConfigFields, class_name: str) -> Clip | None:
    """Returns how DDIM and DDPM clip estimates; other classes do so only if the config says it.

    Fields are read without being taken, because each class has its own rules about them.
    """
    values = config.unread
    if values.get("thresholding"):
        return Clip(values.get("sample_max_value", 1.0), values.get("dynamic_thresholding_ratio", 0.995))
    if values.get("clip_sample", class_name in diffusers_classes.CLIPPING):
        return Clip(values.get("clip_sample_range", 1.0))
    return None


def _cumprod(alphas: NDArray[np.float32]) -> NDArray[np.float32]:
    # Multiplied in float64 and rounded at each timestep, which is what PyTorch does.
    return np.cumprod(alphas, dtype=np.float64).astype(np.float32)


def _sigma_schedule(config: ConfigFields, edm: Edm | None) -> str | None:
    if edm:
        return str(config.only("sigma_schedule", "karras", "exponential"))
    shapes = [shape for shape in ("karras", "exponential", "beta") if config.take(f"use_{shape}_sigmas", False)]
    if len(shapes) > 1:
        raise InputError(f"{config.where}: use_{shapes[0]}_sigmas and use_{shapes[1]}_sigmas exclude each other")
    return shapes[0] if shapes else None
