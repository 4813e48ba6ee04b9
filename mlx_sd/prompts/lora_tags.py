"""LoRAs named in prompts as in A1111: <lora:name:0.8>."""

import re
from typing import NamedTuple

from ..core.errors import InputError

TAG = re.compile(r"<(?:lora|lyco):(?P<name>[^:<>]+)(?P<scales>(?::[^:<>]*)*)>")


class Tag(NamedTuple):
    """A LoRA by its name, which is that of a file in the folder of LoRAs, and its scale."""

    name: str
    scale: float


def taken_out(prompt: str) -> tuple[str, tuple[Tag, ...]]:
    """Returns a prompt without its tags, and the tags; InputError where a scale is no number.

    The text encoder and the UNet have one scale here: <lora:name:0.8:0.5>, with two, is an error.
    """
    tags = tuple(_tag(match) for match in TAG.finditer(prompt))
    return (TAG.sub("", prompt).strip() if tags else prompt), tags


def _tag(match: "re.Match[str]") -> Tag:
    texts = match["scales"].split(":")[1:]
    try:
        scales = {float(text) for text in texts} or {1.0}
    except ValueError:
        raise InputError(f"{match[0]} in the prompt: the scale is a number, as in <lora:{match['name']}:0.8>") from None
    if len(scales) > 1:
        raise InputError(
            f"{match[0]} in the prompt has a scale for the text encoder and another one for the UNet; here one scale "
            f"is of both, <lora:{match['name']}:{texts[0]}>"
        )
    return Tag(match["name"].strip(), scales.pop())
