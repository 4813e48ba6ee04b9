"""The micro-batches that kinds of training learn from: latents, captions as the UNet takes them, random numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from ...checkpoint.model import Model
from ...core import terminal
from ...prompts.embeddings import Vectors
from ...prompts.encoding import Encoding, PromptEncoder
from ..data.texts import TextCache
from .objective import Draws
from .random_keys import Place


@dataclass(frozen=True)
class MicroBatch:
    """B examples that go through the network together."""

    clean: mx.array  # (B, h, w, C): latents, scaled as the UNet takes them
    draws: Draws
    captions: tuple[str | None, ...] = ()  # None is no caption
    time_ids: tuple[tuple[int, ...], ...] = ()  # of SDXL: sizes and corners, heights before widths
    labels: tuple[int, ...] = ()  # of class-conditional models
    weights: mx.array | None = None  # (B,), of each example
    hints: mx.array | None = None  # (B, H, W, 3): the images of a control network
    places: tuple[Place, ...] = ()  # of the examples in the run, for kinds that draw more numbers than `draws` has


class Captions:
    """Captions as a model's UNet is conditioned on them; None stands for no caption.

    They are encoded once and kept, unless something that they are encoded by learns: `learning` then encodes anew.
    """

    def __init__(self, model: Model, texts: Sequence[str], folder: Path | None = None):
        """texts: all that will be asked for, so that contexts have one length. folder: where they are kept."""
        self._model, self._texts = model, tuple(dict.fromkeys(texts))
        self._pools = model.unet.config.added_time_dims is not None
        self._chunks, self._cache = 1, None
        if model.text_encoders:
            self._chunks = TextCache(model).count_chunks({*texts, ""})
            self._cache = TextCache(model, folder, chunks=self._chunks)

    def inputs(self, batch: MicroBatch) -> Mapping[str, Any]:
        """Returns the UNet's arguments beside latents and timesteps for a micro-batch."""
        if self._cache is None:
            return {"class_labels": mx.array(batch.labels)} if batch.labels else {}
        cache = self._cache
        return self._inputs(batch, [cache.unconditional() if t is None else cache.encode(t) for t in batch.captions])

    def encode_all(self) -> None:
        """Encodes every caption, and none, so that the text encoders are not needed any more."""
        if self._cache is not None:
            with terminal.progress(len(self._texts), "captions") as advance:
                self._cache.unconditional()
                for text in self._texts:
                    self._cache.encode(text)
                    advance(1)

    @property
    def unconditional(self) -> Encoding | None:
        """Returns what stands for no caption, None in models without captions."""
        return None if self._cache is None else self._cache.unconditional()

    def learning(self, batch: MicroBatch, embeddings: Sequence[Vectors] = ()) -> Mapping[str, Any]:
        """Returns the same, through text encoders and embeddings as they are now, for their gradients."""
        encoder = PromptEncoder(
            self._model.text_encoders, self._model.tokenizers, embeddings=embeddings, pools=self._pools
        )
        encodings = [encoder.encode(text or "", least_chunks=self._chunks) for text in batch.captions]
        if self._model.zeros_for_empty:
            encodings = [e.zeros() if t is None else e for t, e in zip(batch.captions, encodings, strict=True)]
        return self._inputs(batch, encodings)

    def _inputs(self, batch: MicroBatch, encodings: Sequence[Encoding]) -> Mapping[str, Any]:
        inputs: dict[str, Any] = {"context": mx.concatenate([encoding.context for encoding in encodings])}
        if self._pools:
            inputs["text_embeds"] = mx.concatenate([e.pooled for e in encodings if e.pooled is not None])
            inputs["time_ids"] = mx.array(batch.time_ids, dtype=mx.float32)
        return inputs
