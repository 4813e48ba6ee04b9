"""The golden picture: one whole generation in MLX with float32, step by step, for an app to compare its own with."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_sd import StableDiffusion, codec, conditions
from mlx_sd.completion import complete, starting_point
from mlx_sd.condition_rows import Conditions
from mlx_sd.request import Request
from mlx_sd.reuse.policy import Policy
from mlx_sd.sampling import noise
from mlx_sd.sampling.denoise import guide

from . import loop
from .goldens import write_array

PROMPT, NEGATIVE, SEED = "a red tent in the center on green grass, under a clear day sky", "blurry, dark", 0
_GENERATOR = "numpy"
# Of one run of a network against MLX in float32, relative to the largest number: what `coreml verify` and its tests ask
# of packages in either type.
EVALUATION = {"float32": 1e-4, "float16": 5e-3}
# Root mean square of that, relative to the prediction's: what the tolerances of a whole generation are measured with.
_ERROR = {"float32": 1e-5, "float16": 1e-3}
_ARITHMETIC = 1e-5  # of the table's sums, in float32
_MARGIN = 3.0  # errors of packages have other directions than the ones that were tried


class Golden:
    """One generation in float32: its inputs, and what it computes from evaluation to evaluation.

    Latents are (channels, height, width), as packages have them.
    """

    def __init__(self, sd: StableDiffusion, request: Request, table: Mapping[str, Any], branch: int):
        """Encodes the prompts of a completed request. table: as `tables.describe` returns it."""
        self._sd, self._table, self._depth = sd, table, branch + 1
        self.inputs: Conditions = conditions.conditions_of(sd.model, [request])
        self.channels = channels(sd, request)
        self._guidance, self._shape = request.guidance or 0.0, _shape(sd, request)

    def run(self, error: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """Runs the loop; returns latents (1 + evaluations, C, h, w) and predictions (evaluations, rows, C, h, w).

        error: is added to every prediction, times its root mean square, in one random direction that stays the same.
        """
        draw = partial(noise.generator(_GENERATOR, SEED), self._shape)
        rows = 2 if self.inputs.guided else 1
        direction = np.random.default_rng(1).standard_normal((rows, *self._shape)).astype(np.float32)
        predictions: list[np.ndarray] = []

        def evaluate(x: np.ndarray, timestep: float, deep: Any) -> tuple[np.ndarray, Any]:
            """Returns the guided prediction and the deep features of an evaluation."""
            latents = mx.array(x).transpose(1, 2, 0)[None]
            if self.channels is not None:
                latents = mx.concatenate([latents, self.channels], axis=-1)
            latents = mx.broadcast_to(latents, (rows, *latents.shape[1:]))
            output, feature = self._sd.unet(
                latents,
                mx.array(timestep),
                self.inputs.context,
                deep=None if deep is None else mx.array(deep),
                depth=self._depth,
                **self.inputs.keywords,
            )
            prediction = np.array(output.astype(mx.float32).transpose(0, 3, 1, 2))
            prediction += error * np.sqrt((prediction**2).mean()) * direction
            predictions.append(prediction)
            guided = guide(mx.array(prediction), self._guidance) if self.inputs.guided else mx.array(prediction)
            return np.array(guided[0]), np.array(feature)

        latents = list(loop.run(self._table, draw(), draw, evaluate))
        return np.stack(latents), np.stack(predictions)


def request_of(sd: StableDiffusion, table: Mapping[str, Any], policy: Policy | None, size: tuple[int, int]) -> Request:
    """Returns the completed request of the golden picture. size: (width, height) in pixels."""
    request = Request(
        prompt=PROMPT,
        negative=NEGATIVE,
        seed=SEED,
        rng=_GENERATOR,
        sampler=table["sampler"],
        schedule=table["schedule"],
        steps=table["steps"],
        deepcache=policy,
        width=size[0],
        height=size[1],
    )
    return complete(sd.model, request, starting_point(sd.model, request, channels(sd, request)))


def channels(sd: StableDiffusion, request: Request) -> mx.array | None:
    """Returns what a UNet takes beside the latents (1, h, w, K), or None: for inpainting a mask of ones, then zeros."""
    count = sd.model.additional_channels
    if not count:
        return None
    _, height, width = _shape(sd, request)
    return mx.concatenate([mx.ones((1, height, width, 1)), mx.zeros((1, height, width, count - 1))], axis=-1)


def write(
    folder: Path,
    sd: StableDiffusion,
    table: Mapping[str, Any],
    policy: Policy | None,
    size: tuple[int, int],
    branch: int,
    dtype: str,
) -> dict[str, Any]:
    """Makes the golden picture, writes its arrays and picture.png into a folder; returns the content of picture.json.

    dtype: of the packages, "float32" or "float16", which decides the tolerances. Raises Failure where numbers are not
    finite.
    """
    request = request_of(sd, table, policy, size)
    golden = Golden(sd, request, table, branch)
    latents, predictions = golden.run()
    disturbed, _ = golden.run(_ERROR[dtype])
    image, disturbed_image = (_decoded(sd, array[-1]) for array in (latents, disturbed))
    codec.to_image(image).save(folder / "picture.png")
    names = {"encoder_hidden_states": golden.inputs.context, **golden.inputs.keywords}
    arrays = {name: np.array(array.astype(mx.float32)) for name, array in names.items() if array is not None}
    if golden.channels is not None:
        arrays["channels"] = np.array(golden.channels[0].transpose(2, 0, 1))
    arrays |= {"latents": latents, "noise_pred": predictions, "image": np.array(image.transpose(2, 0, 1))}
    drift = [_distance(a, b) for a, b in zip(disturbed, latents, strict=True)]
    return {
        "prompt": PROMPT,
        "negative": NEGATIVE if golden.inputs.guided else None,
        "guidance": request.guidance,
        "generator": _GENERATOR,
        "seed": SEED,
        "width": size[0],
        "height": size[1],
        "arrays": {name: write_array(folder, name, array) for name, array in arrays.items()},
        "picture": "picture.png",
        "tolerances": {
            "of": dtype,
            "encoder_hidden_states": EVALUATION[dtype],
            "noise_pred": EVALUATION[dtype],
            "arithmetic": _ARITHMETIC,
            "latents": [max(_ARITHMETIC, _MARGIN * distance) for distance in drift],
            "image": EVALUATION[dtype] + _MARGIN * float(np.abs(np.array(disturbed_image - image)).max()),
        },
    }


def _shape(sd: StableDiffusion, request: Request) -> tuple[int, int, int]:
    factor = sd.vae.config.downsampling
    assert request.width is not None and request.height is not None
    return sd.vae.config.latent_channels, request.height // factor, request.width // factor


def _decoded(sd: StableDiffusion, latents: np.ndarray) -> mx.array:
    return codec.decode(sd.model, mx.array(latents.transpose(1, 2, 0)[None]))[0]


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the largest difference over the largest number."""
    return float(np.abs(a - b).max() / np.abs(b).max())
