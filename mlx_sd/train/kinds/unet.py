"""A whole UNet: fine-tuned from a checkpoint's weights, or from random ones (Ho et al. 2020, algorithm 1)."""

import mlx.core as mx

from ...checkpoint.model import Model
from ...networks.blocks import RunLayer, run_layer
from ...networks.unet import UNet
from ..learning.examples import Captions, MicroBatch
from ..learning.kind_settings import UNetSettings
from ..learning.objective import Objective
from ..learning.recomputing import recomputing

RATE, SCRATCH_RATE, WEIGHT_DECAY = 1e-5, 1e-4, 1e-2


class WholeUNet:
    """The UNet of a model, all of whose weights are learned; they are kept in float32 while they learn."""

    def __init__(self, model: Model, settings: UNetSettings, captions: Captions, objective: Objective):
        self._model, self._objective = model, objective
        for encoder in model.text_encoders:
            encoder.freeze()
        self.learned: UNet = model.unet
        if settings.scratch:
            mx.random.seed(settings.seed)
            self.learned.update(UNet(model.unet.config).parameters())
        self.learned.unfreeze()
        self.learned.set_dtype(mx.float32)
        self._captions = captions
        self.run: RunLayer = recomputing({"unet": model.unet}) if settings.recompute else run_layer

    def loss(self, batch: MicroBatch) -> mx.array:
        """Returns the loss of a micro-batch."""
        inputs = self._captions.inputs(batch)

        def predict(x: mx.array, timesteps: mx.array) -> mx.array:
            """Returns the UNet's prediction."""
            return self.learned(x.astype(self.learned.dtype), timesteps, **inputs, run=self.run)[0]

        return self._objective.loss(predict, batch.clean, batch.draws, batch.weights)
