"""A student that makes in a few steps, without guidance, what its teacher makes in many with it: LCM and TCD.

The teacher is the checkpoint. The student begins as the same network, and keeps its kind of prediction; it is adapters
beside the teacher's layers, which are switched off where the teacher itself is called, or a second UNet.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_map

from ...checkpoint.model import Model
from ...completion import default_guidance
from ...core.errors import InputError
from ...networks.blocks import RunLayer, run_layer
from ...networks.unet import UNet
from ..learning import random_keys
from ..learning.consistency import Consistency, Jump
from ..learning.examples import Captions, MicroBatch
from ..learning.kind_settings import DistillSettings
from ..learning.low_rank import Adapters, LayerName, layers_of
from ..learning.objective import Objective
from ..learning.optimizers import arrays_of
from ..learning.recomputing import recomputing

RATE, FULL_RATE, WEIGHT_DECAY = 1e-4, 1e-5, 0.0
AVERAGE = 0.95  # decay of the averages of a whole student (Luo et al. 2023)

Inputs = Mapping[str, Any]  # the UNet's arguments beside latents and timesteps
Tree = Any  # of parameters, as MLX's modules have them


class Distillation:
    """Adapters or a UNet that learn the consistency function of a model's guided trajectories."""

    def __init__(self, model: Model, settings: DistillSettings, captions: Captions, objective: Objective):
        """Puts adapters beside the model's layers, or copies its UNet.

        InputError for a checkpoint that is distilled already, and for settings that do not go together.
        """
        _check(model, settings)
        self._model, self._settings, self._objective = model, settings, objective
        self._consistency = Consistency(model.scheduler, settings.method, settings.solver_steps, settings.huber)
        self._guidance = settings.guidance or (default_guidance(model),) * 2
        for network in (model.unet, *model.text_encoders):
            network.freeze()
        self._adapters: Adapters | None = None
        self._unet = model.unet
        if settings.student == "lora":
            alpha = float(settings.rank) if settings.alpha is None else settings.alpha
            layers = layers_of("unet", model.unet, settings.targets)
            self._adapters = Adapters(layers, settings.rank, alpha, settings.seed)
        else:
            self._unet = _copy(model.unet)
        self.learned: nn.Module = self._unet if self._adapters is None else self._adapters
        self._captions = captions
        self._averages: Callable[[], Tree] | None = None
        networks = {"unet": self._unet}
        self.run: RunLayer = recomputing(networks, self._adapters) if settings.recompute else run_layer

    @property
    def average_decay(self) -> float | None:
        """Returns the decay of the averages that `follow` shall be called with, None for none."""
        return self._settings.average or (AVERAGE if self._adapters is None else None)

    @property
    def layers(self) -> dict[LayerName, tuple[mx.array, mx.array, float]]:
        """Returns down, up and alpha of each layer's adapter; nothing where the student is a UNet."""
        by_layer = {} if self._adapters is None else self._adapters.by_layer
        return {name: (layer.down, layer.up, layer.alpha) for name, layer in by_layer.items()}

    @property
    def weights(self) -> dict[str, mx.array]:
        """Returns the parameters of a student that is a UNet by their paths; nothing where it is adapters."""
        return {} if self._adapters is not None else arrays_of(self._unet.parameters())

    def follow(self, averages: Callable[[], Tree]) -> None:
        """Takes targets from averages of what is learned, as `averages()` has them at the time, not from itself."""
        self._averages = averages

    def loss(self, batch: MicroBatch) -> mx.array:
        """Returns the loss of a micro-batch, whose timesteps count as the solver's nearest above them."""
        jumps, scales = self._draw(batch)
        starts = mx.array([jump.start for jump in jumps])
        noisy = self._objective.mix(batch.clean, batch.draws.input_noise, starts)
        inputs = self._captions.inputs(batch)

        def student(x: mx.array, timesteps: mx.array) -> mx.array:
            """Returns the student's prediction."""
            return _predict(self._unet, x, timesteps, {**inputs, "run": self.run})

        def target(x: mx.array, timesteps: mx.array) -> mx.array:
            """Returns the prediction of the averaged student, or of the student itself."""
            return self._predict_target(x, timesteps, inputs)

        def teacher(x: mx.array, timesteps: mx.array) -> mx.array:
            """Returns the teacher's guided prediction."""
            return self._predict_guided(x, timesteps, inputs, scales)

        return self._consistency.loss(student, target, teacher, noisy, jumps, batch.weights)

    def _draw(self, batch: MicroBatch) -> tuple[list[Jump], list[float]]:
        """Returns the jump of each example and the scale of its guidance."""
        settings, (low, high) = self._settings, self._guidance
        jumps, scales = [], []
        for timestep, place in zip(np.array(batch.draws.timesteps), batch.places, strict=True):
            growing = settings.widen * settings.steps
            width = min(place.step / growing, 1.0) if growing and place.step >= 0 else 1.0
            end = random_keys.chance(settings.seed, place, "jump")
            jumps.append(self._consistency.jump(int(timestep), end, width))
            scales.append(low + (high - low) * random_keys.chance(settings.seed, place, "guidance"))
        return jumps, scales

    def _predict_guided(self, x: mx.array, timesteps: mx.array, inputs: Inputs, scales: Sequence[float]) -> mx.array:
        """Returns u + scale (c - u) of the teacher, in float32; c alone where all scales are 1."""
        unet = self._model.unet
        with nullcontext() if self._adapters is None else self._adapters.switched_off():
            if all(scale == 1 for scale in scales):
                return _predict(unet, x, timesteps, inputs)
            without = self._without_subject(inputs)
            doubled = {name: mx.concatenate([without[name], array]) for name, array in inputs.items()}
            output = _predict(unet, mx.concatenate([x, x]), mx.concatenate([timesteps, timesteps]), doubled)
        unconditional, conditional = mx.split(output, 2)
        return unconditional + mx.array(list(scales))[:, None, None, None] * (conditional - unconditional)

    def _predict_target(self, x: mx.array, timesteps: mx.array, inputs: Inputs) -> mx.array:
        if self._averages is None:
            return _predict(self._unet, x, timesteps, inputs)
        current = self.learned.trainable_parameters()
        self.learned.update(tree_map(lambda mean, array: mean.astype(array.dtype), self._averages(), current))
        try:
            return _predict(self._unet, x, timesteps, inputs)
        finally:
            self.learned.update(current)

    def _without_subject(self, inputs: Inputs) -> dict[str, mx.array]:
        """Returns inputs (B, ...) with an empty caption, or zeros where the checkpoint takes these; or no class."""
        replaced = dict(inputs)
        if (nothing := self._captions.unconditional) is not None:
            replaced["context"] = mx.broadcast_to(nothing.context, inputs["context"].shape)
            if nothing.pooled is not None and "text_embeds" in inputs:
                replaced["text_embeds"] = mx.broadcast_to(nothing.pooled, inputs["text_embeds"].shape)
        elif self._model.classes is not None and self._model.classes.null is not None:
            replaced["class_labels"] = mx.full(inputs["class_labels"].shape, self._model.classes.null)
        return replaced


def _check(model: Model, settings: DistillSettings) -> None:
    """Raises InputError where there is nothing to distil, or not with these settings."""
    if model.unet.config.guidance_dims is not None:
        raise InputError("this checkpoint has its guidance inside: it is distilled already")
    if settings.snr_gamma is not None:
        raise InputError("--snr-gamma weighs timesteps of another loss than distillation has; leave it out")
    if settings.student == "full" and model.quantization is not None:
        raise InputError("a student that is a whole UNet needs a teacher that is not quantized; leave --quantize out")
    if settings.guidance is not None and settings.guidance[1] > 1 and default_guidance(model) == 1:
        raise InputError("this model knows nothing to steer away from: guidance is 1")


def _copy(unet: UNet) -> UNet:
    """Returns a UNet with the same weights in float32, in which small steps are not lost."""
    copy = UNet(unet.config)
    copy.update(tree_map(lambda array: array.astype(mx.float32), unet.parameters()))
    return copy


def _predict(unet: UNet, x: mx.array, timesteps: mx.array, inputs: Inputs) -> mx.array:
    output: mx.array = unet(x.astype(unet.dtype), timesteps, **inputs)[0]
    return output.astype(mx.float32)
