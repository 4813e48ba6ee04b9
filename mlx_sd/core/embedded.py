"""The checkpoints that are a part of this package, and the adapters for the first of them."""

from collections.abc import Mapping
from pathlib import Path

from .errors import InputError
from .suggestions import closest

TINY = Path(__file__).parent.parent / "tiny"
EMBEDDED = {  # by their names
    "tiny": TINY,
    "tiny-classes": TINY.with_name("tiny_classes"),
    "tiny-tokens": TINY.with_name("tiny_tokens"),
}


def _adapters(*names: str) -> dict[str, Path]:
    return {f"tiny/{name}": TINY.with_name("tiny_adapters") / f"{name}.safetensors" for name in names}


LORAS, EMBEDDINGS, CONTROLS = _adapters("evening", "four-steps"), _adapters("lilac"), _adapters("edges")
CHECKPOINTS = EMBEDDED | CONTROLS  # what --model and --control take
_OPTIONS = {"--lora": LORAS, "--embedding": EMBEDDINGS, "--control": CONTROLS}

# Hashes of embedded checkpoints that earlier versions shipped: pictures made with them name "tiny" as their model
FORMER = {"cd6cd610170d": "the first edition of the embedded checkpoint, of 128 pixels, which is no longer shipped"}


def place(name: str, parts: Mapping[str, Path]) -> Path:
    """Returns where something lies: one of these parts of the package, or else a path, which need not exist.

    Raises InputError for an adapter of the package that another option takes, and for a name that is nearly one.
    """
    if file := parts.get(name):
        return file
    path = Path(name).expanduser()
    if name.startswith("tiny/") and not path.exists():
        for option, others in _OPTIONS.items():
            if name in others:
                raise InputError(f"{name} is an adapter of another kind; it is given by {option} {name}")
        if match := closest(name, parts):
            raise InputError(f"{name} is no adapter of mlx-sd; did you mean {match}?")
    return path
