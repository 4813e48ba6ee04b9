"""The settings of a request that say how its prompts are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import request_values
from .prompts.style_names import A1111, PROMPT_STYLES
from .setting import setting

if TYPE_CHECKING:
    from .prompts.embeddings import Embedding


@dataclass(frozen=True, kw_only=True)
class PromptSettings:
    """Holds the style of prompts, and the embeddings that they may use."""

    prompt_style: str = setting(
        A1111,
        "how weights and edits in prompts are written, as in A1111's web UI, ComfyUI or compel; plain has none "
        f"(default {A1111})",
        choices=PROMPT_STYLES,
        metavar="STYLE",
        aliases="prompt-parser emphasis weighting prompt-weighting",
        values={"automatic1111": "a1111", "webui": "a1111", "comfyui": "comfy", "diffusers": "plain", "none": "plain"},
    )
    embeddings: tuple[Embedding, ...] = setting(
        (),
        "a textual inversion that prompts use by its name: a safetensors file, or A1111's PNG; may be repeated",
        kind=object,
        parse=request_values.parse_embeddings,
        to_json=request_values.embeddings_to_json,
        from_json=request_values.embeddings_from_json,
        flag="--embedding",
        repeat=True,
        metavar="PATH[:NAME]",
        aliases="embeddings textual-inversion ti embd",
        false_friends={"embeddings-dir": "name each file: --embedding {value}/NAME.safetensors"},
        always_recorded=False,
    )
