"""How many tokens a prompt has, as the first text encoder of its model counts them."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from ...core.errors import InputError
from ...prompts.splitting import Splitter
from ...prompts.styles import STYLES
from ...prompts.tokenizer import Tokenizer
from ...request import Request
from ...resolve import model_folder


def count_of(request: Request) -> int:
    """Returns the number of tokens of a request's prompt, special ones not counted; 0 where the model reads none.

    The model must be converted, as it is once a picture was made with it.
    """
    if not request.prompt:
        return 0
    tokenizer = _tokenizer(model_folder(request.model) / "tokenizer")
    if tokenizer is None:
        return 0
    style = STYLES[request.prompt_style]
    splitter = Splitter(tokenizer, style, {})
    texts = [text for part in style.parts(request.prompt) for text in part.blend.texts]
    return sum(chunk.length for text in texts for chunk in splitter.chunks(text))


@lru_cache(maxsize=4)
def _tokenizer(folder: Path) -> Tokenizer | None:
    try:
        return Tokenizer.load(folder)
    except InputError:
        return None
