"""An adapter's file -> its modules: the layer each is for, its factors and their scale; no model is needed."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_sd.core.errors import InputError
from mlx_sd.core.files import TENSOR_DTYPES, Tensor, metadata, sha256, tensors

from ..files.file_kinds import unsupported_adapter
from ..files.refusals import check_dtypes, first, is_pickle, pickle_error
from . import formulas, peft_config
from .peft_config import PARTS, PEFT_FILE

FILES = ("pytorch_lora_weights.safetensors", PEFT_FILE)  # as diffusers and PEFT call them

# How a tensor's name ends -> its role in its module.
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
# How a name begins -> the network it is for; None where what follows must say it.
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
_SCALARS = {"F64": np.float64, "I64": np.int64, "I32": np.int32}  # types of alpha beside those of tensors


@dataclass(frozen=True)
class Module:
    """The tensors that an adapter holds for one layer, and how they are scaled."""

    name: str  # in the file
    part: str | None  # the network, where the file says it
    layer: str  # within the network, in the file's spelling
    factors: dict[str, Tensor]  # by role: those that the difference of the weight is computed from
    extras: dict[str, Tensor]  # by role: bias, DoRA's magnitudes
    kind: formulas.Kind | None  # None where only the bias differs
    alpha: float | None
    rank: int | None
    stabilised: bool  # rsLoRA

    @property
    def scaling(self) -> float:
        """The factor of its difference before any scale of the user's."""
        return formulas.scaling(self.alpha, self.rank, self.stabilised)

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The shape of its difference, (out, in), (out, in, h, w) or (out, in * h * w), found without reading it."""
        if self.kind is None:
            return None
        return tuple(self.kind.delta({role: mx.zeros(t.shape) for role, t in self.factors.items()}).shape)


@dataclass(frozen=True)
class Adapter:
    """An adapter's file with all its modules; no factor has been kept in memory."""

    file: Path
    sha256: str
    autov3: str  # 12 digits by which A1111 and Civitai know it, whatever is written into its header
    metadata: dict[str, str]
    modules: tuple[Module, ...]


def read(path: Path) -> Adapter:
    """Opens an adapter: a safetensors file, or a folder with one.

    Raises InputError, one line, for pickles, damage, files that are no adapter or of a kind that is not supported,
    factors that do not belong together, and numbers that are not finite.
    """
    file = _file(path)
    stored = {tensor.name: tensor for tensor in tensors(file)}
    if not stored:
        raise InputError(f"{file} holds no tensors")
    file_metadata = metadata(file)
    configs = peft_config.read(file, file_metadata)
    grouped: dict[str, dict[str, Tensor]] = {}
    strangers = []
    for name, tensor in stored.items():
        if unsupported := unsupported_adapter(name):
            raise InputError(f"{file}: {name} is of {unsupported.title}, which is not supported")
        module, role = _split(name)
        if role is None:
            strangers.append(name)
        elif role in grouped.setdefault(module, {}):
            raise InputError(f"{file}: {name} is there twice (also as {grouped[module][role].name})")
        else:
            grouped[module][role] = tensor
    if not grouped:
        raise InputError(f"{file} is no adapter: {first(strangers)}; a checkpoint goes to --model")
    if strangers:
        raise InputError(f"{file}: not named as an adapter's tensors are: {first(strangers)}")
    modules = tuple(_module(file, name, roles, configs) for name, roles in grouped.items())
    return Adapter(file, sha256(file), _autov3(file, file_metadata), file_metadata, modules)


def _autov3(file: Path, file_metadata: Mapping[str, str]) -> str:
    """Returns the hash that the trainer wrote, or that of the numbers alone, after the header."""
    with file.open("rb") as f:
        header = int.from_bytes(f.read(8), "little")
    return (file_metadata.get("sshs_model_hash") or sha256(file, start=8 + header))[:12]


def choose(files: list[str], where: str) -> str:
    """Returns the adapter's file among those of a folder or repository; InputError where there is none or several."""
    candidates = [name for name in files if name.endswith(".safetensors") and "/" not in name]
    usual = [name for name in FILES if name in candidates]
    if usual or len(candidates) == 1:
        return (usual or candidates)[0]
    if candidates:
        raise InputError(f"{where} holds several files, {first(candidates)}: name one, {where}/{candidates[0]}")
    if pickles := [name for name in files if is_pickle(name)]:
        raise pickle_error(where, pickles)
    raise InputError(f"{where} holds no safetensors file")


def is_part(name: str) -> bool:
    """Returns whether a tensor of this name belongs to an adapter, supported or not."""
    return _split(name)[1] is not None or unsupported_adapter(name) is not None


def _file(path: Path) -> Path:
    if path.is_dir():
        return path / choose(sorted(p.name for p in path.iterdir() if p.is_file()), str(path))
    if is_pickle(path.name) and path.exists():
        raise pickle_error(path)
    return path


def _split(name: str) -> tuple[str, str | None]:
    """A tensor's name -> its module's, and its role there (None if it belongs to no adapter)."""
    for pattern, spelling in _RESPELT:
        name = pattern.sub(spelling, name)
    for count in (3, 2, 1):  # segments that the role may be written in
        module, role = name.rsplit(".", count)[0], ".".join(name.rsplit(".", count)[1:])
        if role in _ROLES and module != name:
            return module, _ROLES[role]
    return name, None


def _module(file: Path, name: str, roles: dict[str, Tensor], configs: Mapping[str | None, Any]) -> Module:
    part, layer = _part(file, name)
    factors = {role: t for role, t in roles.items() if role not in formulas.EXTRAS and role != "alpha"}
    extras = {role: t for role, t in roles.items() if role in formulas.EXTRAS}
    kind = formulas.kind_of(frozenset(factors))
    if kind is None and (factors or not extras.keys() <= {"diff_b"} or not extras):
        raise InputError(f"{file}: {name} has {', '.join(sorted(roles))} alone, which is no complete adapter")
    for tensor in (*factors.values(), *extras.values()):
        check_dtypes([tensor])
        if not mx.isfinite(tensor.read()).all().item():
            raise InputError(f"{file}: {tensor.name} holds numbers that are not finite; its training went wrong")
    alpha, rank, stabilised = _alpha(file, roles.get("alpha")), _rank(file, name, kind, factors), False
    config = configs.get(part)
    if config is not None and kind is not None:
        declared = peft_config.rank(file, config, layer)
        if kind.name == "LoKr":  # PEFT scales by the rank in the config, whether or not a matrix has it
            rank = None if declared is None else int(declared)
        elif rank is not None and declared not in (None, rank):
            raise InputError(f"{file}: {name} is of rank {rank}, its config says {declared:g}")
        if alpha is None:
            alpha = peft_config.alpha(file, config, layer)
        stabilised = bool(config.get("use_rslora"))
        if config.get("use_dora") and "magnitude" not in extras:
            raise InputError(f"{file}: its config says use_dora, but {name} has no lora_magnitude_vector")
    module = Module(name, part, layer, factors, extras, kind, alpha, rank, stabilised)
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
        for prefix, prefix_part in _PREFIXES:
            if layer.startswith(prefix):
                part, layer = prefix_part or part, layer.removeprefix(prefix)
                break
        else:
            return part, layer


def _rank(file: Path, name: str, kind: formulas.Kind | None, factors: Mapping[str, Tensor]) -> int | None:
    ranked = [factors[role] for role in (kind.ranked if kind else ()) if role in factors]
    ranks = {tensor.shape[0] for tensor in ranked if tensor.shape}
    if len(ranks) > 1:
        raise InputError(f"{file}: {name} is of two ranks, {' and '.join(map(str, sorted(ranks)))}")
    return ranks.pop() if ranks else None


def _alpha(file: Path, tensor: Tensor | None) -> float | None:
    if tensor is None:
        return None
    if int(np.prod(tensor.shape)) != 1 or tensor.dtype not in (*TENSOR_DTYPES, *_SCALARS):
        raise InputError(f"{file}: {tensor.name} is no number but {tensor.dtype} {tensor.shape}")
    if tensor.dtype in _SCALARS:
        alpha = float(np.memmap(file, _SCALARS[tensor.dtype], "r", tensor.start, (1,))[0])
    else:
        alpha = float(np.array(tensor.read().astype(mx.float32)).item())
    if not np.isfinite(alpha):
        raise InputError(f"{file}: {tensor.name} is {alpha}")
    return alpha
