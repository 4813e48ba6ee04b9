"""What every source is read into: a checkpoint's configs and unread tensors; and what a user may choose about it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_sd.core.files import Tensor

PARTS = ("text_encoder", "text_encoder_2", "unet", "vae")
VQ = "vqvae"  # what latent diffusion pipelines call the vae
TOKENIZERS = ("tokenizer", "tokenizer_2")
SCHEDULERS = ("scheduler", "low_res_scheduler")


class Difference(Tensor):
    """A tensor that is a difference from the weight of the same name in the model that a network is used with.

    factors: (up, down), two tensors whose product it is; without them the file holds it as it is.
    """

    factors: tuple[Tensor, Tensor] | None = None

    @classmethod
    def of(cls, tensor: Tensor) -> "Difference":
        """Returns a tensor marked as a difference."""
        return cls(*tensor)

    @classmethod
    def product(cls, up: Tensor, down: Tensor, name: str) -> "Difference":
        """Returns the product (outputs, inputs, ...) of up (outputs, rank) and down (rank, inputs, ...), unread."""
        difference = cls(*up._replace(name=name, shape=(*up.shape[:1], *down.shape[1:])))
        difference.factors = up, down
        return difference

    def read(self) -> mx.array:
        """Reads the numbers; of a product, computes them in float32 on the CPU."""
        if self.factors is None:
            return super().read()
        with mx.stream(mx.cpu):
            up, down = (factor.read().astype(mx.float32).flatten(1) for factor in self.factors)
            product = (up @ down).reshape(self.shape)
            mx.eval(product)
        return product


@dataclass(frozen=True)
class Component:
    """One network: its config, its tensors under diffusers' current names, and the files that hold them."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer's files and its padding token."""

    folder: Path
    pad: str | None = None  # None where the folder's own files say


@dataclass(frozen=True)
class SourceOptions:
    """What a user may choose about a source; None leaves it to the source's own files."""

    variant: str | None = None  # of a folder's files
    ema: bool = False  # the averaged weights of a single file
    kind: str | None = None  # of a single file, a key of `single_file_kinds.KINDS`
    prediction: str | None = None  # of a single file's UNet
    vae: Path | None = None
    text_encoder: Path | None = None
    text_encoder_2: Path | None = None
    tokenizer: Path | None = None  # for a single file


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint with all its networks, configs and tokenizers; no tensor has been read."""

    path: Path  # of a diffusers folder or a single file
    index: dict[str, Any]  # model_index.json
    scheduler: dict[str, Any]
    components: dict[str, Component]
    tokenizers: dict[str, Vocabulary]
    low_res_scheduler: dict[str, Any] | None = None  # of upscalers: how the small image is noised
    summary: str = ""  # the kind of a single file, for people to read
    warning: str = ""  # which part of the summary is only likely, and the option that corrects it
    provenance: dict[str, Any] = field(default_factory=dict)  # recorded in model.json under "source"


def names_of(part: str) -> tuple[str, ...]:
    """Returns the names that a part has in the folders of any pipeline."""
    return (part, VQ) if part == "vae" else (part,)
