"""`StableDiffusion`: a loaded checkpoint that makes pictures."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import mlx.core as mx

from . import codec, conditions, generation
from .checkpoint.adapter import AdapterSource
from .checkpoint.control import ControlSource
from .checkpoint.ip_adapter import ImagePromptSource
from .checkpoint.lora import Lora, LoraSource
from .checkpoint.model import Model
from .completion import complete
from .core.errors import InputError
from .hires_setting import Hires
from .keywords import subjects, suggests_keywords
from .load import load
from .networks.unet import UNet
from .networks.vae import Autoencoder
from .predictor import Predictor, predictor_of
from .prompts.embeddings import EmbeddingSource
from .prompts.tokenizer import Tokenizer
from .request import Request, pictures_of
from .result import Accept, Callback, Result
from .reuse.freeu import FreeU
from .reuse.guided_steps import Interval
from .reuse.policy import Policy
from .reuse.tgate import TGate
from .reuse.token_downsampling import TokenDownsampling
from .sampling.table import Table
from .split import UNSPLIT, Split
from .tasks.extension import Extension
from .tasks.images import ImageSource
from .tasks.tiles import Tiled


class StableDiffusion:
    """A loaded checkpoint: `generate` makes pictures; the other methods are its parts."""

    def __init__(self, model: Model):
        self.model = model

    @classmethod
    def load(
        cls,
        model: str | os.PathLike[str] = "tiny",
        dtype: str | mx.Dtype | None = None,
        loras: Sequence[LoraSource] = (),
        quantize: str | None = None,
        *,
        lora_folder: str | os.PathLike[str] | None = None,
        lora_strict: bool = False,
        vae: str | os.PathLike[str] | None = None,
        lora_mode: str = "merge",
        low_memory: bool = False,
    ) -> "StableDiffusion":
        """Loads "tiny" (the embedded checkpoint), a model folder, a diffusers folder, a single file or a hub id.

        dtype: "float32", "float16" or "bfloat16"; None is float16 on a GPU and float32 on the CPU.
        loras: paths or hub ids of adapters, or pairs of one and its scale: ("style.safetensors", 0.8).
        quantize: linear layers in fewer bits: "4", "8:32" (in groups of 32) or "unet=4,text_encoder=8".
        lora_folder: of LoRAs that are given by name (MLX_SD_LORAS). lora_strict: one must fit in all its parts.
        lora_mode: "merge" puts LoRAs into the weights; "runtime" beside them, also quantized ones, for `scale_loras`.
        vae: another autoencoder, for encoding and decoding: "taesd" or "taesdxl", a file, a folder or a hub id.
        low_memory: weights are in memory only while their network works; guidance row by row, decoding in tiles.
        """
        more: dict[str, Any] = {"lora_folder": lora_folder, "lora_strict": lora_strict, "lora_mode": lora_mode}
        return cls(load(model, dtype, loras, quantize, vae=vae, low_memory=low_memory, **more))

    def scale_loras(self, *scales: float | tuple[float, Sequence[float]]) -> None:
        """Changes the scale of each LoRA that was loaded with lora_mode="runtime", in their order.

        Each is a number, or a pair of it and block weights; pictures from then on are made with them. Raises InputError
        where there are not as many as LoRAs, and where these are merged.
        """
        runtime = self.model.runtime_loras
        if runtime is None:
            raise InputError('there are no LoRAs to scale; load them with lora_mode="runtime"')
        paths = [record["path"] for record in runtime.records]
        entries = [scale if isinstance(scale, tuple) else (scale,) for scale in scales]
        names = [*paths, *["LoRA"] * len(entries)]
        runtime.scale([Lora.of((name, *entry)) for name, entry in zip(names, entries, strict=False)])
        self.model = replace(self.model, loras=runtime.records)

    @property
    def unet(self) -> UNet:
        """The denoising network: unet(x, t, context, ...) -> (prediction, deep features)."""
        return self.model.unet

    @property
    def vae(self) -> Autoencoder:
        """The autoencoder between images and latents."""
        return self.model.vae

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the first text encoder."""
        return self.model.tokenizers[0]

    def complete(self, request: Request) -> Request:
        """Returns the request with everything filled in that decides its picture; InputError where it does not fit."""
        return complete(self.model, request)

    @suggests_keywords
    def generate(
        self,
        prompt: str | Sequence[str] | None = None,
        negative: str | None = None,
        *,
        classes: int | str | Sequence[int | str] | None = None,
        seed: int | None = None,
        count: int = 1,
        batch: int = 1,
        steps: int | None = None,
        guidance: float | None = None,
        guidance_rescale: float = 0.0,
        pag: float | None = None,
        pag_adaptive: float | None = None,
        guidance_interval: Interval | str | tuple[float, float] | None = None,
        adaptive_guidance: float | None = None,
        unconditional_refresh: int | None = None,
        rng: str = "numpy",
        sampler: str | None = None,
        schedule: str | None = None,
        temperature: float | None = None,
        width: int | None = None,
        height: int | None = None,
        clip_skip: int = 0,
        prompt_style: str = "a1111",
        embeddings: Sequence[EmbeddingSource] = (),
        prompt_2: str | None = None,
        negative_2: str | None = None,
        original_size: tuple[int, int] | None = None,
        target_size: tuple[int, int] | None = None,
        crop: tuple[int, int] | None = None,
        deepcache: Policy | int | str | None = None,
        tgate: TGate | int | str | None = None,
        token_downsampling: TokenDownsampling | int | str | None = None,
        freeu: FreeU | bool | str | None = None,
        speed: str | None = None,
        tuning: str | None = None,
        image: ImageSource | None = None,
        strength: float | None = None,
        mask: ImageSource | None = None,
        mask_blur: float | None = None,
        only_masked: bool | None = None,
        padding: int | None = None,
        extend: Extension | str | None = None,
        image_guidance: float | None = None,
        noise_level: int | None = None,
        controls: Sequence[ControlSource] | None = None,
        guess_mode: bool | None = None,
        adapters: Sequence[AdapterSource] = (),
        adapter_factor: float | None = None,
        ip_adapters: Sequence[ImagePromptSource] = (),
        ip_encoder: str | os.PathLike[str] | None = None,
        hires: Hires | float | str | None = None,
        hires_mode: str | None = None,
        refiner: "StableDiffusion | None" = None,
        refine_at: float | None = None,
        eta: float | None = None,
        gamma: float | None = None,
        order: int | None = None,
        kind: str | None = None,
        corrector: bool | None = None,
        rho: float | None = None,
        s_churn: float | None = None,
        s_tmin: float | None = None,
        s_tmax: float | None = None,
        s_noise: float | None = None,
        tile: int | None = None,
        denoise_tile: int | None = None,
        latents: mx.array | None = None,
        channels: mx.array | None = None,
        output: str = "image",
        callback: Callback | None = None,
        split: Split = UNSPLIT,
    ) -> Result:
        """Makes `count` pictures of each prompt, the i-th with seed + i whatever the count.

        None means the checkpoint's own default. Raises InputError before any work, Failure for NaN.

        Args:
            prompt: what the picture shows, or several prompts; left out with models that take no prompt.
            negative: what to steer away from; None is the checkpoint's own idea of nothing (SDXL: zeros).
            classes: ids or names, in the place of prompts, for class-conditional models.
            seed: of the first picture, from 0 to 4294967295 (2**32 - 1); None and -1 draw one (`result.seeds`).
            count: pictures of each prompt, 1 or more.
            batch: pictures that go through the UNet together, 1 or more; it does not change the pictures.
            steps: steps of the sampler, from 1 to the training timesteps (1000); 25, upscalers 75 or 100.
            guidance: strength of classifier-free guidance; at most 1 is none. Default: 7.5, SDXL 5, embedded 3.
            guidance_rescale: from 0 to 1, how far guidance's contrast is taken back (Lin et al. 2023).
            pag: scale of perturbed-attention guidance, from 0; None is none (Ahn et al. 2024).
            pag_adaptive: how much that scale falls with each timestep below 1000, from 0; 0.
            guidance_interval: the share of the steps that is guided: "0-0.6" or Interval(0, 0.6); all.
            adaptive_guidance: the cosine of both predictions, from 0 to 1, above which guidance ends; None is never.
            unconditional_refresh: every so many-th full evaluation predicts without the prompt, too, from 1; each.
            rng: where noise comes from: "numpy"; "torch", as on the CPU in diffusers and A1111; "cuda", as on a card.
            sampler: one of `mlx_sd.samplers.names()`, or its name in A1111, ComfyUI or diffusers: "DPM++ 2M Karras".
            schedule: one of `mlx_sd.schedule.names()`, "timesteps=999,850,...", "sigmas=14.6,...,0" or a JSON file.
            temperature: of the distributions that tokens are drawn from, above 0, with models of tokens; 1.
            width: in pixels, a multiple of 8, from 8.
            height: in pixels, a multiple of 8, from 8.
            clip_skip: layers of the text encoder to leave out at the end, from 0.
            prompt_style: how weights and edits are written: "a1111", "comfy", "compel", or "plain", which has none.
            embeddings: textual inversions for prompts: paths, or pairs of a path and the name that prompts use.
            prompt_2: for SDXL's second text encoder; None is the prompt.
            negative_2: for SDXL's second text encoder; None is the negative prompt.
            original_size: (width, height) that SDXL takes the picture for; None is the picture's.
            target_size: (width, height) that SDXL aims at; None is the picture's.
            crop: (x, y), where SDXL takes the picture's corner for; None is (0, 0).
            deepcache: which evaluations run the whole UNet: 3, "3:1" (interval:branch), or a policy: DeepCache(3, 1).
            tgate: the evaluation from which on no prompt is looked at: 10, "10,5,1,2" or TGate(10).
            token_downsampling: 2, "2:1:0.7" or TokenDownsampling(2, 1, 0.7): attention to a part of the tokens.
            freeu: True for the factors published for the family, "1.5,1.6,0.9,0.2" (b1, b2, s1, s2) or FreeU(...).
            speed: "exact", "fast" or "fastest": sampler, steps, DeepCache and T-GATE together, where they are None.
            tuning: "measured", all choices that mlx-sd tune has measured as faster; "off"; or "piece=65536,...".
            image: a path or a PIL image to begin with, or that upscalers make larger.
            strength: above 0, to 1, the share of the steps that run from the image; 0.8, with a mask 1.
            mask: a path or a PIL image, white where to paint, or "alpha": where the image is transparent.
            mask_blur: pixels over which the painted part fades in, from 0 to 10000.
            only_masked: paint the mask's surroundings alone, at the size of a whole picture.
            padding: pixels of those surroundings, from 0; 32.
            extend: "left=128,top=64" or Extension(left=128, top=64): paint on beyond the image's sides.
            image_guidance: how near a picture edited by instruction stays to the image, from 1; 1.5.
            noise_level: of an x4 upscaler's small image, from 0 to 350; 20.
            controls: control networks, each (model, image[, scale]), Control(...) or a text as `--control` takes it.
            guess_mode: control networks act with the prompt alone, and weaker on fine levels.
            adapters: T2I-Adapters, each (model, image), (model, image, scale) or a text as `--adapter` takes it.
            adapter_factor: share of the evaluations at which they act, from 0 to 1; 1.
            ip_adapters: images as prompts, each (model, images[, scale[, mask]]) or a text as `--ip-adapter` takes it.
            ip_encoder: the image encoder that these see through; None is the one beside the adapter.
            hires: 2, "2:15:0.6" or Hires(2, 15, 0.6): a second pass at so much the size, in steps, of a strength.
            hires_mode: how it is enlarged: "latent", "latent-bicubic", "lanczos", ..., or an x4 upscaler's checkpoint.
            refiner: another loaded model that goes on with the latents, on the same schedule.
            refine_at: share of the way at which the refiner begins, above 0, below 1; 0.8.
            eta: fresh noise in ddim (0) and euler_ancestral (1), from 0 to 1.
            gamma: fresh noise in tcd, from 0 to 1; 0.3.
            order: of the solver, from 1 to 3, of lms to 4; 2, lms 4.
            kind: "midpoint" or "heun" of the dpm samplers, "bh2" or "bh1" of unipc.
            corrector: UniPC's corrector after each step of a deterministic multistep sampler.
            rho: how unevenly the karras schedule is spaced, from 0.01; 7.
            s_churn: noise that edm adds over all steps, from 0; 0.
            s_tmin: the lowest sigma at which edm adds noise, from 0; 0.
            s_tmax: the highest sigma at which edm adds noise, from 0.
            s_noise: standard deviation of that noise, from 0; 1.
            tile: decode in tiles of so many pixels a side; 0 never; None above 192 latents a side.
            denoise_tile: denoise in overlapping tiles of so many latents a side; 0 never; None for upscalers only.
            latents: noise of unit variance (N, h, w, C) to start from, in place of the seeds'.
            channels: (1 or N, h, w, K) shown to the UNet beside the latents, for UNets with more input channels.
            output: "image", or "latent" to skip decoding.
            callback: callback(evaluation, evaluations, denoised) follows each evaluation of each batch.
            split: deals each picture out to processes, all of which make this call; see `mlx_sd.split.Split`.
        """
        request = Request(
            negative=negative,
            seed=split.draw_seed(count) if seed is None and split.kind else seed,
            steps=steps,
            guidance=guidance,
            guidance_rescale=guidance_rescale,
            pag=pag,
            pag_adaptive=pag_adaptive,
            guidance_interval=guidance_interval,  # type: ignore[arg-type]
            adaptive_guidance=adaptive_guidance,
            unconditional_refresh=unconditional_refresh,
            rng=rng,
            sampler=sampler,
            schedule=schedule,
            temperature=temperature,
            width=width,
            height=height,
            clip_skip=clip_skip,
            prompt_style=prompt_style,
            embeddings=embeddings,  # type: ignore[arg-type]
            prompt_2=prompt_2,
            negative_2=negative_2,
            original_size=original_size,
            target_size=target_size,
            crop=crop,
            deepcache=deepcache,  # type: ignore[arg-type]  # friendly values become policies
            tgate=tgate,  # type: ignore[arg-type]
            token_downsampling=token_downsampling,  # type: ignore[arg-type]
            freeu=freeu,  # type: ignore[arg-type]
            speed=speed,
            tuning=tuning,
            init_image=image,
            strength=strength,
            mask=mask,
            mask_blur=mask_blur,
            only_masked=only_masked,
            padding=padding,
            extend=extend,  # type: ignore[arg-type]
            image_guidance=image_guidance,
            noise_level=noise_level,
            controls=controls or (),  # type: ignore[arg-type]  # tuples become objects
            guess_mode=guess_mode,
            adapters=adapters,  # type: ignore[arg-type]
            adapter_factor=adapter_factor,
            ip_adapters=ip_adapters,  # type: ignore[arg-type]
            ip_encoder=ip_encoder,  # type: ignore[arg-type]
            refine_at=refine_at,
            hires=hires,  # type: ignore[arg-type]
            hires_mode=hires_mode,
            eta=eta,
            gamma=gamma,
            order=order,
            kind=kind,
            corrector=corrector,
            rho=rho,
            s_churn=s_churn,
            s_tmin=s_tmin,
            s_tmax=s_tmax,
            s_noise=s_noise,
            tile=tile,
            denoise_tile=denoise_tile,
        )
        requests = pictures_of(subjects(request, prompt, classes), count, batch)
        if latents is not None and len(requests) == 1:
            requests = requests * latents.shape[0]
        arrays: dict[str, Any] = {"latents": latents, "channels": channels, "output": output}
        batches = self.stream(requests, batch=batch, refiner=refiner, callback=callback, split=split, **arrays)
        return Result.joined(list(batches))

    def stream(
        self,
        requests: Sequence[Request],
        *,
        batch: int = 1,
        refiner: "StableDiffusion | None" = None,
        latents: mx.array | None = None,
        channels: mx.array | None = None,
        output: str = "image",
        callback: Callback | None = None,
        accept: Accept | None = None,
        split: Split = UNSPLIT,
    ) -> Iterator[Result]:
        """Makes the picture of each request, in order, and yields them batch by batch.

        Consecutive requests that differ in prompt, class and seed alone go through the UNet together, at most `batch`.
        The other arguments are those of `generate`; latents: (N, h, w, C) of all requests. accept: accept(i) is called
        before the batch of request i begins; False leaves it out. Raises InputError before any work on the requests
        that share their settings, Failure for NaN.
        """
        return generation.stream(
            self.model,
            requests,
            batch=batch,
            refiner=None if refiner is None else refiner.model,
            latents=latents,
            channels=channels,
            output=output,
            callback=callback,
            accept=accept,
            split=split,
        )

    def encode_prompt(
        self,
        text: str,
        clip_skip: int = 0,
        chunks: int | None = None,
        prompt_style: str = "a1111",
        embeddings: Sequence[EmbeddingSource] = (),
    ) -> tuple[mx.array, mx.array | None]:
        """Returns (context (1, 77 k, C), pooled (1, P) or None) of a text of any length, in k chunks of 77 tokens.

        clip_skip: layers of the encoder to leave out at the end. chunks: at least so many. prompt_style, embeddings: as
        in `generate`; of a prompt that changes on the way, the text of the first step is encoded.
        """
        request = Request(prompt_style=prompt_style, embeddings=embeddings)  # type: ignore[arg-type]
        return conditions.encode(self.model, text, request, clip_skip, chunks or 0)

    def decode(self, latents: mx.array, tile: int | None = None) -> mx.array:
        """Returns images (N, H, W, 3) in [-1, 1] of latents (N, h, w, C) as `generate` returns them.

        tile: decode in tiles of so many pixels a side; 0 never; None where the image is larger than 192 latents.
        """
        return codec.decode(self.model, latents, tile)

    def encode(self, image: ImageSource, tile: int | None = None) -> mx.array:
        """Returns latents (1, h, w, C) of an image: the posterior's mean, scaled as the UNet takes them.

        tile: encode in tiles of so many pixels a side, as `decode`.
        """
        return codec.encode(self.model, image, tile)

    def predictor(
        self, requests: Sequence[Request], channels: mx.array | None = None, table: Table | None = None
    ) -> Predictor | Tiled:
        """Returns the network as the sampling loop sees it, for completed requests that go through it together.

        channels: (1 or N, h, w, K) beside the latents. table: the rows that it will run, where that is not all.
        """
        return predictor_of(self.model, requests, channels, table)
