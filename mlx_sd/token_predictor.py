"""A network over tokens as the samplers of `mlx_sd.discrete` see it: with prompt, guidance and kept deep features."""

import math
from collections.abc import Collection, Sequence

import mlx.core as mx
import numpy as np

from .core.errors import InputError
from .discrete.calls import Call
from .discrete.corruption import Floats, Tokens
from .discrete.samplers import Mask, guided
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
        context: mx.array | Sequence[mx.array | None] | None = None,
        guidance: float = 1.0,
        policy: Policy | None = None,
        *,
        around: tuple[Tokens, Mask] | None = None,
        restarts: Collection[int] = (),
    ):
        """Takes the calls of one picture of (height, width) tokens.

        context: (1, L, C) of the prompt; with guidance (2, L, C), the first of them without it; or such an array for
        each call. policy: DeepCache's, over the calls of the network; None computes everything. around: tokens of the
        whole picture, and which of them are sampled (h w,); None samples all. restarts: as of `FeatureCache`.
        InputError where these do not fit.
        """
        height, width = size
        count = height * width if around is None else int(around[1].sum())
        if len(calls[0].changing) != count:
            raise InputError(f"the calls are of {len(calls[0].changing)} tokens, and there are {count} to be sampled")
        self._rows = 2 if guidance != 1 else 1
        every = [context] * len(calls) if context is None or isinstance(context, mx.array) else context
        for rows in (entry.shape[0] for entry in every if entry is not None):
            if rows != self._rows:
                raise InputError(f"guidance {guidance:g} takes {self._rows} contexts, not {rows}")
        self._network, self._size, self._contexts, self._guidance = network, size, every, guidance
        self._around = around
        odds = [math.log((call.alpha + _END) / (1 - call.alpha + _END)) for call in calls]
        self.deepcache = FeatureCache(policy, odds, restarts=restarts)

    def __call__(self, tokens: Tokens, time: float) -> Floats:
        """Returns logarithms (N, K) of the probabilities of each token, for tokens (N,) at a time."""
        context, placed = self._contexts[self.deepcache.evaluations], self.placed(tokens)
        x = mx.broadcast_to(mx.array(placed.astype(np.int32)).reshape(1, *self._size), (self._rows, *self._size))
        predicted = self.deepcache.evaluate(
            lambda deep, depth: self._network(x, mx.array(time), context, deep=deep, depth=depth)
        )
        rows = np.array(predicted, dtype=np.float64).reshape(self._rows, len(placed), -1)
        if self._around:
            rows = rows[:, self._around[1]]
        return rows[0] if self._rows == 1 else guided(rows[1], rows[0], self._guidance)

    def placed(self, tokens: Tokens) -> Tokens:
        """Returns the tokens (h w,) of the whole picture, where those (N,) that are sampled are in their places."""
        if self._around is None:
            return tokens
        placed: Tokens = self._around[0].copy()
        placed[self._around[1]] = tokens
        return placed
