"""A model without weights and a micro-batch of zeros, of the shapes that a training will have."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ... import resolve
from ...checkpoint.model import DTYPES, Model
from ...checkpoint.model_folder import TEXT, read_model_json
from ...load import outline
from ...networks import quantization
from ...prompts.encoding import Encoding, PromptEncoder
from ..data.buckets import Size
from ..learning.examples import Captions, MicroBatch
from ..learning.kind_settings import ControlSettings, LoraSettings
from ..learning.objective import Draws
from ..learning.random_keys import Place
from ..learning.settings import TrainSettings

_TIME_IDS = 6  # of SDXL: three pairs of a height and a width


def model_outline(settings: TrainSettings, dtype: str) -> Model:
    """Returns the model of the settings with networks of its shapes and dtypes, whose weights are never computed."""
    folder = resolve.model_folder(settings.model)
    model = outline(str(folder))
    assert model is not None  # the folder is converted
    quantize = settings.quantize if isinstance(settings, LoraSettings) else None
    networks = networks_of(model)
    stored = quantization.from_record(read_model_json(folder)["quantization"], f"{folder}/model.json")
    for part, scheme in (stored | quantization.parse_for(networks, quantize)).items():
        quantization.replace_layers(networks[part], scheme)
    for network in networks.values():
        if hasattr(network, "set_dtype"):
            network.set_dtype(DTYPES[dtype])
    return replace(model, name=settings.model, dtype=DTYPES[dtype], quantization=quantize)


def networks_of(model: Model) -> dict[str, nn.Module]:
    """Returns the networks of a model by the names of their files."""
    networks = {"unet": model.unet, "vae": model.vae, **dict(zip(TEXT, model.text_encoders, strict=False))}
    return {part: network for part, network in networks.items() if isinstance(network, nn.Module)}


class CaptionShapes(Captions):
    """Captions that are zeros, of the shapes of encoded ones; where an encoder learns, it runs."""

    def __init__(self, model: Model, texts: Sequence[str]):
        """texts: the captions of the training, the longest of which decides the shape of all."""
        self._model, self._texts, self._cache = model, tuple(texts), None
        self._pools = model.unet.config.added_time_dims is not None
        self._chunks = 1
        if model.text_encoders:
            encoder = PromptEncoder(model.text_encoders, model.tokenizers, pools=self._pools)
            self._chunks = max(map(encoder.count_chunks, {*texts, ""}))

    def inputs(self, batch: MicroBatch) -> Mapping[str, Any]:
        """Returns zeros of the shapes of the UNet's arguments."""
        if (encoding := self.unconditional) is None:
            return {"class_labels": mx.array(batch.labels)} if batch.labels else {}
        inputs = self._inputs(batch, [encoding] * len(batch.captions))
        mx.eval(inputs)
        return inputs

    @property
    def unconditional(self) -> Encoding | None:
        """Returns zeros of the shape of one encoded caption, None in models without captions."""
        model, config = self._model, self._model.unet.config
        if not model.text_encoders:
            return None
        tokens = self._chunks * model.tokenizers[0].length
        width = sum(encoder.config.width for encoder in model.text_encoders)
        context = mx.zeros((1, tokens, width), model.dtype)
        pooled = None
        if config.added_time_dims is not None:
            pooled = mx.zeros((1, config.added_inputs - _TIME_IDS * config.added_time_dims), model.dtype)
        encoding = Encoding(context, pooled)
        mx.eval(context, *([] if pooled is None else [pooled]))
        return encoding


def micro_batch(model: Model, settings: TrainSettings, size: Size, caption: str, prior: bool = False) -> MicroBatch:
    """Returns a micro-batch of zeros; size: of its pictures, (width, height) in pixels. prior: some have weights."""
    config, count = model.vae.config, settings.batch * (2 if prior else 1)
    width, height = size
    shape = (count, height // config.downsampling, width // config.downsampling, config.latent_channels)
    clean = mx.zeros(shape)
    noise = mx.zeros(shape)
    hints = mx.zeros((count, height, width, 3)) if isinstance(settings, ControlSettings) else None
    draws = Draws(mx.zeros((count,), mx.int32), noise, noise)
    mx.eval(clean, draws, hints)
    return MicroBatch(
        clean,
        draws,
        (caption,) * count,
        time_ids=((height, width, 0, 0, height, width),) * count,
        labels=(0,) * count if model.classes is not None else (),
        weights=mx.ones((count,)) if prior else None,
        hints=hints,
        places=tuple(Place(0, row) for row in range(count)),
    )
