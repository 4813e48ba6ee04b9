"""The family of a checkpoint and the task of its UNet, determined once from the configs and asked for by name."""

from enum import Enum

from .unet_config import UNetConfig

_SD2_CONTEXT = 1024  # width of OpenCLIP ViT-H's text features; Stable Diffusion 1.x has 768
_COLOURS = 3


class Task(Enum):
    """What the UNet is shown beside the latents, as additional input channels."""

    GENERATION = "makes images from noise"  # nothing
    INPAINTING = "paints into images"  # a mask, and the latents of the masked image
    UPSCALING = "makes images larger"  # the colours of a small image, one pixel for each latent
    INSTRUCTION = "edits images by instruction"  # the latents of an image
    UNKNOWN = "is for something else"


class Family(Enum):
    """What kind of checkpoint a model is; the value is the name in messages and files."""

    SD1 = "Stable Diffusion 1"
    SD2 = "Stable Diffusion 2"
    SDXL = "SDXL"
    REFINER = "SDXL refiner"
    UPSCALER = "x4 upscaler"
    SUPER_RESOLUTION = "latent diffusion super-resolution"
    CLASS_CONDITIONAL = "class-conditional diffusion"
    UNCONDITIONAL = "unconditional diffusion"
    TOKENS = "discrete diffusion over tokens"


def task_of(unet: UNetConfig, latent_channels: int) -> Task:
    """Returns the task of a UNet whose autoencoder has so many latent channels."""
    if unet.token_states is not None:
        return Task.GENERATION
    by_additional_channels = {
        0: Task.GENERATION,
        1 + latent_channels: Task.INPAINTING,
        latent_channels: Task.INSTRUCTION,
        _COLOURS: Task.UPSCALING,  # last: it wins over INSTRUCTION where latents have three channels
    }
    return by_additional_channels.get(unet.in_channels - latent_channels, Task.UNKNOWN)


def family_of(unet: UNetConfig, task: Task, *, text: bool, classes: bool, aesthetic_score: bool) -> Family:
    """Returns the family of a checkpoint.

    text: it has text encoders. classes: it has ids of classes. aesthetic_score: its UNet is conditioned on a score
    (`requires_aesthetics_score` in model_index.json). Stable Diffusion 2 is told from 1 by the width of its context.
    """
    if unet.token_states is not None:
        return Family.TOKENS
    if task is Task.UPSCALING:
        return Family.UPSCALER if text else Family.SUPER_RESOLUTION
    if not text:
        return Family.CLASS_CONDITIONAL if classes else Family.UNCONDITIONAL
    if unet.added_time_dims is not None:
        return Family.REFINER if aesthetic_score else Family.SDXL
    return Family.SD2 if unet.down[-1].context == _SD2_CONTEXT else Family.SD1
