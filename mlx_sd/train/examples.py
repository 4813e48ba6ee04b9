"""The micro-batches that kinds of training learn from: latents, captions as the UNet takes them, random numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import mlx.core as mx

from ..checkpoint.model import Model
from ..prompts.embeddings import Vectors
from ..prompts.encoding import Encoding, PromptEncoder
from .objective import Draws
from .random_keys import Place


class Sizes(NamedTuple):
    """What SDXL is told about a picture: its size before it was scaled and cut, where, and the size it has now."""

    original: tuple[int, int]  # width, height
    corner: tuple[int, int]  # left, top
    target: tuple[int, int]  # width, height

    @property
    def time_ids(self) -> tuple[int, ...]:
        """Returns heights before widths, in the order of SDXL's conditioning."""
        return tuple(number for pair in self for number in reversed(pair))


@dataclass(frozen=True)
class MicroBatch:
    """B examples that go through the network together."""

    clean: mx.array  # (B, h, w, C): latents, scaled as the UNet takes them
    draws: Draws
    captions: tuple[str, ...] = ()
    sizes: tuple[Sizes, ...] = ()
    labels: tuple[int, ...] = ()  # of class-conditional models
    weights: mx.array | None = None  # (B,), of each example
    hints: mx.array | None = None  # (B, H, W, 3): the images of a control network
    places: tuple[Place, ...] = ()  # of the examples in the run, for kinds that draw more numbers than `draws` has


class CaptionEncoder:
    """Captions as a model's UNet is conditioned on them.

    Each caption is encoded once and kept, unless `learns`: then text encoders or embeddings change while training.
    """

    def __init__(
        self, model: Model, captions: Sequence[str], *, learns: bool = False, embeddings: Sequence[Vectors] = ()
    ):
        """captions: all that will be asked for, by which all contexts have the same length."""
        self._model, self._learns = model, learns
        self._pools = model.unet.config.added_time_dims is not None
        self._kept: dict[str, Encoding] = {}
        self._encoder, self._chunks = None, 0
        if model.text_encoders:
            self._encoder = PromptEncoder(
                model.text_encoders, model.tokenizers, style="plain", embeddings=embeddings, pools=self._pools
            )
            self._chunks = max(self._encoder.count_chunks(caption) for caption in {*captions, ""})

    def encode(self, caption: str) -> Encoding:
        """Returns context (1, tokens, C) and pooled text (1, P) of a caption."""
        assert self._encoder is not None
        if self._learns:
            return self._encoder.encode(caption, least_chunks=self._chunks)
        if caption not in self._kept:
            encoding = self._encoder.encode(caption, least_chunks=self._chunks)
            mx.eval(encoding.context, encoding.pooled if encoding.pooled is not None else [])
            self._kept[caption] = encoding
        return self._kept[caption]

    def inputs(self, batch: MicroBatch) -> Mapping[str, Any]:
        """Returns the UNet's arguments beside latents and timesteps for a micro-batch."""
        if self._encoder is None:
            return {"class_labels": mx.array(batch.labels)} if batch.labels else {}
        encodings = [self.encode(caption) for caption in batch.captions]
        inputs: dict[str, Any] = {"context": mx.concatenate([encoding.context for encoding in encodings])}
        if self._pools:
            inputs["text_embeds"] = mx.concatenate([e.pooled for e in encodings if e.pooled is not None])
            inputs["time_ids"] = mx.array([sizes.time_ids for sizes in batch.sizes], dtype=mx.float32)
        return inputs
