"""The reference side of parity: torch, transformers, diffusers and the authors' DeepCache on the tiny families.

Arrays go in and come out channel-last, as NumPy.
"""

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from tests.support import families
from tests.support.families import Config

torch.set_num_threads(1)
torch.set_grad_enabled(False)
diffusers.utils.logging.set_verbosity_error()
diffusers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
warnings.filterwarnings("ignore", category=FutureWarning)

# Our sampler -> the diffusers class that means it, and what it is configured with beside the checkpoint's fields. A
# sampler that diffusers lacks is not here; tests/sampling is what proves it.
SCHEDULERS: dict[str, tuple[str, Config]] = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "deis": ("DEISMultistepScheduler", {}),
    "dpm_2m": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "dpmpp_2s": ("DPMSolverSinglestepScheduler", {}),
    "dpmpp_3m": ("DPMSolverMultistepScheduler", {"solver_order": 3}),
    "edm": ("HeunDiscreteScheduler", {}),  # without churn
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "lcm": ("LCMScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "plms": ("PNDMScheduler", {"skip_prk_steps": True}),
    "tcd": ("TCDScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
}
SPACINGS = {"leading": "leading", "linspace": "linspace", "trailing": "trailing", "diffusers_sgm_uniform": "trailing"}
SHAPES = {f"diffusers_{shape}": shape for shape in ("karras", "exponential", "beta")}


def supports(sampler: str, schedule: str) -> bool:
    """Whether diffusers has that schedule for that sampler, by name."""
    if sampler in ("lcm", "tcd"):
        return SPACINGS.get(schedule) == "trailing"  # what they do, whatever timestep_spacing says
    if sampler == "dpmpp_2s":
        return schedule == "linspace" or schedule in SHAPES
    if sampler in ("ddim", "ddpm", "plms"):
        return schedule in SPACINGS
    return schedule in SPACINGS or schedule in SHAPES


def first(array: Any) -> torch.Tensor:
    """Channel-last numbers -> a channel-first tensor."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.movedim(-1, 1).contiguous() if tensor.ndim == 4 else tensor


def last(tensor: torch.Tensor) -> np.ndarray:
    return (tensor.movedim(1, -1) if tensor.ndim == 4 else tensor).numpy()


# ------------------------------------------------------------------------------------------------ networks


def module(part: str, config: Config) -> torch.nn.Module:
    """The torch network of a part with the family's weights."""
    if part == "unet":
        made: Any = UNet2DConditionModel.from_config(config)
    elif part == "vae":
        made = AutoencoderKL.from_config(config)
    else:
        kind = CLIPTextModel if config["architectures"] == ["CLIPTextModel"] else CLIPTextModelWithProjection
        made = kind(CLIPTextConfig(**{k: v for k, v in config.items() if k != "transformers_version"}))
    state = {
        name: torch.from_numpy(families.tensor(part, name, list(value.shape))) if value.is_floating_point() else value
        for name, value in made.state_dict().items()
    }
    made.load_state_dict(state)
    return made.eval()


def modules(family: str) -> dict[str, torch.nn.Module]:
    return {part: module(part, families.FAMILIES[family][part]) for part in families.networks(family)}


def text(network: torch.nn.Module, ids: Any) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Hidden states before the first layer and after each, the normalised last one, the pooled one."""
    out = network(torch.tensor(ids), output_hidden_states=True)
    pooled = out.text_embeds if "text_embeds" in out else out.pooler_output
    return [h.numpy() for h in out.hidden_states], out.last_hidden_state.numpy(), pooled.numpy()


def unet(
    network: torch.nn.Module,
    inputs: dict[str, np.ndarray],
    skip_residuals: Sequence[np.ndarray] | None = None,
    middle_residual: np.ndarray | None = None,
) -> np.ndarray:
    given = {name: first(value) for name, value in inputs.items()}
    added = {name: given[name] for name in ("text_embeds", "time_ids") if name in given}
    return last(
        network(
            given["x"],
            given["t"],
            given["context"],
            class_labels=given.get("class_labels"),
            timestep_cond=given.get("timestep_cond"),
            added_cond_kwargs=added or None,
            down_block_additional_residuals=None if skip_residuals is None else tuple(map(first, skip_residuals)),
            mid_block_additional_residual=None if middle_residual is None else first(middle_residual),
        ).sample
    )


@contextmanager
def _tiling(network: Any, tile: int | None) -> Iterator[None]:
    if tile:
        network.enable_tiling()
        network.tile_sample_min_size = tile
        network.tile_latent_min_size = tile // 2 ** (len(network.config.block_out_channels) - 1)
    yield
    network.disable_tiling()


def encode(network: Any, image: np.ndarray, tile: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Mean and log variance of the posterior."""
    with _tiling(network, tile):
        found = network.encode(first(image)).latent_dist
    return last(found.mean), last(found.logvar)


def decode(network: Any, latents: np.ndarray, tile: int | None = None) -> np.ndarray:
    with _tiling(network, tile):
        return last(network.decode(first(latents)).sample)


# ------------------------------------------------------------------------------------------------ sampling


class ShapedAncestral(diffusers.EulerAncestralDiscreteScheduler):
    """Euler ancestral on the Karras and other levels of diffusers' Euler, which has them where this class has not."""

    shape = "karras"

    def set_timesteps(self, num_inference_steps: int, **kwargs: Any) -> None:
        super().set_timesteps(num_inference_steps, **kwargs)
        changes = {f"use_{self.shape}_sigmas": True, "final_sigmas_type": "zero"}
        euler = diffusers.EulerDiscreteScheduler.from_config(self.config, **changes)
        euler.set_timesteps(num_inference_steps)
        self.timesteps, self.sigmas = euler.timesteps, euler.sigmas


def scheduler(config: Config, sampler: str | None = None, schedule: str | None = None, **changes: Any) -> Any:
    """diffusers' scheduler for one of our samplers and schedules on a checkpoint's scheduler config."""
    # Made by the checkpoint's own class first, as a pipeline does it: only fields the file holds are handed on.
    own = getattr(diffusers, config["_class_name"]).from_config(config)
    name, extra = SCHEDULERS[sampler] if sampler else (config["_class_name"], {})
    extra = extra | changes
    if schedule in SPACINGS:
        extra["timestep_spacing"] = SPACINGS[schedule]
    elif schedule in SHAPES and name == "EulerAncestralDiscreteScheduler":
        shaped = ShapedAncestral.from_config(own.config, **extra)
        shaped.shape = SHAPES[schedule]
        return shaped
    elif schedule:
        extra[f"use_{SHAPES[schedule]}_sigmas"] = True
    return getattr(diffusers, name).from_config(own.config, **extra)


@contextmanager
def noise_from(made: Any, draw: Callable[[], torch.Tensor]) -> Iterator[None]:
    """While open, a scheduler's fresh noise comes from `draw`."""
    sources = [sys.modules[kind.__module__] for kind in type(made).__mro__]
    source: Any = next((s for s in sources if hasattr(s, "randn_tensor")), None)
    if source is None:
        yield
        return
    before = source.randn_tensor
    source.randn_tensor = lambda *args, **kwargs: draw()
    try:
        yield
    finally:
        source.randn_tensor = before


def stream(seed: int, batch: int, channels: int, height: int, width: int, dtype: Any = torch.float32) -> Callable:
    """Noise as mlx_sd draws it: one NumPy stream per picture, channel-first."""
    streams = [np.random.RandomState(seed + i) for i in range(batch)]

    def draw() -> torch.Tensor:
        drawn = [s.standard_normal((channels, height, width)).astype(np.float32) for s in streams]
        return torch.from_numpy(np.stack(drawn)).to(dtype)

    return draw


def midway(made: Any, begin: int) -> torch.Tensor:
    """Makes a scheduler leave out its first `begin` steps; the timesteps that are left.

    Two classes cannot, and get the lists of a run that starts anew there. PNDM repeats its second timestep, so a tail
    of its list begins a step early and lacks the repetition that its first two evaluations count on. LMS takes the
    coefficients of order 4 at once, of a history of one.
    """
    if isinstance(made, diffusers.PNDMScheduler):
        t = torch.from_numpy(made._timesteps[::-1].astype(np.int64))[begin:]
        if made.config.skip_prk_steps:
            return torch.cat([t[:2], t[1:]])
        half = made.config.num_train_timesteps // made.num_inference_steps // 2
        start = torch.tensor([v for p, q in pairwise(t[:4]) for v in (p, q + half, q + half, q)])
        made.prk_timesteps = start.numpy()
        return torch.cat([start, t[3:]])
    if isinstance(made, diffusers.LMSDiscreteScheduler):
        made.timesteps, made.sigmas, begin = made.timesteps[begin:], made.sigmas[begin:], 0
    begin *= made.order
    if hasattr(made, "set_begin_index"):
        made.set_begin_index(begin)
    return made.timesteps[begin:]


def run(
    made: Any,
    steps: int | Config,
    noise: torch.Tensor,
    predict: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    seed: int,
    begin: int | None = None,
    image: torch.Tensor | None = None,
    **options: Any,
) -> torch.Tensor:
    """The sampling loop of every diffusers pipeline; steps may be set_timesteps' keywords, options are step's.

    With `begin` and an `image` it is that of the img2img pipelines.
    """
    made.set_timesteps(**(steps if isinstance(steps, dict) else {"num_inference_steps": steps}))
    if begin is None:
        timesteps, x = made.timesteps, noise * made.init_noise_sigma
    else:
        timesteps = midway(made, begin)
        x = made.add_noise(image, noise, timesteps[:1])
    draw = stream(seed, *x.shape, dtype=x.dtype)
    with noise_from(made, draw):
        for t in timesteps:
            x = made.step(predict(made.scale_model_input(x, t), t), t, x, return_dict=False, **options)[0]
    return x


def tokens(folder: Path, texts: list[str]) -> list[list[int]]:
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    return tokenizer(texts, padding="max_length", truncation=True, max_length=77)["input_ids"]


def prompts(folder: Path, parts: dict[str, Any], texts: list[str]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(context, pooled) of texts, encoded by hand from the definition of SD and of SDXL."""
    contexts, pooled = [], None
    xl = "text_encoder_2" in parts
    for part in ("text_encoder", "text_encoder_2"):
        if part in parts:
            ids = tokens(folder / part.replace("text_encoder", "tokenizer"), texts)
            hidden, normalised, end = text(parts[part], ids)
            contexts.append(torch.from_numpy(hidden[-2] if xl else normalised))
            pooled = torch.from_numpy(end) if xl else None
    return torch.cat(contexts, dim=-1), pooled


def guided(
    folder: Path,
    parts: dict[str, Any],
    made: Any,
    noise: np.ndarray,
    *,
    steps: int = families.STEPS,
    guidance: float = families.GUIDANCE,
    beside: np.ndarray | None = None,
    seed: int = families.SEED,
    network: Callable[..., Any] | None = None,
) -> np.ndarray:
    """Final latents of classifier-free guidance with the tests' prompt, written out."""
    context, pooled = prompts(folder, parts, [families.NEGATIVE, families.PROMPT])
    batch = len(noise)
    context = context.repeat_interleave(batch, 0)
    added = None
    if pooled is not None:
        factor = 2 ** (len(parts["vae"].config.block_out_channels) - 1)
        size = [noise.shape[1] * factor, noise.shape[2] * factor]
        ids = torch.tensor([[*size, 0, 0, *size]] * 2 * batch, dtype=torch.float32)
        added = {"text_embeds": pooled.repeat_interleave(batch, 0), "time_ids": ids}
    extra = first(beside) if beside is not None else None
    call = network or parts["unet"]

    def predict(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        x = torch.cat([x, x])
        if extra is not None:
            x = torch.cat([x, extra.expand(len(x), -1, -1, -1)], dim=1)
        uncond, cond = call(x, t, encoder_hidden_states=context, added_cond_kwargs=added).sample.chunk(2)
        return uncond + guidance * (cond - uncond)

    return last(run(made, steps, first(noise), predict, seed))


# ------------------------------------------------------------------------------------------------ DeepCache


def pipeline(folder: Path) -> Any:
    """The diffusers pipeline of a folder, silent."""
    return silent(diffusers.DiffusionPipeline.from_pretrained(folder))


def silent(pipe: Any) -> Any:
    """A diffusers pipeline without progress bars, that works with transformers 5."""
    pipe.set_progress_bar_config(disable=True)
    if pipe.text_encoder and not hasattr(
        pipe.text_encoder, "text_model"
    ):  # diffusers 0.42 looks for it, transformers 5 has no such level
        vars(pipe.text_encoder)["text_model"] = pipe.text_encoder
    return pipe


@contextmanager
def deepcache(pipe: Any, interval: int, branch: int) -> Iterator[None]:
    """The authors' DeepCache around anything that has `unet` and `scheduler`."""
    from DeepCache import DeepCacheSDHelper

    helper = DeepCacheSDHelper(pipe)
    # The authors number three branches a level however many it has; with two layers a block that is every skip.
    level, layer = divmod(branch, pipe.unet.config.layers_per_block + 1)
    helper.set_params(cache_interval=interval, cache_branch_id=3 * level + layer)
    helper.enable()
    try:
        yield
    finally:
        helper.disable()


class _Pipe:
    """As much of a pipeline as the helper looks at."""

    def __init__(self, unet: Any, scheduler: Any):
        self.unet, self.scheduler = unet, scheduler


def cached(
    folder: Path, parts: dict[str, Any], made: Any, noise: np.ndarray, interval: int, branch: int, **settings: Any
) -> np.ndarray:
    """Final latents of the authors' DeepCache: around diffusers' own pipeline, or `guided` where inputs are beside."""
    if settings.get("beside") is not None:
        with deepcache(_Pipe(parts["unet"], made), interval, branch):
            return guided(folder, parts, made, noise, **settings)
    pipe = pipeline(folder)
    pipe.scheduler = made
    with deepcache(pipe, interval, branch):
        return generate(pipe, noise)


def generate(pipe: Any, noise: np.ndarray, **settings: Any) -> np.ndarray:
    """Final latents of a diffusers pipeline's own call with the tests' prompt."""
    factor, (_, height, width, _) = pipe.vae_scale_factor, noise.shape
    given = {
        "prompt": families.PROMPT,
        "negative_prompt": families.NEGATIVE,
        "num_inference_steps": families.STEPS,
        "guidance_scale": families.GUIDANCE,
    }
    given |= {"height": height * factor, "width": width * factor, "latents": first(noise), "output_type": "latent"}
    draw = stream(families.SEED, *given["latents"].shape)
    with noise_from(pipe.scheduler, draw):
        return last(pipe(**(given | settings)).images)
