"""The folder of one network on its own, beside any model: network.json and its weights."""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..core.errors import InputError
from ..core.files import read_json, tensors
from .network_names import JSON

FORMAT, VERSION = "mlx-sd network", 1


class NetworkFolder(NamedTuple):
    """A converted network: where its weights lie, as `part`.safetensors, and its Hugging Face config."""

    folder: Path
    part: str
    config: Mapping[str, Any]
    hash: str  # 12 digits that tell weights apart

    @property
    def numbers(self) -> int:
        """Returns how many numbers the weights are, from the header of their file."""
        return sum(math.prod(tensor.shape) for tensor in tensors(self.folder / f"{self.part}.safetensors"))


def read_network_json(folder: Path) -> NetworkFolder:
    """Reads a folder's network.json; InputError where this version cannot read it."""
    about = read_json(folder / JSON)
    if (about.get("format"), about.get("version")) != (FORMAT, VERSION):
        raise InputError(f"{folder / JSON} is not of the format {FORMAT} {VERSION}; remove {folder} and run again")
    part, digests = str(about["part"]), json.dumps(sorted(about["source"]["sha256"].items()))
    return NetworkFolder(folder, part, about["config"], hashlib.sha256(digests.encode()).hexdigest()[:12])
