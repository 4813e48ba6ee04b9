"""The network as the sampling loop sees it: its conditions, guidance and what it reuses inside."""

from collections.abc import Sequence

import mlx.core as mx

from .adapters import Features
from .conditions import Conditions
from .controller import Controller
from .image_prompts import ImageAttention
from .networks.blocks import Attend, apply_attention
from .networks.unet import Deep, Join, UNet, concatenate
from .perturbed_attention import PerturbedAttention
from .reuse.feature_cache import FeatureCache
from .reuse.tgate import AttentionCache


class Predictor:
    """The guided network for one generation of a batch of N pictures."""

    def __init__(
        self,
        unet: UNet,
        conditions: Conditions | Sequence[Conditions],
        guidance: float,
        deepcache: FeatureCache,
        *,
        guidance_rescale: float = 0.0,
        image_guidance: float = 1.0,
        channels: mx.array | None = None,
        join: Join = concatenate,
        tgate: AttentionCache | None = None,
        control: Controller | None = None,
        features: Features | None = None,
        image_attention: ImageAttention | None = None,
        perturbation: PerturbedAttention | None = None,
    ):
        """Collects what one generation needs.

        conditions: of all evaluations, or one for each, where prompts change on the way. guidance, guidance_rescale: as
        `guide` takes them. deepcache: the deep features of this generation. image_guidance: of checkpoints that edit by
        instruction, as `Conditions.guide` takes it. channels: (1 or N, h, w, K) beside the latents. join: how the UNet
        joins skips (FreeU). tgate: the attention outputs of this generation. control: its control networks. features:
        what its T2I-Adapters add. image_attention: what its image prompts add to attentions. perturbation: of the last
        rows, where the conditions have such rows.
        """
        self._unet, self._conditions, self._channels = unet, conditions, channels
        self._guidance, self._guidance_rescale, self._image_guidance = guidance, guidance_rescale, image_guidance
        self._features, self._image_attention, self._perturbation = features, image_attention, perturbation
        self.deepcache, self._join, self._tgate, self._control = deepcache, join, tgate, control

    @property
    def full(self) -> int:
        """How many evaluations were not cached."""
        return self.deepcache.full

    def __call__(self, latents: mx.array, timestep: float) -> mx.array:
        """Returns the guided prediction, float32, for latents (N, h, w, C)."""
        evaluation = self.deepcache.evaluations
        conditions = self._conditions if isinstance(self._conditions, Conditions) else self._conditions[evaluation]
        controlled = conditions
        attend: Attend = apply_attention
        if self._image_attention:
            attend = self._image_attention.apply(conditions.promptless, conditions.copies)
        if self._perturbation:
            attend = self._perturbation.apply(attend, latents.shape[0])
        if self._tgate:
            attend = self._tgate.attend(evaluation, attend)
            if self._tgate.drops_guidance(evaluation):
                # The UNet reuses what the prompt did; a control network has no such memory, and reads the prompt.
                conditions, controlled = conditions.unconditional(), conditions.conditional()
        x = mx.concatenate([latents] * conditions.copies)
        if self._channels is not None:
            channels = mx.broadcast_to(self._channels, (latents.shape[0], *self._channels.shape[1:]))
            x = mx.concatenate([x, conditions.beside(channels)], axis=-1)
        x = x.astype(self._unet.dtype)

        def evaluate(deep: Deep, depth: int) -> tuple[mx.array, mx.array]:
            """Runs the UNet; see `UNet.__call__` for deep and depth."""
            t, residuals = mx.array(timestep), None
            if self._control:
                # Where the UNet itself decides whether to reuse, all are asked for: MLX computes what is then read.
                outer = depth if isinstance(deep, mx.array) else None
                residuals = self._control.residuals(evaluation, latents, t, controlled, outer)
            return self._unet(
                x,
                t,
                conditions.context,
                **conditions.keywords,
                deep=deep,
                depth=depth,
                join=self._join,
                attend=attend,
                skip_residuals=residuals and residuals.skips,
                middle_residual=residuals and residuals.middle,
                features=self._features and self._features.at(evaluation),
            )

        output = self.deepcache.evaluate(evaluate).astype(mx.float32)
        away = self._perturbation.scale_at(timestep) if self._perturbation else 0.0
        return conditions.guide(output, self._guidance, self._guidance_rescale, away, self._image_guidance)
