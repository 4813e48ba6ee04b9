"""Writes a control network of low rank as Stability's Control-LoRAs are, which ComfyUI and `--control` read.

A layer that the base UNet has too is `NAME.up` and `NAME.down`, whose product is added to the base's weight. All else
is stored as it is: the layers that embed the control image, the convolutions that began at zero, norms and biases.
Names are the original code's, and a tensor without numbers marks the file.
"""

from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx
import numpy as np

from ... import resolve
from ...checkpoint.model_folder import CONTROL
from ...core.errors import InputError
from ...core.suggestions import unknown
from . import safetensors_file
from .base_model import BaseModel
from .lora_file import LowRankWeights, factors
from .safetensors_file import DTYPES, numbers_of
from .training_record import TrainingRecord, describe_control

MARK = "lora_controlnet"


def write(
    path: Path,
    layers: Mapping[str, LowRankWeights],
    parameters: Mapping[str, mx.array],
    names: Mapping[str, str],
    base: BaseModel,
    record: TrainingRecord | None = None,
    *,
    dtype: str = "float16",
    force: bool = False,
) -> str:
    """Writes a Control-LoRA, whole or not at all, and returns the SHA-256 of the file.

    layers: by the layer's path, which is the same in the control network and in the UNet. parameters: all others, by
    their names in the control network. names: `ControlNet.names`. base, record, dtype, force: as of `lora_file.write`.
    The format has no alpha: the factor alpha / rank is in `up`.

    InputError for layers that the base lacks, factors that do not fit, and the errors of `safetensors_file.check`.
    Failure for numbers that are not finite, and where writing fails.
    """
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    safetensors_file.check(path, force)
    arrays: dict[str, np.ndarray] = {MARK: np.zeros(0, DTYPES[dtype])}
    for layer, weights in layers.items():
        if ("unet", layer) not in base.layers:
            raise InputError(f"{layer} is no layer of the UNet of {base.name}, so that nothing can be added to it")
        down, up = factors(weights, base.layers["unet", layer], layer)
        name = resolve.layer_names(CONTROL, names, layer)[1]
        arrays[f"{name}.up"] = numbers_of(up.astype(mx.float32) * (weights.alpha / weights.rank), dtype, layer)
        arrays[f"{name}.down"] = numbers_of(down, dtype, layer)
    for parameter, array in parameters.items():
        layer, _, tensor = parameter.rpartition(".")
        name = resolve.layer_names(CONTROL, names, layer)[1]
        first = array.transpose(0, 3, 1, 2) if array.ndim == 4 else array
        arrays[f"{name}.{tensor}"] = numbers_of(first, dtype, parameter)
    ranks = [(weights.rank, weights.alpha) for weights in layers.values()]
    metadata = describe_control(base, record or TrainingRecord(), path.stem, ranks)
    return safetensors_file.write(path, arrays, metadata, force)
