"""Writes textual inversions (Gal et al. 2022) in the formats of diffusers and of A1111, and SDXL's with two parts."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np

from ...core.errors import InputError
from ...core.suggestions import unknown
from ...prompts.embeddings import LONGEST, SDXL_KEYS, TRAINER_KEYS
from . import safetensors_file
from .base_model import BaseModel
from .safetensors_file import numbers_of
from .training_record import TrainingRecord, describe_embedding

FORMATS = ("a1111", "diffusers")
_ONE_ENCODER = ("text_encoder",)
_NO_WORDS = (*TRAINER_KEYS, *SDXL_KEYS, "__metadata__")  # names of tensors that readers take for no word


def write(
    path: Path,
    token: str,
    vectors: Mapping[str, mx.array],
    format: str = "a1111",
    base: BaseModel | None = None,
    record: TrainingRecord | None = None,
    *,
    force: bool = False,
) -> str:
    """Writes an embedding in float32, whole or not at all, and returns the SHA-256 of the file.

    token: the word that it stands for. "diffusers" keeps it as the tensor's name; "a1111" knows an embedding by the
    name of its file, and so do all programs those of SDXL, whose format is one for both.
    vectors: {"text_encoder": (n, width)}, or of SDXL {"clip_l": (n, width), "clip_g": (n, width)}; n is 1 to 75.
    base, record: what the metadata say; without `base` there are none but a hash. force: an existing file may be
    replaced.

    InputError for a token or vectors that readers would not take, and the errors of `safetensors_file.check`. Failure
    for numbers that are not finite, and where writing fails.
    """
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    safetensors_file.check(path, force)
    keys = tuple(vectors)
    if keys != _ONE_ENCODER and set(keys) != set(SDXL_KEYS):
        raise InputError(f"{path}: an embedding has vectors of text_encoder, or of clip_l and clip_g, not of {keys}")
    if not token.isprintable() or not token.strip() == token != "" or token in _NO_WORDS:
        raise InputError(f"{path}: {token!r} cannot be an embedding's word; choose another, for example <my-cat>")
    names = {key: key for key in keys} if len(keys) > 1 else {keys[0]: _name(token, format)}
    arrays = {names[key]: _matrix(array, f"{path}: {key}") for key, array in vectors.items()}
    if len({len(array) for array in arrays.values()}) > 1:
        counts = " and ".join(f"{len(array)} of {key}" for key, array in arrays.items())
        raise InputError(f"{path}: there are {counts}; both text encoders need as many vectors")
    record = record or TrainingRecord()
    if record.trigger_phrase is None:
        record = replace(record, trigger_phrase=token)
    metadata = {} if base is None else describe_embedding(base, record, path.stem)
    return safetensors_file.write(path, arrays, metadata, force)


def _name(token: str, format: str) -> str:
    return token if format == "diffusers" else TRAINER_KEYS[0]


def _matrix(array: mx.array, where: str) -> np.ndarray:
    if array.ndim != 2 or not 1 <= array.shape[0] <= LONGEST:
        raise InputError(f"{where} is {array.shape}; it must be 1 to {LONGEST} vectors, (n, width)")
    return numbers_of(array, "float32", where)
