"""A small byte-pair encoding in CLIP's format, learned from captions."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

from .data import training_scenes
from .scenes import caption
from .stages import Plan, say

CAPTIONS = 20_000  # whatever the number of pictures: the vocabulary must cover the domain
SEED = 5
END_OF_WORD = "</w>"
START_TOKEN, END_TOKEN = "<|startoftext|>", "<|endoftext|>"
SPECIAL_TOKENS = {
    "bos_token": START_TOKEN,
    "eos_token": END_TOKEN,
    "unk_token": END_TOKEN,
    "pad_token": END_TOKEN,
}
TOKENIZER_CONFIG = {
    "model_max_length": 77,
    "do_lower_case": True,
    **SPECIAL_TOKENS,
    "tokenizer_class": "CLIPTokenizer",
    "add_prefix_space": False,
    "errors": "replace",
}


def byte_symbols() -> dict[int, str]:
    """A printable character for each byte, in the order of CLIP's vocabulary (GPT-2's `bytes_to_unicode`)."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    symbols = {byte: chr(byte) for byte in printable}
    for extra, byte in enumerate(byte for byte in range(256) if byte not in symbols):
        symbols[byte] = chr(256 + extra)
    return symbols


def learn_merges(counts: Counter[str]) -> list[tuple[str, str]]:
    """Merge the most frequent neighbours, again and again, until every word in `counts` is one token."""
    symbols = byte_symbols()
    spelled = {}
    for word in counts:
        *body, last = (symbols[byte] for byte in word.encode())
        spelled[word] = [*body, last + END_OF_WORD]
    merges: list[tuple[str, str]] = []
    while True:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, tokens in spelled.items():
            for pair in pairwise(tokens):
                pairs[pair] += counts[word]
        if not pairs:
            return merges
        best = pairs.most_common(1)[0][0]
        merges.append(best)
        spelled = {word: _merge(tokens, best) for word, tokens in spelled.items()}


def _merge(tokens: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    i = 0
    while i < len(tokens):
        if tuple(tokens[i : i + 2]) == pair:
            merged.append(pair[0] + pair[1])
            i += 2
        else:
            merged.append(tokens[i])
            i += 1
    return merged


def train(plan: Plan, out: Path) -> None:
    """Write vocab.json, merges.txt and the two configs into the folder `out`."""
    rng = random.Random(SEED)
    counts: Counter[str] = Counter()
    for scene in training_scenes(CAPTIONS):
        counts.update(re.findall(r"[\w]+|[^\s\w]+", caption(scene, rng)))
    merges = learn_merges(counts)
    letters = list(byte_symbols().values())
    vocabulary = [
        *letters,
        *(c + END_OF_WORD for c in letters),
        *(a + b for a, b in merges),
        START_TOKEN,
        END_TOKEN,
    ]
    out.mkdir()
    numbered = {token: index for index, token in enumerate(vocabulary)}
    (out / "vocab.json").write_text(json.dumps(numbered, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges)]
    (out / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (out / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG, indent=2), encoding="utf-8")
    (out / "special_tokens_map.json").write_text(json.dumps(SPECIAL_TOKENS, indent=2), encoding="utf-8")
    say(f"tokenizer: {len(vocabulary)} tokens for {len(counts)} words")
