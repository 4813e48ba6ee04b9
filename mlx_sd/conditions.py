"""What pictures are asked for -> what the UNet looks at beside latents and time."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import mlx.core as mx

from .denoise import guidance_embedding
from .load import Model
from .settings import Settings

_SCORE, _NEGATIVE_SCORE = 6.0, 2.5  # the SDXL refiner's aesthetic scores


class Conditions(NamedTuple):
    """Of a batch of N pictures; where `guided`, the unconditional half comes first and there are 2 N rows."""

    context: mx.array  # (rows, tokens, C)
    extra: dict[str, mx.array]  # the UNet's keywords, (rows, ...) each
    guided: bool


def of(model: Model, texts: Sequence[str], negative: str | None, chosen: Settings) -> Conditions:
    """Of pictures of texts that go through the UNet together, in as many chunks as the longest needs.

    negative: what to steer away from; None is the checkpoint's own idea of nothing (SDXL: zeros).
    """
    unet, size = model.unet.config, max(chunks(model, text, negative) for text in texts)
    # An LCM takes the guidance scale as an input; it is then one batch, as it is without guidance.
    guided = chosen.guidance > 1 and unet.guidance_dims is None
    encoded = [encode(model, text, chosen.clip_skip, size) for text in texts]
    if guided:
        # As in diffusers, layers are skipped for what is asked for, not for what is steered away from.
        context, pooled = encode(model, negative or "", 0, size)
        if negative is None and model.zeros_for_empty:
            context, pooled = mx.zeros_like(context), None if pooled is None else mx.zeros_like(pooled)
        encoded = [(context, pooled)] * len(texts) + encoded
    extra: dict[str, mx.array] = {}
    if unet.added_time_dims is not None:
        extra["text_embeds"] = mx.concatenate([p for _, p in encoded if p is not None])
        extra["time_ids"] = _time_ids(model, chosen, len(texts), guided)
    if unet.guidance_dims is not None:
        embedded = guidance_embedding(chosen.guidance, unet.guidance_dims)
        extra["timestep_cond"] = mx.broadcast_to(embedded, (len(encoded), unet.guidance_dims))
    context = mx.concatenate([c for c, _ in encoded]).astype(model.dtype)
    mx.eval(context, extra)
    return Conditions(context, extra, guided)


def encode(model: Model, text: str, clip_skip: int = 0, wanted: int | None = None) -> tuple[mx.array, mx.array | None]:
    """(context (1, 77 k, C), pooled (1, P) or None) of a text of any length, in k chunks of 77 tokens.

    `wanted` asks for more chunks than the text fills; the rest are empty. SDXL's context joins both encoders' last
    layer but one, and its pooled vector is the first chunk's.
    """
    contexts, pooled = [], None
    for tokenizer, encoder in zip(model.tokenizers, model.text_encoders, strict=True):
        ids = tokenizer.chunks(text)
        ids += tokenizer.chunks("") * ((wanted or 0) - len(ids))
        encoded = encoder(mx.array(ids))
        if model.unet.config.added_time_dims is not None:
            context, pooled = encoded.hidden[-2 - clip_skip], encoded.pooled[:1]
        else:
            context = encoder.norm(encoded.hidden[-1 - clip_skip])
        contexts.append(context.reshape(1, -1, context.shape[-1]))
    return mx.concatenate(contexts, axis=-1), pooled


def chunks(model: Model, text: str, negative: str | None) -> int:
    """How many times 77 tokens a prompt and what it steers away from fill."""
    return max(len(t.chunks(s)) for t in model.tokenizers for s in (text, negative or ""))


def batches(model: Model, texts: Sequence[str], negative: str | None, size: int) -> Iterator[list[int]]:
    """Places of texts that go together: at most `size`, in order, and of the same number of chunks."""
    run: list[int] = []
    for i, text in enumerate(texts):
        if run and (len(run) == size or chunks(model, text, negative) != chunks(model, texts[run[0]], negative)):
            yield run
            run = []
        run.append(i)
    yield run


def _time_ids(model: Model, chosen: Settings, count: int, guided: bool) -> mx.array:
    size = [chosen.height, chosen.width, 0, 0]
    rows = [size + ([_SCORE] if model.aesthetics else size[:2])]
    if guided:
        rows = [size + ([_NEGATIVE_SCORE] if model.aesthetics else size[:2]), *rows]
    return mx.array([row for row in rows for _ in range(count)], dtype=mx.float32)
