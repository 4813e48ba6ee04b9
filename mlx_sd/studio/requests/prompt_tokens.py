"""The tokens of a prompt, chunk by chunk, with their weights: what the page shows beside it. Nothing is computed."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ... import resolve
from ...checkpoint.model_folder import network_configs, read_model_json
from ...core.embedded import EMBEDDINGS, place
from ...core.errors import InputError
from ...core.files import read_json, tensors
from ...networks.configs import TextConfig
from ...prompts import script
from ...prompts.chunks import Chunk
from ...prompts.splitting import Splitter
from ...prompts.styles import STYLES
from ...prompts.tokenizer import Tokenizer
from ...request import STEPS, Request

_KEPT = 8  # tokenizers in memory


@dataclass(frozen=True)
class _Counted:
    """An embedding, as far as splitting needs it."""

    tokens: int


def of(request: Request) -> dict[str, Any]:
    """Returns the chunks of a request's prompt and negative prompt, by the first text encoder's tokenizer.

    A prompt that is not there, or of a model whose tokenizer cannot be read without converting it, is None. InputError
    where a prompt makes no sense.
    """
    folder = _tokenizer_folder(request.model)
    if folder is None:
        return {"prompt": None, "negative": None}
    splitter = Splitter(_tokenizer(*folder), STYLES[request.prompt_style], _embeddings(request))
    steps = request.steps or STEPS
    return {
        "prompt": None if request.prompt is None else _chunks(request.prompt, request, splitter, steps, True),
        "negative": None if request.negative is None else _chunks(request.negative, request, splitter, steps, False),
    }


def _chunks(text: str, request: Request, splitter: Splitter, steps: int, composes: bool) -> dict[str, Any]:
    """Returns the chunks of all texts that a prompt has at its first step."""
    parts = [
        part
        for version in script.read(text, request.prompt_style, steps, composes=composes).at(1)
        for part in STYLES[request.prompt_style].parts(version)
    ]
    chunks = [chunk for part in parts for sections in part.blend.texts for chunk in splitter.chunks(sections)]
    return {"chunks": [_chunk(chunk, splitter.tokenizer) for chunk in chunks]}


def _chunk(chunk: Chunk, tokenizer: Tokenizer) -> dict[str, Any]:
    weights = chunk.weights[1 : chunk.length + 1]
    tokens = [
        {"text": word, "weight": round(weight, 4)} for word, weight in zip(chunk.words(tokenizer), weights, strict=True)
    ]
    return {"length": chunk.length, "room": tokenizer.length - 2, "tokens": tokens}


def _tokenizer_folder(model: str) -> tuple[Path, int] | None:
    """Returns the folder of a model's tokenizer and the tokens of a chunk; None where there is none to be read."""
    part = "text_encoder"
    if (folder := resolve.converted(model)) is not None:
        configs = network_configs(read_model_json(folder))
        part = part if part in configs else f"{part}_2"
        if part not in configs:
            return None
        config = configs[part]
    else:
        folder = Path(model)
        if not (folder / part / "config.json").is_file():
            return None
        config = read_json(folder / part / "config.json")
    home = folder / part.replace("text_encoder", "tokenizer")
    return (home, TextConfig.from_hf(config).tokens) if home.is_dir() else None


@lru_cache(maxsize=_KEPT)
def _tokenizer(folder: Path, length: int) -> Tokenizer:
    return Tokenizer.load(folder, length)


def _embeddings(request: Request) -> dict[str, _Counted]:
    """Returns the embeddings of a request by their names, with their tokens as the headers of their files say."""
    counted = {}
    for embedding in request.embeddings:
        shapes = [tensor.shape for tensor in tensors(place(embedding.path, EMBEDDINGS))]
        if not shapes or len(shapes[0]) not in (1, 2):
            raise InputError(f"the embedding {embedding.name} is no textual inversion")
        counted[embedding.name or ""] = _Counted(shapes[0][0] if len(shapes[0]) == 2 else 1)
    return counted
