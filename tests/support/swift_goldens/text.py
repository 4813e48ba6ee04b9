"""Token ids of many texts, chunks of prompts and weighted hidden states, as the Python side has them.

text/NAME/ has vocab.json, merges.txt and its special tokens, tokenizer.json; NAME/ids.json has the ids of texts. `tiny`
is the embedded checkpoint's vocabulary, with the ids of every scalar too, and `large` one that is trained here.
text/prompts.json has the chunks of prompts in each style, directions.json prompts that AND joins, weights.json and
weights.f32 hidden states with weights, and forms.json texts in Unicode's normalization form C.
"""

import json
import unicodedata
from pathlib import Path
from random import Random
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_sd.core.embedded import TINY
from mlx_sd.core.errors import InputError
from mlx_sd.prompts import chunks, composition, script
from mlx_sd.prompts.splitting import Splitter
from mlx_sd.prompts.styles import STYLES
from mlx_sd.prompts.tokenizer import Tokenizer, bpe
from tests.support.swift_goldens import text_samples, text_vocabulary

_STYLES = ("a1111", "comfy", "plain")
_PLANES = range(0x40000)  # beyond are no characters but tags and private ones


def write(folder: Path) -> None:
    """Writes all files into folder/text."""
    home = folder / "text"
    texts = text_samples.texts()
    for name, (vocabulary, merges) in {"tiny": bpe(TINY / "tokenizer"), "large": text_vocabulary.trained()}.items():
        (home / name).mkdir(parents=True, exist_ok=True)
        _write_files(home / name, vocabulary, merges)
        first = Tokenizer.load(home / name)
        special = home / name / "special_tokens_map.json"
        special.write_text('{"pad_token": "!"}')
        second = Tokenizer.load(home / name)  # as SDXL's second text encoder pads
        special.unlink()
        tokenizers = [{"start": t.start, "end": t.end, "pad": t.pad, "length": t.length} for t in (first, second)]
        cases = [{"text": text, "ids": [first.ids(text), second.ids(text)]} for text in texts]
        _json(home / name / "tokenizer.json", tokenizers[0])
        _json(home / name / "ids.json", {"tokenizers": tokenizers, "texts": cases})
        if name == "tiny":
            _write_scalars(home / name / "scalars.u16", first)
    tokenizers = [Tokenizer.load(home / "tiny"), Tokenizer.load(home / "large")]
    _json(home / "prompts.json", [_prompt(text, tokenizers) for text in text_samples.prompts()])
    joined = [*text_samples.joined_prompts(), *text_samples.prompts()[:200]]
    _json(
        home / "directions.json",
        [{"text": t, "directions": [list(d) for d in composition.directions(t)]} for t in joined],
    )
    _write_weights(home, tokenizers[0])
    forms = [*texts[:1500], *text_samples.marks()]
    _json(home / "forms.json", [{"text": text, "composed": unicodedata.normalize("NFC", text)} for text in forms])


def _write_files(folder: Path, vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> None:
    """Writes the files as `coreml.export` does."""
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_scalars(file: Path, tokenizer: Tokenizer) -> None:
    """Writes for each scalar: whether Unicode 14 has it, the number of ids of "x" + scalar + "x", and the ids."""
    numbers: list[int] = []
    for scalar in _PLANES:
        category = unicodedata.category(chr(scalar))
        if category in ("Cs", "Co"):
            continue
        ids = tokenizer.ids(f"x{chr(scalar)}x")
        numbers += [int(category != "Cn"), len(ids), *ids]
    file.write_bytes(np.array(numbers, "<u2").tobytes())


def _prompt(text: str, tokenizers: list[Tokenizer]) -> dict[str, Any]:
    """Returns the chunks of a prompt in each style for each tokenizer; None where the text is refused."""
    result: dict[str, Any] = {"text": text, "changes": _changes(text)}
    for name in _STYLES:
        style = STYLES[name]
        result[name] = []
        for tokenizer in tokenizers:
            try:
                ((sections,),) = (part.blend.texts for part in style.parts(text))
                contents = Splitter(tokenizer, style, {}).chunks(sections)
            except InputError:
                contents = []
            if not contents or not np.isfinite(np.float32([chunk.weights for chunk in contents])).all():
                result[name].append(None)  # in Swift a weight that is not finite is refused too
                continue
            # Padding is left out, and weights where all are 1.
            parts = [
                [list(c.ids[: c.length + 2]), [] if set(c.weights) == {1.0} else list(c.weights[: c.length + 2])]
                for c in contents
            ]
            result[name].append([{"ids": ids, "weights": weights} for ids, weights in parts])
    return result


def _changes(text: str) -> bool:
    """Returns whether a prompt in A1111's style has other texts at some steps."""
    versions = script.read(text, "a1111", 20, composes=False).versions
    return [version.text for version in versions[0]] != [text]


def _write_weights(home: Path, tokenizer: Tokenizer) -> None:
    """Writes weighted hidden states: per case those of the encoder, of an empty text, and the weighted ones."""
    random, generator = Random(5), np.random.default_rng(5)
    numbers, cases, channels = [], [], 4
    empty = chunks.empty(tokenizer)
    for name in ("a1111", "comfy", "plain"):
        style = STYLES[name]
        for i, text in enumerate(random.sample(text_samples.weighted_prompts(), 16)):
            ((sections,),) = (part.blend.texts for part in style.parts(text))
            contents = Splitter(tokenizer, style, {}).chunks(sections)
            shape = (len(contents), tokenizer.length, channels)
            hidden = (generator.standard_normal(shape) + (i % 3) * 0.3).astype(np.float32)
            if i == 4:  # a mean of almost 0, which is not restored
                hidden -= hidden.mean(axis=(1, 2), keepdims=True)
            base = generator.standard_normal((1, tokenizer.length, channels)).astype(np.float32)

            def encode(sequence: Any, visible: Any, hidden: Any = hidden, base: Any = base) -> mx.array:
                return mx.array(base if len(sequence) == 1 and sequence[0] is empty else hidden)

            weighted = np.array(style.weigh(contents, encode, empty), np.float32)
            cases.append({"text": text, "style": name, "chunks": len(contents), "offset": sum(map(len, numbers))})
            numbers += [hidden.ravel(), base.ravel(), weighted.ravel()]
    _json(home / "weights.json", {"channels": channels, "cases": cases})
    (home / "weights.f32").write_bytes(np.concatenate(numbers).astype("<f4").tobytes())


def _json(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content), encoding="utf-8")
