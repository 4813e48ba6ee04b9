"""Prompts and classes -> the UNet's inputs beside latents and timestep."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import mlx.core as mx

from .checkpoint.model import Model
from .checkpoint.model_folder import TEXT
from .condition_rows import Conditions
from .core.errors import InputError
from .networks.embeddings import sinusoids
from .networks.family import Family, Task
from .perturbed_attention import PerturbedAttention
from .prompts import embeddings, lora_tags, script
from .prompts.encoding import Encoding, PromptEncoder
from .prompts.script import Texts
from .prompts.styles import STYLES
from .request import Request
from .reuse.tgate import TGate

_SCORE, _NEGATIVE_SCORE = 6.0, 2.5  # the SDXL refiner's aesthetic scores


class Subjects(NamedTuple):
    """The prompts of a batch over the steps: its conditions at each evaluation, and where they change for good."""

    conditions: list[Conditions]
    changes: list[int]  # evaluations, counted from 0


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
    """Returns the conditions at the first step of pictures that go through the UNet together; see `subjects_of`."""
    return subjects_of(model, requests, (1,)).conditions[0]


def subjects_of(
    model: Model, requests: Sequence[Request], steps: Sequence[int], total: int | None = None, before: int = 0
) -> Subjects:
    """Returns the conditions of pictures that go through the UNet together.

    steps: the number of the step of each evaluation, from 1; total: the number of steps, where these are not all;
    before: those of an earlier pass. The requests share all settings of the first; a negative prompt of None is the
    checkpoint's own (SDXL: zeros).
    """
    shared = requests[0]
    prompts = [request for request in requests if request.prompt is not None]
    if prompts and model.text_encoders:
        return _Texts(model, prompts, max(steps) if total is None else total, before).over(steps)
    if shared.negative is not None:
        raise InputError("this model takes no prompt, and no negative one")
    return Subjects([_of_classes(model, requests)] * len(steps), [])


def rows_of(model: Model, request: Request) -> Conditions:
    """Returns which rows a picture of a completed request has, without what they are shown: nothing is encoded."""
    guidance = request.guidance or 0.0
    if request.prompt is None or not model.text_encoders:
        return Conditions(None, {}, bool(model.classes and guidance > 1 and model.classes.null is not None))
    weights = subject_scripts(model, request, 1).first.weights
    composed = weights != (1.0,)
    if composed:
        _check_composed(model, request)
    # An LCM takes the guidance scale as an input; it is then one batch, as it is without guidance.
    guided = model.unet.config.guidance_dims is None and (guidance > 1 or composed)
    # A scale of 1 of the image's guidance is none.
    imageless = guided and (request.image_guidance or 1.0) != 1
    return Conditions(None, {}, guided, weights, bool(request.pag), imageless)


def _of_classes(model: Model, requests: Sequence[Request]) -> Conditions:
    rows = rows_of(model, requests[0])
    ids = [request.class_label for request in requests if isinstance(request.class_label, int)]
    if not (model.classes and ids):
        return rows._replace(guided=False)
    labels = mx.array([model.classes.null] * len(ids) + ids if rows.guided else ids)
    if model.class_embedder:
        return rows._replace(context=model.class_embedder(labels))
    return rows._replace(keywords={"class_labels": labels})


class _Texts:
    """The prompts of a batch with their negative prompt, encoded when they are needed, each once."""

    def __init__(self, model: Model, requests: Sequence[Request], total: int, before: int):
        self._model, self._shared = model, (shared := requests[0])
        self._encoder = prompt_encoder(model, shared)
        self._scripts = [subject_scripts(model, request, total, before) for request in requests]
        self._negative = negative_scripts(model, shared, total, before)
        self._rows = rows_of(model, shared)
        every = set().union(*(pair.texts for pair in (self._negative, *self._scripts)))
        self._chunks = max(self._encoder.count_chunks(*texts) for texts in every)
        self._encoded: dict[tuple[Texts, int], Encoding] = {}
        self._meaning = shared.prompt_style, shared.embeddings, str(model.loras)  # of a text

    def over(self, steps: Sequence[int]) -> Subjects:
        """Returns the conditions of each evaluation, by the number of its step."""
        result: list[Conditions] = []
        changes: list[int] = []
        switches = self._negative.switches.union(*(entry.switches for entry in self._scripts))
        by_texts: dict[tuple[tuple[Texts, ...], ...], Conditions] = {}
        for i, step in enumerate(steps):
            texts = (self._negative.at(step), *(entry.at(step) for entry in self._scripts))
            if texts not in by_texts:
                by_texts[texts] = self._conditions(texts[0][0], texts[1:])
            if i and any(steps[i - 1] <= last < step for last in switches):
                changes.append(i)
            result.append(by_texts[texts])
        return Subjects(result, changes)

    def _conditions(self, negative: Texts, texts: Sequence[tuple[Texts, ...]]) -> Conditions:
        """Returns the conditions for a negative prompt and each picture's prompts."""
        model, shared, unet, rows = self._model, self._shared, self._model.unet.config, self._rows
        directions = zip(*texts, strict=True)
        encoded = [self._encode(text, shared.clip_skip) for direction in directions for text in direction]
        if rows.guided:
            # As in diffusers, layers are skipped for the prompt, not for the negative prompt.
            nothing = self._encode(negative, 0)
            if shared.negative is None and shared.negative_2 is None and model.zeros_for_empty:
                nothing = nothing.zeros()
            encoded = [nothing] * len(texts) * (1 + rows.imageless) + encoded
        if rows.perturbed:
            encoded += encoded[-len(texts) :]
        keywords: dict[str, mx.array] = {}
        if unet.added_time_dims is not None:
            keywords["text_embeds"] = mx.concatenate([e.pooled for e in encoded if e.pooled is not None])
            keywords["time_ids"] = _time_ids(model, shared, len(texts), rows.copies - rows.guided, rows.guided)
        if unet.guidance_dims is not None:
            embedded = guidance_embedding(shared.guidance or 0.0, unet.guidance_dims)
            keywords["timestep_cond"] = mx.broadcast_to(embedded, (len(encoded), unet.guidance_dims))
        if shared.noise_level is not None:
            keywords["class_labels"] = mx.full((len(encoded),), shared.noise_level)
        context = mx.concatenate([e.context for e in encoded]).astype(model.dtype)
        mx.eval(context, keywords)
        return rows._replace(context=context, keywords=keywords)

    def _encode(self, texts: Texts, clip_skip: int) -> Encoding:
        key = texts, clip_skip
        if key not in self._encoded:
            self._encoded[key] = self._newly_encoded(texts, clip_skip)
        return self._encoded[key]

    def _newly_encoded(self, texts: Texts, clip_skip: int) -> Encoding:
        encode = partial(self._encoder.encode, texts[0], clip_skip, self._chunks, texts[1])
        low_memory = self._model.low_memory
        if low_memory is None:
            return encode()
        encoding: Encoding = low_memory.remember((texts, clip_skip, self._chunks, self._meaning), encode, TEXT)
        return encoding


def _check_composed(model: Model, request: Request) -> None:
    """Raises InputError where AND joins prompts and nothing weighs them."""
    if request.pag:
        raise InputError("AND and --pag do not go together; leave one of them out")
    if model.unet.config.guidance_dims is not None:
        raise InputError("this model has its guidance inside, so AND has nothing to weigh; leave AND out")
    if model.task is Task.INSTRUCTION:
        raise InputError(f"{model.name} edits images by one instruction, so AND has no meaning there; leave AND out")


def prompt_encoder(model: Model, request: Request) -> PromptEncoder:
    """Returns the text encoders of a model for a request's style of prompts and its embeddings."""
    if not model.text_encoders:
        raise InputError("this model takes no prompt")
    widths = [encoder.config.width for encoder in model.text_encoders]
    return PromptEncoder(
        model.text_encoders,
        model.tokenizers,
        style=request.prompt_style,
        embeddings=[embeddings.read(entry, widths) for entry in request.embeddings],
        pools=model.unet.config.added_time_dims is not None,
    )


def encode(
    model: Model, text: str, request: Request, clip_skip: int = 0, chunks: int = 0
) -> tuple[mx.array, mx.array | None]:
    """Returns (context, pooled) of a prompt at its first step, with at least `chunks` chunks.

    request: its style of prompts and its embeddings are used.
    """
    first = script.read(text, request.prompt_style, 1)
    if len(first.weights) > 1:
        raise InputError("AND joins prompts that are encoded one by one; encode each")
    model.work(*TEXT)
    return prompt_encoder(model, request).encode(first.at(1)[0], clip_skip, chunks)


def _check_sdxl(model: Model, request: Request) -> None:
    """Raises InputError for a setting that only SDXL takes, with another model."""
    takes: dict[str, bool] = dict.fromkeys(("prompt_2", "negative_2"), len(model.text_encoders) > 1)
    takes |= dict.fromkeys(("original_size", "crop"), model.unet.config.added_time_dims is not None)
    takes["target_size"] = takes["crop"] and model.family is not Family.REFINER
    for name, taken in takes.items():
        if getattr(request, name) is not None and not taken:
            raise InputError(f"--{name.replace('_', '-')} is for SDXL, and this model does not take it; leave it out")


def subject_scripts(model: Model, request: Request, steps: int, before: int = 0) -> script.Pair:
    """Returns what a request's prompts say at each of `steps` steps; before: those of an earlier pass."""
    second = request.prompt_2 if len(model.text_encoders) > 1 else None
    return script.read_pair(request.prompt or "", second, request.prompt_style, steps, before=before)


def negative_scripts(model: Model, request: Request, steps: int, before: int = 0) -> script.Pair:
    """Returns what a request's negative prompts say at each of `steps` steps; before: those of an earlier pass."""
    second = request.negative_2 if len(model.text_encoders) > 1 else None
    return script.read_pair(request.negative or "", second, request.prompt_style, steps, composes=False, before=before)


def check_prompts(model: Model, request: Request) -> Request:
    """Returns the request with the names and hashes of its embeddings; InputError where its prompts make no sense."""
    _check_sdxl(model, request)
    if request.pag_adaptive is not None and not request.pag:
        raise InputError("--pag-adaptive changes the scale of --pag; give both")
    if request.pag:
        if not model.text_encoders:
            raise InputError("--pag is for models that take a prompt, and this one takes none; leave it out")
        PerturbedAttention(model.unet, request.pag)
    if not model.text_encoders:
        if request.embeddings:
            raise InputError("this model takes no prompt, so it takes no embeddings; leave --embedding out")
        return request
    encoder = prompt_encoder(model, request)
    _, tags = lora_tags.taken_out(request.prompt or "") if STYLES[request.prompt_style].edits else ("", ())
    if tags:
        raise InputError(
            f"the prompt names the LoRA {tags[0].name}; load it with the model, loras=[({tags[0].name!r}, "
            f"{tags[0].scale:g})], and leave it out of the prompt"
        )
    if request.prompt is not None:
        pairs = subject_scripts(model, request, 1), negative_scripts(model, request, 1)
        if pairs[0].first.weights != (1.0,):
            _check_composed(model, request)
        for texts in (texts for pair in pairs for texts in pair.texts):
            encoder.count_chunks(*texts)
    return request.with_values(embeddings=encoder.embeddings)


def check_gate(model: Model, request: Request, tgate: TGate, steps: Sequence[int]) -> None:
    """Raises InputError where T-GATE would leave out something of a prompt: AND, or a change after the gate.

    steps: the number of the step of each evaluation, from 1.
    """
    if request.prompt is None:
        return
    pairs = subject_scripts(model, request, max(steps)), negative_scripts(model, request, max(steps))
    if pairs[0].first.weights != (1.0,):
        raise InputError("T-GATE keeps the attention to one prompt; leave --tgate or AND out")
    if request.pag:
        raise InputError("T-GATE ends guidance at its gate, and --pag guides to the end; leave one of them out")
    gate = steps[tgate.gate_step]
    scripts = [entry for pair in pairs for entry in pair if entry is not None]
    late = [version.last for entry in scripts for versions in entry.versions for version in versions[:-1]]
    if late and max(late) >= gate:
        raise InputError(
            f"the prompt changes after step {max(late)}, and T-GATE looks at no prompt from step {gate} on; choose a "
            "later gate, or leave --tgate out"
        )


def check_guided_steps(model: Model, request: Request, steps: int) -> None:
    """Raises InputError where a completed request has nothing to guide at some of its steps alone."""
    interval = request.guidance_interval
    names = ("guidance_interval", "adaptive_guidance", "unconditional_refresh")
    settings = [name for name in names if getattr(request, name) is not None]
    if request.unconditional_refresh == 1:  # which is off
        settings.remove("unconditional_refresh")
    if not settings:
        return
    flag = f"--{settings[0].replace('_', '-')}"
    rows = rows_of(model, request)
    if not rows.guided:
        raise InputError(f"{flag} says which steps are guided, and none is with this guidance; leave it out")
    if request.tgate:
        raise InputError(f"T-GATE ends guidance at its gate; leave --tgate or {flag} out")
    if rows.weights != (1.0,):
        raise InputError(f"AND weighs its prompts by guidance at every step; leave AND or {flag} out")
    if interval is not None:
        interval.check(steps)
    deepcache = request.deepcache
    if "unconditional_refresh" in settings and deepcache and deepcache.looks_inside:
        raise InputError(
            "--unconditional-refresh counts full evaluations before they begin, and --deepcache adaptive decides "
            "within them; leave one of them out"
        )


def batches(model: Model, requests: Sequence[Request], size: int) -> Iterator[list[int]]:
    """Yields the indices of pictures that go together: at most `size`, in order.

    Their prompts fill the same number of chunks and join as many others by AND, with the same weights.
    """
    batch: list[int] = []
    encoder = prompt_encoder(model, requests[0]) if model.text_encoders else None
    shapes = [_shape(model, encoder, request) for request in requests]
    for i in range(len(requests)):
        if batch and (len(batch) == size or shapes[i] != shapes[batch[0]]):
            yield batch
            batch = []
        batch.append(i)
    yield batch


def _shape(model: Model, encoder: PromptEncoder | None, request: Request) -> tuple[int, tuple[float, ...]]:
    """Returns the number of chunks that a request's prompts fill, and the weights of those that AND joins."""
    if request.prompt is None or encoder is None:
        return 0, (1.0,)
    steps = request.steps or 1
    pair, negative = subject_scripts(model, request, steps), negative_scripts(model, request, steps)
    return max(encoder.count_chunks(*texts) for texts in pair.texts | negative.texts), pair.first.weights


def _time_ids(model: Model, shared: Request, count: int, directions: int, guided: bool) -> mx.array:
    """Returns SDXL's sizes (rows, 6), or with the refiner's aesthetic score (rows, 5)."""
    refiner = model.family is Family.REFINER
    picture = shared.width or 0, shared.height or 0
    # The network was trained with heights before widths.
    original, crop, target = (
        [float(side) for side in reversed(pair)]
        for pair in (shared.original_size or picture, shared.crop or (0, 0), shared.target_size or picture)
    )
    size = [*original, *crop]
    rows = [[*size, *([_SCORE] if refiner else target)]] * directions
    if guided:
        rows = [[*size, *([_NEGATIVE_SCORE] if refiner else target)], *rows]
    return mx.array([row for row in rows for _ in range(count)], dtype=mx.float32)


def guidance_embedding(scale: float, dims: int) -> mx.array:
    """(1, dims) sinusoids of 1000 (scale - 1), as latent consistency models take it (Luo et al. 2023)."""
    return sinusoids(mx.array([1000 * (scale - 1)]), dims, frequency_shift=1)
