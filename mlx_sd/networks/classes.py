"""The classes that a model without a prompt makes pictures of."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..core.errors import InputError
from .configs import ClassConfig
from .unet_config import UNetConfig


class ClassEmbedder(nn.Module):
    """Rows of a table, each in the place of a prompt of one token (Rombach et al. 2022, class-conditional LDM)."""

    def __init__(self, config: ClassConfig):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.classes, config.width)

    @property
    def names(self) -> dict[str, str]:
        """This network's layers -> their names in the original checkpoint."""
        return {"embedding": "embedding"}

    def __call__(self, ids: mx.array) -> mx.array:
        """Contexts (B, 1, C) of class ids (B,)."""
        contexts: mx.array = self.embedding(ids)[:, None]
        return contexts


@dataclass(frozen=True)
class Classes:
    """What a checkpoint says of its classes."""

    rows: int  # ids go from 0 to rows - 1
    null: int | None  # the id that means no class, which guidance steers away from
    names: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, unet: UNetConfig, embedder: ClassConfig | None, pipeline: Mapping[str, Any], where: str
    ) -> "Classes | None":
        """Those of a model, by its networks and by `null_class` and `id2label` of model_index.json; None without any.

        InputError where the null class is none of them.
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

    def find(self, asked: int | str) -> int:
        """The id of a class by its number, or by one of the names it has; InputError says what there is."""
        text = str(asked).strip()
        if re.fullmatch(r"-?\d+", text):
            number = int(text)
            if 0 <= number < self.rows:
                return number
            raise InputError(f"there is no class {number} in this model; give one {self}")
        for number, names in self.names.items():
            if text.lower() in (names.lower(), *(name.strip().lower() for name in names.split(","))):
                return number
        some = ", ".join(list(self.names.values())[:8]) + (" ..." if len(self.names) > 8 else "")
        known = f"among its names are {some}" if self.names else "this model does not name them"
        raise InputError(f"there is no class {text!r}; give one {self} ({known})")

    def __str__(self) -> str:
        """The range of ids."""
        return f"from 0 to {self.rows - 1}" + (f", {self.null} being none" if self.null is not None else "")
