"""The pictures of a request and what they took; who follows them, and who accepts them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import mlx.core as mx
from PIL import Image

from .request import Request

Callback = Callable[[int, int, mx.array], None]
Accept = Callable[[int], bool]


class Phases(NamedTuple):
    """The seconds of one batch of pictures."""

    encode: float  # prompts, and images to begin with; of the first batch also what all batches share
    denoise: float  # the evaluations of the UNet, callbacks not counted
    decode: float  # latents to pictures, and what enlarges them between the passes of hires fix


@dataclass(frozen=True)
class Result:
    """Pictures, one entry each, and what they took."""

    images: list[Image.Image]  # empty where only latents were requested, and on ranks other than 0
    latents: mx.array  # (N, h, w, C), float32, of about unit variance
    requests: list[Request]  # completed: each holds everything that decides its picture
    seconds: list[float]  # one per evaluation of the UNet
    full: int  # how many evaluations were not cached
    phases: list[Phases]  # one per batch
    calls: tuple[int, ...] = ()  # of models whose pictures are tokens: of the network, for each picture

    @classmethod
    def joined(cls, results: Sequence["Result"]) -> "Result":
        """Returns the pictures of several results in one."""
        return cls(
            [image for result in results for image in result.images],
            mx.concatenate([result.latents for result in results]),
            [request for result in results for request in result.requests],
            [seconds for result in results for seconds in result.seconds],
            sum(result.full for result in results),
            [phases for result in results for phases in result.phases],
            tuple(calls for result in results for calls in result.calls),
        )

    @property
    def prompts(self) -> list[str]:
        """The prompts, of models that take prompts."""
        return [request.prompt for request in self.requests if request.prompt is not None]

    @property
    def seeds(self) -> list[int]:
        """The seed of each picture."""
        return [request.seed for request in self.requests if request.seed is not None]

    def calls_of(self, picture: int) -> int | None:
        """Returns how often the network was called for a picture of tokens; None for one of latents."""
        return self.calls[picture] if self.calls else None

    @property
    def evaluations(self) -> int:
        """How many times the UNet was evaluated."""
        return len(self.seconds)
