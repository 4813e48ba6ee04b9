"""The checkpoints that are a part of this package."""

from pathlib import Path

TINY = Path(__file__).parent.parent / "tiny"
EMBEDDED = {  # by their names
    "tiny": TINY,
    "tiny-classes": TINY.with_name("tiny_classes"),
    "tiny-tokens": TINY.with_name("tiny_tokens"),
}

# Hashes of embedded checkpoints that earlier versions shipped: pictures made with them name "tiny" as their model
FORMER = {"cd6cd610170d": "the first edition of the embedded checkpoint, of 128 pixels, which is no longer shipped"}
