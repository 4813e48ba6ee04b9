"""The IP-Adapters of a request: checked against the model, loaded, and their images made keys and values once."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from . import metadata, resolve
from .checkpoint.ip_adapter import ImagePrompt
from .checkpoint.model import Model
from .checkpoint.network_folder import NetworkFolder
from .checkpoint.network_names import IMAGE_ENCODER, IP_ADAPTER
from .core.errors import InputError
from .load import beside
from .networks import ops
from .networks.blocks import Attend
from .networks.clip_vision import ImageEncoder, VisionConfig
from .networks.ip_adapter import IPAdapter, IPAdapterConfig, cross_attentions
from .networks.layers import Attention
from .networks.unet import UNet
from .request import Request
from .tasks import clip_image, images

# From which place a transformer has its scale -> where: the whole side, its level, or the list of a level
Places = Mapping[str, float]


class Term(NamedTuple):
    """What one image prompt adds to one cross-attention."""

    keys: mx.array  # (2, heads, T, dim): of the image of nothing, and of the image
    values: mx.array
    scale: float
    mask: mx.array | None  # (1, H, W) in [0, 1], of the picture in pixels


class ImageAttention:
    """Applies attention layers with what the image prompts of one generation add to them."""

    def __init__(self, terms: Mapping[int, Sequence[Term]]):
        """terms: by the id of the layer."""
        self._terms = terms

    def apply(self, promptless: int, copies: int) -> Attend:
        """Returns what computes an attention; so many first ones of `copies` equal parts of the rows have no prompt."""

        def attend(layer: Attention, x: mx.array, context: mx.array) -> mx.array:
            """Returns the layer's output, with the terms of the images where it attends to the prompt."""
            terms = self._terms.get(id(layer), ()) if context is not x else ()
            if not terms:
                return layer(x, context)
            return layer(x, context, added=lambda q: sum_of_terms(terms, q, promptless, copies))

        return attend


def sum_of_terms(terms: Sequence[Term], q: mx.array, promptless: int, copies: int) -> mx.array:
    """Returns the sum of scaled and masked attentions to images for queries (B, heads, N, dim).

    copies: equal parts of the B rows, of which the first `promptless` are shown the image of nothing.
    """
    without = q.shape[0] // copies * promptless

    def rows(array: mx.array) -> mx.array:
        """Returns keys or values for each row of the queries."""
        nothing, image = array.astype(q.dtype)[:1], array.astype(q.dtype)[1:]
        return mx.concatenate([nothing] * without + [image] * (q.shape[0] - without))

    total = None
    for term in terms:
        y = term.scale * ops.attention(q, rows(term.keys), rows(term.values), scale=q.shape[-1] ** -0.5)
        if term.mask is not None:
            y = y * clip_image.mask_of_queries(term.mask, q.shape[2]).astype(q.dtype)[:, None, :, None]
        total = y if total is None else total + y
    assert total is not None
    return total


def completed(model: Model, request: Request) -> tuple[ImagePrompt, ...]:
    """Returns the image prompts of a request with hashes, checked against the model; their weights stay unread.

    InputError for an adapter of another family or without its image encoder, for scales of blocks that the UNet does
    not have, and for images that are missing or unreadable.
    """
    if not request.ip_adapters:
        if request.ip_encoder is not None:
            raise InputError("--ip-encoder is of --ip-adapter; give both")
        return ()
    if not isinstance(model.unet, nn.Module):
        raise InputError("Core ML packages take no image prompt; leave --ip-adapter out, or --coreml")
    prompts = []
    for prompt in request.ip_adapters:
        folder, config, encoder_folder, _ = _open(prompt, model, request.ip_encoder)
        scales(prompt, model.unet, config)
        for source in (*prompt.images, *([prompt.mask] if prompt.mask is not None else [])):
            images.read(source)
        if prompt.mask is not None and request.denoise_tile:
            raise InputError(
                "the mask of an image prompt is of the whole picture; leave out the mask or --denoise-tile"
            )
        digests = [metadata.digest(source) if isinstance(source, str) else None for source in prompt.images]
        prompt = prompt._replace(model_hash=f"{folder.hash}-{encoder_folder.hash}", image_hashes=tuple(digests))
        mask_hash = metadata.digest(prompt.mask) if isinstance(prompt.mask, str) else None
        prompts.append(prompt._replace(mask_hash=mask_hash))
    return tuple(prompts)


def size_in_memory(model: Model, request: Request) -> int:
    """Returns the bytes that IP-Adapters and their image encoders take, each network counted once, loaded or not."""
    folders = set()
    for prompt in request.ip_adapters:
        folder, config, encoder_folder, _ = _open(prompt, model, request.ip_encoder)
        if any(scales(prompt, model.unet, config)):
            folders |= {(folder.folder, folder.numbers), (encoder_folder.folder, encoder_folder.numbers)}
    return sum(numbers for _, numbers in folders) * model.dtype.size


def attention(model: Model, request: Request) -> ImageAttention | None:
    """Returns the image prompts of a completed request as the UNet's attentions take them; None without any."""
    terms: dict[int, list[Term]] = {}
    for prompt in request.ip_adapters:
        adapter, encoder = _loaded(prompt, model, request.ip_encoder)
        layer_scales = scales(prompt, model.unet, adapter.config)
        if not any(layer_scales):
            continue
        mask = None
        if prompt.mask is not None:
            mask = clip_image.mask(images.read(prompt.mask), (request.width or 0, request.height or 0))
        tokens = _tokens(prompt, adapter, encoder)
        groups = [tokens] if mask is None else mx.split(tokens, len(prompt.images), axis=1)
        for i, (_, layer) in enumerate(cross_attentions(model.unet)):
            if layer_scales[i]:
                for group in groups:  # with a mask, images are attended to one by one, as in diffusers
                    keys, values = adapter.keys_of[i](group), adapter.values_of[i](group)
                    term = Term(_split(keys, layer.heads), _split(values, layer.heads), layer_scales[i], mask)
                    terms.setdefault(id(layer), []).append(term)
    mx.eval([[term.keys, term.values] for group in terms.values() for term in group])
    return ImageAttention(terms) if terms else None


def scales(prompt: ImagePrompt, unet: UNet, config: IPAdapterConfig) -> list[float]:
    """Returns the scale of each cross-attention, in the adapter's order; InputError for blocks that are not there."""
    labels = [label for label, _ in cross_attentions(unet)]
    if not prompt.blocks:
        return [prompt.scale] * len(labels)
    present = {place for label in labels for place in (label, label.rpartition(".")[0], label.partition(".")[0])}
    by_place: dict[str, float] = {}
    for place, numbers in prompt.blocks:
        count = len({label for label in labels if label.startswith(f"{place}.")})
        if place not in present or not place:
            raise InputError(f"the UNet has no block {place} with a prompt; it has {', '.join(sorted(set(labels)))}")
        if len(numbers) == 1:
            by_place[place] = numbers[0]
        elif len(numbers) != count:
            raise InputError(f"{place} has {count} transformers, and there are {len(numbers)} scales")
        else:
            by_place |= {f"{place}.{i}": number for i, number in enumerate(numbers)}
    return [prompt.scale * _scale_of(label, by_place) for label in labels]


def _scale_of(label: str, by_place: Places) -> float:
    """Returns the scale of a transformer from the nearest place that has one; 0 where none has, as in diffusers."""
    for place in (label, label.rpartition(".")[0], label.partition(".")[0]):
        if place in by_place:
            return by_place[place]
    return 0.0


def _tokens(prompt: ImagePrompt, adapter: IPAdapter, encoder: ImageEncoder) -> mx.array:
    """Returns the tokens (2, T, context) of nothing and of the images, side by side.

    Nothing is a vector of zeros for adapters of one vector, and a grey picture for those that see all tokens, as the
    authors trained them.
    """
    shown = mx.concatenate([clip_image.pixels(source, encoder.config.image_size) for source in prompt.images])
    encoded = encoder(shown)
    if adapter.reads_tokens:
        nothing = adapter.tokens(encoder(mx.zeros_like(shown[:1])))
    else:
        nothing = adapter.tokens(encoded._replace(embedding=mx.zeros_like(encoded.embedding[:1])))
    tokens = adapter.tokens(encoded)
    joined = tokens.reshape(1, -1, tokens.shape[-1])
    return mx.concatenate([mx.concatenate([nothing] * len(prompt.images), axis=1), joined])


def _split(x: mx.array, heads: int) -> mx.array:
    batch, tokens, dims = x.shape
    return x.reshape(batch, tokens, heads, dims // heads).transpose(0, 2, 1, 3)


def _loaded(prompt: ImagePrompt, model: Model, encoder_name: str | None) -> tuple[IPAdapter, ImageEncoder]:
    folder, config, encoder_folder, vision = _open(prompt, model, encoder_name)
    adapter: IPAdapter = beside(model, folder.folder, IP_ADAPTER, lambda: IPAdapter(config))
    encoder: ImageEncoder = beside(model, encoder_folder.folder, IMAGE_ENCODER, lambda: ImageEncoder(vision))
    return adapter, encoder


def _open(
    prompt: ImagePrompt, model: Model, encoder_name: str | None
) -> tuple[NetworkFolder, IPAdapterConfig, NetworkFolder, VisionConfig]:
    """The converted folders of an adapter and its image encoder, with their configs; InputError where these differ."""
    folder = resolve.ip_adapter_folder(prompt.model)
    config = IPAdapterConfig.from_hf(folder.config, prompt.model)
    widths = [layer.q.weight.shape[0] for _, layer in cross_attentions(model.unet)]
    unet = model.unet.config
    blocks = (*unet.down, *([unet.mid] if unet.mid else []), *unet.up)
    context = max((block.context for block in blocks if any(block.transformers)), default=0)
    if tuple(widths) != config.attentions or context != config.context:
        raise InputError(
            f"the IP-Adapter {prompt.model} does not fit {model.name}: it is for {len(config.attentions)} attentions "
            f"to prompts of width {config.context}, and the model has {len(widths)} of width {context}"
        )
    encoder_folder = resolve.image_encoder_folder(encoder_name, prompt.model, model.name)
    vision = VisionConfig.from_hf(encoder_folder.config, f"{encoder_folder.folder}")
    width = vision.projection if config.kind == "base" else vision.width
    if width != config.inputs:
        raise InputError(
            f"{prompt.model} takes features of width {config.inputs}, and its image encoder gives {width}; name "
            "another by --ip-encoder (CLIP ViT-H for SD 1, Plus and vit-h adapters, ViT-bigG for ip-adapter_sdxl)"
        )
    return folder, config, encoder_folder, vision
