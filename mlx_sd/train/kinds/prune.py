"""A smaller UNet, which learns again what it lost: channels are removed by score, or whole blocks by BK-SDM's shape."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx

from ...checkpoint.model import Model
from ...checkpoint.model_folder import network_configs, read_model_json
from ...core.errors import InputError
from ...networks.unet import UNet
from ...networks.unet_config import UNetConfig
from ..learning.examples import Captions, MicroBatch
from ..learning.kind_settings import PruneSettings
from ..learning.objective import Objective
from ..pruning import scores, shapes
from ..pruning.channels import channels_of
from ..pruning.plan import plan
from ..pruning.slicing import Weights, apply, weights_of
from ..pruning.widths import cost_of
from .unet import WholeUNet

RATE, WEIGHT_DECAY = 5e-5, 1e-2


@dataclass(frozen=True)
class Smaller:
    """A smaller UNet: its config as Hugging Face writes it, and the weights with which its training begins."""

    config: Mapping[str, Any]
    weights: Weights
    cost_before: int = 0  # multiply-accumulates or parameters, as the settings say
    cost_after: int = 0

    @property
    def unet(self) -> UNet:
        """Returns the network, in float32, in which it learns; its weights are random where there are none to keep."""
        network = UNet(UNetConfig.from_hf(self.config))
        if self.weights:
            network.load_weights([(name, array.astype(mx.float32)) for name, array in self.weights.items()])
        return network


class Prune(WholeUNet):
    """The smaller UNet in the place of a model's own; all its weights are learned."""

    def __init__(
        self, model: Model, settings: PruneSettings, captions: Captions, objective: Objective, smaller: Smaller
    ):
        """smaller: of the function `smaller`."""
        self.model = replace(model, unet=smaller.unet)
        self.config = smaller.config
        super().__init__(self.model, settings, captions, objective)

    @property
    def weights(self) -> Weights:
        """Returns the UNet's weights as they are now, by name."""
        return weights_of(self.learned)


def build(
    model: Model,
    settings: PruneSettings,
    captions: Captions,
    objective: Objective,
    batches: Callable[[], Sequence[MicroBatch]],
    *,
    resumed: bool = False,
) -> Prune:
    """Returns the kind of training that the settings ask for; the arguments are those of `smaller`.

    resumed: the weights of a checkpoint follow, so that nothing is scored: the shape does not depend on scores.
    """
    cheap = settings.with_values(score="random") if resumed else settings
    return Prune(model, settings, captions, objective, smaller(model, cheap, captions, objective, batches))


def smaller(
    model: Model,
    settings: PruneSettings,
    captions: Captions,
    objective: Objective,
    batches: Callable[[], Sequence[MicroBatch]],
) -> Smaller:
    """Returns the smaller UNet of a model that the settings ask for, a function of them and the micro-batches.

    batches: returns those that Taylor scores are measured on; other scores read none. The model's own UNet stays as it
    is. Raises InputError where the model's UNet cannot be made smaller in this way.
    """
    config = config_of(model)
    if settings.shape is not None:
        return _of_shape(model.unet, config, settings)
    measured = _scores(model, settings, captions, objective, batches)
    result = plan(model.unet, config, measured, settings.remove, settings.cost)
    return Smaller(result.config, apply(model.unet, result), result.cost_before, result.cost_after)


def config_of(model: Model) -> Mapping[str, Any]:
    """Returns the config of a model's UNet as Hugging Face writes it; InputError where it is not known."""
    if model.folder is None:
        raise InputError(f"{model.name} has no model folder, so its configs are not known")
    config: Mapping[str, Any] = network_configs(read_model_json(model.folder))["unet"]
    return config


def _of_shape(unet: UNet, config: Mapping[str, Any], settings: PruneSettings) -> Smaller:
    assert settings.shape is not None
    after = shapes.shape_config(config, settings.shape)
    weights = {} if settings.scratch else shapes.shape_weights(unet, config, settings.shape)
    return Smaller(after, weights, *(cost_of(UNetConfig.from_hf(c), settings.cost) for c in (config, after)))


def _scores(
    model: Model,
    settings: PruneSettings,
    captions: Captions,
    objective: Objective,
    batches: Callable[[], Sequence[MicroBatch]],
) -> scores.Scores:
    unet = model.unet
    channels = channels_of(unet)
    if settings.score == "random":
        return scores.at_random(channels, settings.seed)
    if settings.score == "magnitude":
        return scores.by_channel(channels, weights_of(unet))
    loss = WholeUNet(model, settings.with_values(scratch=False), captions, objective).loss
    timesteps = scores.spread_timesteps(objective.alphas_cumprod.size, settings.score_timesteps)
    products = scores.products(unet, loss, batches(), timesteps, settings.threshold)
    result = scores.by_channel(channels, products.arrays)
    mx.clear_cache()
    return result
