"""A control network (Zhang et al. 2023), begun as a copy of the UNet's way down and middle, with zero convolutions."""

import mlx.core as mx

from ...checkpoint.model import Model
from ...networks.blocks import RunLayer, run_layer
from ...networks.control import ControlNet
from ...networks.control_config import ControlConfig
from ..learning.examples import Captions, MicroBatch
from ..learning.kind_settings import ControlSettings
from ..learning.objective import Objective
from ..learning.optimizers import arrays_of
from ..learning.recomputing import recomputing

RATE, WEIGHT_DECAY = 1e-5, 1e-2
_WIDTHS = (16, 32, 96, 256)  # of the layers that embed a control image, for 8 pixels a latent
_COPIED = ("embedding.", "down.", "middle.")  # the beginnings of parameters that are the UNet's


class Control:
    """A control network for a model, whose UNet does not learn."""

    def __init__(self, model: Model, settings: ControlSettings, captions: Captions, objective: Objective):
        self._model, self._objective = model, objective
        for network in (model.unet, *model.text_encoders):
            network.freeze()
        mx.random.seed(settings.seed)
        self.learned = network_like(model)
        self._captions = captions
        networks = {"unet": model.unet, "control": self.learned}
        self._run: RunLayer = recomputing(networks) if settings.recompute else run_layer

    def loss(self, batch: MicroBatch) -> mx.array:
        """Returns the loss of a micro-batch, whose hints are the control images in [0, 1]."""
        inputs, unet, control = self._captions.inputs(batch), self._model.unet, self.learned
        hints = batch.hints
        assert hints is not None
        others = {name: value for name, value in inputs.items() if name != "context"}

        def predict(x: mx.array, timesteps: mx.array) -> mx.array:
            """Returns the UNet's prediction with the residuals of the control network."""
            x, context = x.astype(unet.dtype), inputs.get("context")
            image = control.embed(hints)
            skips, middle = control(x, timesteps, context, image, **others, run=self._run)
            return unet(x, timesteps, **inputs, skip_residuals=skips, middle_residual=middle, run=self._run)[0]

        return self._objective.loss(predict, batch.clean, batch.draws, batch.weights)


def network_like(model: Model) -> ControlNet:
    """Returns a control network for a model with the weights of its UNet; its residuals are all zero."""
    halvings = (model.vae.config.downsampling - 1).bit_length()
    widths = (*_WIDTHS[:halvings], _WIDTHS[min(halvings, len(_WIDTHS) - 1)])
    config = ControlConfig(model.unet.config, 3, widths, bgr=False, pools=False)
    network = ControlNet(config)
    weights = arrays_of(model.unet.parameters())
    names = [name for name in arrays_of(network.parameters()) if name.startswith(_COPIED)]
    copied = [(name, weights[name].astype(mx.float32)) for name in names]  # small steps are lost in less
    network.load_weights(copied, strict=False)
    network.image.last.update(
        {"weight": mx.zeros_like(network.image.last.weight), "bias": mx.zeros_like(network.image.last.bias)}
    )
    return network
