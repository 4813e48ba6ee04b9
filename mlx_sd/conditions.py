"""Prompts and classes -> the UNet's inputs beside latents and timestep."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import mlx.core as mx

from .checkpoint.model import Model
from .core.errors import InputError
from .networks.embeddings import sinusoids
from .networks.family import Family
from .request import Request

_SCORE, _NEGATIVE_SCORE = 6.0, 2.5  # the SDXL refiner's aesthetic scores


class Conditions(NamedTuple):
    """The UNet's inputs for a batch of N pictures; where `guided`, the unconditional half comes first: 2 N rows."""

    context: mx.array | None  # (rows, tokens, C); None in models without a prompt
    keywords: dict[str, Any]  # arrays (rows, ...), by the names of the UNet's arguments
    guided: bool

    def unconditional(self) -> "Conditions":
        """Returns the unconditional half, or everything where there are no halves."""
        return self._half(0)

    def conditional(self) -> "Conditions":
        """Returns the half with the prompts, or everything where there are no halves."""
        return self._half(1)

    def _half(self, index: int) -> "Conditions":
        if not self.guided:
            return self

        def half(array: mx.array) -> mx.array:
            """Returns one half of the rows."""
            rows = array.shape[0] // 2
            return array[index * rows : (index + 1) * rows]

        context = None if self.context is None else half(self.context)
        return Conditions(context, {name: half(array) for name, array in self.keywords.items()}, False)


def check_subject(model: Model, request: Request) -> Request:
    """Returns the request with the id of its class; InputError where the model makes pictures of something else."""
    prompt, label = request.prompt, request.class_label
    if label is not None and not model.classes:
        raise InputError("this model has no classes" + ("; give a prompt" if model.text_encoders else ""))
    if model.text_encoders:
        if prompt is None and model.upscales:
            return request.with_values(prompt="")
        if prompt is None:
            raise InputError("give a prompt: this model makes pictures of prompts")
        return request
    if model.classes:
        if prompt is not None or label is None:
            problem = "takes no prompt" if prompt is not None else "makes pictures of classes"
            raise InputError(f"this model {problem}; give a class (--class ID), {model.classes}")
        return request.with_values(class_label=model.classes.find(label))
    if prompt is not None and model.upscales:
        raise InputError("this model takes no prompt: it makes pictures larger; leave it out")
    if prompt is not None:
        raise InputError("this model takes no prompt: it makes pictures like those it was trained on; give --count")
    if kind := model.unet.config.class_embedding:
        raise InputError(f"this model's classes have no ids (class_embed_type {kind}); call sd.unet with class_labels")
    return request


def conditions_of(model: Model, requests: Sequence[Request]) -> Conditions:
    """Returns the conditions of pictures that go through the UNet together.

    They share all settings of the first; a negative prompt of None is the checkpoint's own (SDXL: zeros).
    """
    shared = requests[0]
    texts = [request.prompt for request in requests if request.prompt is not None]
    if texts and model.text_encoders:
        return _of_texts(model, texts, shared)
    if shared.negative is not None:
        raise InputError("this model takes no prompt, and no negative one")
    ids = [request.class_label for request in requests if isinstance(request.class_label, int)]
    if not (model.classes and ids):
        return Conditions(None, {}, False)
    guided = (shared.guidance or 0) > 1 and model.classes.null is not None
    labels = mx.array([model.classes.null] * len(ids) + ids if guided else ids)
    if model.class_embedder:
        return Conditions(model.class_embedder(labels), {}, guided)
    return Conditions(None, {"class_labels": labels}, guided)


def _of_texts(model: Model, texts: Sequence[str], shared: Request) -> Conditions:
    """Returns the conditions of prompts, in as many chunks of tokens as the longest needs."""
    unet = model.unet.config
    guidance, negative = shared.guidance or 0.0, shared.negative
    chunks = max(count_chunks(model, text, negative) for text in texts)
    # An LCM takes the guidance scale as an input; it is then one batch, as it is without guidance.
    guided = guidance > 1 and unet.guidance_dims is None
    encoded = [encode(model, text, shared.clip_skip, chunks) for text in texts]
    if guided:
        # As in diffusers, layers are skipped for the prompt, not for the negative prompt.
        context, pooled = encode(model, negative or "", 0, chunks)
        if negative is None and model.zeros_for_empty:
            context, pooled = mx.zeros_like(context), None if pooled is None else mx.zeros_like(pooled)
        encoded = [(context, pooled)] * len(texts) + encoded
    keywords: dict[str, mx.array] = {}
    if unet.added_time_dims is not None:
        keywords["text_embeds"] = mx.concatenate([pooled for _, pooled in encoded if pooled is not None])
        keywords["time_ids"] = _time_ids(model, shared, len(texts), guided)
    if unet.guidance_dims is not None:
        embedded = guidance_embedding(guidance, unet.guidance_dims)
        keywords["timestep_cond"] = mx.broadcast_to(embedded, (len(encoded), unet.guidance_dims))
    if shared.noise_level is not None:
        keywords["class_labels"] = mx.full((len(encoded),), shared.noise_level)
    context = mx.concatenate([context for context, _ in encoded]).astype(model.dtype)
    mx.eval(context, keywords)
    return Conditions(context, keywords, guided)


def encode(model: Model, text: str, clip_skip: int = 0, chunks: int | None = None) -> tuple[mx.array, mx.array | None]:
    """Returns (context (1, 77 k, C), pooled (1, P) or None) of a text of any length, in k chunks of 77 tokens.

    chunks: at least so many; those that the text does not fill are empty. SDXL's context joins both encoders' last
    layer but one, and its pooled vector is the first chunk's. Raises InputError for a model without a prompt.
    """
    if not model.text_encoders:
        raise InputError("this model takes no prompt")
    contexts, pooled = [], None
    for tokenizer, encoder in zip(model.tokenizers, model.text_encoders, strict=True):
        ids = tokenizer.chunks(text)
        ids += tokenizer.chunks("") * ((chunks or 0) - len(ids))
        encoded = encoder(mx.array(ids))
        if model.unet.config.added_time_dims is not None:
            context, pooled = encoded.hidden[-2 - clip_skip], encoded.pooled[:1]
        else:
            context = encoder.norm(encoded.hidden[-1 - clip_skip])
        contexts.append(context.reshape(1, -1, context.shape[-1]))
    return mx.concatenate(contexts, axis=-1), pooled


def count_chunks(model: Model, prompt: str | None, negative: str | None) -> int:
    """Returns how many times 77 tokens a prompt and its negative fill; 0 without a prompt."""
    if prompt is None or not model.text_encoders:
        return 0
    return max(len(tokenizer.chunks(text)) for tokenizer in model.tokenizers for text in (prompt, negative or ""))


def batches(model: Model, requests: Sequence[Request], size: int) -> Iterator[list[int]]:
    """Yields the indices of pictures that go together: at most `size`, in order, of the same number of chunks."""
    batch: list[int] = []
    chunks = [count_chunks(model, request.prompt, request.negative) for request in requests]
    for i in range(len(requests)):
        if batch and (len(batch) == size or chunks[i] != chunks[batch[0]]):
            yield batch
            batch = []
        batch.append(i)
    yield batch


def _time_ids(model: Model, shared: Request, count: int, guided: bool) -> mx.array:
    """Returns SDXL's sizes (rows, 6), or with the refiner's aesthetic score (rows, 5)."""
    refiner = model.family is Family.REFINER
    size = [float(shared.height or 0), float(shared.width or 0), 0.0, 0.0]
    rows = [size + ([_SCORE] if refiner else size[:2])]
    if guided:
        rows = [size + ([_NEGATIVE_SCORE] if refiner else size[:2]), *rows]
    return mx.array([row for row in rows for _ in range(count)], dtype=mx.float32)


def guidance_embedding(scale: float, dims: int) -> mx.array:
    """(1, dims) sinusoids of 1000 (scale - 1), as latent consistency models take it (Luo et al. 2023)."""
    return sinusoids(mx.array([1000 * (scale - 1)]), dims, frequency_shift=1)
