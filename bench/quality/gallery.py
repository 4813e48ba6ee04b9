"""Pictures of the same prompts and seeds by each loop, made once and stored in a folder.

The pictures of a loop lie in a folder of their own, as PNG with their settings, beside their final latents as .npy:
they can be looked at there, or measured with another tool.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mlx_sd import StableDiffusion, metadata
from mlx_sd.core.files import atomic_file
from mlx_sd.core.version import VERSION
from mlx_sd.ranks.exchange import Ranks
from mlx_sd.request import Request

from .. import dealing
from ..speed.loops import Loop


class Gallery:
    """A model, its prompts and seeds, and the folder of its pictures."""

    def __init__(
        self,
        sd: StableDiffusion,
        prompts: Sequence[str],
        seeds: range,
        work: Path,
        batch: int = 1,
        request: Request | None = None,
        ranks: Ranks | None = None,
    ):
        """Completes the request that all pictures share but for prompt, seed and reuse; InputError where that fails.

        ranks: share the work; the folder is that of rank 0.
        """
        self._ranks = ranks or Ranks()
        self.sd, self.prompts, self.seeds, self.batch = sd, list(prompts), seeds, batch
        self._request = request = (request or Request()).with_values(seed=0)
        self.settings = sd.complete(request.with_values(prompt=""))
        model = (VERSION, sd.model.hash, str(sd.model.dtype))
        self.work = work / _digest(repr((*model, self.settings)))

    def __len__(self) -> int:
        return len(self.prompts) * len(self.seeds)

    @property
    def shared_settings(self) -> dict[str, Any]:
        """Returns the settings that all pictures share, by their names in the pictures' metadata."""
        names = ("steps", "guidance", "sampler", "schedule", "width", "height")
        return {name: getattr(self.settings, name) for name in names}

    def check(self, loop: Loop) -> Request:
        """Returns the completed request of a loop; InputError for a loop that this model cannot run."""
        return self.sd.complete(self._request.with_values(prompt="", **loop._asdict()))

    def paths(self, loop: Loop) -> list[Path]:
        """Returns where the pictures are, or will be: seed by seed, prompt by prompt."""
        return [self._path(loop, prompt, seed) for seed in self.seeds for prompt in self.prompts]

    def make(self, loop: Loop) -> Iterator[int]:
        """Makes the missing pictures of a loop, and yields the number of pictures that each step adds."""
        subjects = [(seed, prompt) for seed in self.seeds for prompt in self.prompts]
        missing = dealing.agree(self._ranks, [s for s in subjects if not self._path(loop, s[1], s[0]).exists()])
        yield len(self) - len(missing)
        request = self._request.with_values(**loop._asdict())
        requests = [request.with_values(prompt=prompt, seed=seed) for seed, prompt in missing]
        for batch in dealing.make(self._ranks, self.sd, requests, self.batch):
            if self._ranks.rank == 0:
                self._store(loop, [missing[i] for i in batch.indices], batch)
            yield len(batch.indices)

    def _store(self, loop: Loop, subjects: Sequence[tuple[int, str]], batch: dealing.Batch) -> None:
        """Writes the pictures of a batch, and their latents."""
        for (seed, prompt), pixels, latents in zip(subjects, batch.pixels, batch.latents, strict=True):
            values = {"prompt": prompt, "seed": seed, **self.shared_settings, "loop": str(loop)}
            values |= {"model": self.sd.model.name, "model_hash": self.sd.model.hash, "mlx_sd": VERSION}
            path = self._path(loop, prompt, seed)
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(path.with_suffix(".npy")) as f:
                np.save(f, latents)
            # The PNG last: a picture counts as made when it exists.
            metadata.save(Image.fromarray(pixels), path, values | batch.cost)

    def latents(self, loop: Loop) -> NDArray[np.float32]:
        """Reads the final latents (N, h, w, C)."""
        return np.stack([np.load(path.with_suffix(".npy")) for path in self.paths(loop)])

    def pixels(self, loop: Loop) -> Iterator[NDArray[np.uint8]]:
        """Reads the pictures (H, W, 3), one after the other."""
        for path in self.paths(loop):
            with Image.open(path) as image:
                yield np.asarray(image)

    def metadata(self, loop: Loop) -> list[dict[str, Any]]:
        """Reads the metadata of each picture; its cost is "seconds", "evaluations" and "full_evaluations"."""
        return [metadata.read(path) for path in self.paths(loop)]

    def _path(self, loop: Loop, prompt: str, seed: int) -> Path:
        folder = re.sub(r"[^\w.+=,]+", "-", str(loop))
        return self.work / folder / f"{_digest(prompt)}-{seed}.png"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
