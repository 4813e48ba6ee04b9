"""What is measured of a model: a full and a cached evaluation of its UNet, and the latents of a short picture."""

import hashlib
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from .. import conditions
from ..core.errors import InputError
from ..networks import ops
from ..networks.tuned_unet import TunedUNet
from ..networks.tuning import DEFAULT, Coverage, Tuning
from ..pipeline import StableDiffusion
from ..predictor import latent_shape
from ..request import Request
from ..sampling import noise
from ..tuning.choices import OFF, Shapes
from ..tuning.measure import Check

_PROMPT = "a red tent on green grass"
_STEPS = 4  # of the short picture, every second of which is cached
_TIMESTEP = 500.0
_ACTIVATIONS = ("silu", "gelu", "quick_gelu")


def request_for(model: Any, width: int | None, height: int | None) -> Request:
    """Returns the request of the short picture of a model; InputError for models that need an image."""
    if model.additional_channels or model.upscales:
        raise InputError("mlx-sd tune measures models that make pictures of noise, and this one needs an image")
    shared = {"seed": 0, "width": width, "height": height, "steps": _STEPS, "deepcache": 2, "tuning": OFF}
    if model.text_encoders:
        return Request(prompt=_PROMPT, **shared)  # type: ignore[arg-type]
    return Request(class_label=0 if model.classes else None, **shared)  # type: ignore[arg-type]


class UNetMeter:
    """Runs evaluations of a model's UNet on fixed inputs, tuned in one way or the other."""

    def __init__(self, sd: StableDiffusion, request: Request, clock: Callable[[], float] = time.perf_counter):
        """Encodes what the evaluations are shown; request: of `request_for`."""
        self._sd, self._clock, model = sd, clock, sd.model
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # in so few steps DeepCache saves nothing
            self._request = sd.complete(request)
        self._rows = conditions.subjects_of(model, [self._request], [1]).conditions[0]
        height, width, channels = latent_shape(model, self._request)
        draw = noise.generator("numpy", 0)((channels, height, width)).transpose(1, 2, 0)
        self._latents = mx.array(np.ascontiguousarray(draw)[None]).astype(model.unet.dtype)
        context = self._rows.context
        rows = tuple(range(1, self._rows.copies + 1))
        self.coverage = Coverage(rows, height, width, 0 if context is None else context.shape[1])
        self._compiled: dict[Any, Any] = {}
        self._default: tuple[bool, list[mx.array]] | None = None
        arrays = [self._latents, context, *self._rows.keywords.values()]
        mx.eval([array for array in arrays if array is not None])

    @property
    def size(self) -> tuple[int, int]:
        """Returns (width, height) of the pictures in pixels."""
        assert self._request.width is not None and self._request.height is not None
        return self._request.width, self._request.height

    def shapes(self) -> Shapes:
        """Returns the shapes inside an evaluation; nothing is computed."""
        activations, scores, heads, channels = [0], [0], set(), [1 << 30]

        def note(name: str, function: Callable[..., mx.array], arrays: Any, attributes: Any) -> mx.array:
            """Notes the shapes of an operation."""
            x, *others = arrays
            if name in _ACTIVATIONS:
                activations.append(x.size)
            elif name == "attention":
                scores.append(x.size // x.shape[-1] * others[0].shape[2])
                heads.add(x.shape[-1])
            elif name == "conv2d":
                channels.append(x.shape[-1])
            return function(*arrays, **attributes)

        with ops.recording(note):
            self._evaluate(DEFAULT, self._rows.copies, None)
        return Shapes(max(activations), max(scores), tuple(sorted(heads)), min(channels))

    def first(self, tuning: Tuning) -> float:
        """Returns the seconds of the first full and the first cached evaluation."""
        return sum(self.step(tuning))

    def step(self, tuning: Tuning) -> tuple[float, float]:
        """Returns the seconds of a full and of a cached evaluation."""
        start = self._clock()
        full = self._evaluate(tuning, self._rows.copies, None)
        mx.eval(full)
        middle = self._clock()
        mx.eval(self._evaluate(tuning, self._rows.copies, full[1]))
        return middle - start, self._clock() - middle

    def compare(self, tuning: Tuning) -> Check:
        """Compares evaluations of all numbers of rows, and the latents of the short picture, with the default's.

        Where the default itself does not come out the same twice, nothing is exact.
        """
        if self._default is None:
            first, again = self._outputs(DEFAULT), self._outputs(DEFAULT)
            self._default = _difference(first, again) == 0, first
        reproducible, expected = self._default
        difference = _difference(expected, self._outputs(tuning))
        return Check(reproducible and difference == 0, difference)

    def digest(self, tuning: Tuning) -> str:
        """Returns a hash of all that `compare` looks at, for the same in another process."""
        hashed = hashlib.sha256()
        for array in self._outputs(tuning):
            hashed.update(np.array(array.view(mx.uint8)).tobytes())
        return hashed.hexdigest()

    def _evaluate(self, tuning: Tuning, rows: int, deep: mx.array | None) -> tuple[mx.array, mx.array]:
        """Runs the UNet on the last of its rows; the conditional one stands there."""
        unet = TunedUNet(self._sd.unet, tuning, compiled=self._compiled)
        x = mx.concatenate([self._latents] * rows)
        context = None if self._rows.context is None else self._rows.context[-rows:]
        keywords = {name: array[-rows:] for name, array in self._rows.keywords.items()}
        return unet(x, mx.array(_TIMESTEP), context, deep=deep, depth=1, **keywords)

    def _outputs(self, tuning: Tuning) -> list[mx.array]:
        """Returns what a tuning computes, to be compared."""
        outputs: list[mx.array] = []
        for rows in self.coverage.rows:
            full = self._evaluate(tuning, rows, None)
            outputs += [*full, self._evaluate(tuning, rows, full[1])[0]]
            mx.eval(outputs)
        request = self._request.with_values(tuning=str(tuning) or OFF)
        return [*outputs, *(result.latents for result in self._sd.stream([request], output="latent"))]


def _difference(expected: Sequence[mx.array], outputs: Sequence[mx.array]) -> float:
    """Returns the largest difference over the largest number; 0 only where all bits are equal, as they are compared."""
    largest = 0.0
    for first, second in zip(expected, outputs, strict=True):
        if bool(mx.array_equal(first.view(mx.uint8), second.view(mx.uint8))):
            continue
        a, b = first.astype(mx.float32), second.astype(mx.float32)
        distance = float(mx.abs(a - b).max()) / max(float(mx.abs(a).max()), 1e-30)
        largest = max(largest, distance, 1e-30)  # zeros of another sign differ by nothing, and are other bits
    return largest
