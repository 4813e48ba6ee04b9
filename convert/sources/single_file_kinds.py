"""The kinds of latent diffusion that a file may hold, as data: all that its names and shapes do not say."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from . import configs_from_shapes

Config = dict[str, Any]

PREDICTIONS = ("epsilon", "v_prediction")


@dataclass(frozen=True)
class Text:
    """A text encoder: where a file of that kind may have it, and what its shapes do not tell."""

    prefixes: tuple[str, ...]
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
    prediction: str = "epsilon"  # where nothing says otherwise
    pixels: int = 512  # a side
    only_cross: tuple[bool, ...] = ()  # per level, where the widths of image and prompt do not tell
    vae: Config = field(default_factory=lambda: {"scaling_factor": 0.18215})
    sizes: int = 0  # how many numbers about its size the UNet is given: SDXL
    low_res_scheduler: Config | None = None
    channels: tuple[int, ...] = (4, 9)  # that the UNet takes: 9 to fill in images
    classes: bool = False  # a class embedder is in the place of text encoders


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

# What 9 channels, those of an image to fill in, make of a pipeline
INPAINTING = {
    "StableDiffusionPipeline": "StableDiffusionInpaintPipeline",
    "StableDiffusionXLPipeline": "StableDiffusionXLInpaintPipeline",
}

# Names that only another kind of file has -> what it is and the way out
_NOT_HERE = "is not Stable Diffusion 1, 2 or XL, and not supported"
FOREIGN: dict[str, str] = {
    r"(.+[._](lora_(down|up|A|B)|hada_w1_a|lokr_w[12]|oft_blocks|dora_scale)\b.*|.+\.lora\.(down|up)\..*"
    r"|.+_lora\.(down|up)\..*|lora_(unet|te\d?)_.*)": "is a LoRA; give it by --lora beside the checkpoint it is for",
    r"(emb_params|string_to_param.*|clip_[lg])": "is a textual inversion (an embedding), not a checkpoint",
    r"(.*control_model\..*|.*input_hint_block\..*|controlnet_.*)": "is a ControlNet, not a checkpoint",
    r"(image_proj|ip_adapter)\..*": "is an IP-Adapter, not a checkpoint",
    r".*motion_modules\..*": "is an AnimateDiff motion module, not a checkpoint",
    r".*time_stack\..*": f"looks like Stable Video Diffusion, which {_NOT_HERE}",
    r".*single_stream_modulation\..*": f"looks like Flux 2, which {_NOT_HERE}",
    r".*distilled_guidance_layer\..*": f"looks like Chroma, which {_NOT_HERE}",
    r"(.*\.)?(double_blocks|single_transformer_blocks)\..*": f"looks like Flux, which {_NOT_HERE}",
    r"(.*\.)?joint_blocks\..*|.*transformer_blocks\.0\.attn\.add_k_proj\..*": (
        f"looks like Stable Diffusion 3, which {_NOT_HERE}"
    ),
    r"(.*\.)?double_layers\..*": f"looks like AuraFlow, which {_NOT_HERE}",
    r"(.*\.channelwise\..*|clip_txt_mapper\..*)": f"looks like Stable Cascade, which {_NOT_HERE}",
    r"(.*\.)?blocks\.0\.(cross_attn|attn|self_attn)\..*": f"looks like a diffusion transformer, which {_NOT_HERE}",
    r".*cap_embedder\..*": f"looks like Lumina, which {_NOT_HERE}",
    r"cond_stage_model\.transformer\.token_emb\..*": f"looks like latent diffusion by BERT, which {_NOT_HERE}",
    r"depth_model\..*": "looks like Stable Diffusion 2 depth, which is not supported",
    r"embedder\.model\.visual\..*": "looks like Stable Diffusion 2.1 unCLIP, which is not supported",
    r"(model\.\d+\.(weight|bias)|.*\.RDB\d\..*)": "looks like an ESRGAN upscaler, not a checkpoint",
}

# Tensors beside the networks that say nothing needed here: training state and schedules, which follow from the kind.
IGNORED = re.compile(
    r"(model_ema\..*|(.*\.)?(alphas_cumprod|betas|logvar|lvlb_weights|global_step|scale_factor|lr|v_pred|ztsnr)"
    r"|(sqrt|log_one_minus|posterior)_.*|alphas_cumprod_prev|denoiser\..*|edm_.*|low_scale_model\..*"
    r"|first_stage_model\.(loss|model_ema)\..*|(loss|model_ema)\..*|model\.conditioning_key)"
)
# Parts of text encoders that are not run: CLIP's image side, the scale of its loss, constants.
TEXT_IGNORED = re.compile(r"(logit_scale|attn_mask|.*position_ids|(vision_model|visual|visual_projection)\..*)")


def foreign(names: Iterable[str]) -> str | None:
    """What a file with tensors of these names is, if it is known to be something else."""
    names = list(names)
    for pattern, what in FOREIGN.items():
        wanted = re.compile(pattern)
        if any(wanted.fullmatch(name) for name in names):
            return what
    return None


def detect(names: Iterable[str], unet: Config) -> str | None:
    """The kind of a checkpoint by all its names and by the UNet's config; None for none that is known."""
    names = set(names)
    if "cond_stage_model.embedding.weight" in names:
        return "ldm-classes"
    if unet["_class_name"] == "UNet2DModel":
        if unet["in_channels"] != unet["out_channels"]:
            return "ldm-sr"
        return "ldm-churches" if "resnet_time_scale_shift" in unet else "ldm"
    added = unet.get("addition_embed_type") is not None
    if unet.get("num_class_embeds"):
        return "upscaler" if unet["in_channels"] == 7 else None
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
