"""The networks of a model that a training does not need while it learns: their weights leave memory."""

from typing import Any

import mlx.core as mx

from ..checkpoint.model import Model
from ..checkpoint.model_folder import TEXT, read_model_json
from ..networks import quantization
from ..weight_file import WeightFile
from .learning.kind_settings import EmbeddingSettings, LoraSettings
from .learning.settings import TrainSettings


class IdleNetworks:
    """The networks that have nothing to do once pictures and captions are encoded.

    These are the autoencoder, unless pictures are cut anew in every step; the text encoders, unless something in them,
    or a word that they read, learns; and a UNet in whose place another learns. Networks that were quantized in memory
    stay: no file holds them.
    """

    def __init__(self, model: Model, settings: TrainSettings, replaced: bool = False):
        """replaced: whether another UNet learns in the place of the model's own."""
        self.networks, self._files = dict[str, Any](), dict[str, WeightFile]()
        networks: dict[str, Any] = {"unet": model.unet} if replaced else {}
        if not settings.keep_encoders and not settings.random_crop:
            networks["vae"] = model.vae
        if not settings.keep_encoders and not text_learns(settings):
            networks |= dict(zip(TEXT, model.text_encoders, strict=False))
        if model.folder is None:
            return
        quantized = quantization.parse(model.quantization) if model.quantization else {}
        version = read_model_json(model.folder)["version"]
        for part, network in networks.items():
            file = WeightFile(model.folder, version, part, model.dtype)
            if part not in quantized and file.path.is_file():
                self.networks[part], self._files[part] = network, file

    def unload(self) -> None:
        """Frees their weights, which come back by themselves where a network is used: for a sample picture."""
        for part, network in self.networks.items():
            self._files[part].lend(network)
        mx.clear_cache()


def text_learns(settings: TrainSettings) -> bool:
    """Returns whether captions are encoded anew in every step, because something in their encoding learns."""
    of_lora = isinstance(settings, LoraSettings) and settings.text_rate is not None
    return of_lora or isinstance(settings, EmbeddingSettings)
