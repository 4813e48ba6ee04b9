"""CLIP's byte-pair tokenizer, over the `tokenizers` library, and long prompts in chunks."""

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

from ..core.errors import InputError
from ..core.files import read_json

# OpenAI CLIP's pattern: special tokens, English contractions, words, single digits, runs of anything else.
_PATTERN = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
SPECIAL = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}


class Tokenizer:
    """Text -> ids, exactly as transformers' CLIPTokenizer."""

    def __init__(self, backend: Backend, start: int, end: int, pad: int, length: int):
        self._backend, self.start, self.end, self.pad, self.length = backend, start, end, pad, length

    @classmethod
    def load(cls, folder: Path, length: int = 77) -> "Tokenizer":
        """Reads a tokenizer folder: vocab.json and merges.txt, or tokenizer.json alone. `length`: tokens a chunk."""
        vocabulary, merges = bpe(folder)
        special = _special(folder)
        for token in special.values():
            if token not in vocabulary:
                raise InputError(f"{folder}: the special token {token!r} is not in the vocabulary")
        end = special["eos_token"]
        backend = Backend(BPE(vocab=vocabulary, merges=merges, end_of_word_suffix="</w>", unk_token=end))
        backend.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
        )
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_PATTERN), behavior="removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
        backend.add_special_tokens([AddedToken(t, normalized=False) for t in special.values()])
        return cls(backend, vocabulary[special["bos_token"]], vocabulary[end], vocabulary[special["pad_token"]], length)

    def encode(self, text: str) -> list[int]:
        """Ids of the text between start and end token, cut at `length`, not padded."""
        return [self.start, *self._ids(text)[: self.length - 2], self.end]

    def chunks(self, text: str) -> list[list[int]]:
        """The whole text as chunks of `length` ids, each between start and end token and padded; at least one."""
        ids, size = self._ids(text), self.length - 2
        pieces = [ids[i : i + size] for i in range(0, len(ids), size)] or [[]]
        return [[self.start, *p, self.end] + [self.pad] * (size - len(p)) for p in pieces]

    def _ids(self, text: str) -> list[int]:
        return list(self._backend.encode(text, add_special_tokens=False).ids)


def bpe(folder: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The vocabulary (token -> id) and the merges, in order, of a tokenizer folder."""
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        vocabulary = read_json(folder / "vocab.json")
        lines = (folder / "merges.txt").read_text(encoding="utf-8", errors="replace").splitlines()
        pairs = [tuple(line.split()) for line in lines if line.strip() and not line.startswith("#version")]
    elif (folder / "tokenizer.json").is_file():
        model = read_json(folder / "tokenizer.json").get("model")
        if not isinstance(model, dict) or not {"vocab", "merges"} <= model.keys():
            raise InputError(f"{folder}/tokenizer.json is not of the byte-pair kind that CLIP has")
        vocabulary = model["vocab"]
        pairs = [tuple(m.split() if isinstance(m, str) else m) for m in model["merges"]]
    else:
        raise InputError(f"{folder} has neither vocab.json with merges.txt nor tokenizer.json")
    merges = [(p[0], p[1]) for p in pairs if len(p) == 2]
    if len(merges) != len(pairs):
        raise InputError(f"{folder}: a merge that is not a pair of tokens")
    return vocabulary, merges


def _special(folder: Path) -> dict[str, str]:
    found = dict(SPECIAL)
    for name in ("special_tokens_map.json", "tokenizer_config.json"):  # the later decides
        if (folder / name).is_file():
            values: dict[str, Any] = read_json(folder / name)
            for kind in ("bos_token", "eos_token", "pad_token"):
                token = values.get(kind)
                if token is not None:
                    found[kind] = token["content"] if isinstance(token, dict) else token
    found.setdefault("pad_token", found["eos_token"])
    return found
