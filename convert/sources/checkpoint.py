"""What every source is read into: a checkpoint's configs and unread tensors, and what the user may decide about it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlx_sd.core.errors import InputError
from mlx_sd.core.files import TENSOR_DTYPES, Tensor

PARTS = ("text_encoder", "text_encoder_2", "unet", "vae")
VQ = "vqvae"  # what latent diffusion pipelines call the vae
TOKENIZERS = ("tokenizer", "tokenizer_2")
SCHEDULERS = ("scheduler", "low_res_scheduler")


@dataclass(frozen=True)
class Component:
    """One network: its config, its tensors under today's names, and the files that hold them."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer's files."""

    folder: Path
    pad: str | None = None  # the padding token; None where the folder's own files say


@dataclass(frozen=True)
class SourceOptions:
    """What the user may decide about a source; None leaves it to what the source says."""

    variant: str | None = None  # of a folder's files
    ema: bool = False
    kind: str | None = None
    prediction: str | None = None
    vae: Path | None = None
    text_encoder: Path | None = None
    text_encoder_2: Path | None = None
    tokenizer: Path | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint."""

    path: Path  # of a diffusers folder or a single file
    index: dict[str, Any]  # model_index.json
    scheduler: dict[str, Any]
    components: dict[str, Component]
    tokenizers: dict[str, Vocabulary]
    low_res_scheduler: dict[str, Any] | None = None  # upscalers': how the small image is noised
    summary: str = ""  # the kind of a single file, for people to read
    warning: str = ""  # what of the summary is only likely, and how to say otherwise
    provenance: dict[str, Any] = field(default_factory=dict)


def names_of(part: str) -> tuple[str, ...]:
    """What a part is called in folders of any pipeline."""
    return (part, VQ) if part == "vae" else (part,)


def readable(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, each of a type that is read here."""
    for tensor in found.values():
        if tensor.dtype not in TENSOR_DTYPES:
            raise InputError(
                f"{tensor.file}: {tensor.name} is of type {tensor.dtype}; only {', '.join(TENSOR_DTYPES)} are read"
            )
    return dict(found)
