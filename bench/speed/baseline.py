"""The baseline of latency: diffusers' UNet, with the DeepCache package of its authors.

Shapes, number type, noise schedule and number of threads are those of this project's loops; the weights are random too.
"""

from collections.abc import Iterator
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

from mlx_sd.core.errors import InputError
from mlx_sd.reuse.deepcache import DeepCache

from ..machine import threads
from .loops import GUIDANCE, SCHEDULER, TOKENS, Loop, Setting, config

BASELINES = ("diffusers",)  # values of --peer


class Diffusers:
    """A UNet of diffusers with random weights, to run loops of one setting."""

    def __init__(self, setting: Setting):
        """Builds the UNet; InputError where a package is missing."""
        try:
            import diffusers
            import torch
            from DeepCache import DeepCacheSDHelper
        except ImportError as error:
            raise InputError(f"--peer diffusers needs {error.name}; pip install 'mlx-sd[reference]'") from None
        self._torch, self._diffusers, self._helper = torch, diffusers, DeepCacheSDHelper
        diffusers.utils.logging.set_verbosity_error()
        torch.set_num_threads(threads())
        torch.manual_seed(0)
        self.setting, self._config = setting, config(setting.model)
        self._dtype = getattr(torch, str(setting.dtype).rpartition(".")[2])
        self._unet = diffusers.UNet2DConditionModel.from_config(self._config).to(self._dtype).eval()
        c, rows = self._unet.config, setting.rows
        self._noise = torch.randn(setting.batch, c.in_channels, setting.side, setting.side)
        self._context = torch.randn(rows, TOKENS, c.cross_attention_dim).to(self._dtype)
        self._added = None
        if c.addition_time_embed_dim:
            pooled = c.projection_class_embeddings_input_dim - 6 * c.addition_time_embed_dim
            self._added = {"time_ids": torch.full((rows, 6), 1024.0), "text_embeds": torch.randn(rows, pooled)}
            self._added = {name: array.to(self._dtype) for name, array in self._added.items()}

    @staticmethod
    def supports(loop: Loop) -> bool:
        """Tells whether the packages have such a loop: every step full, or DeepCache at every N-th step."""
        return loop == Loop() or (loop == Loop(loop.deepcache) and _at_intervals(loop.deepcache))

    def versions(self) -> dict[str, Any]:
        """Returns the versions of the packages, and torch's number of threads."""
        versions = {name: version(name) for name in ("diffusers", "torch", "DeepCache")}
        return {**versions, "threads": self._torch.get_num_threads()}

    def warm_up(self) -> None:
        """Runs the UNet once, so that no loop pays for first-time work."""
        with self._torch.no_grad():
            self._predict(self._unet, self._noise, self._torch.tensor(500))

    def run(self, loop: Loop) -> Iterator[Any]:
        """Runs the loop, one evaluation of the UNet at a time."""
        scheduler = self._diffusers.DDIMScheduler.from_config(SCHEDULER)
        scheduler.set_timesteps(self.setting.steps)
        unet = self._unet
        if isinstance(loop.deepcache, DeepCache):
            # The package keeps its state in the UNet's own methods: each loop has a UNet, all with the same weights.
            with self._torch.device("meta"):
                unet = self._diffusers.UNet2DConditionModel.from_config(self._config)
            unet.load_state_dict(self._unet.state_dict(), assign=True)
            helper = self._helper(SimpleNamespace(unet=unet.eval(), scheduler=scheduler))
            # The authors number three branches a level, however many it has.
            level, layer = divmod(loop.deepcache.branch, unet.config.layers_per_block + 1)
            helper.set_params(cache_interval=loop.deepcache.interval, cache_branch_id=3 * level + layer)
            helper.enable()
        x = self._noise
        for t in scheduler.timesteps:
            with self._torch.no_grad():
                x = scheduler.step(self._predict(unet, x, t).float(), t, x).prev_sample
            yield x

    def _predict(self, unet: Any, x: Any, t: Any) -> Any:
        if self.setting.guided:
            x = self._torch.cat([x, x])
        x = unet(x.to(self._dtype), t, self._context, added_cond_kwargs=self._added, return_dict=False)[0]
        if self.setting.guided:
            uncond, cond = x.chunk(2)
            x = uncond + GUIDANCE * (cond - uncond)
        return x


def _at_intervals(policy: Any) -> bool:
    return isinstance(policy, DeepCache) and not policy.forecast
