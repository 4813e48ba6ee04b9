"""What a file that is no safetensors file is instead, told from its first bytes, and the way out for each."""

import json
import re
from pathlib import Path

from . import terminal

_HEAD = 256  # bytes that are looked at
PICKLE = (
    "is a pickle, which can run code when opened; get the safetensors version, or convert it in a sandbox with "
    "safetensors' convert.py"
)
GGUF = "is a GGUF file, which is not supported; get the safetensors version"


# How a file of another format begins -> the end of an error whose subject is the file. The first that fits decides.
_FORMATS = (
    (
        rb"version https://git-lfs",
        "is a Git LFS pointer, not the file itself; run `git lfs pull` in its folder, or download it anew",
    ),
    (
        rb"\s*<(!doctype|html|head|\?xml|!--)",
        "is a web page, for example an error or a login page saved under this name; download the file anew",
    ),
    (rb"gguf", GGUF),
    (rb"pk\x03\x04|\x80[\x02-\x05]", PICKLE),
    (rb"\x89PNG|\xff\xd8\xff|gif8|riff....webp", "is a picture, not a safetensors file"),
    (rb"\x1f\x8b|7z\xbc\xaf|rar!|\xfd7zxz", "is a compressed archive; unpack it and give the file inside"),
    (rb"\x08[\x01-\x14](\x12.{1,40}\x1a|:|\x42|\x1a)", "looks like an ONNX model; get the safetensors version"),
    (rb"\x89hdf", "is an HDF5 (Keras) file; get the safetensors version"),
)


def problem(file: Path) -> str | None:
    """Returns the end of the error, "is ...; way out", for a file that is no whole safetensors file.

    None where nothing tells what is wrong. Raises OSError where the file cannot be read.
    """
    with file.open("rb") as f:
        head = f.read(_HEAD)
    if not head:
        return "is damaged or incomplete: it is empty; download it again"
    if len(head) < 9:
        return f"is damaged or incomplete: it has {len(head)} bytes; download it again"
    if is_header(head):
        return _cut_off(file, file.stat().st_size)
    if sentence := other_format(file):
        return sentence
    text = _text(head)
    return text and f"holds a text ({text!r}), not tensors, as after a download that failed; download it again"


def other_format(file: Path) -> str | None:
    """Returns the end of the error for a file of another format; None for safetensors and for what is not known.

    Raises OSError where the file cannot be read.
    """
    with file.open("rb") as f:
        head = f.read(_HEAD)
    if is_header(head):
        return None
    return next((text for start, text in _FORMATS if re.match(start, head, re.DOTALL | re.IGNORECASE)), None)


def is_header(head: bytes) -> bool:
    """Returns whether a file begins as safetensors files do: the length of a JSON object, and the object."""
    return head[8:9] == b"{"


def _text(head: bytes) -> str | None:
    """Returns the first words, where all of the beginning is printable ASCII."""
    try:
        text = head.decode("ascii")
    except UnicodeDecodeError:
        return None
    words = " ".join(text.split())
    return f"{words[:40]}..." if len(words) > 40 else words if words.isprintable() and words else None


def _cut_off(file: Path, size: int) -> str | None:
    """Returns how much is missing from a safetensors file whose header says how long it is."""
    with file.open("rb") as f:
        length = int.from_bytes(f.read(8), "little")
        if 8 + length > size:
            return None if length > 100e6 else "is damaged or incomplete: it ends in its header; download it again"
        try:
            header = json.loads(f.read(length))
            end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
            return None
    if not isinstance(end, int) or not size < 8 + length + end < 1e15:
        return None
    return (
        f"is damaged or incomplete: it has {terminal.size(size)} of {terminal.size(8 + length + end)}, as if its "
        "download had stopped; download it again"
    )
