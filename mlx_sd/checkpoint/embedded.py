"""The checkpoints that are a part of this package."""

from pathlib import Path

TINY = Path(__file__).parent.parent / "tiny"
EMBEDDED = {"tiny": TINY, "tiny-classes": TINY.with_name("tiny_classes")}  # by their names
