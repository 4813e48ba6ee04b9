"""The network behind previews: the colour of each latent from the nine around it, fitted to what a decoder shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np

from .core.errors import InputError

_WIDTHS = (64, 48, 32)  # of the hidden layers; with many channels the first is narrower
_WEIGHTS = 6000  # at most, into and out of the first
_SIDE = 3  # latents a side of what decides a colour
_STEPS, _BATCH, _RATE, _BETAS = 1000, 512, 8e-3, [0.9, 0.99]  # of Adam
_LEAST = 1e-3  # deviation of an input that never changes


class PreviewNetwork(NamedTuple):
    """A perceptron of under 10,000 weights over 3 x 3 latents, and the mean and deviation of each channel."""

    mean: mx.array  # (inputs,)
    deviation: mx.array  # (inputs,)
    weights: list[mx.array]  # (inputs, outputs) of each layer
    biases: list[mx.array]

    def __call__(self, latents: mx.array) -> mx.array:
        """Returns colours (N, h, w, 3), in about [-1, 1], of latents (N, h, w, C) as the UNet has them."""
        x = (_features(latents.astype(mx.float32)) - self.mean) / self.deviation
        return _forward(self.weights, self.biases, x)

    def arrays(self) -> dict[str, mx.array]:
        """Returns the arrays by name, as a file holds them."""
        layers = {f"weight{i}": weight for i, weight in enumerate(self.weights)}
        layers |= {f"bias{i}": bias for i, bias in enumerate(self.biases)}
        return {"mean": self.mean, "deviation": self.deviation, **layers}

    @classmethod
    def from_arrays(cls, arrays: Any, channels: int) -> PreviewNetwork:
        """Reads arrays by name; InputError where they are not those of a network for so many latent channels."""
        sizes = _sizes(channels)
        shapes = {"mean": sizes[:1], "deviation": sizes[:1]}
        for i, (inputs, outputs) in enumerate(pairwise(sizes)):
            shapes |= {f"weight{i}": (inputs, outputs), f"bias{i}": (outputs,)}
        if not isinstance(arrays, dict) or {name: array.shape for name, array in arrays.items()} != shapes:
            raise InputError(f"these are not the arrays of a preview of {channels} channels")
        if not all(mx.isfinite(array).all().item() for array in arrays.values()):
            raise InputError("the preview's arrays are not finite")
        layers = range(len(sizes) - 1)
        weights, biases = ([arrays[f"{name}{i}"] for i in layers] for name in ("weight", "bias"))
        return cls(arrays["mean"], arrays["deviation"], weights, biases)


def fit(samples: Sequence[tuple[mx.array, mx.array]], check: Callable[[], None] = lambda: None) -> PreviewNetwork:
    """Fits a network to pairs of latents (N, h, w, C) and their decoded colours (N, h, w, 3), by Adam.

    The result is always the same for the same pairs. check: called after each step; what it raises ends the fit.
    """
    inputs = mx.concatenate([_features(z).reshape(-1, _inputs(z.shape[-1])) for z, _ in samples])
    colours = mx.concatenate([colour.reshape(-1, 3) for _, colour in samples])
    mean, deviation = inputs.mean(0), mx.maximum(mx.sqrt(inputs.var(0)), _LEAST)
    inputs = (inputs - mean) / deviation
    rng, sizes = np.random.default_rng(0), _sizes(samples[0][0].shape[-1])
    layers = list(pairwise(sizes))
    weights = [mx.array((rng.standard_normal(size) * (2 / size[0]) ** 0.5).astype(np.float32)) for size in layers]
    biases = [mx.zeros(size[1]) for size in layers]
    biases[-1] = colours.mean(0)
    parameters: Any = {"weights": weights, "biases": biases}

    def loss(parameters: Any, x: mx.array, y: mx.array) -> mx.array:
        """Returns the mean squared error of the colours."""
        return ((_forward(parameters["weights"], parameters["biases"], x) - y) ** 2).mean()

    gradient = mx.value_and_grad(loss)
    adam = optim.Adam(optim.cosine_decay(_RATE, _STEPS), _BETAS)
    for _ in range(_STEPS):
        rows = mx.array(rng.integers(0, inputs.shape[0], _BATCH))
        _, gradients = gradient(parameters, inputs[rows], colours[rows])
        parameters = adam.apply_gradients(gradients, parameters)
        mx.eval(parameters, adam.state)
        check()
    return PreviewNetwork(mean, deviation, parameters["weights"], parameters["biases"])


def _forward(weights: list[mx.array], biases: list[mx.array], x: mx.array) -> mx.array:
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        x = x @ weight + bias
        x = x * mx.sigmoid(x)
    return x @ weights[-1] + biases[-1]


def _features(latents: mx.array) -> mx.array:
    """Returns (N, h, w, inputs): the 3 x 3 latents around each, and mean and deviation of each channel.

    Those two stand for the decoder's group normalisations, by which every colour depends on the whole picture.
    """
    _, height, width, _ = latents.shape
    edge = _SIDE // 2
    padded = mx.pad(latents, [(0, 0), (edge, edge), (edge, edge), (0, 0)], mode="edge")
    around = [padded[:, i : i + height, j : j + width] for i in range(_SIDE) for j in range(_SIDE)]
    mean = latents.mean((1, 2), keepdims=True)
    deviation = mx.sqrt(latents.var((1, 2), keepdims=True))
    return mx.concatenate([*around, *(mx.broadcast_to(x, latents.shape) for x in (mean, deviation))], axis=-1)


def _inputs(channels: int) -> int:
    return (_SIDE**2 + 2) * channels


def _sizes(channels: int) -> tuple[int, ...]:
    """Returns the widths of all layers."""
    inputs, (first, second, *others) = _inputs(channels), _WIDTHS
    return (inputs, max(1, min(first, _WEIGHTS // (inputs + second))), second, *others, 3)
