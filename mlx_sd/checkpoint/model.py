"""The record of a loaded model: its networks, and what else its folder says."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..networks.classes import ClassEmbedder, Classes
from ..networks.clip import TextEncoder
from ..networks.family import Family, Task
from ..networks.tuning import Tuned
from ..networks.unet import UNet
from ..networks.vae import Autoencoder
from ..prompts.tokenizer import Tokenizer
from ..sampling.low_res import LowRes
from ..sampling.scheduler import Scheduler
from .low_memory import LowMemory
from .token_diffusion import TokenDiffusion

LORA_MODES = ("merge", "runtime")
DTYPES = {"float16": mx.float16, "bfloat16": mx.bfloat16, "float32": mx.float32}


def default_dtype() -> mx.Dtype:
    """Returns float16 on a GPU and float32 on the CPU, where half precision is slower."""
    return mx.float32 if mx.default_device() == mx.cpu else mx.float16


@dataclass(frozen=True)
class Model:
    """A loaded model folder."""

    name: str  # as `--model` named it
    hash: str  # of the source's weights
    dtype: mx.Dtype
    family: Family
    task: Task
    text_encoders: tuple[TextEncoder, ...]  # none in models without a prompt
    tokenizers: tuple[Tokenizer, ...]
    unet: UNet  # of token models the one inside their network
    vae: Autoencoder
    scheduler: Scheduler  # of token models nothing reads it
    zeros_for_empty: bool  # SDXL: no negative prompt means zeros, not an encoded empty text
    sizes: tuple[tuple[int, int], ...] = ()  # (width, height) in pixels that it can make; empty is any
    loras: tuple[dict[str, Any], ...] = ()  # merged while loading: path, sha256 and scale of each
    lora_hashes: tuple[str, ...] = ()  # of each of these, as A1111 and Civitai know it
    quantization: str | None = None  # done while loading, as `--quantize` takes it
    folder: Path | None = None  # the model folder, where it comes from one
    low_res: LowRes | None = None  # of x4 upscalers: how the small image is noised
    classes: Classes | None = None  # of class-conditional models
    checkpoint_hash: str | None = None  # SHA-256 of the single file that it was converted from
    lora_mode: str = "merge"  # or "runtime", beside the layers
    vae_name: str | None = None  # as `--vae` named the autoencoder, where it is not the checkpoint's own
    vae_hash: str | None = None  # of that autoencoder's weights
    image_factor: float | None = None  # of an image's latents where the UNet edits it by instruction; see `load`
    tokens: TokenDiffusion | None = None  # of models whose pictures are tokens
    class_embedder: ClassEmbedder | None = None  # makes a context of class ids, where the UNet does not look them up
    runtime_loras: Any = field(default=None, compare=False)  # `RuntimeLoras`, of the mode "runtime"
    packaged_controls: Mapping[str, Any] | None = None  # of Core ML packages: name -> what stands for a ControlNet
    networks_beside: dict[str, Any] = field(default_factory=dict, compare=False)  # loaded beside it, by folder
    tunings: Mapping[tuple[int, int], Tuned] = field(default_factory=dict)  # measured on this machine, by pixel size
    compiled_steps: dict[Any, Any] = field(default_factory=dict, compare=False)  # of the UNet, as `TunedUNet` has them
    learning_controls: dict[str, Any] = field(default_factory=dict, compare=False)  # ControlNets that no file holds yet
    low_memory: LowMemory | None = field(default=None, compare=False)  # frees the weights of networks that do not work

    @property
    def upscales(self) -> bool:
        """Whether the UNet is shown a small image that it makes larger."""
        return self.task is Task.UPSCALING

    def work(self, *networks: str) -> None:
        """Frees the weights of all networks but those named, where the model is to take little memory."""
        if self.low_memory:
            self.low_memory.work(*networks)

    @property
    def additional_channels(self) -> int:
        """How many channels the UNet takes beside the latents."""
        return 0 if self.tokens else self.unet.config.in_channels - self.vae.config.latent_channels
