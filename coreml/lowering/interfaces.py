"""What each package of an app computes, and its interface: names, shapes and types that Apple's Swift code expects."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_sd.checkpoint.model import Model
from mlx_sd.checkpoint.model_folder import TEXT
from mlx_sd.core.errors import InputError
from mlx_sd.networks.configs import TextConfig, VAEConfig
from mlx_sd.networks.family import Family
from mlx_sd.networks.unet_config import UNetConfig

from .layout import IMAGE, TOKENS, Order

_KEYWORDS = {
    "timestep": "t",
    "encoder_hidden_states": "context",
}  # port -> parameter of UNet.__call__

CONTROLLED = "Controlled"  # begins the names of packages of a controlled UNet, in Apple's code too
RESIDUAL = "additional_residual_"  # begins the names of a controlled UNet's inputs, in Apple's code too
_NO_VARIANCE = -30.0  # the log variance to which Apple's code, as diffusers, raises what is lower


@dataclass(frozen=True)
class Port:
    """An input or output of a package, with its shape and type in the network and at the package's boundary."""

    name: str
    shape: tuple[int, ...]  # in the network, channel-last
    order: Order  # in which the package stores the network's axes
    dtype: mx.Dtype  # at the package's boundary
    network_dtype: mx.Dtype

    @property
    def stored(self) -> tuple[int, ...]:
        """Returns the shape at the package's boundary."""
        return tuple(1 if axis is None else self.shape[axis] for axis in self.order)

    def store(self, array: mx.array) -> np.ndarray:
        """Converts an array of the network, of shape `shape`, into one of the package, of shape `stored`."""
        axes = [axis for axis in self.order if axis is not None]
        stored: np.ndarray = np.array(array.astype(self.dtype)).transpose(axes).reshape(self.stored)
        return stored

    def load(self, array: np.ndarray) -> mx.array:
        """Converts an array of the package, of shape `stored`, into a float32 one of the network, of shape `shape`."""
        axes = [axis for axis in self.order if axis is not None]
        return mx.array(
            array.astype(np.float32).reshape([self.shape[axis] for axis in axes]).transpose(np.argsort(axes))
        )


@dataclass(frozen=True)
class FunctionSpec:
    """One function of one network, with the ports of the package that computes it."""

    name: str  # of the package
    part: str  # the network: text_encoder, text_encoder_2, unet or vae
    call: Callable[..., tuple[mx.array, ...]]  # call(network, *inputs) -> outputs
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    description: str  # one line for the reader of info.json
    weights: mx.Dtype  # in the network


def port(
    name: str,
    shape: tuple[int, ...],
    dtype: mx.Dtype,
    order: Order | None = None,
    network_dtype: mx.Dtype | None = None,
) -> Port:
    """Returns a port; without an order it is stored as the network has it, and without a network's dtype in its own."""
    return Port(name, shape, order or tuple(range(len(shape))), dtype, network_dtype or dtype)


def is_xl(family: Family) -> bool:
    """Returns whether packages of a family have SDXL's ports: `hidden_embeds`, `time_ids`, `text_embeds`."""
    return family in (Family.SDXL, Family.REFINER)


def context_port(family: Family) -> str:
    """Returns the name of a text encoder's output that the UNet takes as its context."""
    return "hidden_embeds" if is_xl(family) else "last_hidden_state"


def text_encoder(part: str, config: TextConfig, dtype: mx.Dtype, family: Family) -> FunctionSpec:
    """Describes a text encoder: token ids (1, tokens) in, hidden states (1, tokens, width) and the pooled text out.

    Apple's code feeds the ids as float32. The hidden states are those before the last layer for SDXL, else those after
    the final norm.
    """
    ids = port("input_ids", (1, config.tokens), mx.float32, network_dtype=mx.int32)
    pooled = port("pooled_outputs", (1, config.projection or config.width), mx.float32, network_dtype=dtype)
    context = port(context_port(family), (1, config.tokens, config.width), mx.float32, network_dtype=dtype)

    def encode(network: Any, ids: mx.array) -> tuple[mx.array, ...]:
        """Returns (context, pooled text) of token ids."""
        encoded = network(ids)
        return (encoded.hidden[-2] if is_xl(family) else encoded.last), encoded.pooled

    name = "TextEncoder2" if part.endswith("_2") else "TextEncoder"
    outputs = (context, pooled)
    return FunctionSpec(name, part, encode, (ids,), outputs, "Token ids of a text to what the UNet takes of it", dtype)


def vae_decoder(config: VAEConfig, height: int, width: int, dtype: mx.Dtype) -> FunctionSpec:
    """Describes the decoder: latents (1, height, width, C) over the scaling factor in, an image in [-1, 1] out.

    height, width: of the latents; the image has `config.downsampling` times as many pixels along each side.
    """
    z = port("z", (1, height, width, config.latent_channels), dtype, IMAGE)
    size = (1, height * config.downsampling, width * config.downsampling, config.out_channels)
    image = port("image", size, mx.float32, IMAGE, dtype)
    return FunctionSpec(
        "VAEDecoder", "vae", lambda network, z: (network.decode(z),), (z,), (image,), "Latents to a picture", dtype
    )


def vae_encoder(config: VAEConfig, height: int, width: int, dtype: mx.Dtype) -> FunctionSpec:
    """Describes the encoder: an image in [-1, 1] in, mean and log variance of its latents (1, height, width, 2 C) out.

    height, width: of the latents; the image has `config.downsampling` times as many pixels along each side.
    """
    x = port("x", (1, height * config.downsampling, width * config.downsampling, config.in_channels), dtype, IMAGE)
    latent = port("latent", (1, height, width, 2 * config.latent_channels), mx.float32, IMAGE, dtype)

    def encode(network: Any, x: mx.array) -> tuple[mx.array, ...]:
        """Returns mean and log variance side by side, the least where encoding is deterministic."""
        moments = network.moments(x)
        if config.deterministic:
            moments = mx.concatenate([moments, mx.full(moments.shape, _NO_VARIANCE, moments.dtype)], axis=-1)
        return (moments,)

    return FunctionSpec("VAEEncoder", "vae", encode, (x,), (latent,), "A picture to latents", dtype)


@dataclass(frozen=True)
class UNetFunctions:
    """The functions of a UNet that packages can compute, for one size of latents and one batch.

    Raises InputError for a UNet with class embeddings, whose labels no package takes.
    """

    config: UNetConfig
    tokens: int  # of a prompt
    pooled: int  # width of the pooled text, an input of SDXL's UNet
    height: int  # of the latents
    width: int
    batch: int
    dtype: mx.Dtype
    depth: int  # DeepCache branch + 1
    controlled: bool = False  # takes the residuals of control networks

    def __post_init__(self) -> None:
        if self.config.class_embedding:
            raise InputError("a UNet with class embeddings cannot be exported")

    def full(self) -> FunctionSpec:
        """Describes the whole UNet with its prediction alone: Apple's code expects one output."""

        def call(unet: Any, x: mx.array, **keywords: mx.array) -> tuple[mx.array, ...]:
            """Returns the prediction alone."""
            return (unet(x, **keywords)[0],)

        return self._spec("Unet", call, (self.prediction,), "The whole UNet", residuals=self.residuals())

    def deep(self, shape: tuple[int, ...]) -> FunctionSpec:
        """Describes the part whose output DeepCache keeps between steps: `deep_feature`, of the given shape."""

        def call(unet: Any, x: mx.array, **keywords: mx.array) -> tuple[mx.array, ...]:
            """Returns the deep feature alone."""
            return (unet(x, depth=self.depth, **keywords)[1],)

        description, residuals = "The UNet's deep half: run it to refresh", self.residuals()[self.depth :]
        return self._spec("UnetChunk1", call, (self._deep(shape),), description, residuals=residuals)

    def shallow(self, shape: tuple[int, ...]) -> FunctionSpec:
        """Describes the outer levels around a `deep_feature` of the given shape: they run at every step."""

        def call(unet: Any, x: mx.array, deep_feature: mx.array, **keywords: mx.array) -> tuple[mx.array, ...]:
            """Returns the prediction from a deep feature."""
            return (unet(x, deep=deep_feature, depth=self.depth, **keywords)[0],)

        description, residuals = "The UNet's shallow half: run it at every step", self.residuals()[: self.depth]
        return self._spec("UnetChunk2", call, (self.prediction,), description, self._deep(shape), residuals=residuals)

    def full_and_deep(self, shape: tuple[int, ...]) -> FunctionSpec:
        """Describes the whole UNet with prediction and `deep_feature`, for one package of several functions."""

        def call(unet: Any, x: mx.array, **keywords: mx.array) -> tuple[mx.array, ...]:
            """Returns (prediction, deep feature)."""
            return tuple(unet(x, depth=self.depth, **keywords))

        outputs = (self.prediction, self._deep(shape))
        return self._spec("Unet", call, outputs, "The whole UNet", residuals=self.residuals())

    def deep_shape(self, unet: Any) -> tuple[int, ...]:
        """Returns the shape (B, h, w, C) of the feature that DeepCache keeps; nothing is computed."""
        first, *others = self.inputs()
        inputs = {_KEYWORDS.get(port.name, port.name): mx.zeros(port.shape) for port in others}
        x = mx.zeros(first.shape, first.network_dtype)
        shape: tuple[int, ...] = unet(x, depth=self.depth, **inputs)[1].shape
        return shape

    def inputs(self) -> tuple[Port, ...]:
        """Returns the ports that every function of the UNet takes, `sample` (B, height, width, C) first."""
        c, n = self.config, self.batch
        ports = [
            port("sample", (n, self.height, self.width, c.in_channels), self.dtype, IMAGE),
            port("timestep", (n,), self.dtype),
            self.context(),
        ]
        if c.added_time_dims:
            sizes = (c.added_inputs - self.pooled) // c.added_time_dims
            ports += [
                port("time_ids", (n, sizes), self.dtype),
                port("text_embeds", (n, self.pooled), self.dtype),
            ]
        if c.guidance_dims:
            ports += [port("timestep_cond", (n, c.guidance_dims), self.dtype)]
        return tuple(ports)

    def context(self) -> Port:
        """Returns the port of the encoded text."""
        c = self.config
        width = max(block.context for block in (*c.down, *((c.mid,) if c.mid else ()), *c.up))
        return port("encoder_hidden_states", (self.batch, self.tokens, width), self.dtype, TOKENS)

    def residuals(self) -> tuple[Port, ...]:
        """Returns a port for each skip, fine to coarse, and last one for the middle: what control networks add to them.

        Whether the UNet has these ports, `controlled` says.
        """
        c = self.config
        levels = [*c.skip_levels, c.skip_levels[-1]]
        channels = [*c.skip_channels, c.down[-1].channels]
        return tuple(
            port(f"{RESIDUAL}{i}", (self.batch, self.height >> level, self.width >> level, width), self.dtype, IMAGE)
            for i, (level, width) in enumerate(zip(levels, channels, strict=True))
        )

    @property
    def prediction(self) -> Port:
        """Returns the port of what the UNet predicts, `noise_pred`."""
        shape = (self.batch, self.height, self.width, self.config.out_channels)
        return port("noise_pred", shape, mx.float32, IMAGE, self.dtype)

    def _deep(self, shape: tuple[int, ...]) -> Port:
        return port("deep_feature", shape, self.dtype, IMAGE)

    def _spec(
        self,
        name: str,
        function: Callable[..., Any],
        outputs: tuple[Port, ...],
        description: str,
        *added: Port,
        residuals: tuple[Port, ...],
    ) -> FunctionSpec:
        """Describes function(unet, x, **keywords), whose keywords are the other inputs and `added`, by port.

        residuals: those that the function reads, inputs too where the UNet is controlled.
        """
        ports = (*self.inputs(), *added, *(residuals if self.controlled else ()))

        def call(unet: Any, x: mx.array, *arrays: mx.array) -> tuple[mx.array, ...]:
            """Calls the function with the arrays by their keywords."""
            named = {port.name: array for port, array in zip(ports[1:], arrays, strict=True)}
            return tuple(function(unet, x, **self._keywords(named)))

        prefix = CONTROLLED if self.controlled else ""
        return FunctionSpec(f"{prefix}{name}", "unet", call, ports, outputs, description, self.dtype)

    def _keywords(self, arrays: Mapping[str, mx.array]) -> dict[str, Any]:
        """Returns the arguments of `UNet.__call__` for the inputs of a function by port."""
        keywords = {_KEYWORDS.get(name, name): a for name, a in arrays.items() if not name.startswith(RESIDUAL)}
        if not self.controlled:
            return keywords
        *skips, middle = (arrays.get(port.name) for port in self.residuals())  # None where it is not read
        return keywords | {"skip_residuals": skips, "middle_residual": middle}


def networks(model: Model) -> dict[str, Any]:
    """Returns the networks of a loaded model by the names that `FunctionSpec.part` has."""
    unet = model.tokens.network if model.tokens else model.unet
    return {"unet": unet, "vae": model.vae, **dict(zip(texts(model), model.text_encoders, strict=True))}


def texts(model: Model) -> tuple[str, ...]:
    """Returns the names of a model's text encoders; the refiner of SDXL has the second alone."""
    count = len(model.text_encoders)
    return TEXT[1:] if is_xl(model.family) and count == 1 else TEXT[:count]
