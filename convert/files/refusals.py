"""Errors that several readers raise: pickled weights and types of numbers that are not read; long lists of names."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from mlx_sd.core.errors import InputError
from mlx_sd.core.file_formats import PICKLE
from mlx_sd.core.files import TENSOR_DTYPES, Tensor

PICKLE_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")


def is_pickle(name: str) -> bool:
    """Returns whether a file of this name is a pickle by its suffix."""
    return Path(name).suffix in PICKLE_SUFFIXES


def pickle_error(path: Path | str, files: Sequence[str] = ()) -> InputError:
    """Returns the error for a pickle, or for a folder or repository that holds only the pickles `files`."""
    if not files:
        return InputError(f"{path} {PICKLE}")
    return InputError(f"{path} has only pickled weights ({first(files)}), {PICKLE.partition(', ')[2]}")


def check_dtypes(tensors: Iterable[Tensor]) -> None:
    """Raises InputError for a tensor whose type of numbers is not read here."""
    for tensor in tensors:
        if tensor.dtype not in TENSOR_DTYPES:
            raise InputError(
                f"{tensor.file}: {tensor.name} is of type {tensor.dtype}; only {', '.join(TENSOR_DTYPES)} are read"
            )


def first(names: Sequence[str], limit: int = 4, separator: str = ", ") -> str:
    """Returns the first `limit` names in one line, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"{separator.join(names[:limit])}{more}"
