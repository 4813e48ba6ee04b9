"""Denoised estimates as images without the decoder: by a network of few weights, fitted once, or by a tiny autoencoder.

The first is a pixel for each latent, the second (TAESD) a whole picture in a twentieth of the decoder's time.
"""

import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import mlx.core as mx
from PIL import Image
from tqdm import tqdm

from . import preview_network, preview_samples
from .checkpoint import tiny_vaes
from .checkpoint.model import Model
from .codec import decode, to_image
from .core import terminal
from .core.errors import Failure, InputError
from .core.files import atomic_file, read_json
from .core.places import cache_folder
from .load import load_vae
from .networks.tiny_autoencoder import TinyAutoencoder
from .networks.vae import Pixels
from .pipeline import StableDiffusion
from .preview_network import PreviewNetwork

VERSION = 2  # of the network and of how it is fitted; a file of another version is not read

LINEAR, TAESD = "linear", "taesd"  # methods, beside the path or the hub id of a tiny autoencoder
_RESAMPLING = {"nearest": Image.Resampling.NEAREST, "bicubic": Image.Resampling.BICUBIC}


class Preview:
    """Shows the denoised estimates of `generate`'s callback, without the decoder.

    sd.generate(..., callback=lambda evaluation, evaluations, estimate: show(preview(estimate)))

    A preview is near to what the decoder would show, and never the same.
    """

    def __init__(
        self,
        sd: StableDiffusion,
        enlarge: str | None = None,
        method: str = LINEAR,
        network: PreviewNetwork | None = None,
    ):
        """Prepares a method: "linear", or "taesd", or another tiny autoencoder (a file, a folder or a hub id).

        linear reads the network of under 10,000 weights for the model's VAE, or fits it, which takes about as long as
        one picture. enlarge: "nearest" or "bicubic", to the size of the decoded picture; None is a pixel for each
        latent, of a tiny autoencoder that size itself. network: of the method linear, where it is there already, so
        that nothing is fitted. Raises InputError for Core ML packages without a VAE encoder, and for a tiny autoencoder
        that is not there or of another family.
        """
        if enlarge not in (None, *_RESAMPLING):
            raise InputError(f"a preview is enlarged by {' or '.join(_RESAMPLING)}, or None, not by {enlarge!r}")
        self._enlarge, self._factor = enlarge, sd.vae.config.downsampling
        self.full_size = method != LINEAR  # whether previews have the size of the decoded picture
        # The decoder shows tokens of now as they are, those that are masked by the token nearest to the codebook's mean
        self._network: PreviewNetwork | Callable[[mx.array], mx.array] | None = None
        if sd.model.tokens is not None:
            if method != LINEAR:
                raise InputError(f"previews of tokens are by their own decoder; leave out the method {method}")
            self.full_size, self._network = True, partial(decode, sd.model)
        elif not isinstance(sd.vae, Pixels):
            linear = method == LINEAR
            self._network = (network or network_of(sd)) if linear else _decoder(sd.model, method)
        elif method != LINEAR:
            raise InputError(f"this model works on pixels, which are shown as they are; leave out the method {method}")

    def __call__(self, estimate: mx.array) -> list[Image.Image]:
        """Returns one image for each of the latents (N, h, w, C); where the latents are pixels, these themselves."""
        pixels = mx.clip(estimate if self._network is None else self._network(estimate), -1, 1)
        images = [to_image(rows) for rows in pixels]
        if self._enlarge is None or self.full_size:
            return images
        return [enlarged(image, self._factor, self._enlarge) for image in images]


def enlarged(image: Image.Image, factor: int, resampling: str = "bicubic") -> Image.Image:
    """Returns a preview `factor` times as wide and as high: in the size of the decoded picture."""
    return image.resize((image.width * factor, image.height * factor), _RESAMPLING[resampling])


def _decoder(model: Model, method: str) -> Callable[[mx.array], mx.array]:
    """Returns the decoder of a tiny autoencoder, from latents as the UNet has them to pixels (N, H, W, 3)."""
    xl = model.unet.config.added_time_dims is not None
    vae = load_vae(tiny_vaes.name_for(xl) if method == TAESD else method, model, model.dtype)
    if not isinstance(vae, TinyAutoencoder):
        raise InputError(
            f"{method} is no tiny autoencoder; a preview is of the method {LINEAR}, {TAESD} or one of those"
        )

    def decode_estimates(estimate: mx.array) -> mx.array:
        """Returns pixels (N, H, W, 3) of latents (N, h, w, C), one picture at a time."""
        pixels = []
        for latents in mx.split(vae.unscale(estimate.astype(mx.float32)).astype(vae.dtype), estimate.shape[0]):
            pixels.append(vae.decode(latents, vae.tile(max(latents.shape[1:3]) * vae.config.downsampling, None)))
            mx.eval(pixels[-1])
        return mx.concatenate(pixels).astype(mx.float32)

    return decode_estimates


def network_of(sd: StableDiffusion, check: Callable[[], None] = lambda: None) -> PreviewNetwork:
    """Returns the network of the model's VAE from the cache, or fits it and keeps it there.

    A file in the cache that is damaged is replaced; where the cache cannot be written, the fit is repeated each time.
    check: as of `fit`.
    """
    if (network := cached_network(sd)) is not None:
        return network
    network, file = fit(sd, check), cache_file(sd.model)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(file) as f:
            mx.save_safetensors(f, network.arrays())
    except OSError:
        pass  # the disk is full, or the cache another user's
    return network


def cached_network(sd: StableDiffusion) -> PreviewNetwork | None:
    """Returns the network of the model's VAE from the cache; None where it is not there, or damaged."""
    try:
        return PreviewNetwork.from_arrays(mx.load(str(cache_file(sd.model))), sd.vae.config.latent_channels)
    except (OSError, RuntimeError, ValueError):  # no file, a damaged one, or one with other arrays
        return None


def fit(sd: StableDiffusion, check: Callable[[], None] = lambda: None) -> PreviewNetwork:
    """Fits a network to what the model's decoder shows, always the same for the same model on the same machine.

    check: called every now and then; what it raises ends the fit. Raises Failure where latents or decoded pictures are
    not finite.
    """
    samples = []
    for latents in tqdm(
        preview_samples.latents(sd, check), "preview", unit="picture", disable=not terminal.visible(), leave=False
    ):
        check()
        if not mx.isfinite(latents).all().item():
            raise Failure("no preview: the encoder's latents are not finite (try --dtype float32)")
        samples.append((latents, pooled(decode(sd.model, latents), sd.vae.config.downsampling)))
        mx.eval(samples[-1])
    return preview_network.fit(samples, check)


def pooled(pixels: mx.array, factor: int) -> mx.array:
    """Returns the mean colours (N, h, w, 3) of cells of so many pixels a side of pictures (N, H, W, 3)."""
    n, height, width, colours = pixels.shape
    return pixels.reshape(n, height // factor, factor, width // factor, factor, colours).mean((2, 4))


def cache_file(model: Model) -> Path:
    """Returns where the network of a model's VAE is kept: one for each VAE, whatever the UNet."""
    identity: object = [model.hash, model.sizes[:1]]  # of Core ML packages
    if model.vae_hash is not None:
        identity = [model.vae_hash]
    elif model.folder is not None:
        written = read_json(model.folder / "model.json").get("files") or {}
        identity = written.get("vae.safetensors", model.hash)
    key = hashlib.sha256(json.dumps([identity, str(model.vae.dtype)]).encode()).hexdigest()[:16]
    return cache_folder() / "previews" / f"{key}-v{VERSION}.safetensors"
