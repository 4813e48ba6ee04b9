"""The T2I-Adapters of a request: checked against the model, loaded, and shown their images once for all evaluations."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from . import metadata, resolve
from .checkpoint.adapter import Adapter
from .checkpoint.model import Model
from .checkpoint.network_folder import NetworkFolder
from .checkpoint.network_names import T2I_ADAPTER
from .core.errors import InputError
from .load import beside
from .networks.t2i_adapter import AdapterConfig, T2IAdapter, places
from .request import Request
from .tasks import control_image, images
from .tasks.tiles import Cut


class Features(NamedTuple):
    """What adapters add to the UNet: by the stage, arrays (1, h, w, C), and at how many evaluations."""

    by_stage: Mapping[int, mx.array]
    evaluations: int  # from the first on

    @classmethod
    def of(cls, by_stage: Mapping[int, mx.array], request: Request, evaluations: int) -> "Features | None":
        """Returns the features for a request's share of so many evaluations, None where there are none."""
        share = 1.0 if request.adapter_factor is None else request.adapter_factor
        count = int(evaluations * share)
        return cls(by_stage, count) if by_stage and count else None

    def at(self, evaluation: int) -> Mapping[int, mx.array] | None:
        """Returns the features of an evaluation, None where adapters no longer act."""
        return self.by_stage if evaluation < self.evaluations else None

    def changes(self, evaluations: int) -> list[int]:
        """Returns the evaluation, of so many, from which on earlier deep features hold features that are gone."""
        return [self.evaluations] if 0 < self.evaluations < evaluations else []

    def of_tile(self, cut: Cut, size: tuple[int, int]) -> "Features":
        """Returns the features of one tile of a picture of (height, width) latents."""

        def part(array: mx.array) -> mx.array:
            """Returns the tile's part of features, which begins where one of them begins."""
            factor = round(size[0] / array.shape[1])
            fine = mx.repeat(mx.repeat(array, factor, axis=1), factor, axis=2)[:, : size[0], : size[1]]
            return cut(fine)[:, ::factor, ::factor]

        return self._replace(by_stage={stage: part(array) for stage, array in self.by_stage.items()})


def completed(model: Model, request: Request, size: tuple[int, int]) -> tuple[Adapter, ...]:
    """Returns the adapters of a request with hashes, checked against the model; their weights stay unread.

    size: (width, height) of the picture. InputError for an adapter of another family, and for an image that is missing,
    unreadable or of another shape.
    """
    if not request.adapters:
        if request.adapter_factor is not None:
            raise InputError("the adapter factor is about --adapter; give both")
        return ()
    if not isinstance(model.unet, nn.Module):
        raise InputError("Core ML packages take no adapter; leave --adapter out, or --coreml")
    if request.only_masked:
        raise InputError("--only-masked paints a part that an adapter's image does not show; leave one of the two out")
    adapters = []
    for adapter in request.adapters:
        folder, config = _open(adapter.model, model)
        if any(side % config.unshuffle for side in size):
            raise InputError(
                f"with {adapter.model} width and height are multiples of {config.unshuffle}, not {size[0]} x {size[1]}"
            )
        control_image.check_shape(images.read(adapter.image), size, adapter.model)
        digest = metadata.digest(adapter.image) if isinstance(adapter.image, str) else None
        adapters.append(adapter._replace(model_hash=folder.hash, image_hash=digest))
    return tuple(adapters)


def size_in_memory(model: Model, adapters: Sequence[Adapter]) -> int:
    """Returns the bytes that the weights of adapters take, each network counted once, loaded or not."""
    names = {adapter.model for adapter in adapters if adapter.scale}
    return sum(_open(name, model)[0].numbers for name in names) * model.dtype.size


def size_for(model: Model, request: Request) -> tuple[int | None, int | None]:
    """Returns width and height of a picture: as requested, else of the first image's shape."""
    factor = model.vae.config.downsampling
    native = (model.unet.config.sample_size * factor,) * 2
    multiple = max(2 * factor, factor * model.unet.config.size_multiple)
    opened = images.read(request.adapters[0].image)
    return control_image.shape_for(opened, native, request.width, request.height, multiple)


def features(model: Model, request: Request) -> Mapping[int, mx.array]:
    """Returns the summed features of a completed request's adapters by stage; of a scale of 0 there are none."""
    size = (request.width or 0, request.height or 0)
    total: dict[int, mx.array] = {}
    for adapter in request.adapters:
        if not adapter.scale:
            continue
        network = _loaded(adapter.model, model)
        shown = network(_pixels(adapter, network.config.image_channels, size))
        for (stage, *_), array in zip(places(model.unet.config), shown, strict=False):
            array = array * adapter.scale
            total[stage] = total[stage] + array if stage in total else array
    mx.eval(total)
    return total


def _pixels(adapter: Adapter, channels: int, size: tuple[int, int]) -> mx.array:
    """Returns pixels (1, H, W, channels) in [0, 1] of an adapter's image at (width, height)."""
    image = images.opaque(images.read(adapter.image), "black" if channels == 1 else "white")
    array = np.asarray(images.fitted(image.convert("L") if channels == 1 else image, size), np.float32) / 255
    return mx.array(array.reshape(1, *array.shape[:2], channels))


def _loaded(name: str, model: Model) -> T2IAdapter:
    folder, config = _open(name, model)
    network: T2IAdapter = beside(model, folder.folder, T2I_ADAPTER, lambda: T2IAdapter(config))
    return network


def _open(name: str, model: Model) -> tuple[NetworkFolder, AdapterConfig]:
    """The converted folder of an adapter, and its config; InputError where it does not fit the model."""
    folder = resolve.adapter_folder(name)
    config = AdapterConfig.from_hf(folder.config, name)
    if misfit := config.misfit(model.unet.config, model.vae.config.downsampling):
        raise InputError(f"the adapter {name} does not fit {model.name}: {misfit}")
    return folder, config
