"""What a training leaves: files and folders that this package and others read."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import resolve
from ..checkpoint.model import DTYPES, Model
from ..checkpoint.model_folder import network_configs, read_model_json
from ..core.errors import InputError
from ..networks.family import Family
from .files import control_lora_file, embedding_file, lora_file
from .files.base_model import BaseModel
from .files.lora_file import LowRankWeights
from .files.training_record import TrainingRecord
from .kinds.control import Control
from .kinds.distill import Distillation
from .kinds.embedding import TextualInversion
from .kinds.lora import Lora
from .kinds.prune import Prune
from .kinds.unet import WholeUNet
from .learning.optimizers import arrays_of

_SDXL_NAMES = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}


def check_out(out: Path, *, folder: bool, force: bool) -> None:
    """Raises InputError where a result cannot be written to `out`: a file, or a folder, that is there already."""
    if not folder and out.suffix != ".safetensors":
        raise InputError(f"{out}: the result is a .safetensors file; give its name")
    if out.exists() and not force:
        raise InputError(f"{out} is there already; choose another name, or replace it with --force")
    if folder and out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; the result is a folder")
    if not folder and out.is_dir():
        raise InputError(f"{out} is a folder; the result is a file")


@dataclass(frozen=True)
class Result:
    """Writes what was learned, as often as it is asked to."""

    base: BaseModel | None  # described before adapters stood beside its layers; None of kinds that need none
    model: Model
    dtype: str = "float16"  # of the numbers in files

    def write(self, kind: Any, out: Path, record: TrainingRecord, weights: Any = None, force: bool = True) -> None:
        """Writes a kind's result to `out`, whole or not at all.

        weights: in the place of the kind's own, such as averages; None takes these.
        """
        if isinstance(kind, (Lora, Distillation)) and kind.layers:
            assert self.base is not None
            layers = {(name, path): LowRankWeights(*layer) for (name, path), layer in kind.layers.items()}
            lora_file.write(out, layers, self.base, record, dtype=self.dtype, force=force)
        elif isinstance(kind, TextualInversion):
            sdxl = self.model.family is Family.SDXL
            vectors = {_SDXL_NAMES[name] if sdxl else name: array for name, array in kind.vectors.items()}
            embedding_file.write(out, kind.token, vectors, base=self.base, record=record, force=force)
        elif isinstance(kind, Control) and kind.adapters is not None:
            assert self.base is not None
            factors = {
                name.path: LowRankWeights(layer.down, layer.up, layer.alpha)
                for name, layer in kind.adapters.by_layer.items()
            }
            parameters = arrays_of(kind.network.trainable_parameters())
            names = kind.network.names
            control_lora_file.write(out, factors, parameters, names, self.base, record, dtype=self.dtype, force=force)
        elif isinstance(kind, (WholeUNet, Control, Distillation)):
            self._write_folder(kind, out, weights, force)

    def _write_folder(self, kind: WholeUNet | Control | Distillation, out: Path, weights: Any, force: bool) -> None:
        folder = self.model.folder
        if folder is None:
            raise InputError(f"{self.model.name} has no model folder, so its configs are not known")
        config: Mapping[str, Any] = network_configs(read_model_json(folder))["unet"]
        if isinstance(kind, Prune):
            config = kind.config
        before = kind.learned.parameters()
        if weights is not None:
            kind.learned.update(weights)
        try:
            if force and out.is_dir():
                shutil.rmtree(out)
            if isinstance(kind, Control):
                resolve.write_trained_control(kind.network, config, out, DTYPES[self.dtype])
            else:
                resolve.write_trained_model(folder, out, DTYPES[self.dtype], {"unet": (config, kind.learned)})
        finally:
            kind.learned.update(before)
