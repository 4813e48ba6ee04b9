"""The settings of a request about its prompts: how they are read, and what goes to the UNet beside them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from . import request_values
from .prompts.style_names import A1111, PROMPT_STYLES
from .setting import setting

if TYPE_CHECKING:
    from .prompts.embeddings import Embedding


_second = partial(setting, None, metavar="TEXT", always_recorded=False, empty=True)
_sdxl_size = partial(
    setting,
    None,
    kind=object,
    parse=request_values.parse_pair,
    to_json=request_values.pair_to_json,
    metavar="WIDTHxHEIGHT",
    always_recorded=False,
)


@dataclass(frozen=True, kw_only=True)
class PromptSettings:
    """Holds the style of prompts, the embeddings that they may use, and what SDXL takes beside a prompt."""

    prompt_style: str = setting(
        A1111,
        "how weights and edits in prompts are written, as in A1111's web UI, ComfyUI or compel; plain has none "
        f"(default {A1111})",
        choices=PROMPT_STYLES,
        metavar="STYLE",
        aliases="prompt-parser emphasis weighting prompt-weighting",
        values={"automatic1111": "a1111", "webui": "a1111", "comfyui": "comfy", "diffusers": "plain", "none": "plain"},
    )
    embeddings: tuple[Embedding, ...] = request_values.entries_setting(
        ".prompts.embeddings",
        "Embedding",
        "a textual inversion that prompts use by its name: a safetensors file, or A1111's PNG; may be repeated",
        flag="--embedding",
        metavar="PATH[:NAME]",
        aliases="embeddings textual-inversion ti embd",
        false_friends={"embeddings-dir": "name each file: --embedding {value}/NAME.safetensors"},
        always_recorded=False,
    )
    prompt_2: str | None = _second(
        "for SDXL's second text encoder (default: the prompt)", aliases="prompt2 style-prompt"
    )
    negative_2: str | None = _second(
        "for SDXL's second text encoder (default: the negative prompt)", aliases="negative-prompt-2 negative-prompt2"
    )
    original_size: tuple[int, int] | None = _sdxl_size(
        "the size that SDXL takes the picture for; a small one looks blurred (default: the picture's)"
    )
    target_size: tuple[int, int] | None = _sdxl_size("the size that SDXL aims at (default: the picture's)")
    crop: tuple[int, int] | None = _sdxl_size(
        "the corner at which SDXL takes the picture as cropped, from the left and from the top (default 0,0)",
        metavar="X,Y",
        aliases="crops-coords-top-left crop-coords",
    )
