"""The baseline of latency: diffusers' UNet, with the DeepCache package of its authors, compiled or not.

Shapes, number type, noise schedule, device and number of threads are those of this project's loops; the weights are
random too. PyTorch's device is CUDA's or Apple's GPU where MLX computes on a GPU, else the CPU.
"""

from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import mlx.core as mx

from mlx_sd.core.errors import InputError
from mlx_sd.reuse.deepcache import DeepCache

from ..machine import threads
from .loops import GUIDANCE, SCHEDULER, TOKENS, Loop, Setting, config

BASELINES = ("diffusers",)  # values of --peer


class Diffusers:
    """A UNet of diffusers with random weights, to run loops of one setting."""

    def __init__(self, setting: Setting, compiled: bool = False):
        """Builds the UNet; InputError where a package is missing, or PyTorch has no GPU and MLX computes on one.

        compiled: by torch.compile, as a whole where every step is full. DeepCache's package decides in Python, step by
        step, what runs: there each residual block, transformer, down- and upsampler is compiled by itself.
        """
        torch, diffusers, authors = packages("DeepCache")
        self._torch, self._diffusers, self._helper = torch, diffusers, authors.DeepCacheSDHelper
        self.setting, self._config, self._compiled = setting, config(setting.model), compiled
        self._device = _device(torch)
        self._dtype = getattr(torch, str(setting.dtype).rpartition(".")[2])
        self._unet = diffusers.UNet2DConditionModel.from_config(self._config).to(self._device, self._dtype).eval()
        c, rows = self._unet.config, setting.rows
        self._noise = torch.randn(setting.batch, c.in_channels, setting.side, setting.side).to(self._device)
        context, added = conditions(torch, c, rows)
        self._context = context.to(self._device, self._dtype)
        self._added = added and {name: array.to(self._device, self._dtype) for name, array in added.items()}

    @staticmethod
    def supports(loop: Loop) -> bool:
        """Tells whether the packages have such a loop: every step full, or DeepCache at every N-th step."""
        return loop == Loop() or (loop == Loop(loop.deepcache) and _at_intervals(loop.deepcache))

    def versions(self) -> dict[str, Any]:
        """Returns the versions of the packages, PyTorch's device and threads, and whether the UNet is compiled."""
        versions = {name: version(name) for name in ("diffusers", "torch", "DeepCache")}
        machine = {"threads": self._torch.get_num_threads(), "device": self._device}
        return {**versions, **machine, "compiled": self._compiled}

    def warm_up(self) -> None:
        """Runs the UNet once, so that no loop pays for first-time work."""
        self._run_once(self._unet)

    def run(self, loop: Loop) -> Iterator[Any]:
        """Prepares a loop, and returns what runs it, one evaluation of the UNet at a time."""
        scheduler = self._diffusers.DDIMScheduler.from_config(SCHEDULER)
        scheduler.set_timesteps(self.setting.steps)
        policy = loop.deepcache if isinstance(loop.deepcache, DeepCache) else None
        unet = self._copy() if policy else self._unet
        if self._compiled:
            unet = self._compile(unet, in_parts=policy is not None)
        if policy:
            self._cache(unet, policy, scheduler)
        return self._steps(unet, scheduler)

    def _steps(self, unet: Any, scheduler: Any) -> Iterator[Any]:
        x = self._noise
        for t in scheduler.timesteps:
            with self._torch.no_grad():
                x = scheduler.step(self._predict(unet, x, t).float(), t, x).prev_sample
            self._wait()
            yield x

    def _copy(self) -> Any:
        """Returns a UNet of the same weights; DeepCache's package keeps its state in the UNet's own methods."""
        with self._torch.device("meta"):
            unet = self._diffusers.UNet2DConditionModel.from_config(self._config)
        unet.load_state_dict(self._unet.state_dict(), assign=True)
        return unet.eval()

    def _compile(self, unet: Any, in_parts: bool) -> Any:
        """Returns a UNet, compiled as a whole or part by part; it runs once, so that no loop waits for the compiler."""
        if in_parts:
            for part in _parts(unet):
                part.forward = self._torch.compile(part.forward)
        else:
            unet = self._torch.compile(unet)
        self._run_once(unet)
        return unet

    def _cache(self, unet: Any, policy: DeepCache, scheduler: Any) -> None:
        """Has DeepCache's package keep a UNet's deep features at a policy's interval and branch."""
        helper = self._helper(SimpleNamespace(unet=unet, scheduler=scheduler))
        # The authors number three branches a level, however many it has.
        level, layer = divmod(policy.branch, unet.config.layers_per_block + 1)
        helper.set_params(cache_interval=policy.interval, cache_branch_id=3 * level + layer)
        helper.enable()

    def _run_once(self, unet: Any) -> None:
        with self._torch.no_grad():
            self._predict(unet, self._noise, self._torch.tensor(500))
        self._wait()

    def _wait(self) -> None:
        """Waits until the GPU has done its work, where there is one."""
        if self._device != "cpu":
            getattr(self._torch, self._device).synchronize()

    def _predict(self, unet: Any, x: Any, t: Any) -> Any:
        if self.setting.guided:
            x = self._torch.cat([x, x])
        x = unet(x.to(self._dtype), t, self._context, added_cond_kwargs=self._added, return_dict=False)[0]
        if self.setting.guided:
            uncond, cond = x.chunk(2)
            x = uncond + GUIDANCE * (cond - uncond)
        return x


def packages(other: str) -> tuple[Any, Any, Any]:
    """Returns PyTorch, with our number of threads and its seed set, diffusers without messages, and another package.

    Raises InputError where one is missing.
    """
    try:
        diffusers, torch, third = (import_module(name) for name in ("diffusers", "torch", other))
    except ImportError as error:
        raise InputError(f"--peer diffusers needs {error.name}; pip install 'mlx-sd[reference]'") from None
    diffusers.utils.logging.set_verbosity_error()
    torch.set_num_threads(threads())
    torch.manual_seed(0)
    return torch, diffusers, third


def conditions(torch: Any, config: Any, rows: int) -> tuple[Any, Any]:
    """Returns random context of a UNet of diffusers with this config, and what SDXL's has beside it, or None."""
    context = torch.randn(rows, TOKENS, config.cross_attention_dim)
    if not config.addition_time_embed_dim:
        return context, None
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    return context, {"time_ids": torch.full((rows, 6), 1024.0), "text_embeds": torch.randn(rows, pooled)}


def _device(torch: Any) -> str:
    """Returns PyTorch's name of the kind of device that MLX computes on."""
    if mx.default_device() == mx.cpu:
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    if torch.backends.mps.is_available():
        return "mps"
    raise InputError("--peer diffusers: MLX computes on a GPU, and this PyTorch has none; add --device cpu")


def _parts(unet: Any) -> Iterator[Any]:
    """Yields the parts of a UNet that DeepCache's package runs or skips one by one."""
    for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks):
        for name in ("resnets", "attentions", "downsamplers", "upsamplers"):
            yield from getattr(block, name, None) or ()


def _at_intervals(policy: Any) -> bool:
    return isinstance(policy, DeepCache) and not policy.forecast
