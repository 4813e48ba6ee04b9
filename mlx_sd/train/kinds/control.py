"""A control network (Zhang et al. 2023), begun as a copy of the UNet's way down and middle, with zero convolutions.

All of its weights learn, or, as in Stability's Control-LoRAs, adapters of low rank beside the copied layers, and what a
UNet does not have: the layers that embed the image and the zero convolutions; and norms and biases, which are small.
"""

import mlx.core as mx
import mlx.nn as nn

from ...checkpoint.model import Model
from ...networks.blocks import RunLayer, run_layer
from ...networks.control import ControlNet
from ...networks.control_config import ControlConfig
from ...networks.layers import GroupNorm, LayerNorm
from ..learning.examples import Captions, MicroBatch
from ..learning.kind_settings import ControlSettings
from ..learning.low_rank import Adapters, layers_below
from ..learning.objective import Objective
from ..learning.optimizers import arrays_of
from ..learning.recomputing import recomputing

RATE, LOW_RANK_RATE, WEIGHT_DECAY = 1e-5, 1e-4, 1e-2
_WIDTHS = (16, 32, 96, 256)  # of the layers that embed a control image, for 8 pixels a latent
_COPIED = ("embedding.", "down.", "middle.")  # the beginnings of parameters that are the UNet's


class LowRankParts(nn.Module):
    """What learns of a control network of low rank: adapters, and the network's parameters that are not frozen."""

    def __init__(self, network: ControlNet, adapters: Adapters):
        super().__init__()
        self.network, self.adapters = network, adapters


class Control:
    """A control network for a model, whose UNet does not learn."""

    def __init__(self, model: Model, settings: ControlSettings, captions: Captions, objective: Objective):
        self._model, self._objective = model, objective
        for network in (model.unet, *model.text_encoders):
            network.freeze()
        mx.random.seed(settings.seed)
        self.network = network_like(model)
        self.learned: nn.Module = self.network
        self.adapters: Adapters | None = None
        if settings.rank is not None:
            _share_weights(self.network, model)
            layers = layers_below("control", self.network, _COPIED)
            self.adapters = Adapters(layers, settings.rank, float(settings.rank), settings.seed)
            self.learned = LowRankParts(self.network, self.adapters)
        self._captions = captions
        networks = {"unet": model.unet, "control": self.network}
        self.run: RunLayer = recomputing(networks, self.adapters) if settings.recompute else run_layer

    def loss(self, batch: MicroBatch) -> mx.array:
        """Returns the loss of a micro-batch, whose hints are the control images in [0, 1]."""
        inputs, unet, control = self._captions.inputs(batch), self._model.unet, self.network
        hints = batch.hints
        assert hints is not None
        others = {name: value for name, value in inputs.items() if name != "context"}

        def predict(x: mx.array, timesteps: mx.array) -> mx.array:
            """Returns the UNet's prediction with the residuals of the control network."""
            x, context = x.astype(unet.dtype), inputs.get("context")
            image = control.embed(hints)
            skips, middle = control(x, timesteps, context, image, **others, run=self.run)
            return unet(x, timesteps, **inputs, skip_residuals=skips, middle_residual=middle, run=self.run)[0]

        return self._objective.loss(predict, batch.clean, batch.draws, batch.weights)


def network_like(model: Model) -> ControlNet:
    """Returns a control network for a model with the weights of its UNet, in float32; its residuals are all zero."""
    halvings = (model.vae.config.downsampling - 1).bit_length()
    widths = (*_WIDTHS[:halvings], _WIDTHS[min(halvings, len(_WIDTHS) - 1)])
    config = ControlConfig(model.unet.config, 3, widths, bgr=False, pools=False)
    network = ControlNet(config)
    copied = [(name, array.astype(mx.float32)) for name, array in _copied(network, model).items()]
    network.load_weights(copied, strict=False)  # small steps are lost in less than float32
    network.image.last.update(
        {"weight": mx.zeros_like(network.image.last.weight), "bias": mx.zeros_like(network.image.last.bias)}
    )
    return network


def _share_weights(network: ControlNet, model: Model) -> None:
    """Freezes the weights that adapters stand beside: they are the UNet's own arrays, which take no more memory."""
    network.freeze()
    for part in (network.image, network.middle_output, *network.skip_outputs):
        part.unfreeze()
    for _, module in network.named_modules():
        if isinstance(module, (GroupNorm, LayerNorm)):
            module.unfreeze()
        elif "bias" in module:
            module.unfreeze(recurse=False, keys="bias")
    learned = arrays_of(network.trainable_parameters())
    shared = [(name, array) for name, array in _copied(network, model).items() if name not in learned]
    network.load_weights(shared, strict=False)


def _copied(network: ControlNet, model: Model) -> dict[str, mx.array]:
    """The UNet's arrays by the names of the control network's parameters that begin as these."""
    weights = arrays_of(model.unet.parameters())
    return {name: weights[name] for name in arrays_of(network.parameters()) if name.startswith(_COPIED)}
