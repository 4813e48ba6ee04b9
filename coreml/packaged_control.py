"""The packages of a control network in the place of `mlx_sd.networks.control.ControlNet`, for the pipeline."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from mlx_sd.networks.control import Residuals, residual_scales
from mlx_sd.networks.control_config import ControlConfig

from .control_networks import role
from .lowering.control_functions import CONDITION, FEATURES
from .lowering.interfaces import RESIDUAL
from .package_set import PackageSet, channel_first, channel_last


class ControlImage(NamedTuple):
    """A control image as a network's packages take it."""

    pixels: mx.array  # (1, H, W, channels) in [0, 1]
    features: mx.array | None  # (1, C, h, w), embedded; None where no package takes them


class PackagedControl:
    """A control network of a folder of packages."""

    def __init__(self, packages: PackageSet, name: str, entry: Mapping[str, Any]):
        """name, entry: of `controls` in info.json."""
        self.name, self._packages = name, packages
        self.model, self.mode, self.hash = entry["model"], entry["mode"], entry["hash"]
        self.config = ControlConfig.from_hf(entry["config"], f"info.json: controls: {name}")

    @property
    def title(self) -> str:
        """Returns the network as the export was told it."""
        return f"{self.model}@{self.mode}" if self.mode else str(self.model)

    def embed(self, image: mx.array, mode: int = 0) -> ControlImage:
        """Returns pixels (1, H, W, channels) with their features; the mode of a union is that of the export."""
        image_role = role("control_image", self.name)
        if not self._packages.has(image_role):
            return ControlImage(image, None)
        size = f"{image.shape[2]}x{image.shape[1]}"
        outputs = self._packages.run(image_role, size, {CONDITION: channel_first(image)})
        return ControlImage(image, mx.array(outputs[FEATURES]))

    def __call__(
        self,
        x: mx.array,
        t: mx.array,
        context: mx.array | None,
        image: ControlImage,
        *,
        scale: float = 1.0,
        guess: bool = False,
        depth: int | None = None,
        mode: int = 0,
        **added: mx.array | None,
    ) -> Residuals:
        """Returns the residuals as `ControlNet.__call__` does, multiplied outside of the packages.

        depth: of the outer skips alone; it must be that at which the UNet was cut.
        """
        count = len(self.config.unet.skip_channels) + 1
        scales = residual_scales(count, scale, guess and not self.config.pools)
        inputs = self._packages.step_inputs(x, t, context, added)
        source = channel_first(image.pixels) if depth is None else np.array(image.features)
        inputs[CONDITION if depth is None else FEATURES] = np.broadcast_to(source, (x.shape[0], *source.shape[1:]))
        kind = "control" if depth is None else "control_shallow"
        outputs = self._packages.run_rows(role(kind, self.name), self._packages.size(x), inputs)
        arrays = [channel_last(outputs[f"{RESIDUAL}{i}"]) * scales[i] for i in range(depth or count)]
        return Residuals(arrays, None) if depth is not None else Residuals(arrays[:-1], arrays[-1])
