"""The kinds of latent diffusion that a single file may hold, as data: all that its names and shapes do not tell."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlx_sd.networks.family import Task

from . import configs_from_shapes

Config = dict[str, Any]

PREDICTIONS = ("epsilon", "v_prediction")


@dataclass(frozen=True)
class Text:
    """Where a text encoder may be in a file, and what its shapes do not tell."""

    prefixes: tuple[str, ...]  # of its tensors
    activation: str = "gelu"
    pad: str = "!"  # OpenCLIP pads with its token 0
    projected: bool = False
    penultimate: bool = False  # the last layer is not run


@dataclass(frozen=True)
class Kind:
    """What a single file of this kind becomes, in Hugging Face's terms."""

    title: str
    pipeline: Config  # the fields of model_index.json
    scheduler: Config
    texts: Mapping[str, Text]
    heads: Callable[[int], int] = configs_from_shapes.head_size
    prediction: str = "epsilon"  # where the file tells no other
    pixels: int = 512  # width and height of the images it was trained on
    only_cross: tuple[bool, ...] = ()  # per level, where the widths of image and prompt do not tell
    vae: Config = field(default_factory=lambda: {"scaling_factor": 0.18215})
    sizes: int = 0  # how many numbers about the image's size the UNet takes (SDXL)
    low_res_scheduler: Config | None = None
    channels: tuple[int, ...] = (4, 8, 9)  # that the UNet may take; 9 for inpainting, 8 for editing by instruction
    classes: bool = False  # it has a class embedder in the place of text encoders


_BETAS: Config = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
}
_PNDM = _BETAS | {
    "_class_name": "PNDMScheduler",
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
}
_EULER = _BETAS | {"_class_name": "EulerDiscreteScheduler", "steps_offset": 1, "timestep_spacing": "leading"}
_TURBO = _BETAS | {"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"}
_UPSCALER_BETAS = _BETAS | {"beta_start": 0.0001, "beta_end": 0.02}

_LDM = _BETAS | {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.0015,
    "beta_end": 0.0195,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}

_OPENAI = Text(("cond_stage_model.",), "quick_gelu", "<|endoftext|>")
_XL = {
    "text_encoder": Text(("conditioner.embedders.0.",), "quick_gelu", "<|endoftext|>"),
    "text_encoder_2": Text(("conditioner.embedders.1.",), projected=True),
}
# the second as sgm saves it
_SD2 = {"text_encoder": Text(("cond_stage_model.", "conditioner.embedders.0."), penultimate=True)}
_SD: Config = {"_class_name": "StableDiffusionPipeline"}
_XL_VAE: Config = {"scaling_factor": 0.13025, "force_upcast": True}
_SDXL = Kind(
    "SDXL",
    {"_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": True},
    _EULER,
    _XL,
    pixels=1024,
    vae=_XL_VAE,
    sizes=6,
)

# --kind -> what it means
KINDS: dict[str, Kind] = {
    "sd1": Kind("Stable Diffusion 1.x", _SD, _PNDM, {"text_encoder": _OPENAI}, heads=configs_from_shapes.eight_heads),
    "sd2": Kind("Stable Diffusion 2.x", _SD, _PNDM, _SD2),
    "sd-turbo": Kind("SD-Turbo", _SD, _TURBO, _SD2),
    "sdxl": _SDXL,
    "sdxl-turbo": Kind("SDXL-Turbo", _SDXL.pipeline, _TURBO, _XL, vae=_XL_VAE, sizes=6),
    "sdxl-refiner": Kind(
        "SDXL refiner",
        {"_class_name": "StableDiffusionXLImg2ImgPipeline", "requires_aesthetics_score": True},
        _EULER,
        {"text_encoder_2": Text(("conditioner.embedders.0.",), projected=True)},
        pixels=1024,
        vae=_XL_VAE,
        sizes=5,
        channels=(4,),
    ),
    "playground": Kind(
        "Playground 2.5",
        _SDXL.pipeline,
        {"_class_name": "EDMDPMSolverMultistepScheduler", "sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5},
        _XL,
        pixels=1024,
        vae={"scaling_factor": 0.5, "force_upcast": True},
        sizes=6,
    ),
    "cosxl": Kind(
        "CosXL",
        _SDXL.pipeline,
        {
            "_class_name": "EDMEulerScheduler",
            "sigma_min": 0.002,
            "sigma_max": 120.0,
            "sigma_data": 1.0,
            "sigma_schedule": "exponential",
        },
        _XL,
        prediction="v_prediction",
        pixels=1024,
        vae=_XL_VAE,
        sizes=6,
    ),
    "upscaler": Kind(
        "Stable Diffusion x4 upscaler",
        {"_class_name": "StableDiffusionUpscalePipeline", "max_noise_level": 350},
        _UPSCALER_BETAS
        | {"_class_name": "DDIMScheduler", "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1},
        _SD2,
        heads=configs_from_shapes.eight_heads,
        prediction="v_prediction",
        only_cross=(True, True, True, False),
        vae={"scaling_factor": 0.08333},
        low_res_scheduler=_UPSCALER_BETAS | {"_class_name": "DDPMScheduler"},
        channels=(7,),
    ),
    # The early latent diffusion models, whose scale, where it is not 1, their files hold.
    "ldm": Kind(
        "latent diffusion without a prompt (CelebA-HQ, FFHQ, LSUN bedrooms)",
        {"_class_name": "LDMPipeline"},
        _LDM,
        {},
        heads=configs_from_shapes.heads_of_32,
        pixels=256,
        vae={"scaling_factor": 1.0},
        channels=(3, 4),
    ),
    "ldm-churches": Kind(
        "latent diffusion without a prompt (LSUN churches)",
        {"_class_name": "LDMPipeline"},
        _LDM | {"beta_end": 0.0155},
        {},
        heads=configs_from_shapes.eight_heads,
        pixels=256,
        vae={"scaling_factor": 1.0},
        channels=(3, 4),
    ),
    "ldm-classes": Kind(
        "latent diffusion by classes (ImageNet)",
        {"_class_name": "LatentDiffusion"},
        _LDM,
        {},
        heads=configs_from_shapes.one_head,
        pixels=256,
        vae={"scaling_factor": 1.0},
        channels=(3, 4),
        classes=True,
    ),
    "ldm-sr": Kind(
        "latent diffusion for super-resolution (x4)",
        {"_class_name": "LDMSuperResolutionPipeline"},
        _LDM | {"beta_end": 0.0155},
        {},
        heads=configs_from_shapes.heads_of_32,
        pixels=256,
        vae={"scaling_factor": 1.0},
        channels=(6,),
    ),
}

# The task of the UNet, by its input channels -> the pipeline of a kind -> its pipeline for that task
PIPELINES = {
    Task.INPAINTING: {
        "StableDiffusionPipeline": "StableDiffusionInpaintPipeline",
        "StableDiffusionXLPipeline": "StableDiffusionXLInpaintPipeline",
    },
    Task.INSTRUCTION: {
        "StableDiffusionPipeline": "StableDiffusionInstructPix2PixPipeline",
        "StableDiffusionXLPipeline": "StableDiffusionXLInstructPix2PixPipeline",
    },
}
TITLES = {Task.INPAINTING: ", inpainting", Task.INSTRUCTION: ", edits by instruction"}

# Tensors beside the networks that are not needed: training state, and schedules, which follow from the kind.
IGNORED = re.compile(
    r"(model_ema\..*|(.*\.)?(alphas_cumprod|betas|logvar|lvlb_weights|global_step|scale_factor|lr|v_pred|ztsnr)"
    r"|(sqrt|log_one_minus|posterior)_.*|alphas_cumprod_prev|denoiser\..*|edm_.*|low_scale_model\..*"
    r"|first_stage_model\.(loss|model_ema)\..*|(loss|model_ema)\..*|model\.conditioning_key)"
)
# Parts of text encoders that are not run: CLIP's image side, the scale of its loss, constants.
TEXT_IGNORED = re.compile(r"(logit_scale|attn_mask|.*position_ids|(vision_model|visual|visual_projection)\..*)")


def detect(names: Iterable[str], unet: Config) -> str | None:
    """Returns the kind of a checkpoint by all its names and by the UNet's config; None for none that is known."""
    names = set(names)
    if "cond_stage_model.embedding.weight" in names:
        return "ldm-classes"
    if unet["_class_name"] == "UNet2DModel":
        if unet["in_channels"] != unet["out_channels"]:
            return "ldm-sr"
        return "ldm-churches" if "resnet_time_scale_shift" in unet else "ldm"
    added = unet.get("addition_embed_type") is not None
    if unet.get("num_class_embeds"):
        return "upscaler" if unet["in_channels"] in KINDS["upscaler"].channels else None
    if added:
        if any(name.startswith("cond_stage_model.") for name in names):
            return None  # unCLIP
        if "edm_mean" in names and "edm_std" in names:
            return "playground"
        if "edm_vpred.sigma_max" in names:
            return "cosxl"
        if any(name.startswith("conditioner.embedders.1.") for name in names):
            return "sdxl"
        refiner = any(name.startswith("conditioner.embedders.0.model.") for name in names)
        return "sdxl-refiner" if refiner or unet["cross_attention_dim"] == 1280 else "sdxl"
    return "sd2" if unet["use_linear_projection"] else "sd1"
