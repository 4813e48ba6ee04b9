"""Low-rank adapters of the UNet, and of the text encoders where these learn too."""

import mlx.core as mx
import mlx.nn as nn

from ...checkpoint.model import Model
from ...networks.blocks import RunLayer, run_layer
from ..learning.examples import Captions, MicroBatch
from ..learning.kind_settings import LoraSettings
from ..learning.low_rank import Adapters, LayerName, layers_of
from ..learning.objective import Objective
from ..learning.recomputing import recomputing

RATE, WEIGHT_DECAY = 1e-4, 1e-2


def network_names(model: Model) -> list[str]:
    """Returns the names of a model's text encoders, as its folder has them."""
    return ["text_encoder" + ("" if i == 0 else f"_{i + 1}") for i in range(len(model.text_encoders))]


class Lora:
    """The adapters of a model, which are added beside its layers; the layers themselves do not learn."""

    def __init__(self, model: Model, settings: LoraSettings, captions: Captions, objective: Objective):
        self._model, self._objective = model, objective
        networks: dict[str, nn.Module] = {"unet": model.unet}
        layers = layers_of("unet", model.unet, settings.targets)
        if settings.text_rate is not None:
            for name, encoder in zip(network_names(model), model.text_encoders, strict=True):
                layers |= layers_of(name, encoder, settings.targets)
        for network in (model.unet, *model.text_encoders):
            network.freeze()
        alpha = float(settings.rank) if settings.alpha is None else settings.alpha
        self.learned = Adapters(layers, settings.rank, alpha, settings.seed)
        self._inputs = captions.inputs if settings.text_rate is None else captions.learning
        self.run: RunLayer = recomputing(networks, self.learned) if settings.recompute else run_layer

    @property
    def layers(self) -> dict[LayerName, tuple[mx.array, mx.array, float]]:
        """Returns down, up and alpha of each layer's adapter."""
        return {name: (layer.down, layer.up, layer.alpha) for name, layer in self.learned.by_layer.items()}

    def loss(self, batch: MicroBatch) -> mx.array:
        """Returns the loss of a micro-batch."""
        unet, inputs = self._model.unet, self._inputs(batch)

        def predict(x: mx.array, timesteps: mx.array) -> mx.array:
            """Returns the UNet's prediction, with the adapters."""
            return unet(x.astype(unet.dtype), timesteps, **inputs, run=self.run)[0]

        return self._objective.loss(predict, batch.clean, batch.draws, batch.weights)
