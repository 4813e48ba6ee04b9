"""The classes of a model that makes pictures of classes instead of prompts, and the network that embeds them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..core.errors import InputError
from .configs import ClassConfig
from .unet_config import UNetConfig

_LISTED = 8  # names of classes in an error message


class ClassEmbedder(nn.Module):
    """A table with a row for each class, which takes the place of a prompt of one token (Rombach et al. 2022)."""

    def __init__(self, config: ClassConfig):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.classes, config.width)

    @property
    def names(self) -> dict[str, str]:
        """Returns this network's layers -> their names in the original checkpoint."""
        return {"embedding": "embedding"}

    def __call__(self, ids: mx.array) -> mx.array:
        """Returns the contexts (B, 1, C) of class ids (B,)."""
        contexts: mx.array = self.embedding(ids)[:, None]
        return contexts


@dataclass(frozen=True)
class Classes:
    """The classes of a checkpoint: how many there are, which of them means none, and their names."""

    rows: int  # ids go from 0 to rows - 1
    null: int | None  # the id that stands for no class; guidance leads away from it
    names: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, unet: UNetConfig, embedder: ClassConfig | None, pipeline: Mapping[str, Any], where: str
    ) -> "Classes | None":
        """Reads the classes of a model from its networks' configs, and `null_class` and `id2label` of model_index.json.

        Returns None for a model without classes. InputError, beginning with `where`, for a null class that does not
        exist or labels that are not an object of ids and names.
        """
        if embedder:
            rows = embedder.classes
        elif unet.class_embedding == "table" and not unet.takes_context:
            rows = unet.class_inputs
        else:
            return None
        null = pipeline.get("null_class")
        if null is not None and (not isinstance(null, int) or not 0 <= null < rows):
            raise InputError(f"{where}: null_class = {null!r} is no class; there are 0 to {rows - 1}")
        labels = pipeline.get("id2label") or {}
        if not isinstance(labels, dict) or not all(str(i).isdigit() for i in labels):
            raise InputError(f"{where}: id2label must be an object from ids of classes to their names")
        return cls(rows, null, {int(i): str(name) for i, name in labels.items()})

    def find(self, label: int | str) -> int:
        """Returns the id of a class by its number or by one of its names; InputError lists the classes there are."""
        text = str(label).strip()
        if re.fullmatch(r"-?\d+", text):
            number = int(text)
            if 0 <= number < self.rows:
                return number
            raise InputError(f"there is no class {number} in this model; give one {self}")
        for number, names in self.names.items():
            if text.lower() in (names.lower(), *(name.strip().lower() for name in names.split(","))):
                return number
        examples = ", ".join(list(self.names.values())[:_LISTED]) + (" ..." if len(self.names) > _LISTED else "")
        hint = f"among its names are {examples}" if self.names else "this model does not name them"
        raise InputError(f"there is no class {text!r}; give one {self} ({hint})")

    def __str__(self) -> str:
        """Returns the range of ids, for messages."""
        return f"from 0 to {self.rows - 1}" + (f", {self.null} being none" if self.null is not None else "")
