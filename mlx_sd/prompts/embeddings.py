"""Textual inversions (Gal et al. 2022): files of a few vectors that stand in a prompt for a word."""

import base64
import json
import math
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from PIL import Image, UnidentifiedImageError

from ..core.embedded import EMBEDDINGS, place
from ..core.errors import InputError
from ..core.files import TENSOR_DTYPES, missing, sha256, tensors

Pathlike = str | os.PathLike[str]
EmbeddingSource = Pathlike | tuple[Pathlike, str]

LONGEST = 75  # vectors, as a chunk of the text encoder has room for
_LARGEST = LONGEST * 10_000  # numbers of a tensor, far above any text encoder's width
_PICTURES = (".png", ".webp", ".jxl", ".avif")
_PICTURE_TEXT = "sd-ti-embedding"  # of a PNG that holds an embedding: base64 of JSON, as A1111 writes it
TRAINER_KEYS = ("emb_params", "*")  # keys that are no name
SDXL_KEYS = ("clip_l", "clip_g")  # of its first text encoder, and of its second


class Embedding(NamedTuple):
    """A file with vectors and the name by which prompts use it; name None is the file's own.

    sha256: of the file, where it has been read.
    """

    path: str
    name: str | None = None
    sha256: str | None = None

    @classmethod
    def of(cls, source: "EmbeddingSource | Embedding") -> "Embedding":
        """Reads an entry of `generate(embeddings=[...])`: a path, "PATH:NAME", or a tuple of path and name."""
        if isinstance(source, Embedding):
            return source
        if isinstance(source, tuple):
            path, name = source
            return cls(os.fspath(path), name)
        text = os.fspath(source)
        head, _, tail = text.rpartition(":")
        if head and not Path(text).exists() and not {"/", "\\"} & set(tail):
            return cls(head, tail)
        return cls(text)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Embedding":
        """Reads an entry of `embeddings` in a picture's metadata."""
        return cls(record["path"], record["name"], record["sha256"])

    def to_record(self) -> dict[str, Any]:
        """Returns the entry of `embeddings` in a picture's metadata."""
        return {"path": self.path, "name": self.name, "sha256": self.sha256}


class Vectors(NamedTuple):
    """An embedding in memory."""

    embedding: Embedding  # its name and its hash are known
    arrays: tuple[mx.array, ...]  # (k, C) for each text encoder of the model, in its order

    @property
    def tokens(self) -> int:
        """Returns how many tokens it takes the place of."""
        return self.arrays[0].shape[0]


def read(embedding: Embedding, widths: Sequence[int]) -> Vectors:
    """Reads an embedding for text encoders of these widths; once, as long as its file stays as it is.

    Files are safetensors of diffusers (one tensor, named as the token), of kohya and A1111 (`emb_params`) and of SDXL
    (`clip_l` and `clip_g`), and A1111's PNG. InputError says what is wrong with a file, and the way out.
    """
    path = place(embedding.path, EMBEDDINGS)
    if path.is_dir():
        raise InputError(f"--embedding {embedding.path} is a folder; name a safetensors file in it")
    state: tuple[int, ...] = ()
    if path.exists():  # else reading it says so
        status = path.stat()
        state = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
    return _read(embedding.path, embedding.name, tuple(widths), state)


@lru_cache(maxsize=16)
def _read(text: str, name: str | None, widths: tuple[int, ...], state: tuple[int, ...]) -> Vectors:
    """Reads an embedding; state: of its file, so that a file that has changed is read again."""
    path = place(text, EMBEDDINGS)
    own_name, arrays = _of_picture(path) if path.suffix.lower() in _PICTURES else _of_tensors(path)
    fitting = _fitting(text, arrays, widths)
    name = name or own_name or path.name.removesuffix(path.suffix)
    return Vectors(Embedding(text, name, sha256(path)), fitting)


def _of_tensors(path: Path) -> tuple[str | None, dict[str, mx.array]]:
    """Returns the name that a safetensors file has for its embedding, if any, and its tensors."""
    entries = {tensor.name: tensor for tensor in tensors(path)}
    if len(entries) != 1 and entries.keys() != set(SDXL_KEYS):
        keys = ", ".join(sorted(entries)[:4]) or "none"
        raise InputError(
            f"{path} is no textual inversion: it has {len(entries)} tensors ({keys}); --lora is for adapters"
        )
    for tensor in entries.values():
        if tensor.dtype not in TENSOR_DTYPES:
            raise InputError(f"{path} holds numbers of type {tensor.dtype}, not of F32, F16 or BF16")
        if math.prod(tensor.shape) > _LARGEST:
            raise InputError(f"{path} is no textual inversion: {tensor.name} is {tensor.shape}; --lora is for adapters")
    key = next(iter(entries))
    name = None if len(entries) > 1 or key in (*TRAINER_KEYS, *SDXL_KEYS) else key
    return name, {key: tensor.read() for key, tensor in entries.items()}


def _of_picture(path: Path) -> tuple[str | None, dict[str, mx.array]]:
    """Returns the name and the tensor of an embedding in a picture's text."""
    try:
        with Image.open(path) as image:
            text = getattr(image, "text", {}).get(_PICTURE_TEXT)
    except FileNotFoundError:
        raise missing(path) from None
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError):
        raise InputError(f"{path} is no picture that can be read") from None
    if text is None:
        raise InputError(
            f"{path} has no text {_PICTURE_TEXT!r}, in which A1111 keeps an embedding; get the safetensors file"
        )
    try:
        values = json.loads(base64.b64decode(text, validate=True))
        (parameter,) = values["string_to_param"].values()
        array = np.array(parameter["TORCHTENSOR"], np.float32)
        name = values.get("name")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise InputError(f"{path}: its text {_PICTURE_TEXT!r} is damaged; get the safetensors file") from None
    return (name if isinstance(name, str) and name else None), {"emb_params": mx.array(array)}


def _fitting(path: str, arrays: Mapping[str, mx.array], widths: Sequence[int]) -> tuple[mx.array, ...]:
    """Returns the arrays in the order of the text encoders, float32 (k, C)."""
    ordered = [arrays[key] for key in (SDXL_KEYS if len(arrays) > 1 else arrays)]
    matrices = [array.reshape(1, -1) if array.ndim == 1 else array for array in ordered]
    if any(matrix.ndim != 2 for matrix in matrices):
        raise InputError(f"{path} is no textual inversion: a tensor of {ordered[0].ndim} dimensions")
    actual = [matrix.shape[1] for matrix in matrices]
    if actual != list(widths):
        raise InputError(
            f"{path} has vectors of {_numbers(actual)} numbers, but this model's text encoders take "
            f"{_numbers(widths)}; use an embedding made for this family of models"
        )
    counts = {matrix.shape[0] for matrix in matrices}
    if len(counts) > 1:
        raise InputError(f"{path} is damaged: {_numbers(sorted(counts))} vectors for the two text encoders")
    if not 1 <= (count := counts.pop()) <= LONGEST:
        raise InputError(f"{path} has {count} vectors; a chunk of a prompt has room for 1 to {LONGEST}")
    floats = tuple(matrix.astype(mx.float32) for matrix in matrices)
    if not all(math.isfinite(float(mx.abs(matrix).max())) for matrix in floats):
        raise InputError(f"{path} is damaged: it holds numbers that are not finite")
    return floats


def _numbers(values: Sequence[int]) -> str:
    return " and ".join(map(str, values))
