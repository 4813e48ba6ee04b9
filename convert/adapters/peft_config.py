"""The config of an adapter's training: PEFT's adapter_config.json, or diffusers' copy of it in a file's metadata."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlx_sd.core.errors import InputError
from mlx_sd.core.files import read_json

PARTS = ("unet", "text_encoder", "text_encoder_2")
PEFT_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"  # beside PEFT's file

_METADATA = "lora_adapter_metadata"
_ALPHAS = {"LORA": "lora_alpha", "LOHA": "alpha", "LOKR": "alpha"}  # type of adapter -> the field that holds alpha
_LARGE = 1e6  # beyond any rank or alpha

Config = Mapping[str, Any]


def read(file: Path, metadata: Mapping[str, str]) -> dict[str | None, dict[str, Any]]:
    """Reads the config of each network, under None where it is for every network; empty where there is none."""
    configs: dict[str | None, dict[str, Any]] = {}
    if file.name == PEFT_FILE and (file.parent / CONFIG_FILE).is_file():
        config = read_json(file.parent / CONFIG_FILE)
        configs = dict.fromkeys((None, *PARTS), config)
    elif _METADATA in metadata:
        try:
            record = json.loads(metadata[_METADATA])
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            raise InputError(f"{file}: its {_METADATA} is no JSON object")
        for part in PARTS:
            fields = {k.removeprefix(f"{part}."): v for k, v in record.items() if k.startswith(f"{part}.")}
            if fields:
                configs[part] = fields
        configs = configs or {None: record, "unet": record}
    for config in configs.values():
        if _type(config) not in _ALPHAS:
            raise InputError(f"{file}: its config says {_type(config)}; supported are {', '.join(_ALPHAS)}")
    return configs


def rank(file: Path, config: Config, layer: str) -> float | None:
    """Returns the rank that a config has for a layer; None where it has none."""
    return _number(file, config, "rank_pattern", layer, "r")


def alpha(file: Path, config: Config, layer: str) -> float | None:
    """Returns the alpha that a config has for a layer; None where it has none."""
    return _number(file, config, "alpha_pattern", layer, _ALPHAS[_type(config)])


def _type(config: Config) -> str:
    return str(config.get("peft_type") or "LORA").rpartition(".")[2].upper()


def _number(file: Path, config: Config, patterns: str, layer: str, field: str) -> float | None:
    """The number of the first pattern that the layer's name ends with, or that of `field`, for all other layers."""
    number, by_pattern = config.get(field), config.get(patterns) or {}
    if not isinstance(by_pattern, dict):
        raise InputError(f"{file}: its config says {patterns} = {by_pattern!r}, which makes no sense")
    for pattern, value in by_pattern.items():
        try:
            if re.fullmatch(rf"(.*\.)?({pattern})", layer):
                number = value
                break
        except re.error as error:
            raise InputError(f"{file}: its config's {patterns} has {pattern!r}: {error}") from None
    if number is None:
        return None
    if not isinstance(number, (int, float)) or not 0 <= number < _LARGE:
        raise InputError(f"{file}: its config says {field} = {number!r}, which makes no sense")
    return float(number)
