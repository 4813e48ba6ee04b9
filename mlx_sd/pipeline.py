"""Prompt -> picture: text encoders, one sampling loop around the UNet, decoder."""

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from PIL import Image

from . import samplers
from .denoise import Predictor, guidance_embedding
from .errors import Failure, InputError
from .freeu import FreeU
from .load import Model, load
from .lora import Given
from .reuse import Policy, Reuse
from .schedule import steps_of
from .table import Options, Table
from .tokenizer import Tokenizer
from .unet import UNet, concatenate
from .vae import Autoencoder

STEPS, GUIDANCE, GUIDANCE_XL = 25, 7.5, 5.0  # where nobody says otherwise

_TILE, _TILE_ABOVE = 512, 1536  # pixels a side: large pictures are decoded in tiles to bound memory
_SCORE, _NEGATIVE_SCORE = 6.0, 2.5  # the SDXL refiner's aesthetic scores

Callback = Callable[[int, int, mx.array], None]


@dataclass(frozen=True)
class Settings:
    """What decides a picture beside model, prompt and seed; complete and checked."""

    steps: int
    guidance: float
    guidance_rescale: float
    sampler: str
    schedule: str
    options: Options  # of the sampler
    width: int
    height: int
    clip_skip: int
    deepcache: Policy | None
    freeu: FreeU | None


@dataclass(frozen=True)
class Result:
    """Pictures, one entry each, and what they took."""

    images: list[Image.Image]  # none where only latents were asked for
    latents: mx.array  # (N, h, w, C), float32, of about unit variance
    prompts: list[str]
    seeds: list[int]
    settings: Settings
    seconds: list[float]  # one per evaluation of the UNet
    full: int  # how many evaluations were not cached

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

    def settings(
        self,
        steps: int | None = None,
        guidance: float | None = None,
        guidance_rescale: float = 0.0,
        sampler: str | None = None,
        schedule: str | None = None,
        options: Options | None = None,
        width: int | None = None,
        height: int | None = None,
        clip_skip: int = 0,
        deepcache: Policy | None = None,
        freeu: FreeU | None = None,
    ) -> Settings:
        """Fills in what is None from the checkpoint and checks everything; InputError says what is wrong."""
        guidance = (GUIDANCE_XL if self._is_xl else GUIDANCE) if guidance is None else guidance
        factor, sizes = self.vae.config.factor, self.model.sizes
        native = sizes[0] if sizes else (self.unet.config.sample_size * factor,) * 2
        width, height = native[0] if width is None else width, native[1] if height is None else height
        for name, value in (("width", width), ("height", height)):
            if value < factor or value % factor:
                raise InputError(f"{name} must be a positive multiple of {factor}, not {value}")
        if sizes and (width, height) not in sizes:
            made = ", ".join(f"{w} x {h}" for w, h in sizes)
            raise InputError(f"this model makes pictures of {made} and no other size, not of {width} x {height}")
        if not math.isfinite(guidance):
            raise InputError(f"guidance must be a finite number, not {guidance}")
        if not 0 <= guidance_rescale <= 1:
            raise InputError(f"guidance rescale must be from 0 to 1, not {guidance_rescale}")
        least = min(encoder.config.layers for encoder in self.model.text_encoders)
        if not 0 <= clip_skip < least:
            raise InputError(f"clip skip must be from 0 to {least - 1}, not {clip_skip}")
        branches = self.unet.branches
        if deepcache and deepcache.branch not in branches:
            has = f"it has {branches[0]} to {branches[-1]}" if len(branches) > 1 else f"it has {[*branches] or 'none'}"
            raise InputError(f"there is no DeepCache branch {deepcache.branch} in this UNet; {has}")
        freeu = freeu.of(self.unet.config) if freeu else None
        sampler, schedule, options = samplers.choose(self.model.scheduler, sampler, schedule, options)
        fixed = steps_of(schedule)
        if None not in (steps, fixed) and steps != fixed:
            raise InputError(f"the schedule given is of {fixed} steps, not {steps}; leave --steps out")
        steps = fixed or (STEPS if steps is None else steps)
        # Made here only to say what is wrong with the steps, and with the policy for so many.
        Reuse(deepcache, samplers.table(self.model.scheduler, sampler, schedule, options, steps).log_snr)
        return Settings(
            steps, guidance, guidance_rescale, sampler, schedule, options, width, height, clip_skip, deepcache, freeu
        )

    def generate(self, prompt: str | Sequence[str], negative: str | None = None, **options: Any) -> Result:
        """Makes pictures: everything `stream` yields, as one result. All keywords are those of `stream`."""
        parts = list(self.stream(prompt, negative, **options))
        return Result(
            [image for part in parts for image in part.images],
            mx.concatenate([part.latents for part in parts]),
            [prompt for part in parts for prompt in part.prompts],
            [seed for part in parts for seed in part.seeds],
            parts[0].settings,
            [seconds for part in parts for seconds in part.seconds],
            sum(part.full for part in parts),
        )

    def stream(
        self,
        prompt: str | Sequence[str],
        negative: str | None = None,
        *,
        seed: int = 0,
        count: int = 1,
        batch: int = 1,
        latents: mx.array | None = None,
        channels: mx.array | None = None,
        output: str = "image",
        tile: int | None = None,
        callback: Callback | None = None,
        **settings: Any,
    ) -> Iterator[Result]:
        """Makes `count` pictures of each prompt, the i-th with seed + i whatever the count; yields batch by batch.

        negative: what to steer away from; None is the checkpoint's own idea of nothing (SDXL: zeros).
        batch: how many pictures go through the UNet together. latents: unit-variance noise (N, h, w, C) to start
        from instead of the seeds'. channels: (1 or N, h, w, K) given to the UNet beside the latents, for networks with
        more input channels (inpainting: mask and masked latents). output: "image", or "latent" to skip decoding.
        tile: see `decode`. callback(evaluation, evaluations, denoised) follows each evaluation of each batch.
        The other keywords are those of `settings`. Raises InputError before any work, Failure for NaN.
        """
        chosen = self.settings(**settings)
        if output not in ("image", "latent"):
            raise InputError(f"output is 'image' or 'latent', not {output!r}")
        if count < 1 or batch < 1:
            raise InputError(f"count and batch must be at least 1, not {count} and {batch}")
        if not 0 <= seed <= seed + count - 1 < 2**32:
            raise InputError(f"seeds must be from 0 to {2**32 - 1}, not {seed} to {seed + count - 1}")
        texts = [prompt] if isinstance(prompt, str) else list(prompt)
        if not texts:
            raise InputError("there is no prompt")
        jobs = [(text, seed + i) for text in texts for i in range(count)]
        shape = self._latent_shape(chosen)
        if latents is not None:
            if latents.ndim != 4 or latents.shape[1:] != shape:
                raise InputError(f"latents must be (N, {', '.join(map(str, shape))}), not {latents.shape}")
            jobs = jobs * latents.shape[0] if len(jobs) == 1 else jobs
            if len(jobs) != latents.shape[0]:
                raise InputError(f"{latents.shape[0]} latents for {len(jobs)} pictures")
        self._check_channels(channels, shape, len(jobs))
        table = self._table(chosen)
        if chosen.deepcache and chosen.deepcache.threshold < math.inf:
            batch = 1  # what one picture needs must not decide for another
        for places in self._batches([text for text, _ in jobs], negative, batch):
            prompts, seeds = [jobs[i][0] for i in places], [jobs[i][1] for i in places]
            beside = channels[mx.array(places)] if channels is not None and channels.shape[0] > 1 else channels
            streams = [np.random.RandomState(s) for s in seeds]
            noise = _normal(streams, shape) if latents is None else latents[mx.array(places)]
            predict = self.predictor(prompts, negative, chosen, beside)
            final, seconds = _timed(table, predict, noise, lambda: _normal(streams, shape), callback)  # noqa: B023
            images = [] if output == "latent" else [to_image(self.decode(z, tile)[0]) for z in final[:, None]]
            yield Result(images, final, prompts, seeds, chosen, seconds, predict.reuse.full)

    def encode_prompt(
        self, text: str, clip_skip: int = 0, chunks: int | None = None
    ) -> tuple[mx.array, mx.array | None]:
        """(context (1, 77 k, C), pooled (1, P) or None) of a text of any length, in k chunks of 77 tokens.

        `chunks` asks for more chunks than the text fills; the rest are empty. SDXL's context joins both encoders' last
        layer but one, and its pooled vector is the first chunk's.
        """
        contexts, pooled = [], None
        for tokenizer, encoder in zip(self.model.tokenizers, self.model.text_encoders, strict=True):
            ids = tokenizer.chunks(text)
            ids += tokenizer.chunks("") * ((chunks or 0) - len(ids))
            encoded = encoder(mx.array(ids))
            if self._is_xl:
                context, pooled = encoded.hidden[-2 - clip_skip], encoded.pooled[:1]
            else:
                context = encoder.norm(encoded.hidden[-1 - clip_skip])
            contexts.append(context.reshape(1, -1, context.shape[-1]))
        return mx.concatenate(contexts, axis=-1), pooled

    def decode(self, latents: mx.array, tile: int | None = None) -> mx.array:
        """Images (N, H, W, 3) in [-1, 1] of latents as `generate` returns them.

        tile: decode in tiles of so many pixels a side; 0 never; None where the image is larger than 1536 a side.
        """
        factor = self.vae.config.factor
        if tile is None and max(latents.shape[1:3]) * factor > _TILE_ABOVE:
            tile = max(_TILE, self.vae.config.sample_size)
        x = self.vae.unscale(latents.astype(mx.float32)).astype(self.vae.dtype)
        image = mx.clip(self.vae.decode(x, tile).astype(mx.float32), -1, 1)
        if not mx.isfinite(image).all().item():
            raise Failure("the decoded picture is not finite: the VAE overflows float16 (try --dtype float32)")
        return image

    def encode(self, image: str | os.PathLike[str] | Image.Image, tile: int | None = None) -> mx.array:
        """Latents (1, h, w, C) of a picture: the posterior's mean, scaled as the UNet takes them."""
        if not isinstance(image, Image.Image):
            image = Image.open(image)
        pixels = mx.array(np.asarray(image.convert("RGB"), np.float32))[None] / 127.5 - 1
        if any(side % self.vae.config.factor for side in pixels.shape[1:3]):
            raise InputError(f"width and height must be multiples of {self.vae.config.factor}, not {image.size}")
        mean, _ = self.vae.encode(pixels.astype(self.vae.dtype), tile)
        return self.vae.scale(mean.astype(mx.float32))

    @property
    def _is_xl(self) -> bool:
        return self.unet.config.added_time_dims is not None

    def _latent_shape(self, chosen: Settings) -> tuple[int, int, int]:
        factor = self.vae.config.factor
        return chosen.height // factor, chosen.width // factor, self.vae.config.latent_channels

    def _check_channels(self, channels: mx.array | None, shape: tuple[int, int, int], pictures: int) -> None:
        extra = self.unet.config.in_channels - shape[2]
        given = channels.shape[-1] if channels is not None else 0
        if given != extra:
            raise InputError(
                f"this UNet takes {extra} channels beside the latents, not {given}: with 9 in all it paints into "
                "pictures and wants mask and masked latents as channels="
            )
        if channels is None:
            return
        if channels.ndim != 4 or channels.shape[1:3] != shape[:2] or channels.shape[0] not in (1, pictures):
            raise InputError(
                f"channels must be (1 or {pictures}, {shape[0]}, {shape[1]}, {extra}), not {channels.shape}"
            )

    def _batches(self, texts: list[str], negative: str | None, size: int) -> Iterator[list[int]]:
        """Places of texts that go together: at most `size`, in order, and of the same number of chunks."""
        run: list[int] = []
        for i, text in enumerate(texts):
            if run and (len(run) == size or self._chunks(text, negative) != self._chunks(texts[run[0]], negative)):
                yield run
                run = []
            run.append(i)
        yield run

    def _chunks(self, text: str, negative: str | None) -> int:
        return max(len(t.chunks(s)) for t in self.model.tokenizers for s in (text, negative or ""))

    def predictor(
        self, texts: Sequence[str], negative: str | None, chosen: Settings, channels: mx.array | None = None
    ) -> Predictor:
        """The network as the sampling loop sees it, for texts that go through it together, as long as the longest."""
        unet, size = self.unet.config, max(self._chunks(text, negative) for text in texts)
        # An LCM takes the guidance scale as an input; it is then one batch, as it is without guidance.
        guided = chosen.guidance > 1 and unet.guidance_dims is None
        encoded = [self.encode_prompt(text, chosen.clip_skip, size) for text in texts]
        if guided:
            # As in diffusers, layers are skipped for what is asked for, not for what is steered away from.
            context, pooled = self.encode_prompt(negative or "", 0, size)
            if negative is None and self.model.zeros_for_empty:
                context, pooled = mx.zeros_like(context), None if pooled is None else mx.zeros_like(pooled)
            encoded = [(context, pooled)] * len(texts) + encoded
        extra: dict[str, mx.array] = {}
        if self._is_xl:
            extra["text_embeds"] = mx.concatenate([p for _, p in encoded if p is not None])
            extra["time_ids"] = self._time_ids(chosen, len(texts), guided)
        if unet.guidance_dims is not None:
            embedded = guidance_embedding(chosen.guidance, unet.guidance_dims)
            extra["timestep_cond"] = mx.broadcast_to(embedded, (len(encoded), unet.guidance_dims))
        context = mx.concatenate([c for c, _ in encoded]).astype(self.model.dtype)
        mx.eval(context, extra)
        guidance = chosen.guidance if guided else None
        reuse = Reuse(chosen.deepcache, self._table(chosen).log_snr)
        join = chosen.freeu.join(unet) if chosen.freeu else concatenate
        return Predictor(self.unet, context, extra, channels, guidance, chosen.guidance_rescale, reuse, join)

    def _table(self, chosen: Settings) -> Table:
        return samplers.table(self.model.scheduler, chosen.sampler, chosen.schedule, chosen.options, chosen.steps)

    def _time_ids(self, chosen: Settings, count: int, guided: bool) -> mx.array:
        size = [chosen.height, chosen.width, 0, 0]
        rows = [size + ([_SCORE] if self.model.aesthetics else size[:2])]
        if guided:
            rows = [size + ([_NEGATIVE_SCORE] if self.model.aesthetics else size[:2]), *rows]
        return mx.array([row for row in rows for _ in range(count)], dtype=mx.float32)


def _timed(
    table: Table,
    predict: Predictor,
    noise: mx.array,
    normal: Callable[[], mx.array],
    callback: Callback | None,
) -> tuple[mx.array, list[float]]:
    """Runs the table; returns the final latents and the seconds of each evaluation, callbacks not counted."""
    seconds: list[float] = []
    clock = time.perf_counter()

    def after(i: int, total: int, image: mx.array) -> None:
        nonlocal clock
        seconds.append(time.perf_counter() - clock)
        if callback is not None:
            callback(i, total, image)
        clock = time.perf_counter()

    return samplers.run(table, predict, noise, normal, after), seconds


def to_image(pixels: mx.array) -> Image.Image:
    """A picture of (H, W, 3) in [-1, 1], rounded."""
    return Image.fromarray(np.array(mx.round((pixels + 1) * 127.5).astype(mx.uint8)))


def _normal(streams: list[np.random.RandomState], shape: tuple[int, int, int]) -> mx.array:
    # NumPy's legacy stream is frozen for ever and the same on every machine; drawn channel-first, as Apple's Core ML
    # pipeline draws it, so that one seed means one picture there and here.
    height, width, channels = shape
    drawn = [s.standard_normal((channels, height, width)).astype(np.float32).transpose(1, 2, 0) for s in streams]
    return mx.array(np.stack(drawn))
