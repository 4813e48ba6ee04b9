"""What each package of an app computes, and its interface: names, shapes and types as Apple's Swift code knows them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_sd.core.errors import InputError
from mlx_sd.networks.unet_config import UNetConfig

from .layout import IMAGE, TOKENS, Order


@dataclass(frozen=True)
class Port:
    """An input or output of a package."""

    name: str
    shape: tuple[int, ...]  # as the network sees it
    order: Order  # as Core ML stores it
    dtype: mx.Dtype  # at the package's boundary
    inside: mx.Dtype  # in the network

    @property
    def stored(self) -> tuple[int, ...]:
        """The shape at the package's boundary."""
        return tuple(1 if axis is None else self.shape[axis] for axis in self.order)

    def store(self, array: mx.array) -> np.ndarray:
        """An array of the network as the package takes it."""
        axes = [axis for axis in self.order if axis is not None]
        stored: np.ndarray = np.array(array.astype(self.dtype)).transpose(axes).reshape(self.stored)
        return stored

    def load(self, array: np.ndarray) -> mx.array:
        """An array of the package as the network has it, in float32."""
        axes = [axis for axis in self.order if axis is not None]
        return mx.array(
            array.astype(np.float32).reshape([self.shape[axis] for axis in axes]).transpose(np.argsort(axes))
        )


@dataclass(frozen=True)
class Spec:
    """One package: a function of one network."""

    name: str  # of the package
    part: str  # of the model that it is made from
    function: Callable[..., tuple[mx.array, ...]]  # of the network and the inputs
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    about: str  # one line for the reader of the package
    weights: mx.Dtype  # in the network


def _port(name: str, shape: tuple[int, ...], dtype: mx.Dtype, order: Order | None = None, **how: Any) -> Port:
    return Port(name, shape, order or tuple(range(len(shape))), dtype, how.get("inside", dtype))


def text_encoder(part: str, config: Any, dtype: mx.Dtype, xl: bool) -> Spec:
    """Token ids, as numbers of float32, -> what the UNet takes as its context, and the pooled text."""
    ids = _port("input_ids", (1, config.tokens), mx.float32, inside=mx.int32)
    pooled = _port("pooled_outputs", (1, config.projection or config.width), mx.float32, inside=dtype)
    context = _port("hidden_embeds" if xl else "last_hidden_state", (1, config.tokens, config.width), mx.float32)

    def encode(network: Any, ids: mx.array) -> tuple[mx.array, ...]:
        encoded = network(ids)
        return (encoded.hidden[-2] if xl else encoded.last), encoded.pooled

    outputs = (replace(context, inside=dtype), pooled)
    name = "TextEncoder2" if part.endswith("_2") else "TextEncoder"
    return Spec(name, part, encode, (ids,), outputs, "Token ids of a text to what the UNet takes of it", dtype)


def vae_decoder(config: Any, height: int, width: int, dtype: mx.Dtype) -> Spec:
    """Latents divided by the scaling factor -> a picture in [-1, 1]; height and width are the latents'."""
    z = _port("z", (1, height, width, config.latent_channels), dtype, IMAGE)
    size = (1, height * config.downsampling, width * config.downsampling, config.out_channels)
    image = replace(_port("image", size, mx.float32, IMAGE), inside=dtype)
    return Spec(
        "VAEDecoder", "vae", lambda network, z: (network.decode(z),), (z,), (image,), "Latents to a picture", dtype
    )


def vae_encoder(config: Any, height: int, width: int, dtype: mx.Dtype) -> Spec:
    """A picture in [-1, 1] -> mean and log variance of its latents."""
    x = _port("x", (1, height * config.downsampling, width * config.downsampling, config.in_channels), dtype, IMAGE)
    latent = _port("latent", (1, height, width, 2 * config.latent_channels), mx.float32, IMAGE, inside=dtype)
    return Spec(
        "VAEEncoder", "vae", lambda network, x: (network.moments(x),), (x,), (latent,), "A picture to latents", dtype
    )


@dataclass(frozen=True)
class UNetPackages:
    """The packages that a UNet can become, for one size of latents and one batch."""

    config: UNetConfig
    tokens: int
    pooled: int  # width of the pooled text, which SDXL takes
    height: int
    width: int
    batch: int
    dtype: mx.Dtype
    depth: int  # DeepCache branch + 1

    def __post_init__(self) -> None:
        if self.config.class_embedding:
            raise InputError("Core ML: a UNet with class embeddings cannot be exported")

    def full(self) -> Spec:
        """The whole UNet, with the one output that Apple's code expects."""
        return self._spec("Unet", lambda unet, x, **how: (unet(x, **how)[0],), (self._noise,), "The whole UNet")

    def deep(self, shape: tuple[int, ...]) -> Spec:
        """What DeepCache keeps between steps, of that shape."""

        def function(unet: Any, x: mx.array, **how: mx.array) -> tuple[mx.array, ...]:
            return (unet(x, depth=self.depth, **how)[1],)

        return self._spec("UnetChunk1", function, (self._deep(shape),), "The UNet's deep half: run it to refresh")

    def shallow(self, shape: tuple[int, ...]) -> Spec:
        """The outer levels around what was kept: run at every step."""

        def function(unet: Any, x: mx.array, deep_feature: mx.array, **how: mx.array) -> tuple[mx.array, ...]:
            return (unet(x, deep=deep_feature, depth=self.depth, **how)[0],)

        return self._spec(
            "UnetChunk2", function, (self._noise,), "The UNet's shallow half: run it at every step", self._deep(shape)
        )

    def both(self, shape: tuple[int, ...]) -> Spec:
        """The whole UNet, giving what DeepCache keeps beside its prediction: for one package of several functions."""
        outputs = (self._noise, self._deep(shape))
        return self._spec("Unet", lambda unet, x, **how: unet(x, depth=self.depth, **how), outputs, "The whole UNet")

    def deep_shape(self, unet: Any) -> tuple[int, ...]:
        """Of what DeepCache keeps; nothing is computed."""
        given = {_KEYWORDS.get(port.name, port.name): mx.zeros(port.shape) for port in self.inputs()}
        shape: tuple[int, ...] = unet(given.pop("sample"), depth=self.depth, **given)[1].shape
        return shape

    @property
    def _noise(self) -> Port:
        shape = (self.batch, self.height, self.width, self.config.out_channels)
        return _port("noise_pred", shape, mx.float32, IMAGE, inside=self.dtype)

    def _deep(self, shape: tuple[int, ...]) -> Port:
        return _port("deep_feature", shape, self.dtype, IMAGE)

    def _spec(
        self, name: str, function: Callable[..., Any], outputs: tuple[Port, ...], about: str, *more: Port
    ) -> Spec:
        ports = (*self.inputs(), *more)
        names = [_KEYWORDS.get(port.name, port.name) for port in ports[1:]]

        def call(unet: Any, x: mx.array, *rest: mx.array) -> tuple[mx.array, ...]:
            return tuple(function(unet, x, **dict(zip(names, rest, strict=True))))

        return Spec(name, "unet", call, ports, outputs, about, self.dtype)

    def inputs(self) -> tuple[Port, ...]:
        """Of every half."""
        c, n = self.config, self.batch
        context = max(block.context for block in (*c.down, *((c.mid,) if c.mid else ()), *c.up))
        ports = [
            _port("sample", (n, self.height, self.width, c.in_channels), self.dtype, IMAGE),
            _port("timestep", (n,), self.dtype),
            _port("encoder_hidden_states", (n, self.tokens, context), self.dtype, TOKENS),
        ]
        if c.added_time_dims:
            sizes = (c.added_inputs - self.pooled) // c.added_time_dims
            ports += [
                _port("time_ids", (n, sizes), self.dtype),
                _port("text_embeds", (n, self.pooled), self.dtype),
            ]
        if c.guidance_dims:
            ports += [_port("timestep_cond", (n, c.guidance_dims), self.dtype)]
        return tuple(ports)


_KEYWORDS = {"timestep": "t", "encoder_hidden_states": "context"}  # what the network calls them
