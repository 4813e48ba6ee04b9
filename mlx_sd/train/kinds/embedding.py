"""A textual inversion (Gal et al. 2022): vectors in the place of a new word, for all text encoders of a model."""

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn

from ...checkpoint.model import Model
from ...core.errors import InputError
from ...networks.blocks import RunLayer, run_layer
from ...prompts.embeddings import Embedding, Vectors
from ..learning.examples import Captions, MicroBatch
from ..learning.kind_settings import EmbeddingSettings
from ..learning.objective import Objective
from ..learning.recomputing import recomputing
from .lora import network_names

RATE, WEIGHT_DECAY = 5e-3, 0.0


class WordVectors(nn.Module):
    """The vectors (k, C) of a word in each text encoder."""

    def __init__(self, arrays: Sequence[mx.array]):
        super().__init__()
        self.arrays = list(arrays)


class TextualInversion:
    """The vectors of a new word; nothing else learns."""

    def __init__(self, model: Model, settings: EmbeddingSettings, captions: Captions, objective: Objective):
        self._model, self._objective, self.token, self._captions = model, objective, settings.token, captions
        if not model.text_encoders:
            raise InputError("this model takes no prompt, so it has no words to learn")
        if any(tokenizer.token(settings.token.lower()) is not None for tokenizer in model.tokenizers):
            raise InputError(
                f"--token {settings.token!r} is a word already; take one that no prompt has, as my-{settings.token}"
            )
        for network in (model.unet, *model.text_encoders):
            network.freeze()
        rows = [_first_rows(model, number, settings) for number in range(len(model.text_encoders))]
        self.learned = WordVectors(rows)
        self.run: RunLayer = recomputing({"unet": model.unet}) if settings.recompute else run_layer

    @property
    def vectors(self) -> dict[str, mx.array]:
        """Returns the vectors (k, C) by the names of the text encoders."""
        return dict(zip(network_names(self._model), self.learned.arrays, strict=True))

    def loss(self, batch: MicroBatch) -> mx.array:
        """Returns the loss of a micro-batch."""
        vectors = Vectors(Embedding("", self.token), tuple(self.learned.arrays))
        inputs, unet = self._captions.learning(batch, [vectors]), self._model.unet

        def predict(x: mx.array, timesteps: mx.array) -> mx.array:
            """Returns the UNet's prediction for captions with the word."""
            return unet(x.astype(unet.dtype), timesteps, **inputs, run=self.run)[0]

        return self._objective.loss(predict, batch.clean, batch.draws, batch.weights)


def _first_rows(model: Model, encoder: int, settings: EmbeddingSettings) -> mx.array:
    """Returns the rows (k, C) that the vectors begin as: those of a word, once or repeated."""
    table = model.text_encoders[encoder].token_embedding.weight
    ids = model.tokenizers[encoder].ids(settings.like)
    if not ids:
        raise InputError(f"{settings.like!r} is no word; --like takes a word that means something similar")
    repeated = [ids[i % len(ids)] for i in range(settings.vectors)]
    return table[mx.array(repeated)].astype(mx.float32)
