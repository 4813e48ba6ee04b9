"""The float16 conversions of NumPy and the SHA-256 of Python: numbers/halves.f32, rounded.*, hashes.json."""

import hashlib
import json
from pathlib import Path

import numpy as np


def write(folder: Path) -> None:
    """Writes the floats of all halves, halves of floats, and hashes of messages of many lengths."""
    home = folder / "numbers"
    home.mkdir(parents=True, exist_ok=True)
    halves = np.arange(65536, dtype=np.uint16).view(np.float16)
    (home / "halves.f32").write_bytes(halves.astype("<f4").tobytes())
    # Every finite half, the middle between it and the next one, and the floats on both sides of the middle.
    low = np.arange(0x7BFF, dtype=np.uint16).view(np.float16).astype(np.float32)
    middle = (low.astype(np.float64) + np.roll(low, -1).astype(np.float64)).astype(np.float32)[:-1] / np.float32(2)
    beside = [np.nextafter(middle, np.float32(side)) for side in (-np.inf, np.inf)]
    extremes = np.array([65504, 65519.996, 65520, 65536, 1e38, np.inf, 1e-45, 2**-25, 2**-24, 2**-14], np.float32)
    floats = np.concatenate([middle, *beside, extremes])
    floats = np.concatenate([floats, -floats])
    (home / "rounded.f32").write_bytes(floats.astype("<f4").tobytes())
    with np.errstate(over="ignore"):
        (home / "rounded.u16").write_bytes(floats.astype(np.float16).view(np.uint16).astype("<u2").tobytes())
    # A message of a length n has the bytes (7 i + n) mod 256.
    lengths = [*range(0, 200), 1000, 4095, 4096, 65_537]
    hashes = {str(n): hashlib.sha256(bytes((7 * i + n) % 256 for i in range(n))).hexdigest() for n in lengths}
    (home / "hashes.json").write_text(json.dumps(hashes))
