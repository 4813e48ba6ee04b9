"""What training minimises: the error of a network that denoises, with the noise and timesteps of each example.

Ho et al. 2020, algorithm 1: draw an image, a timestep and noise, mix them, and descend the squared error of the
network's prediction. v-prediction (Salimans and Ho 2022) and predictions of the image have other targets.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import mlx.core as mx

from ...core.errors import InputError
from ...sampling.scheduler import Scheduler
from . import random_keys
from .random_keys import Place

Predict = Callable[[mx.array, mx.array], mx.array]  # (latents (B, h, w, C), timesteps (B,)) -> prediction


class Draws(NamedTuple):
    """The random numbers of a batch of B examples."""

    timesteps: mx.array  # (B,), integers
    noise: mx.array  # (B, h, w, C), what the network shall find
    input_noise: mx.array  # (B, h, w, C), what is mixed into the latents: noise, perturbed where that is asked for


@dataclass(frozen=True)
class Objective:
    """The loss of a checkpoint's kind of prediction, weighted by timestep.

    alphas_cumprod: (T,) in float32. snr_gamma: of min-SNR weights (Hang et al. 2023), None is none. noise_offset:
    standard deviation of a shift of all pixels of a channel together. input_perturbation: of more noise in the input
    alone (Ning et al. 2023).
    """

    prediction_type: str
    alphas_cumprod: mx.array
    snr_gamma: float | None = None
    noise_offset: float = 0.0
    input_perturbation: float = 0.0

    @classmethod
    def of(
        cls,
        scheduler: Scheduler,
        snr_gamma: float | None = None,
        noise_offset: float = 0.0,
        input_perturbation: float = 0.0,
    ) -> "Objective":
        """Returns the objective of a checkpoint; InputError where its networks are not trained in this way."""
        if scheduler.edm is not None:
            raise InputError("checkpoints of EDM's parametrisation (CosXL, Playground 2.5) cannot be trained yet")
        if scheduler.rescale_betas_zero_snr and scheduler.prediction_type == "epsilon":
            raise InputError(
                "this checkpoint predicts noise where there is nothing but noise (zero terminal SNR): nothing can be "
                "learned of that; train a v-prediction checkpoint"
            )
        alphas_cumprod = mx.array(scheduler.alphas_cumprod(exact_zero=True)).astype(mx.float32)
        return cls(scheduler.prediction_type, alphas_cumprod, snr_gamma, noise_offset, input_perturbation)

    def draw(self, seed: int, places: Sequence[Place], shape: Sequence[int]) -> Draws:
        """Returns the random numbers of examples at their places, each of `shape` (h, w, C)."""
        drawn = [self._draw(seed, place, shape) for place in places]
        timesteps, noise, input_noise = (mx.stack(list(arrays)) for arrays in zip(*drawn, strict=True))
        return Draws(timesteps, noise, input_noise)

    def _draw(self, seed: int, place: Place, shape: Sequence[int]) -> tuple[mx.array, mx.array, mx.array]:
        timestep = mx.array(int(random_keys.chance(seed, place, "timestep") * self.alphas_cumprod.size))
        noise = mx.random.normal(shape, key=random_keys.key(seed, place, "noise"))
        if self.noise_offset:
            shift = mx.random.normal((1, 1, shape[-1]), key=random_keys.key(seed, place, "offset"))
            noise = noise + self.noise_offset * shift
        if not self.input_perturbation:
            return timestep, noise, noise
        more = mx.random.normal(shape, key=random_keys.key(seed, place, "perturbation"))
        return timestep, noise, noise + self.input_perturbation * more

    def mix(self, clean: mx.array, noise: mx.array, timesteps: mx.array) -> mx.array:
        """Returns clean latents (B, h, w, C) with the noise of their timesteps (B,)."""
        signal, sigma = self._levels(timesteps)
        return signal * clean + sigma * noise

    def target(self, clean: mx.array, noise: mx.array, timesteps: mx.array) -> mx.array:
        """Returns what the network shall predict, (B, h, w, C)."""
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return clean
        signal, sigma = self._levels(timesteps)
        return signal * noise - sigma * clean

    def weights(self, timesteps: mx.array) -> mx.array:
        """Returns the weight of each timestep, (B,): 1, or min-SNR's for this kind of prediction."""
        if self.snr_gamma is None:
            return mx.ones(timesteps.shape)
        power = self.alphas_cumprod[timesteps]
        snr = power / (1 - power)
        least = mx.minimum(snr, self.snr_gamma)  # is the weight of errors of the image
        if self.prediction_type == "epsilon":
            return least / snr
        return least / (snr + 1) if self.prediction_type == "v_prediction" else least

    def loss(
        self, predict: Predict, clean: mx.array, draws: Draws, example_weights: mx.array | None = None
    ) -> mx.array:
        """Returns the mean over examples of their weighted mean squared errors, in float32.

        clean: latents (B, h, w, C), scaled as the UNet takes them. example_weights: (B,), of each example.
        """
        noisy = self.mix(clean, draws.input_noise, draws.timesteps)
        prediction = predict(noisy, draws.timesteps).astype(mx.float32)
        target = self.target(clean, draws.noise, draws.timesteps)
        errors = mx.square(prediction - target).mean(axis=(1, 2, 3)) * self.weights(draws.timesteps)
        return (errors if example_weights is None else errors * example_weights).mean()

    def _levels(self, timesteps: mx.array) -> tuple[mx.array, mx.array]:
        power = self.alphas_cumprod[timesteps][:, None, None, None]
        return mx.sqrt(power), mx.sqrt(1 - power)
