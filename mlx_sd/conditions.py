"""What pictures are asked for -> what the UNet looks at beside latents and time."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import mlx.core as mx

from .checkpoint.model import Model
from .core.errors import InputError
from .networks.embeddings import sinusoids
from .networks.family import Family
from .settings import Settings

_SCORE, _NEGATIVE_SCORE = 6.0, 2.5  # the SDXL refiner's aesthetic scores


Subject = str | int | None  # what a picture is of: a prompt, the id of a class, or nothing that can be said


class Conditions(NamedTuple):
    """Of a batch of N pictures; where `guided`, the unconditional half comes first and there are 2 N rows."""

    context: mx.array | None  # (rows, tokens, C); none in models that know no prompt
    extra: dict[str, Any]  # arrays: the UNet's keywords, (rows, ...) each
    guided: bool

    def unconditional(self) -> "Conditions":
        """Their unconditional half, or all of them where there are no halves."""
        if not self.guided:
            return self

        def half(array: mx.array) -> mx.array:
            return array[: array.shape[0] // 2]

        context = None if self.context is None else half(self.context)
        return Conditions(context, {name: half(array) for name, array in self.extra.items()}, False)


def subjects(
    model: Model, prompt: str | Sequence[str] | None, classes: int | str | Sequence[int | str] | None
) -> list[Subject]:
    """What pictures are to be of, one each; InputError where the model makes pictures of something else."""
    if classes is not None and not model.classes:
        raise InputError("this model has no classes" + ("; give a prompt" if model.text_encoders else ""))
    if model.text_encoders:
        texts = [prompt] if isinstance(prompt, str) else list(prompt or ())
        if prompt is None and model.upscales:
            return [""]
        if not texts:
            raise InputError("give a prompt: this model makes pictures of prompts")
        return [*texts]
    if model.classes:
        asked = [classes] if isinstance(classes, (int, str)) else list(classes or ())
        if prompt is not None or not asked:
            wrong = "takes no prompt" if prompt is not None else "makes pictures of classes"
            raise InputError(f"this model {wrong}; give a class (--class ID), {model.classes}")
        return [model.classes.find(one) for one in asked]
    if prompt is not None and model.upscales:
        raise InputError("this model takes no prompt: it makes pictures larger; leave it out")
    if prompt is not None:
        raise InputError("this model takes no prompt: it makes pictures like those it was trained on; give --count")
    if kind := model.unet.config.class_embedding:
        raise InputError(f"this model's classes are no ids (class_embed_type {kind}); call sd.unet with class_labels")
    return [None]


def of(model: Model, subjects: Sequence[Subject], negative: str | None, chosen: Settings) -> Conditions:
    """Of pictures of subjects that go through the UNet together.

    negative: what to steer away from; None is the checkpoint's own idea of nothing (SDXL: zeros).
    """
    texts = [subject for subject in subjects if isinstance(subject, str)]
    if texts:
        return _of_texts(model, texts, negative, chosen)
    if negative is not None:
        raise InputError("this model takes no prompt, and no negative one")
    ids = [subject for subject in subjects if isinstance(subject, int)]
    if not (model.classes and ids):
        return Conditions(None, {}, False)
    guided = chosen.guidance > 1 and model.classes.null is not None
    labels = mx.array([model.classes.null] * len(ids) + ids if guided else ids)
    if model.class_embedder:
        return Conditions(model.class_embedder(labels), {}, guided)
    return Conditions(None, {"class_labels": labels}, guided)


def _of_texts(model: Model, texts: Sequence[str], negative: str | None, chosen: Settings) -> Conditions:
    """Of prompts, in as many chunks as the longest needs."""
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
    if chosen.noise_level is not None:
        extra["class_labels"] = mx.full((len(encoded),), chosen.noise_level)
    context = mx.concatenate([c for c, _ in encoded]).astype(model.dtype)
    mx.eval(context, extra)
    return Conditions(context, extra, guided)


def encode(model: Model, text: str, clip_skip: int = 0, wanted: int | None = None) -> tuple[mx.array, mx.array | None]:
    """(context (1, 77 k, C), pooled (1, P) or None) of a text of any length, in k chunks of 77 tokens.

    `wanted` asks for more chunks than the text fills; the rest are empty. SDXL's context joins both encoders' last
    layer but one, and its pooled vector is the first chunk's.
    """
    if not model.text_encoders:
        raise InputError("this model takes no prompt")
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


def chunks(model: Model, subject: Subject, negative: str | None) -> int:
    """How many times 77 tokens a prompt and what it steers away from fill; what is no prompt takes as much as any."""
    if not isinstance(subject, str):
        return 0
    return max(len(t.chunks(s)) for t in model.tokenizers for s in (subject, negative or ""))


def batches(model: Model, subjects: Sequence[Subject], negative: str | None, size: int) -> Iterator[list[int]]:
    """Places of subjects that go together: at most `size`, in order, and of the same number of chunks."""
    run: list[int] = []
    for i, subject in enumerate(subjects):
        if run and (len(run) == size or chunks(model, subject, negative) != chunks(model, subjects[run[0]], negative)):
            yield run
            run = []
        run.append(i)
    yield run


def _time_ids(model: Model, chosen: Settings, count: int, guided: bool) -> mx.array:
    size = [chosen.height, chosen.width, 0, 0]
    rows = [size + ([_SCORE] if model.family is Family.REFINER else size[:2])]
    if guided:
        rows = [size + ([_NEGATIVE_SCORE] if model.family is Family.REFINER else size[:2]), *rows]
    return mx.array([row for row in rows for _ in range(count)], dtype=mx.float32)


def guidance_embedding(scale: float, dims: int) -> mx.array:
    """(1, dims) sinusoids of 1000 (scale - 1), as latent consistency models take it (Luo et al. 2023)."""
    return sinusoids(mx.array([1000 * (scale - 1)]), dims, frequency_shift=1)
