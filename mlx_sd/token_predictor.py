"""A network over tokens as the samplers of `mlx_sd.discrete` see it: with prompt, guidance and kept deep features."""

import math
from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from .core.errors import InputError
from .discrete.calls import Call
from .discrete.corruption import Floats, Tokens
from .discrete.samplers import guided
from .networks.tokens import TokenUNet
from .reuse.feature_cache import FeatureCache
from .reuse.policy import Policy

_END = 1e-4  # keeps the logarithm of the odds finite where all tokens have changed


class TokenPredictor:
    """Predicts the tokens of one picture at each of its calls; made fresh for each picture."""

    def __init__(
        self,
        network: TokenUNet,
        size: tuple[int, int],
        calls: Sequence[Call],
        context: mx.array | None = None,
        guidance: float = 1.0,
        policy: Policy | None = None,
    ):
        """Takes the calls of one picture of (height, width) tokens.

        context: (1, L, C) of the prompt; with guidance (2, L, C), the first of them without it. policy: DeepCache's,
        over the calls of the network; None computes everything. InputError where these do not fit.
        """
        height, width = size
        if len(calls[0].changing) != height * width:
            raise InputError(
                f"the calls are of {len(calls[0].changing)} tokens, and {height} x {width} are another number"
            )
        self._rows = 2 if guidance != 1 else 1
        if context is not None and context.shape[0] != self._rows:
            raise InputError(f"guidance {guidance:g} takes {self._rows} contexts, not {context.shape[0]}")
        self._network, self._size, self._context, self._guidance = network, size, context, guidance
        odds = [math.log((call.alpha + _END) / (1 - call.alpha + _END)) for call in calls]
        self.deepcache = FeatureCache(policy, odds)

    def __call__(self, tokens: Tokens, time: float) -> Floats:
        """Returns logarithms (N, K) of the probabilities of each token, for tokens (N,) at a time."""
        x = mx.broadcast_to(mx.array(tokens.astype(np.int32)).reshape(1, *self._size), (self._rows, *self._size))
        predicted = self.deepcache.evaluate(
            lambda deep, depth: self._network(x, mx.array(time), self._context, deep=deep, depth=depth)
        )
        rows = np.array(predicted, dtype=np.float64).reshape(self._rows, len(tokens), -1)
        return rows[0] if self._rows == 1 else guided(rows[1], rows[0], self._guidance)
