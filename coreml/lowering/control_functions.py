"""What the packages of a control network compute: the residuals that are inputs of a controlled UNet.

`main` has the interface of Apple's code: the control image comes in at every evaluation. For DeepCache there are two
more: `image` embeds the control image once for each picture, and `shallow` computes what a cached evaluation reads.
"""

from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from mlx_sd.networks.control_config import ControlConfig

from .interfaces import RESIDUAL, FunctionSpec, Port, UNetFunctions, port
from .layout import IMAGE

CONDITION, FEATURES = "controlnet_cond", "image_features"


@dataclass(frozen=True)
class ControlFunctions:
    """The functions of one control network, for the latents, the batch and the depth of a UNet's functions."""

    part: str  # its name among an export's networks
    config: ControlConfig
    mode: int  # of a union
    unet: UNetFunctions

    def main(self) -> FunctionSpec:
        """Describes the whole network: all residuals, as float32, which Apple's code adds up."""

        def call(network: Any, x: mx.array, *arrays: mx.array) -> tuple[mx.array, ...]:
            """Returns the residual of every skip, and last the middle's."""
            t, context, image, *added = arrays
            residuals = network(x, t, context, network.embed(image, self.mode), mode=self.mode, **self._keywords(added))
            return self._whole([*residuals.skips, residuals.middle])

        size = (self.unet.batch, *self._image_size)
        image = port(CONDITION, size, self.unet.dtype, IMAGE)
        description = "A control image to what the UNet adds to its skips and its middle"
        return self._spec(call, self._inputs(image), self._outputs(None), description)

    def image(self) -> FunctionSpec:
        """Describes the layers that embed the control image, which is the same for all rows of a batch."""

        def call(network: Any, image: mx.array) -> tuple[mx.array, ...]:
            """Returns the embedded image."""
            return (network.embed(image, self.mode),)

        image = port(CONDITION, (1, *self._image_size), self.unet.dtype, IMAGE)
        return self._spec(call, (image,), (self._features,), "A control image to its features: once for each picture")

    def shallow(self) -> FunctionSpec:
        """Describes the first stages: the residuals of the outer skips, all that a cached evaluation reads."""

        def call(network: Any, x: mx.array, *arrays: mx.array) -> tuple[mx.array, ...]:
            """Returns the residuals of the outer skips."""
            t, context, features, *added = arrays
            keywords = self._keywords(added)
            return self._whole(
                network(x, t, context, features, mode=self.mode, depth=self.unet.depth, **keywords).skips
            )

        description = "What the UNet's shallow half adds to its skips: run it at every cached evaluation"
        return self._spec(call, self._inputs(self._features), self._outputs(self.unet.depth), description)

    def _inputs(self, image: Port) -> tuple[Port, ...]:
        """Returns those of Apple's code, the image as the fourth, and then SDXL's."""
        ports = {p.name: p for p in self.unet.inputs()}
        sample = ports["sample"]
        channels = self.config.unet.in_channels  # of a UNet that paints, the latents alone
        latents = port(sample.name, (*sample.shape[:3], channels), sample.dtype, IMAGE)
        added = [ports[name] for name in ("time_ids", "text_embeds") if name in ports]
        return (latents, ports["timestep"], ports["encoder_hidden_states"], image, *added)

    def _keywords(self, added: list[mx.array]) -> dict[str, mx.array]:
        return dict(zip(("time_ids", "text_embeds"), added, strict=True)) if added else {}

    def _outputs(self, depth: int | None) -> tuple[Port, ...]:
        return tuple(
            port(f"{RESIDUAL}{i}", p.shape, mx.float32, IMAGE, self.unet.dtype)
            for i, p in enumerate(self.unet.residuals()[:depth])
        )

    def _whole(self, residuals: list[mx.array]) -> tuple[mx.array, ...]:
        """Returns residuals in the shapes of the ports: means over the picture are repeated over it."""
        shapes = [p.shape for p in self.unet.residuals()]
        return tuple(mx.broadcast_to(array, shape) for array, shape in zip(residuals, shapes, strict=False))

    @property
    def _image_size(self) -> tuple[int, ...]:
        factor = self.config.downsampling
        return (self.unet.height * factor, self.unet.width * factor, self.config.image_channels)

    @property
    def _features(self) -> Port:
        shape = (1, self.unet.height, self.unet.width, self.config.unet.channels)
        return port(FEATURES, shape, self.unet.dtype, IMAGE)

    def _spec(self, call: Any, inputs: tuple[Port, ...], outputs: tuple[Port, ...], description: str) -> FunctionSpec:
        return FunctionSpec(self.part, self.part, call, inputs, outputs, description, self.unet.dtype)
