"""What the packages of a model of tokens compute: a UNet from tokens to probabilities, and a decoder of tokens."""

from dataclasses import dataclass

import mlx.core as mx

from mlx_sd.networks.configs import VAEConfig

from .interfaces import FunctionSpec, Port, UNetFunctions, port
from .layout import IMAGE

TOKEN_GRID, TIME, LOG_PROBABILITIES = "tokens", "time", "log_probabilities"


@dataclass(frozen=True)
class TokenFunctions(UNetFunctions):
    """The functions of a `TokenUNet`: its inputs are tokens and their time, and it predicts logarithms."""

    def inputs(self) -> tuple[Port, ...]:
        """Returns `tokens` (B, height, width), `time` (B,) in (0, 1], in float32 in any case, and the context."""
        tokens = port(TOKEN_GRID, (self.batch, self.height, self.width), mx.int32)
        return (tokens, port(TIME, (self.batch,), mx.float32), self.context())

    @property
    def prediction(self) -> Port:
        """Returns the port of the logarithms of the probabilities of each code at each place."""
        return port(
            LOG_PROBABILITIES, (self.batch, self.height, self.width, self.config.out_channels), mx.float32, IMAGE
        )


def token_decoder(config: VAEConfig, height: int, width: int, dtype: mx.Dtype) -> FunctionSpec:
    """Describes the decoder of a VQ autoencoder: rows (1, height, width) of its codebook in, an image in [-1, 1] out.

    height, width: of the tokens; the image has `config.downsampling` times as many pixels along each side.
    """
    tokens = port(TOKEN_GRID, (1, height, width), mx.int32)
    size = (1, height * config.downsampling, width * config.downsampling, config.out_channels)
    image = port("image", size, mx.float32, IMAGE, dtype)
    return FunctionSpec(
        "VAEDecoder",
        "vae",
        lambda network, tokens: (network.decode_tokens(tokens),),
        (tokens,),
        (image,),
        "Tokens to a picture",
        dtype,
    )
