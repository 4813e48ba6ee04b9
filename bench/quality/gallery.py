"""Pictures of the same prompts and seeds with each way of reuse, made once and kept in a folder.

A way's pictures lie in a folder of their own, as PNG that say how they were made, beside their final latents as .npy:
whoever wants to look at them, or to judge them with another tool, finds them there.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mlx_sd import StableDiffusion
from mlx_sd import metadata as picture
from mlx_sd.core.files import atomic_file
from mlx_sd.core.version import VERSION
from mlx_sd.settings import Settings

from ..speed.loops import Loop


class Gallery:
    """A model, its prompts and seeds, and the folder of what was made of them."""

    def __init__(
        self, sd: StableDiffusion, prompts: Sequence[str], seeds: range, work: Path, batch: int = 1, **settings: Any
    ):
        """settings: those of `mlx_sd.settings.complete`, reuse aside; InputError for what makes no sense."""
        self.sd, self.prompts, self.seeds, self.batch = sd, list(prompts), seeds, batch
        self._how = settings
        self.settings = sd.settings(**settings)
        model = (VERSION, sd.model.hash, str(sd.model.dtype))
        self.work = work / _digest(repr((*model, self.settings)))

    def __len__(self) -> int:
        return len(self.prompts) * len(self.seeds)

    @property
    def about(self) -> dict[str, Any]:
        """The settings that all pictures share."""
        names = ("steps", "guidance", "sampler", "schedule", "width", "height")
        return {name: getattr(self.settings, name) for name in names}

    def check(self, loop: Loop) -> Settings:
        """What the pipeline makes of it; InputError for a loop that this model cannot run."""
        return self.sd.settings(**self._how, **loop._asdict())

    def paths(self, loop: Loop) -> list[Path]:
        """Its pictures, there or not: seed by seed, prompt by prompt."""
        return [self._path(loop, prompt, seed) for seed in self.seeds for prompt in self.prompts]

    def make(self, loop: Loop) -> Iterator[int]:
        """Makes those that are not there; yields how many more there are."""
        for seed in self.seeds:
            missing = [prompt for prompt in self.prompts if not self._path(loop, prompt, seed).exists()]
            yield len(self.prompts) - len(missing)
            if not missing:
                continue
            for made in self.sd.stream(missing, seed=seed, batch=self.batch, **self._how, **loop._asdict()):
                # Those of a batch share its time; each evaluation was all of theirs.
                took = {"seconds": sum(made.seconds) / len(made.images), "evaluations": made.evaluations}
                for image, latents, prompt in zip(made.images, np.array(made.latents), made.prompts, strict=True):
                    about = {"prompt": prompt, "seed": seed, **self.about, "loop": str(loop)}
                    about |= {"model": self.sd.model.name, "model_hash": self.sd.model.hash, "mlx_sd": VERSION}
                    path = self._path(loop, prompt, seed)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with atomic_file(path.with_suffix(".npy")) as f:
                        np.save(f, latents)
                    picture.save(image, path, about | {"full_evaluations": made.full, **took})  # last: it says "there"
                yield len(made.images)

    def latents(self, loop: Loop) -> NDArray[np.float32]:
        """Final latents (N, h, w, C)."""
        return np.stack([np.load(path.with_suffix(".npy")) for path in self.paths(loop)])

    def pixels(self, loop: Loop) -> Iterator[NDArray[np.uint8]]:
        """Pictures (H, W, 3), one after the other."""
        for path in self.paths(loop):
            with Image.open(path) as image:
                yield np.asarray(image)

    def costs(self, loop: Loop) -> list[dict[str, Any]]:
        """What each picture says of itself: "seconds", "evaluations" and "full_evaluations" among all."""
        return [picture.read(path) for path in self.paths(loop)]

    def _path(self, loop: Loop, prompt: str, seed: int) -> Path:
        folder = re.sub(r"[^\w.+=,]+", "-", str(loop))
        return self.work / folder / f"{_digest(prompt)}-{seed}.png"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
