"""A UNet over tokens: an embedding of each before it, and scores of all tokens at each place behind it."""

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn

from ..core.errors import InputError
from .blocks import Attend, apply_attention
from .unet import Deep, UNet
from .unet_config import UNetConfig

_TIMES = 1000.0  # the UNet's sinusoids are made for timesteps up to this


class TokenUNet(nn.Module):
    """Predicts which token a picture has at each place, where some are masked or have become others.

    config: of the UNet, whose input channels are the width of the embedding, and whose output channels are the tokens.
    Its token_states are the rows of the embedding: the tokens, and a mask behind them where there is one.
    """

    def __init__(self, config: UNetConfig):
        super().__init__()
        states = config.token_states
        if states is None or states not in (config.out_channels, config.out_channels + 1):
            raise InputError(
                f"the UNet scores {config.out_channels} tokens, so there are as many states or one more, not {states}"
            )
        self.config, self.states = config, states
        self.embedding = nn.Embedding(states, config.in_channels)
        self.unet = UNet(config)

    @property
    def branches(self) -> Sequence[int]:
        """Returns the DeepCache branches, those of the UNet."""
        return self.unet.branches

    @property
    def names(self) -> dict[str, str]:
        """Returns this network's layers -> their names in a checkpoint, the UNet's as diffusers has them."""
        return {"embedding": "token_embedding"} | {f"unet.{k}": f"unet.{v}" for k, v in self.unet.names.items()}

    def __call__(
        self,
        tokens: mx.array,
        time: mx.array,
        context: mx.array | None = None,
        *,
        deep: Deep = None,
        depth: int = 1,
        attend: Attend = apply_attention,
    ) -> tuple[mx.array, mx.array]:
        """Returns (logarithms of probabilities (B, h, w, K) in float32, deep features).

        tokens: (B, h, w), from 0 to below `states`. time: (B,) or one number for all, above 0, to 1. context:
        (B, L, C). deep, depth, attend: as `UNet.__call__` takes them.
        """
        scores, deep_features = self.unet(
            self.embedding(tokens), time * _TIMES, context, deep=deep, depth=depth, attend=attend
        )
        scores = scores.astype(mx.float32)
        return scores - mx.logsumexp(scores, axis=-1, keepdims=True), deep_features
