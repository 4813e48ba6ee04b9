"""The moments of pictures' latents, cached by content, so that the autoencoder runs once for each crop."""

from pathlib import Path
from typing import NamedTuple

import mlx.core as mx

from ...core import files
from ...core.errors import InputError
from ...networks.vae import Autoencoder
from ...tasks.images import to_pixels
from ...tasks.painting import posterior
from . import picture_file
from .array_cache import ArrayCache, Arrays, key_of, network_hash
from .dataset import Example
from .fit import Fit

_VERSION = 1  # of the way from a file to pixels


class Moments(NamedTuple):
    """Mean and standard deviation (1, h, w, C) of a picture's latents, scaled as the UNet takes them."""

    mean: mx.array
    deviation: mx.array  # zeros where encoding is deterministic

    def sample(self, key: mx.array) -> mx.array:
        """Draws latents (1, h, w, C), float32; key: of mx.random."""
        noise = mx.random.normal(self.mean.shape, key=key)
        return self.mean.astype(mx.float32) + self.deviation.astype(mx.float32) * noise


class LatentCache:
    """Encodes crops of pictures through an autoencoder, and keeps the moments."""

    def __init__(self, vae: Autoencoder, folder: Path | None = None, dtype: mx.Dtype = mx.float32):
        """folder: of the files that keep the moments; None keeps them in memory. dtype: float32 or float16, of these.

        The key of an entry is made of the picture's bytes, the crop, the autoencoder's weights and the dtype.
        """
        if dtype not in (mx.float32, mx.float16):
            raise InputError(f"moments of latents are kept as float32 or float16, not {dtype}")
        self._vae = vae
        self._hash = network_hash(vae)
        self._dtype = dtype
        self._cache = ArrayCache(folder)

    def moments(self, example: Example, fit: Fit) -> Moments:
        """Returns the moments of the latents of a crop, float32 or the cache's dtype.

        Raises InputError where the picture has changed since it was checked, Failure where the autoencoder overflows.
        """
        arrays = self._cache.get(self._key(example, fit), lambda: self._encode(example, fit))
        return Moments(arrays["mean"], arrays["deviation"])

    def holds(self, example: Example, fit: Fit) -> bool:
        """Returns whether the moments of a crop are kept, so that no autoencoder is needed for them."""
        return self._cache.peek(self._key(example, fit)) is not None

    def keep(self, example: Example, fit: Fit, moments: Moments) -> None:
        """Keeps the moments of a crop that another process has encoded; those that are here already stay."""
        self._cache.get(self._key(example, fit), moments._asdict)

    def _key(self, example: Example, fit: Fit) -> str:
        return key_of(_VERSION, example.sha256, fit, self._hash, str(self._dtype))

    def _encode(self, example: Example, fit: Fit) -> Arrays:
        if not example.path.is_file() or files.sha256(example.path) != example.sha256:
            raise InputError(f"{example.path} has changed since it was checked; start again, and leave pictures alone")
        vae, crop = self._vae, fit.apply(picture_file.read(example.path, 1, float("inf")).image)
        mean, deviation = posterior(vae, to_pixels(crop))
        scaled = vae.scale(mean), vae.scale(deviation) - vae.scale(mx.zeros_like(deviation))
        return {name: array.astype(self._dtype) for name, array in zip(Moments._fields, scaled, strict=True)}
