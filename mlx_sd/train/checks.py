"""What is checked before anything expensive: settings that do not go together, captions, and what other ranks have."""

import warnings
from pathlib import Path

from ..checkpoint.model import Model
from ..core.errors import InputError
from ..core.files import sha256
from ..core.version import VERSION
from ..ranks.exchange import Ranks
from .data import dataset
from .data.array_cache import network_hash
from .learning.kind_settings import EmbeddingSettings, PruneSettings, UNetSettings
from .learning.settings import TrainSettings


def check_same(ranks: Ranks, data: dataset.Dataset, hints: list[Path], model: Model) -> None:
    """Raises InputError where a rank would learn something else than rank 0."""
    if ranks.size > 1:
        networks = [model.unet, model.vae, *model.text_encoders]
        parts = {
            "another version of mlx-sd": VERSION,
            "other pictures or captions": data.fingerprint,
            "other control images": repr([sha256(file) for file in hints]),
            "another model": repr([network_hash(network) for network in networks]),
        }
        ranks.check_same(parts)


def check_settings(settings: TrainSettings, ranks: int) -> None:
    """Raises InputError where settings do not go together; ranks: the number of processes."""
    if not settings.data:
        raise InputError("--data is missing: a folder of pictures with captions")
    if settings.accumulate % ranks:
        raise InputError(
            f"--accumulate {settings.accumulate} cannot be dealt out to {ranks} ranks: it counts the micro-batches of "
            f"all ranks together; take a multiple of {ranks}"
        )
    if isinstance(settings, EmbeddingSettings):
        for name in ("token", "like"):
            if not getattr(settings, name).strip():
                raise InputError(f"--{name} is missing: {'the new word' if name == 'token' else 'a word like it'}")
    if isinstance(settings, PruneSettings) and settings.scratch and settings.shape is None:
        raise InputError("--scratch is for --shape; channels are chosen by the weights that there are")
    if isinstance(settings, UNetSettings) and settings.dtype == "float16":
        raise InputError("a whole UNet does not learn in float16; take bfloat16 or float32")


def check_model(model: Model) -> None:
    """Raises InputError for a model that no kind of training here is for."""
    if model.tokens is not None:
        raise InputError(f"{model.name} is {model.family.value}, which is not trained here; choose a model of latents")


def check_token(token: str, data: dataset.Dataset) -> None:
    """Raises InputError where no caption has the new word, of which then nothing would be learned."""
    without = [example for example in data.examples if token not in example.caption]
    if len(without) == len(data.examples):
        raise InputError(
            f'no caption has the word {token!r}; write it into them, or give --caption "a photo of {token}"'
        )
    if without:
        warnings.warn(
            f"{len(without)} captions are without the word {token!r}: nothing is learned of them", stacklevel=3
        )
