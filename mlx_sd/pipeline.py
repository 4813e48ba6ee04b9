"""Prompt -> picture: text encoders, one sampling loop around the UNet, decoder."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np
from PIL import Image

from . import conditions, memory
from .checkpoint.lora import Given
from .checkpoint.model import Model
from .core.errors import Failure, InputError
from .load import load
from .networks.unet import UNet, concatenate
from .networks.vae import Autoencoder
from .predictor import Predictor
from .prompts.tokenizer import Tokenizer
from .reuse.presets import Preset, preset
from .reuse.tgate import caches
from .sampling import loop
from .sampling.table import Table
from .settings import Settings, complete, table
from .tasks import painting as paint
from .tasks import refiner as handover
from .tasks import upscaling as upscale
from .tasks.images import Source, opaque, read, to_pixels
from .tasks.task import FromNoise, Start, Task
from .tasks.tiles import Tiled

Callback = Callable[[int, int, mx.array], None]


@dataclass(frozen=True)
class Result:
    """Pictures, one entry each, and what they took."""

    images: list[Image.Image]  # none where only latents were asked for
    latents: mx.array  # (N, h, w, C), float32, of about unit variance
    subjects: list[conditions.Subject]  # what they are of: prompts, or the ids of classes
    seeds: list[int]
    settings: Settings
    seconds: list[float]  # one per evaluation of the UNet
    full: int  # how many evaluations were not cached

    @property
    def prompts(self) -> list[str]:
        """Of pictures of prompts."""
        return [subject for subject in self.subjects if isinstance(subject, str)]

    @property
    def evaluations(self) -> int:
        return len(self.seconds)


class StableDiffusion:
    """A loaded checkpoint; `generate` makes pictures, the rest are its parts."""

    def __init__(self, model: Model):
        self.model = model

    @classmethod
    def load(
        cls,
        model: str | os.PathLike[str] = "tiny",
        dtype: str | mx.Dtype | None = None,
        loras: Sequence[Given] = (),
        quantize: str | None = None,
    ) -> "StableDiffusion":
        """Loads "tiny" (the embedded checkpoint), a model folder, a diffusers folder, a single file or a hub id.

        dtype: "float32", "float16" or "bfloat16"; None is float16 on a GPU and float32 on the CPU.
        loras: paths or hub ids of adapters, or pairs of one and its scale: ("style.safetensors", 0.8).
        quantize: linear layers in fewer bits: "4", "8:32" (in groups of 32) or "unet=4,text_encoder=8".
        """
        return cls(load(model, dtype, loras, quantize))

    @property
    def unet(self) -> UNet:
        return self.model.unet

    @property
    def vae(self) -> Autoencoder:
        return self.model.vae

    @property
    def tokenizer(self) -> Tokenizer:
        return self.model.tokenizers[0]

    def preset(self, speed: str) -> Preset:
        """Returns the preset of that name for this checkpoint, what `--speed` takes."""
        model = self.model
        distilled = model.unet.config.guidance_dims is not None or model.scheduler.sampler in ("lcm", "tcd")
        return preset(speed, model.family, embedded=model.name == "tiny", distilled=distilled)

    def settings(self, speed: str | None = None, **settings: Any) -> Settings:
        """What `mlx_sd.settings.complete` makes of these keywords for this checkpoint.

        speed: a preset of `mlx_sd.speed` for those that are None.
        """
        if speed is not None:
            given = {name: value for name, value in settings.items() if value is not None}
            settings = self.preset(speed).settings | given
        return complete(self.model, **settings)

    def generate(
        self, prompt: str | Sequence[str] | None = None, negative: str | None = None, **options: Any
    ) -> Result:
        """Makes pictures: everything `stream` yields, as one result. All keywords are those of `stream`."""
        parts = list(self.stream(prompt, negative, **options))
        return Result(
            [image for part in parts for image in part.images],
            mx.concatenate([part.latents for part in parts]),
            [subject for part in parts for subject in part.subjects],
            [seed for part in parts for seed in part.seeds],
            parts[0].settings,
            [seconds for part in parts for seconds in part.seconds],
            sum(part.full for part in parts),
        )

    def stream(
        self,
        prompt: str | Sequence[str] | None = None,
        negative: str | None = None,
        *,
        classes: int | str | Sequence[int | str] | None = None,
        seed: int = 0,
        count: int = 1,
        batch: int = 1,
        latents: mx.array | None = None,
        channels: mx.array | None = None,
        image: Source | None = None,
        mask: Source | None = None,
        mask_blur: float = 0.0,
        only_masked: bool = False,
        padding: int | None = None,
        refiner: "StableDiffusion | None" = None,
        refine_at: float | None = None,
        output: str = "image",
        tile: int | None = None,
        callback: Callback | None = None,
        **settings: Any,
    ) -> Iterator[Result]:
        """Makes `count` pictures of each prompt, the i-th with seed + i whatever the count; yields batch by batch.

        classes: ids or names, in the place of prompts, for models that make pictures of classes; other models without
        a prompt take neither, and upscalers need none. negative: what to steer away from; None is the checkpoint's own
        idea of nothing (SDXL: zeros). batch: how many pictures go through the UNet together. latents: unit-variance
        noise (N, h, w, C) to start from instead of the seeds'. channels: (1 or N, h, w, K) given to the UNet beside
        the latents, for networks with more input channels. image: a path or picture to begin with, or that upscalers
        make larger. mask, mask_blur, only_masked and padding: where to paint into it and how, see
        `mlx_sd.paint.canvas`; what comes out then has the image's size. refiner: goes on with the latents at
        `refine_at` of the way, 0.8 unless said. output: "image", or "latent" to skip decoding. tile: see `decode`.
        callback(evaluation, evaluations, denoised) follows each evaluation of each batch.
        The other keywords are those of `settings`. Raises InputError before any work, Failure for NaN.
        """
        beside = {"mask": mask, "mask_blur": mask_blur, "only_masked": only_masked, "padding": padding}
        task = self._task(image, channels, settings.get("noise_level"), **beside)
        chosen = self.settings(**task.settings(self.model, settings))
        if output not in ("image", "latent"):
            raise InputError(f"output is 'image' or 'latent', not {output!r}")
        if count < 1 or batch < 1:
            raise InputError(f"count and batch must be at least 1, not {count} and {batch}")
        if not 0 <= seed <= seed + count - 1 < 2**32:
            raise InputError(f"seeds must be from 0 to {2**32 - 1}, not {seed} to {seed + count - 1}")
        jobs = [
            (subject, seed + i) for subject in conditions.subjects(self.model, prompt, classes) for i in range(count)
        ]
        size = chosen.width, chosen.height
        memory.check(self.model, *size, min(batch, len(jobs)), denoise_tile=chosen.denoise_tile, tile=tile)
        shape = self._latent_shape(chosen)
        if latents is not None:
            if latents.ndim != 4 or latents.shape[1:] != shape:
                raise InputError(f"latents must be (N, {', '.join(map(str, shape))}), not {latents.shape}")
            jobs = jobs * latents.shape[0] if len(jobs) == 1 else jobs
            if len(jobs) != latents.shape[0]:
                raise InputError(f"{latents.shape[0]} latents for {len(jobs)} pictures")
        rows = table(self.model, chosen if task.midway(chosen) else replace(chosen, strength=None))
        parts = [(self, chosen, rows)]
        if refiner is not None:
            parts = self._handed_over(refiner, chosen, rows, handover.AT if refine_at is None else refine_at)
        elif refine_at is not None:
            raise InputError("there is no refiner to begin anywhere; give --refiner too")
        starter = task.starter(self.model, chosen, len(jobs), tile)
        if chosen.deepcache and chosen.deepcache.decides_per_image:
            batch = 1  # what one picture needs must not decide for another
        for places in conditions.batches(self.model, [subject for subject, _ in jobs], negative, batch):
            subjects, seeds = [jobs[i][0] for i in places], [jobs[i][1] for i in places]
            streams = [np.random.RandomState(s) for s in seeds]
            normal = partial(_normal, streams, shape)
            noise = None if latents is None else latents[mx.array(places)]
            start = starter.start(normal, noise, places)
            runs = [(rows, sd.predictor(subjects, negative, c, start.channels, rows)) for sd, c, rows in parts]
            final, seconds = _timed(runs, start, normal, callback)
            decoded = [] if output == "latent" else [to_image(self.decode(z, tile)[0]) for z in final[:, None]]
            images = [task.finish(picture) for picture in decoded]
            yield Result(images, final, subjects, seeds, chosen, seconds, sum(p.full for _, p in runs))

    def encode_prompt(
        self, text: str, clip_skip: int = 0, chunks: int | None = None
    ) -> tuple[mx.array, mx.array | None]:
        """(context (1, 77 k, C), pooled (1, P) or None) of a text of any length, as `mlx_sd.conditions.encode`."""
        return conditions.encode(self.model, text, clip_skip, chunks)

    def decode(self, latents: mx.array, tile: int | None = None) -> mx.array:
        """Images (N, H, W, 3) in [-1, 1] of latents as `generate` returns them.

        tile: decode in tiles of so many pixels a side; 0 never; None where the image is larger than 192 latents.
        """
        tile = self.vae.tile(max(latents.shape[1:3]) * self.vae.config.downsampling, tile)
        x = self.vae.unscale(latents.astype(mx.float32)).astype(self.vae.dtype)
        image = mx.clip(self.vae.decode(x, tile).astype(mx.float32), -1, 1)
        if not mx.isfinite(image).all().item():
            raise Failure("the decoded picture is not finite: the VAE overflows float16 (try --dtype float32)")
        return image

    def encode(self, image: Source, tile: int | None = None) -> mx.array:
        """Latents (1, h, w, C) of a picture: the posterior's mean, scaled as the UNet takes them. tile: as `decode`."""
        picture = opaque(read(image))
        if any(side % self.vae.config.downsampling for side in picture.size):
            raise InputError(
                f"width and height must be multiples of {self.vae.config.downsampling}, not {picture.size}"
            )
        mean, _ = paint.posterior(self.vae, to_pixels(picture), tile)
        return self.vae.scale(mean)

    def _latent_shape(self, chosen: Settings) -> tuple[int, int, int]:
        factor = self.vae.config.downsampling
        return chosen.height // factor, chosen.width // factor, self.vae.config.latent_channels

    def _task(self, image: Source | None, channels: mx.array | None, level: int | None, **painting: Any) -> Task:
        if self.model.upscales:
            small = upscale.small(self.model, image, level, painting, channels is not None)
            return FromNoise(channels) if small is None else small
        return paint.canvas(self.model, image, **painting, channels=channels is not None) or FromNoise(channels)

    def _handed_over(
        self, refiner: "StableDiffusion", chosen: Settings, rows: Table, at: float
    ) -> list[tuple["StableDiffusion", Settings, Table]]:
        """Who runs what: the rows of this model up to `at`, and the refiner's after it."""
        if chosen.tgate:
            raise InputError("T-GATE's gate is of one network; leave out T-GATE or the refiner")
        handover.check(self.model, refiner.model)
        given = {field.name: getattr(chosen, field.name) for field in fields(chosen)}
        follows = refiner.settings(**given | {"clip_skip": 0})
        first, rest = handover.tables(self.model, refiner.model, chosen, rows, at)
        return [(self, chosen, first), (refiner, follows, rest)]

    def predictor(
        self,
        subjects: Sequence[conditions.Subject],
        negative: str | None,
        chosen: Settings,
        channels: mx.array | None = None,
        rows: Table | None = None,
    ) -> Predictor | Tiled:
        """The network as the sampling loop sees it, for pictures that go through it together.

        rows: what it will run, where that is not all of `chosen`.
        """
        given = conditions.of(self.model, subjects, negative, chosen)
        levels = (rows or table(self.model, chosen)).log_snr
        join = chosen.freeu.join(self.unet.config) if chosen.freeu else concatenate

        def over(channels: mx.array | None) -> Predictor:
            deepcache, tgate = caches(chosen.deepcache, chosen.tgate, levels, guided=given.guided)
            return Predictor(
                self.unet,
                given,
                chosen.guidance,
                deepcache,
                rescale=chosen.guidance_rescale,
                channels=channels,
                join=join,
                tgate=tgate,
            )

        size, tile = self._latent_shape(chosen)[:2], chosen.denoise_tile
        if not tile or max(size) <= tile:
            return over(channels)
        return Tiled(size, tile, self.unet.config.downsampling, channels, over)


def _timed(
    runs: Sequence[tuple[Table, Predictor | Tiled]],
    start: Start,
    normal: Callable[[], mx.array],
    callback: Callback | None,
) -> tuple[mx.array, list[float]]:
    """Runs tables, each from where the one before ended.

    Returns the final latents and the seconds of each evaluation, callbacks not counted.
    """
    seconds: list[float] = []
    clock, total = time.perf_counter(), sum(len(rows.rows) for rows, _ in runs)

    def after(_i: int, _total: int, image: mx.array) -> None:
        nonlocal clock
        seconds.append(time.perf_counter() - clock)
        if callback is not None:
            callback(len(seconds), total, image)
        clock = time.perf_counter()

    latents = start.noise
    for rows, predict in runs:
        image = None if rows.image_scale is None else start.image
        latents = loop.run(rows, predict, latents, normal, after, image, start.keep)
    return latents, seconds


def to_image(pixels: mx.array) -> Image.Image:
    """A picture of (H, W, 3), or a grey one of (H, W, 1), in [-1, 1], rounded."""
    colours = np.array(mx.round((pixels + 1) * 127.5).astype(mx.uint8))
    return Image.fromarray(colours[..., 0] if colours.shape[-1] == 1 else colours)


def _normal(streams: list[np.random.RandomState], shape: tuple[int, int, int], channels: int | None = None) -> mx.array:
    # NumPy's legacy stream is frozen for ever and the same on every machine; drawn channel-first, as Apple's Core ML
    # pipeline draws it, so that one seed means one picture there and here.
    height, width, depth = shape[0], shape[1], channels or shape[2]
    drawn = [s.standard_normal((depth, height, width)).astype(np.float32).transpose(1, 2, 0) for s in streams]
    return mx.array(np.stack(drawn))
