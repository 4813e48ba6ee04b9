"""CLIP's byte-pair tokenizer, built on the `tokenizers` library; it splits long prompts into chunks."""

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
    """Turns text into token ids, exactly as transformers' CLIPTokenizer."""

    def __init__(self, backend: Backend, start: int, end: int, pad: int, length: int):
        """start, end, pad: ids of the special tokens. length: tokens of a chunk, start and end included."""
        self._backend, self.start, self.end, self.pad, self.length = backend, start, end, pad, length

    @classmethod
    def load(cls, folder: Path, length: int = 77) -> "Tokenizer":
        """Reads a tokenizer folder: vocab.json and merges.txt, or tokenizer.json alone.

        length: tokens of a chunk. InputError for a folder with neither, or files that do not fit together.
        """
        vocabulary, merges = bpe(folder)
        tokens = _special_tokens(folder)
        for token in tokens.values():
            if token not in vocabulary:
                raise InputError(f"{folder}: the special token {token!r} is not in the vocabulary")
        start, end, pad = tokens["bos_token"], tokens["eos_token"], tokens["pad_token"]
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
        backend.add_special_tokens([AddedToken(token, normalized=False) for token in tokens.values()])
        return cls(backend, vocabulary[start], vocabulary[end], vocabulary[pad], length)

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text between the start and the end token, cut at `length`, not padded."""
        return [self.start, *self.ids(text)[: self.length - 2], self.end]

    def chunks(self, text: str) -> list[list[int]]:
        """Splits the ids of a text of any length into chunks of `length` ids; an empty text is one chunk.

        Each chunk has a start token, as many ids as fit, an end token, and padding.
        """
        ids, size = self.ids(text), self.length - 2
        chunks = [ids[i : i + size] for i in range(0, len(ids), size)] or [[]]
        return [[self.start, *chunk, self.end] + [self.pad] * (size - len(chunk)) for chunk in chunks]

    def ids(self, text: str) -> list[int]:
        """Returns the ids of a text of any length, without special tokens around them."""
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def token(self, word: str) -> int | None:
        """Returns the id of a word that is one token of the vocabulary; None for any other."""
        token: int | None = self._backend.token_to_id(f"{word}</w>")
        return token

    def text_of(self, token: int) -> str:
        """Returns the text of a token as the vocabulary has it, `</w>` at the end of a word."""
        return self._backend.id_to_token(token) or ""


def bpe(folder: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Reads the vocabulary (token -> id) and the merges (pairs of tokens, in order) of a tokenizer folder."""
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        vocabulary = read_json(folder / "vocab.json")
        lines = (folder / "merges.txt").read_text(encoding="utf-8", errors="replace").splitlines()
        pairs = [tuple(line.split()) for line in lines if line.strip() and not line.startswith("#version")]
    elif (folder / "tokenizer.json").is_file():
        model = read_json(folder / "tokenizer.json").get("model")
        if not isinstance(model, dict) or not {"vocab", "merges"} <= model.keys():
            raise InputError(f"{folder}/tokenizer.json is not of the byte-pair kind that CLIP has")
        vocabulary = model["vocab"]
        pairs = [tuple(merge.split() if isinstance(merge, str) else merge) for merge in model["merges"]]
    else:
        raise InputError(f"{folder} has neither vocab.json with merges.txt nor tokenizer.json")
    merges = [(pair[0], pair[1]) for pair in pairs if len(pair) == 2]
    if len(merges) != len(pairs):
        raise InputError(f"{folder}: a merge that is not a pair of tokens")
    return vocabulary, merges


def _special_tokens(folder: Path) -> dict[str, str]:
    """The texts of the special tokens; CLIP's own where the folder's files do not name them."""
    tokens = dict(SPECIAL)
    for name in ("special_tokens_map.json", "tokenizer_config.json"):  # the second overrules the first
        if (folder / name).is_file():
            values: dict[str, Any] = read_json(folder / name)
            for role in ("bos_token", "eos_token", "pad_token"):
                token = values.get(role)
                if token is not None:
                    tokens[role] = token["content"] if isinstance(token, dict) else token
    tokens.setdefault("pad_token", tokens["eos_token"])
    return tokens
