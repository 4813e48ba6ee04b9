"""Noise of each source for many seeds and counts: noise/noise.json lists the draws, noise/noise.f32 has the numbers."""

import json
from pathlib import Path

import numpy as np

from mlx_sd.sampling import noise

_COUNTS = (1, 15, 16, 17, 31, 1605, 16384, 16900, 65536)
_SEEDS = (0, 1, 42, 2**31, 2**32 - 1)
_LONG_SEEDS = (2**32, 2**32 + 1, 0x0123_4567_89AB_CDEF, 2**64 - 1)  # of CUDA's generator alone
_KEPT = 1700  # numbers that are kept of the start and of the end of a draw, beside its sum


def write(folder: Path) -> None:
    """Writes two draws of each size, and draws of mixed sizes from one stream."""
    home = folder / "noise"
    home.mkdir(parents=True, exist_ok=True)
    streams, numbers = [], []
    for source in ("numpy", "torch", "cuda"):
        for seed in _SEEDS + (_LONG_SEEDS if source == "cuda" else ()):
            for counts in [*((count, count) for count in _COUNTS), (3, 16, 1, 5, 20, 7)]:
                draw = noise.generator(source, seed)
                values = np.concatenate([draw((count,)) for count in counts])
                ends = np.concatenate([values[:_KEPT], values[-_KEPT:]])
                streams.append(
                    {
                        "source": source,
                        "seed": str(seed),  # JSON's numbers are not exact beyond 2^53
                        "counts": counts,
                        "offset": sum(map(len, numbers)),
                        "kept": min(_KEPT, len(values)),
                        "sum": float(np.sum(values, dtype=np.float64)),
                    }
                )
                numbers.append(ends)
    (home / "noise.json").write_text(json.dumps(streams))
    (home / "noise.f32").write_bytes(np.concatenate(numbers).astype("<f4").tobytes())
