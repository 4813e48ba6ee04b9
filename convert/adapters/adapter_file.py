"""An adapter's file -> its modules: which layer each is for, its factors and how they are scaled; no model needed."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_sd.core.errors import InputError
from mlx_sd.core.files import TENSOR_DTYPES, Tensor, metadata, read_json, tensors

from ..files.safetensors_stream import sha256
from . import formulas

PARTS = ("unet", "text_encoder", "text_encoder_2")
FILES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")  # as diffusers and PEFT call them
CONFIG = "adapter_config.json"  # PEFT's, beside its file

_METADATA = "lora_adapter_metadata"  # diffusers' copy of the same, in the file
_PEFT = {"LORA": "lora_alpha", "LOHA": "alpha", "LOKR": "alpha"}  # kind -> where its alpha is

# How a name ends -> what the tensor is to its module.
_ROLES = {
    **dict.fromkeys(("lora_down.weight", "lora_A.weight", "lora.down.weight", "lora_linear_layer.down.weight"), "down"),
    **dict.fromkeys(("lora_up.weight", "lora_B.weight", "lora.up.weight", "lora_linear_layer.up.weight"), "up"),
    **{role: role for kind in formulas.KINDS for form in kind.forms for role in form if "_" in role},
    "lora_mid.weight": "mid",
    "lora_B.bias": "bias",
    "diff": "diff",
    "w_norm": "diff",
    "diff_b": "diff_b",
    "b_norm": "diff_b",
    "dora_scale": "dora_scale",
    "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude",
    "alpha": "alpha",
}
# Older and looser spellings -> those above.
_RESPELT = (
    (re.compile(r"\.processor\."), "."),
    (re.compile(r"\.to_out(\.lora_magnitude_vector|_lora\.)"), r".to_out.0\1"),
    (re.compile(r"\.to_([qkv])_lora\."), r".to_\1.lora."),
    (re.compile(r"\.to_out\.0_lora\."), ".to_out.0.lora."),
    (re.compile(r"\.(lora_[AB]|lora_magnitude_vector)\.default(_\d+)?\b"), r".\1"),
    (re.compile(r"(\.lora|\.lora_linear_layer)\.alpha$"), ".alpha"),
)
# How a name begins -> the network it is for; None where the rest must say.
_PREFIXES: tuple[tuple[str, str | None], ...] = (
    ("base_model.model.", None),
    ("conditioner.embedders.0.transformer.", "text_encoder"),
    ("conditioner.embedders.1.model.", "text_encoder_2"),
    ("cond_stage_model.model.", "text_encoder"),
    ("cond_stage_model.transformer.", "text_encoder"),
    ("diffusion_model.", "unet"),
    ("lora_te1_", "text_encoder"),
    ("lora_te2_", "text_encoder_2"),
    ("lora_te_", "text_encoder"),
    ("lora_unet_", "unet"),
    ("lycoris_", "unet"),
    ("model.diffusion_model.", "unet"),
    ("text_encoder.", "text_encoder"),
    ("text_encoder_2.", "text_encoder_2"),
    ("unet.", "unet"),
)
# What is no difference of weights, or not one that can be written into them by the formulas here.
_UNSUPPORTED = (
    (re.compile(r"\.on_input$|\.ia3_l"), "an IA3 adapter"),
    (re.compile(r"\.[ab][12]\.weight$|\.bm\.weight$"), "a GLoRA adapter"),
    (re.compile(r"\.oft_|\.boft_"), "an OFT adapter"),
    (re.compile(r"vera_lambda_"), "a VeRA adapter"),
    (re.compile(r"\.lora_embedding_"), "LoRA on an embedding"),
    (re.compile(r"^bundle_emb\.|string_to_param|^emb_params$|^clip_[lg]$"), "a textual inversion embedding"),
    (re.compile(r"^lora_controlnet$"), "a Control-LoRA"),
)
_PICKLES = (".bin", ".ckpt", ".pt", ".pth")
_PICKLED = "pickled weights, which can run code when opened; get the safetensors version"
_LARGE = 1e6  # beyond any rank or alpha
_SCALARS = {"F64": np.float64, "I64": np.int64, "I32": np.int32}


@dataclass(frozen=True)
class Module:
    """What an adapter holds for one layer."""

    name: str  # in the file
    part: str | None  # which network, where the file says
    layer: str  # within it, in the file's spelling
    factors: dict[str, Tensor]  # by role, those of the difference alone
    beside: dict[str, Tensor]  # by role: bias, DoRA's magnitudes
    kind: formulas.Kind | None  # None where only the bias differs
    alpha: float | None
    rank: int | None
    stabilised: bool

    @property
    def scaling(self) -> float:
        """What its difference is multiplied with before any scale of the user's."""
        return formulas.scaling(self.alpha, self.rank, self.stabilised)

    @property
    def shape(self) -> tuple[int, ...] | None:
        """(out, in), (out, in, h, w) or (out, in * h * w) of its difference, found without reading a number."""
        if self.kind is None:
            return None
        return tuple(self.kind.delta({role: mx.zeros(t.shape) for role, t in self.factors.items()}).shape)


@dataclass(frozen=True)
class Adapter:
    """A whole adapter."""

    file: Path
    sha256: str
    metadata: dict[str, str]
    modules: tuple[Module, ...]


def read(path: Path) -> Adapter:
    """Opens an adapter: a safetensors file, or a folder with one.

    Raises InputError, one line, for pickles, damage, what is no adapter or of a kind that is not supported, factors
    that do not belong together, and numbers that are not finite.
    """
    file = _file(path)
    found = {tensor.name: tensor for tensor in tensors(file)}
    if not found:
        raise InputError(f"{file} holds no tensors")
    said = metadata(file)
    configs = _configs(file, said)
    grouped: dict[str, dict[str, Tensor]] = {}
    strangers = []
    for name, tensor in found.items():
        for pattern, what in _UNSUPPORTED:
            if pattern.search(name):
                raise InputError(f"{file}: {name} is of {what}, which is not supported")
        module, role = _split(name)
        if role is None:
            strangers.append(name)
        elif role in grouped.setdefault(module, {}):
            raise InputError(f"{file}: {name} is there twice (also as {grouped[module][role].name})")
        else:
            grouped[module][role] = tensor
    if not grouped:
        raise InputError(f"{file} is no adapter: {some(strangers)}; a checkpoint goes to --model")
    if strangers:
        raise InputError(f"{file}: not named as an adapter's tensors are: {some(strangers)}")
    modules = tuple(_module(file, name, roles, configs) for name, roles in grouped.items())
    return Adapter(file, sha256(file), said, modules)


def choose(files: list[str], where: str) -> str:
    """The adapter's file among those of a folder or repository."""
    own = [name for name in files if name.endswith(".safetensors") and "/" not in name]
    named = [name for name in FILES if name in own]
    if named or len(own) == 1:
        return (named or own)[0]
    if own:
        raise InputError(f"{where} holds several files, {some(own)}: name one, {where}/{own[0]}")
    if any(name.endswith(_PICKLES) for name in files):
        raise InputError(f"{where} has only {_PICKLED}")
    raise InputError(f"{where} holds no safetensors file")


def is_part(name: str) -> bool:
    """Whether a tensor of this name belongs to an adapter, supported or not."""
    return _split(name)[1] is not None or any(pattern.search(name) for pattern, _ in _UNSUPPORTED)


def _file(path: Path) -> Path:
    if path.is_dir():
        return path / choose(sorted(p.name for p in path.iterdir() if p.is_file()), str(path))
    if path.suffix in _PICKLES and path.exists():
        raise InputError(f"{path} is {_PICKLED}")
    return path


def _split(name: str) -> tuple[str, str | None]:
    """A tensor's name -> its module's, and its role there (None if it is no adapter's)."""
    for pattern, spelling in _RESPELT:
        name = pattern.sub(spelling, name)
    for count in (3, 2, 1):  # segments that the role may be written in
        module, role = name.rsplit(".", count)[0], ".".join(name.rsplit(".", count)[1:])
        if role in _ROLES and module != name:
            return module, _ROLES[role]
    return name, None


def _module(file: Path, name: str, roles: dict[str, Tensor], configs: Mapping[str | None, Any]) -> Module:
    part, layer = _part(file, name)
    factors = {role: t for role, t in roles.items() if role not in formulas.BESIDE and role != "alpha"}
    beside = {role: t for role, t in roles.items() if role in formulas.BESIDE}
    kind = formulas.kind_of(frozenset(factors))
    if kind is None and (factors or not beside.keys() <= {"diff_b"} or not beside):
        raise InputError(f"{file}: {name} has {', '.join(sorted(roles))} alone, which is no whole adapter")
    for tensor in (*factors.values(), *beside.values()):
        if tensor.dtype not in TENSOR_DTYPES:
            kinds = ", ".join(TENSOR_DTYPES)
            raise InputError(f"{file}: {tensor.name} is of type {tensor.dtype}; only {kinds} are read")
        if not mx.isfinite(tensor.read()).all().item():
            raise InputError(f"{file}: {tensor.name} holds numbers that are not finite; its training went wrong")
    alpha, rank, stabilised = _scale(file, roles.get("alpha")), _rank(file, name, kind, factors), False
    config = configs.get(part)
    if config is not None and kind is not None:
        declared = _pattern(file, config, "rank_pattern", layer, "r")
        if kind.name == "LoKr":  # PEFT scales by the rank that was asked for, whether or not a matrix has it
            rank = None if declared is None else int(declared)
        elif rank is not None and declared not in (None, rank):
            raise InputError(f"{file}: {name} is of rank {rank}, its config says {declared:g}")
        if alpha is None:
            alpha = _pattern(file, config, "alpha_pattern", layer, _PEFT[_peft_type(config)])
        stabilised = bool(config.get("use_rslora"))
        if config.get("use_dora") and "magnitude" not in beside:
            raise InputError(f"{file}: its config says use_dora, but {name} has no lora_magnitude_vector")
    module = Module(name, part, layer, factors, beside, kind, alpha, rank, stabilised)
    try:
        if kind and kind.ranked and any(t.start == t.end or len(t.shape) < 2 for t in factors.values()):
            raise ValueError("a factor is no matrix")
        _ = module.shape
    except ValueError as error:
        shapes = ", ".join(f"{role} {t.shape}" for role, t in sorted(factors.items()))
        raise InputError(f"{file}: the factors of {name} do not go together: {shapes} ({error})") from None
    return module


def _part(file: Path, name: str) -> tuple[str | None, str]:
    part = file.parent.name if file.parent.name in PARTS else None  # PEFT's examples save one folder each
    layer = name
    while True:
        for prefix, means in _PREFIXES:
            if layer.startswith(prefix):
                part, layer = means or part, layer.removeprefix(prefix)
                break
        else:
            return part, layer


def _rank(file: Path, name: str, kind: formulas.Kind | None, factors: Mapping[str, Tensor]) -> int | None:
    ranked = [factors[role] for role in (kind.ranked if kind else ()) if role in factors]
    ranks = {tensor.shape[0] for tensor in ranked if tensor.shape}
    if len(ranks) > 1:
        raise InputError(f"{file}: {name} is of two ranks, {' and '.join(map(str, sorted(ranks)))}")
    return ranks.pop() if ranks else None


def _scale(file: Path, tensor: Tensor | None) -> float | None:
    if tensor is None:
        return None
    if int(np.prod(tensor.shape)) != 1 or tensor.dtype not in (*TENSOR_DTYPES, *_SCALARS):
        raise InputError(f"{file}: {tensor.name} is no number but {tensor.dtype} {tensor.shape}")
    if tensor.dtype in _SCALARS:
        value = float(np.memmap(file, _SCALARS[tensor.dtype], "r", tensor.start, (1,))[0])
    else:
        value = float(np.array(tensor.read().astype(mx.float32)).item())
    if not np.isfinite(value):
        raise InputError(f"{file}: {tensor.name} is {value}")
    return value


def _configs(file: Path, metadata: Mapping[str, str]) -> dict[str | None, dict[str, Any]]:
    """What was said of the training, by network: PEFT's own file, or what diffusers puts into the metadata."""
    found: dict[str | None, dict[str, Any]] = {}
    if file.name == FILES[1] and (file.parent / CONFIG).is_file():
        config = read_json(file.parent / CONFIG)
        found = dict.fromkeys((None, *PARTS), config)
    elif _METADATA in metadata:
        try:
            said = json.loads(metadata[_METADATA])
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict):
            raise InputError(f"{file}: its {_METADATA} is no JSON object")
        for part in PARTS:
            fields = {k.removeprefix(f"{part}."): v for k, v in said.items() if k.startswith(f"{part}.")}
            if fields:
                found[part] = fields
        found = found or {None: said, "unet": said}
    for config in found.values():
        if _peft_type(config) not in _PEFT:
            raise InputError(f"{file}: its config says {_peft_type(config)}; supported are {', '.join(_PEFT)}")
    return found


def _peft_type(config: Mapping[str, Any]) -> str:
    return str(config.get("peft_type") or "LORA").rpartition(".")[2].upper()


def _pattern(file: Path, config: Mapping[str, Any], patterns: str, layer: str, otherwise: str) -> float | None:
    """A number of PEFT's config for a layer: of the first pattern that its name ends with, or that for all others."""
    found, special = config.get(otherwise), config.get(patterns) or {}
    if not isinstance(special, dict):
        raise InputError(f"{file}: its config says {patterns} = {special!r}, which makes no sense")
    for pattern, value in special.items():
        try:
            if re.fullmatch(rf"(.*\.)?({pattern})", layer):
                found = value
                break
        except re.error as error:
            raise InputError(f"{file}: its config's {patterns} has {pattern!r}: {error}") from None
    if found is None:
        return None
    if not isinstance(found, (int, float)) or not 0 <= found < _LARGE:
        raise InputError(f"{file}: its config says {otherwise} = {found!r}, which makes no sense")
    return float(found)


def some(names: list[str], most: int = 4) -> str:
    """The first of many names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"
