"""A1111's options: the few that mean something here, which a client may change for all calls or override for one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ....core.errors import InputError
from ....core.suggestions import unknown
from ....metadata.to_a1111 import NUMPY
from ....sampling import names
from ....spellings import clip_words
from ...models.catalog import Catalog, ModelEntry
from ..request_error import RequestError, wrong_input
from .controls import entry_of

_NO_VAE = ("", "Automatic", "None")  # the model's own
# Options that have one value here -> that value; others of theirs would change pictures, and are refused.
_FIXED: Mapping[str, Any] = {"samples_format": "png", "eta_noise_seed_delta": 0, "enable_pnginfo": True}
# Options that some clients always send, and that have no equal here: they pass, and the answer lists them.
_LISTED: Mapping[str, Any] = {"img2img_color_correction": False}


@dataclass(frozen=True)
class Options:
    """The options that are in force."""

    catalog: Catalog
    checkpoint: ModelEntry
    vae: ModelEntry | None = None  # None is the model's own
    clip_skip: int = 0
    rng: str = names.NUMPY
    ignored: tuple[str, ...] = ()  # of the last change

    @property
    def settings(self) -> dict[str, Any]:
        """Returns what the options say of a request, as in `Request.to_json`."""
        settings: dict[str, Any] = {"model": self.checkpoint.id}
        if self.clip_skip:
            settings["clip_skip"] = self.clip_skip
        if self.vae is not None:
            settings["vae"] = self.vae.id
        return settings if self.rng == names.NUMPY else {**settings, "rng": self.rng}

    def with_values(self, values: Mapping[str, Any]) -> Options:
        """Returns the options with those that a client names; RequestError for a value that cannot be.

        Unknown options and null change nothing.
        """
        options = replace(self, ignored=())
        for name, value in values.items():
            if value is not None:
                options = options._with(name, value)
        return options

    def to_json(self) -> dict[str, Any]:
        """Returns what a client reads of the options."""
        return {
            "sd_model_checkpoint": self.checkpoint.title,
            "sd_checkpoint_hash": self.checkpoint.sha256,
            "sd_vae": "Automatic" if self.vae is None else self.vae.name,
            "CLIP_stop_at_last_layers": self.clip_skip + 1,
            "randn_source": names.a1111_rng(self.rng) or NUMPY,
            **_FIXED,
            **_LISTED,
        }

    def _with(self, name: str, value: Any) -> Options:
        try:
            if name == "sd_model_checkpoint":
                return replace(self, checkpoint=self.catalog.model(str(value)))
            if name == "CLIP_stop_at_last_layers":
                (word,) = clip_words(str(value))
                return replace(self, clip_skip=int(word.partition("=")[2]))
            if name == "randn_source":
                return replace(self, rng=names.read_rng(str(value)))
        except InputError as error:
            raise wrong_input(error, name) from None
        if name == "sd_vae":
            return replace(self, vae=self._vae(str(value)))
        if name in _FIXED and value != _FIXED[name]:
            raise RequestError(f"{name} is {_FIXED[name]!r} here, not {value!r}", field=name)
        if name in _LISTED and value != _LISTED[name]:
            return replace(self, ignored=(*self.ignored, name))
        return self

    def _vae(self, name: str) -> ModelEntry | None:
        """Returns the autoencoder that a client names; None for the model's own."""
        if name in _NO_VAE:
            return None
        entries = self.catalog.vaes()
        entry = entry_of(name, entries)
        if entry is None:
            names = [_NO_VAE[1], *(vae.name for vae in entries)]
            raise RequestError(str(unknown("VAE", name, names)), field="sd_vae")
        return entry
