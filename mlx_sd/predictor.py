"""The network as the sampling loop sees it: its conditions, guidance and what it reuses inside."""

import mlx.core as mx

from .conditions import Conditions
from .networks.blocks import Attend, apply_attention
from .networks.unet import Deep, Join, UNet, concatenate
from .reuse.feature_cache import FeatureCache
from .reuse.tgate import AttentionCache
from .sampling.denoise import guide


class Predictor:
    """For one generation of a batch of N pictures."""

    def __init__(
        self,
        unet: UNet,
        conditions: Conditions,
        guidance: float,
        deepcache: FeatureCache,
        *,
        rescale: float = 0.0,
        channels: mx.array | None = None,
        join: Join = concatenate,
        tgate: AttentionCache | None = None,
    ):
        """guidance and `rescale` are as `guide` takes them; channels: (1 or N, h, w, K) beside the latents, or None."""
        self._unet, self._conditions, self._channels = unet, conditions, channels
        self._guidance, self._rescale = guidance, rescale
        self.deepcache, self._join, self._tgate = deepcache, join, tgate

    @property
    def full(self) -> int:
        """How many evaluations were not cached."""
        return self.deepcache.full

    def __call__(self, x: mx.array, t: float) -> mx.array:
        """The (guided) prediction, float32, for latents x (N, h, w, C) at timestep t."""
        evaluation, conditions = self.deepcache.evaluations, self._conditions
        attends: Attend = apply_attention
        if self._tgate:
            attends = self._tgate.attend(evaluation)
            if self._tgate.drops_guidance(evaluation):
                conditions = conditions.unconditional()
        if self._channels is not None:
            beside = mx.broadcast_to(self._channels, (x.shape[0], *self._channels.shape[1:]))
            x = mx.concatenate([x, beside], axis=-1)
        if conditions.guided:
            x = mx.concatenate([x, x])
        x = x.astype(self._unet.dtype)

        def network(deep: Deep, depth: int) -> tuple[mx.array, mx.array]:
            given, extra = conditions.context, conditions.extra
            return self._unet(x, mx.array(t), given, **extra, deep=deep, depth=depth, join=self._join, attend=attends)

        output = self.deepcache.evaluate(network).astype(mx.float32)
        return guide(output, self._guidance, self._rescale) if conditions.guided else output
