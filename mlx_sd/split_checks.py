"""What must be so for a picture that ranks share: there is enough to deal out, and all ranks have the same of it."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from PIL import Image

from . import conditions, hires, jobs
from .checkpoint.model import Model
from .core.errors import InputError
from .core.version import VERSION
from .predictor import latent_shape
from .request import Request
from .split import Split
from .tasks import tiles
from .tuning.choices import OFF

_MODEL = ("model_hash", "dtype", "quantize", "loras", "lora_mode", "vae_hash", "refiner_hash")


def check(model: Model, requests: Sequence[Request], split: Split, arrays: Sequence[mx.array | None] = ()) -> None:
    """Raises InputError on all ranks where a rank would have nothing to do, or has something else than rank 0.

    requests: completed. arrays: that they begin with, in the place of noise.
    """
    if split.kind is None or split.ranks is None:
        return
    from importlib.metadata import version  # which one process has no use for

    check_parts(model, requests, split.kind, split.ranks.size)
    nameless = [jobs.without_names(request).to_json() for request in requests]
    networks = [{name: record.get(name) for name in _MODEL} for record in nameless]
    contents = [image for request in requests for image in _images(request)]
    contents += [np.array(array.astype(mx.float32)).tobytes() for array in arrays if array is not None]
    split.ranks.check_same(
        {
            "another version of mlx-sd": VERSION,
            "another version of MLX": version("mlx"),
            "another model": json.dumps(networks),
            "other settings or files": json.dumps(nameless),
            "other images or arrays": repr([hashlib.sha256(content).hexdigest() for content in contents]),
        }
    )


def check_flags(request: Request, kind: str) -> None:
    """Raises InputError for a request that cannot be dealt out on any model: before one is loaded."""
    if request.coreml:
        raise InputError("--split deals out networks in MLX, and packages run as they were exported; leave one out")
    _check_tuning(request)
    if kind == "tiles" and request.denoise_tile == 0:
        raise InputError("--split tiles deals out the tiles of --denoise-tile, and 0 is none; leave one of them out")
    if kind == "guidance":
        _check_halves(request)
    unguided = request.guidance is not None and request.guidance <= 1 and not request.pag
    if kind == "guidance" and unguided and "AND" not in (request.prompt or ""):
        raise InputError(
            f"--split guidance deals out the rows with and without the prompt, and with --guidance "
            f"{request.guidance:g} there is one row; leave one of them out"
        )


def check_parts(model: Model, requests: Sequence[Request], kind: str, ranks: int) -> None:
    """Raises InputError where a completed request has less to deal out than there are ranks."""
    if model.sizes:
        raise InputError("--split deals out networks in MLX, and packages run as they were exported; leave one out")
    if model.tokens is not None:
        raise InputError(f"--split deals out latents, and the pictures of {model.name} are tokens; leave --split out")
    for request in requests:
        if kind == "guidance":
            _check_halves(request)
        _check_tuning(request)
        count = parts_of(model, request, kind)
        if count >= ranks:
            continue
        if kind == "tiles":
            raise InputError(
                f"--split tiles deals out the tiles of --denoise-tile, of which this picture has {count}, to {ranks} "
                f"ranks; {_advice(count, 'choose smaller tiles')}"
            )
        reason = "" if count > 1 else ", as guidance is off"
        raise InputError(
            f"--split guidance deals out the rows of an evaluation, of which this picture has {count}{reason}, to "
            f"{ranks} ranks; {_advice(count, 'leave --split out')}"
        )


def _check_halves(request: Request) -> None:
    """Raises InputError where evaluations leave out the rows without the prompt, whose deep features ranks share."""
    if (request.unconditional_refresh or 1) > 1:
        raise InputError(
            "--split guidance deals out the rows with and without the prompt, and --unconditional-refresh leaves the "
            "latter out; leave one of them out"
        )


def parts_of(model: Model, request: Request, kind: str) -> int:
    """Returns how many parts each evaluation of a completed request has, of rows or of tiles.

    With hires fix, that is where it has most.
    """
    if kind == "guidance":
        return conditions.rows_of(model, request).copies
    second = hires.second_pass(model, request)
    passes = [request, *([request.with_values(**second.changes)] if second else [])]
    return max(len(places(model, part)) for part in passes)


def places(model: Model, request: Request) -> list[tuple[tiles.Span, tiles.Span]]:
    """Returns the spans of the tiles of a completed request, of one where it has none; see `tiles.places`."""
    height, width, _ = latent_shape(model, request)
    tile = request.denoise_tile or max(height, width)
    return tiles.places((height, width), tile, model.unet.config.downsampling)


def _check_tuning(request: Request) -> None:
    if request.tuning not in (None, OFF):
        raise InputError("--split computes to the last bit as one process, and a tuning may not; leave --tuning out")


def _advice(count: int, otherwise: str) -> str:
    return f"take at most {count} (mlx.launch -n {count})" if count > 1 else otherwise


def _images(request: Request) -> Iterator[bytes]:
    """Yields the pixels of the images in memory that a request begins with or is shown."""
    beside: list[Any] = [*request.controls, *request.adapters, *request.ip_adapters]
    sources = [request.init_image, request.mask, *(source for entry in beside for source, _ in entry.files)]
    for source in sources:
        if isinstance(source, Image.Image):
            yield repr((source.mode, source.size)).encode() + source.tobytes()
