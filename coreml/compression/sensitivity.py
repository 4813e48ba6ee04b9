"""How much a UNet's output changes with each of its weights, measured on inputs of real generations.

The output's error for a small change d of the weights is J d, and its expected square is E_v (v J d)^2 for random signs
v. So one backward pass with random signs on the output gives, for all weights at once, a sample g = v J. Where the
changes of single numbers are independent of each other, as the errors of palettes nearly are, the expected square is
the sum of E g_i^2 d_i^2 (the diagonal of the Gauss-Newton matrix, LeCun et al. 1990). All numbers of one value get the
same entry of a palette, so it is enough to keep the sum of g_i^2 over the numbers of each float16 value.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_unflatten

from mlx_sd import StableDiffusion, conditions
from mlx_sd.completion import table_of
from mlx_sd.condition_rows import Conditions
from mlx_sd.networks import ops
from mlx_sd.networks.unet import UNet
from mlx_sd.request import Request
from mlx_sd.sampling import loop, noise

from .networks import weights_of
from .palettes import PATTERNS, bits_of

_BATCH = 8  # evaluations that one backward pass sees


class Inputs(NamedTuple):
    """What a UNet is called with: rows of latents (B, h, w, C), timesteps (B,), contexts and other inputs."""

    x: mx.array
    t: mx.array
    context: mx.array | None
    keywords: dict[str, Any]

    def run(self, unet: UNet) -> mx.array:
        """Returns the UNet's prediction (B, h, w, C) for these inputs, float32."""
        return unet(self.x, self.t, self.context, **self.keywords)[0].astype(mx.float32)


class Sensitivity(NamedTuple):
    """Of one weight, for each bit pattern of a float16 (PATTERNS,)."""

    occurrences: np.ndarray  # how many of its numbers have it
    square: np.ndarray  # sum of the expected squares of the output's derivative by these numbers


def trajectory(
    sd: StableDiffusion, prompts: Sequence[str], steps: int, seed: int, size: tuple[int, int] | None = None
) -> Iterator[list[Inputs]]:
    """Yields for each prompt the inputs of every evaluation of its generation, the i-th with seed + i.

    size: (width, height) in pixels; None is the model's own.
    """
    for i, prompt in enumerate(prompts):
        width, height = size or (None, None)
        request = sd.complete(Request(prompt=prompt, seed=seed + i, steps=steps, width=width, height=height))
        inputs, predictor = conditions.conditions_of(sd.model, [request]), sd.predictor([request])
        rows = 2 if inputs.guided else 1
        factor = sd.vae.config.downsampling
        assert request.width is not None and request.height is not None
        shape = (sd.vae.config.latent_channels, request.height // factor, request.width // factor)
        draw = noise.generator("numpy", seed + i)
        visited: list[Inputs] = []

        def predict(
            x: mx.array,
            timestep: float,
            visited: list[Inputs] = visited,
            conditions: Conditions = inputs,
            rows: int = rows,
            predictor: Any = predictor,
        ) -> mx.array:
            """Notes the input of an evaluation, and returns its prediction."""
            latents = mx.broadcast_to(x, (rows, *x.shape[1:]))
            visited.append(Inputs(latents, mx.full((rows,), timestep), conditions.context, conditions.keywords))
            prediction: mx.array = predictor(x, timestep)
            return prediction

        normal = partial(_normal, draw, shape)
        loop.run(table_of(sd.model, request), predict, normal(), normal)
        yield visited


def spread(trajectories: Sequence[Sequence[Inputs]], count: int) -> list[Inputs]:
    """Returns `count` inputs of many generations, in turn from each, at other evaluations each time."""
    total = sum(map(len, trajectories))
    picked: list[Inputs] = []
    for i in range(min(count, total)):
        number, turn = i % len(trajectories), i // len(trajectories)
        run = trajectories[number]
        stride = max(1, len(run) * len(trajectories) // count)
        picked.append(run[(number + turn * stride) % len(run)])
    return picked


def measure(unet: UNet, inputs: Sequence[Inputs], seed: int = 0) -> dict[str, Sensitivity]:
    """Returns the sensitivity of each weight of a UNet that is compressed, by name; of the sum of squares over a row.

    inputs: of the same shapes; several of them go through one backward pass. The UNet computes in float32. seed: of the
    random signs.
    """
    weights, rng = weights_of(unet), np.random.default_rng(seed)
    sensitivities = {name: Sensitivity(_count(array), np.zeros(PATTERNS)) for name, array in weights.items()}
    rows = sum(x.x.shape[0] for x in inputs)
    for start in range(0, len(inputs), _BATCH):
        batch = _joined(inputs[start : start + _BATCH])
        shape = (*batch.x.shape[:3], unet.config.out_channels)
        signs = mx.array(rng.choice(np.array([-1, 1], np.float32), shape))
        gradients = _gradients(unet, weights, batch, signs)
        for name in reversed(weights):  # the last layers' are ready first
            gradient = np.array(gradients.pop(name)).ravel()
            patterns = bits_of(np.array(weights[name].astype(mx.float16)))
            sensitivities[name].square[:] += np.bincount(patterns, gradient * gradient, PATTERNS) / rows
    return sensitivities


def _gradients(unet: UNet, weights: Mapping[str, mx.array], inputs: Inputs, signs: mx.array) -> dict[str, mx.array]:
    """Returns the derivatives of the sum of signs * output by each weight, not computed yet."""

    def signed_sum(weights: dict[str, mx.array]) -> mx.array:
        """Returns the sum of the outputs with these weights, each times its sign."""
        unet.update(tree_unflatten(list(weights.items())))
        return (inputs.run(unet) * signs).sum()

    try:
        with ops.recording(_differentiable):
            gradients: dict[str, mx.array] = mx.grad(signed_sum)(dict(weights))
    finally:
        unet.update(tree_unflatten(list(weights.items())))
    return gradients


def _differentiable(
    name: str, function: Any, arrays: Sequence[mx.array | None], attributes: dict[str, Any]
) -> mx.array:
    """Runs an operation by functions that MLX differentiates; the fast ones for CPUs look into the bits of numbers."""
    if name == "attention":
        q, k, v, mask = (*arrays, None)[:4]
        assert q is not None and k is not None and v is not None
        return ops.padded_attention(q, k, v, mask, attributes["scale"])
    activations: dict[str, Any] = {
        "silu": nn.silu,
        "gelu": nn.gelu,
        "quick_gelu": lambda x: x * mx.sigmoid(1.702 * x),
    }
    y: mx.array = activations.get(name, function)(*arrays, **attributes)
    return y


def _joined(inputs: Sequence[Inputs]) -> Inputs:
    """Returns the rows of several inputs as one."""
    contexts = [x.context for x in inputs if x.context is not None]
    return Inputs(
        mx.concatenate([x.x for x in inputs]),
        mx.concatenate([x.t for x in inputs]),
        mx.concatenate(contexts) if contexts else None,
        {name: mx.concatenate([x.keywords[name] for x in inputs]) for name in inputs[0].keywords},
    )


def _count(array: mx.array) -> np.ndarray:
    return np.bincount(bits_of(np.array(array.astype(mx.float16))), minlength=PATTERNS)


def _normal(draw: noise.Draw, shape: tuple[int, int, int]) -> mx.array:
    return mx.array(draw(shape).transpose(1, 2, 0)[None])
