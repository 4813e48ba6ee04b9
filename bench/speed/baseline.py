"""diffusers, with the DeepCache package of its authors, as the loops that ours are compared with.

The shapes, number type, noise schedule and number of threads are ours; the weights are as random.
"""

from collections.abc import Iterator
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

from mlx_sd.core.errors import InputError
from mlx_sd.reuse.deepcache import DeepCache

from ..machine import threads
from .loops import GUIDANCE, SCHEDULER, TOKENS, Loop, Setting, config

PEERS = ("diffusers",)


class Diffusers:
    """A UNet of diffusers for loops of one setting."""

    def __init__(self, setting: Setting):
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
        own, rows = self._unet.config, setting.rows
        self._noise = torch.randn(setting.batch, own.in_channels, setting.side, setting.side)
        self._context = torch.randn(rows, TOKENS, own.cross_attention_dim).to(self._dtype)
        self._added = None
        if own.addition_time_embed_dim:
            pooled = own.projection_class_embeddings_input_dim - 6 * own.addition_time_embed_dim
            self._added = {"time_ids": torch.full((rows, 6), 1024.0), "text_embeds": torch.randn(rows, pooled)}
            self._added = {name: array.to(self._dtype) for name, array in self._added.items()}

    @staticmethod
    def runs(loop: Loop) -> bool:
        """Whether there is such a loop over there: every step full, or DeepCache at every N-th."""
        return loop == Loop() or (loop == Loop(loop.deepcache) and _plain(loop.deepcache))

    def versions(self) -> dict[str, Any]:
        """What is compared with."""
        found = {name: version(name) for name in ("diffusers", "torch", "DeepCache")}
        return {**found, "threads": self._torch.get_num_threads()}

    def warm_up(self) -> None:
        """Runs the UNet once."""
        with self._torch.no_grad():
            self._predict(self._unet, self._noise, self._torch.tensor(500))

    def run(self, loop: Loop) -> Iterator[Any]:
        """The loop, one evaluation of the UNet at a time."""
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


def _plain(policy: Any) -> bool:
    return isinstance(policy, DeepCache) and not policy.forecast
