"""An adapter that is measured: its pictures and those of the checkpoint alone, each made once and stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from PIL import Image

from mlx_sd import StableDiffusion
from mlx_sd.core.files import sha256
from mlx_sd.ranks.exchange import Ranks
from mlx_sd.request import Request

from .. import dealing
from ..quality import blocks
from ..tiny.progress import Progress

TOGETHER = 8  # pictures that go through the UNet together, and are stored as one file
WITH, WITHOUT = "with", "without"  # the adapter


@dataclass
class Subject:
    """What a measure needs to know.

    model: the checkpoint. adapter: the file. work: the folder of pictures. captions: how many are measured. steps: of
    sampling. side: of pictures, in pixels.
    """

    model: str
    adapter: Path
    work: Path
    captions: int
    steps: int
    side: int
    _loaded: dict[bool, StableDiffusion] = field(default_factory=dict, repr=False)

    def pictures(self, label: str, requests: Sequence[Request], *, lora: bool = False) -> list[Image.Image]:
        """Returns the picture of each request; those that an earlier run has stored are read.

        label: WITH or WITHOUT, after the name of the set where a measure has several. lora: the adapter is loaded with
        the checkpoint. Requests that have control images are computed one by one, others differ in prompt and seed.
        """
        alone = any(request.controls for request in requests)
        size, images = 1 if alone else TOGETHER, list[Image.Image]()
        folder = self.work / f"{label.replace(' ', '-')}-{sha256(self.adapter)[:12]}"  # of another adapter: others
        folder.mkdir(parents=True, exist_ok=True)
        with Progress(f"{self.adapter.stem}, pictures {label}", len(requests), "") as progress:
            for start in range(0, len(requests), size):
                part = requests[start : start + size]
                stored = blocks.load(folder / f"{start:05}.npz", partial(self._make, part, lora))
                images += map(Image.fromarray, stored["pictures"])
                progress.show(len(images))
        return images

    def through_autoencoder(self, pictures: Sequence[Image.Image]) -> list[Image.Image]:
        """Returns pictures as the checkpoint's autoencoder decodes their latents: what no sampler can exceed."""
        sd, decoded = self._checkpoint(lora=False), list[Image.Image]()
        for picture in pictures:
            mean, _ = sd.vae.encode(mx.array(np.asarray(picture, np.float32))[None] / 127.5 - 1)
            pixels = np.array((sd.decode(sd.vae.scale(mean))[0] + 1) * 127.5)
            decoded.append(Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8)))
        return decoded

    def features(self, name: str, compute: Callable[[], Any]) -> Any:
        """Returns an array that is computed once and stored under a name."""
        self.work.mkdir(parents=True, exist_ok=True)
        return blocks.load(self.work / f"{name}-{self.side}.npz", lambda: {"features": compute()})["features"]

    def _checkpoint(self, lora: bool) -> StableDiffusion:
        if lora not in self._loaded:
            self._loaded[lora] = StableDiffusion.load(self.model, "float32", [str(self.adapter)] if lora else [])
        return self._loaded[lora]

    def _make(self, requests: Sequence[Request], lora: bool) -> Mapping[str, Any]:
        together = dealing.make(Ranks(), self._checkpoint(lora), requests, len(requests))
        return {"pictures": np.concatenate([batch.pixels for batch in together])}
