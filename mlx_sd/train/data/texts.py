"""Encoded captions, cached by content, so that the text encoders run once for each caption."""

from collections.abc import Iterable
from pathlib import Path

import mlx.core as mx

from ...checkpoint.model import Model
from ...core.errors import InputError
from ...prompts.encoding import Encoding, PromptEncoder
from ...prompts.style_names import PLAIN, PROMPT_STYLES
from .array_cache import ArrayCache, Arrays, key_of, network_hash


class TextCache:
    """Encodes captions through a model's text encoders, and keeps the results."""

    def __init__(
        self, model: Model, folder: Path | None = None, *, style: str = PLAIN, clip_skip: int = 0, chunks: int = 1
    ):
        """folder: of the files that keep the results; None keeps them in memory.

        style: in which captions are written. clip_skip: layers to leave out at the end. chunks: of 77 tokens, that all
        captions are lengthened to, so that their shapes are one; `count_chunks` says how many they need. The key of an
        entry is made of the text, its tokens, the encoders' weights and these settings. Raises InputError for a model
        without text encoders and an unknown style.
        """
        if not model.text_encoders:
            raise InputError(f"{model.name} takes no prompt, so it has no captions to encode")
        if style not in PROMPT_STYLES:
            raise InputError(f"unknown prompt style {style!r}; there are {', '.join(PROMPT_STYLES)}")
        pools = model.unet.config.added_time_dims is not None
        self._encoder = PromptEncoder(model.text_encoders, model.tokenizers, style=style, pools=pools)
        self._tokenizers = model.tokenizers
        self._clip_skip, self._chunks, self._zeros = clip_skip, chunks, model.zeros_for_empty
        hashes = [network_hash(network) for network in model.text_encoders]
        specials = [(entry.start, entry.end, entry.pad, entry.length) for entry in model.tokenizers]
        self._settings = style, clip_skip, chunks, pools, hashes, specials
        self._cache = ArrayCache(folder)

    def count_chunks(self, texts: Iterable[str]) -> int:
        """Returns how many chunks the longest of texts fills, at least 1."""
        return max((self._encoder.count_chunks(text) for text in texts), default=1)

    def encode(self, text: str) -> Encoding:
        """Returns context (1, 77 chunks, C) and, of SDXL, pooled (1, P) of a caption.

        Raises InputError for a caption that is longer than `chunks`.
        """
        arrays = self._cache.get(self._key(text), lambda: self._compute(text))
        return Encoding(arrays["context"], arrays.get("pooled"))

    def unconditional(self) -> Encoding:
        """Returns what stands for no caption: zeros where the model takes these, else the encoded empty text."""
        encoding = self.encode("")
        return encoding.zeros() if self._zeros else encoding

    def holds(self, text: str) -> bool:
        """Returns whether a caption is kept, so that no text encoder is needed for it."""
        return self._cache.peek(self._key(text)) is not None

    def _key(self, text: str) -> str:
        return key_of(text, [tokenizer.ids(text) for tokenizer in self._tokenizers], self._settings)

    def _compute(self, text: str) -> Arrays:
        encoder = self._encoder
        if (count := encoder.count_chunks(text)) > self._chunks:
            raise InputError(f"a caption fills {count} chunks of tokens, more than {self._chunks}: {text[:60]}...")
        encoding = encoder.encode(text, self._clip_skip, self._chunks)
        arrays = {"context": encoding.context}
        if encoding.pooled is not None:
            arrays["pooled"] = encoding.pooled
        mx.eval(arrays)
        return arrays
