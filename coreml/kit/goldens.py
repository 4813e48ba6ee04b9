"""Goldens of the parts: the token ids of 200 texts, and the noise of the three generators."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlx_sd.prompts.tokenizer import Tokenizer
from mlx_sd.sampling import noise
from mlx_sd.sampling.names import GENERATORS

_TEXTS = Path(__file__).parent / "texts.json"
_SEEDS = (0, 4294967295)  # the least and the highest
_DRAWS = 2  # the first latents, and fresh noise after them
_NOISE_TOLERANCE = 2e-6  # of float32: logarithms and cosines differ in the last digits from system to system


def texts() -> list[str]:
    """Returns 200 texts in many scripts: prompts, signs, composed letters, white space, special tokens, long ones."""
    content: list[str] = json.loads(_TEXTS.read_text(encoding="utf-8"))
    return content


def prompts(tokenizers: Sequence[Tokenizer]) -> dict[str, Any]:
    """Returns the content of prompts.json: each text with its ids for each tokenizer.

    The ids begin with the start token and end with the end token, at most `length` in all; they are not padded.
    """
    return {
        "tokenizers": [{"start": t.start, "end": t.end, "pad": t.pad, "length": t.length} for t in tokenizers],
        "texts": [{"text": text, "ids": [t.encode(text) for t in tokenizers]} for text in texts()],
    }


def write_noise(folder: Path, shape: tuple[int, int, int]) -> dict[str, Any]:
    """Writes the noise of each generator and seed into files; returns the content of noise.json.

    shape: (channels, height, width) of the latents. A file holds two draws one after the other: the first latents and
    the fresh noise that follows them in the same stream.
    """
    files = []
    for name in GENERATORS:
        for seed in _SEEDS:
            draw = noise.generator(name, seed)
            array = np.stack([draw(shape) for _ in range(_DRAWS)])
            file = write_array(folder, f"noise-{name}-{seed}", array)
            files.append({"generator": name, "seed": seed} | file)
    return {"tolerance": _NOISE_TOLERANCE, "noise": files}


def write_array(folder: Path, name: str, array: np.ndarray) -> dict[str, Any]:
    """Writes numbers as little-endian float32 into NAME.f32; returns {"file": ..., "shape": ...}."""
    (folder / f"{name}.f32").write_bytes(np.ascontiguousarray(array, "<f4").tobytes())
    return {"file": f"{name}.f32", "shape": list(array.shape)}
