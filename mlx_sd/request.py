"""One frozen record of everything that decides a picture: command line, PNG metadata, JSON and Python all use it.

A new setting is one field here, with its `setting(...)`, and one keyword of `StableDiffusion.generate`. Fields that are
None are filled in from the checkpoint by `mlx_sd.completion`; equal completed requests make equal pictures.
"""

# ruff: noqa: RUF009 - `setting` is our `dataclasses.field`
from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from . import request_values, samplers, schedule, seeds, spellings
from .adapter_settings import AdapterSettings
from .control_settings import ControlSettings
from .core.errors import InputError
from .discrete import calls
from .discrete.schedules import NAMES as TOKEN_SCHEDULES
from .guidance_settings import GuidanceSettings
from .image_settings import ImageSettings
from .prompt_settings import PromptSettings
from .reuse import token_downsampling
from .reuse.deepcache import examples as policy_examples
from .sampling import names
from .setting import Range, Setting, fields_from_json, setting, settings_of
from .solver_settings import SolverSettings
from .tuning import choices

if TYPE_CHECKING:
    from PIL import Image

    from .checkpoint.lora import Lora
    from .reuse.freeu import FreeU
    from .reuse.policy import Policy
    from .reuse.tgate import TGate
    from .reuse.token_downsampling import TokenDownsampling
    from .sampling.table import Options

    ImageSource = str | os.PathLike[str] | Image.Image

MODEL = "tiny"  # the embedded checkpoint
# What is used where neither the user nor the checkpoint says otherwise.
STEPS, STEPS_UPSCALER, STEPS_SUPER_RESOLUTION = 25, 75, 100
GUIDANCE, GUIDANCE_SDXL, GUIDANCE_UPSCALER, GUIDANCE_CLASSES, GUIDANCE_TOKENS = 7.5, 5.0, 9.0, 3.0, 2.0
GUIDANCE_EMBEDDED = 3.0  # of the embedded checkpoint, by the share of captions that come true
REFINE_AT = 0.8  # as SDXL's authors have it
DENOISE_TILE = 128  # latents a side that an upscaler's UNet computes at once, at least
DTYPES = ("float16", "bfloat16", "float32")
SPEEDS = ("exact", "fast", "fastest")

_hash_setting = partial(setting, None, hidden=True, always_recorded=False)
_SIDE = "in pixels, a multiple of 8 (default: the checkpoint's"


@dataclass(frozen=True, kw_only=True)
class Request(PromptSettings, GuidanceSettings, ImageSettings, AdapterSettings, ControlSettings, SolverSettings):
    """Everything that decides one picture; None is the checkpoint's or the package's default.

    Friendly values are accepted and become typed ones: deepcache=3 or "3:1", tgate=10, freeu=True. InputError names
    the field whose value has a wrong type or is out of range.
    """

    prompt: str | None = setting(
        None,
        "what the picture shows; left out with models that take no prompt",
        flag="prompt",
        aliases="prompt p text positive positive-prompt",
        empty=True,
    )
    class_label: int | str | None = setting(
        None,
        "classes by number or name, with models that know classes",
        kind=object,
        parse=request_values.parse_class,
        key="class",
        flag="--class",
        metavar="ID[,ID...]",
        aliases="classes class-id class-label class-labels",
    )
    negative: str | None = setting(
        None, "what to steer away from", metavar="TEXT", aliases="negative-prompt neg-prompt neg uc", empty=True
    )
    seed: int | None = setting(
        None,
        f"of the first picture, 0 to {seeds.HIGHEST}; the next take seed + 1, seed + 2, ... (default, and "
        f"{seeds.RANDOM}: random)",
        kind=int,
        parse=seeds.parse,
        aliases="s noise-seed manual-seed",
        false_friends=spellings.SEED_FLAGS,
    )
    model: str = setting(
        MODEL,
        "a converted or diffusers folder, a .safetensors file or a hub id (default: the embedded checkpoint)",
        aliases="m ckpt ckpt-path checkpoint model-path model-id model-name model-version "
        "pretrained-model-name-or-path sd-model-checkpoint",
        false_friends=spellings.MODEL_FLAGS,
    )
    dtype: str | None = setting(
        None,
        "of weights and activations (default: float16 on a GPU, float32 on the CPU)",
        choices=DTYPES,
        aliases="precision torch-dtype type",
        values=spellings.DTYPE_VALUES,
        false_friends=spellings.DTYPE_FLAGS,
    )
    loras: tuple[Lora, ...] = request_values.entries_setting(
        ".checkpoint.lora",
        "Lora",
        "merge a LoRA or a relative of it: a safetensors file, a folder or a hub id; may be repeated",
        flag="--lora",
        metavar="PATH[:SCALE[:W,W,...]]",
        aliases="lora-path lora-file",
        false_friends={"lora-paths": spellings.LORA_PATHS}
        | dict.fromkeys(("lora-scales", "lora-scale", "lora-weight"), spellings.LORA_SCALES),
    )
    quantize: str | None = setting(
        None,
        "the UNet's linear layers in 4 or 8 bits; or NETWORK=BITS,...",
        metavar="BITS[:GROUP]",
        aliases="q quantization",
    )
    coreml: str | None = setting(
        None,
        "run the packages that python -m coreml wrote, instead of --model",
        metavar="FOLDER",
        aliases="resource-path",
        false_friends=dict.fromkeys(("compute-unit", "compute-units"), spellings.COMPUTE_UNIT),
    )
    speed: str | None = setting(
        None,
        "sampler, steps, DeepCache and T-GATE together, from measured curves; flags of their own overrule",
        choices=SPEEDS,
        always_recorded=False,
    )
    steps: int | None = setting(
        None,
        f"steps of the sampler (default {STEPS}; of upscalers {STEPS_UPSCALER} or {STEPS_SUPER_RESOLUTION}; "
        "of ddpm without a prompt all there are)",
        kind=int,
        range=Range(1),
        aliases="num-inference-steps inference-steps num-steps sampling-steps sample-steps ddim-steps step-count",
    )
    guidance: float | None = setting(
        None,
        f"strength of classifier-free guidance; at most 1 is none (default {GUIDANCE}; SDXL {GUIDANCE_SDXL}, the x4 "
        f"upscaler {GUIDANCE_UPSCALER}, the embedded checkpoint {GUIDANCE_EMBEDDED}, classes {GUIDANCE_CLASSES}, "
        f"tokens {GUIDANCE_TOKENS})",
        kind=float,
        range=Range(),
        metavar="SCALE",
        aliases="guidance-scale cfg cfg-scale cfg-text scale unconditional-guidance-scale",
    )
    guidance_rescale: float = setting(
        0.0,
        "how far guidance's contrast is taken back (default 0)",
        kind=float,
        range=Range(0, 1),
        metavar="PHI",
        aliases="rescale-cfg cfg-rescale",
    )
    rng: str = setting(
        names.NUMPY,
        "where noise comes from: numpy; torch, the CPU's in diffusers and A1111; cuda, a card's (default numpy)",
        parse=names.read_rng,
        metavar="NAME",
        aliases="randn-source",
    )
    sampler: str | None = setting(
        None,
        f"{', '.join(samplers.names())}; or its name in A1111, ComfyUI or diffusers, as 'DPM++ 2M Karras' (default: "
        f"the checkpoint's); of tokens {', '.join(calls.NAMES)}",
        metavar="NAME",
        aliases="sampler-name sampler-index sampling-method sample-method",
        conversions={"scheduler": spellings.scheduler_words, "scheduler-name": spellings.scheduler_words},
        false_friends=spellings.SAMPLER_FLAGS,
    )
    schedule: str | None = setting(
        None,
        f"{', '.join(schedule.names())}, or a JSON file with timesteps or sigmas (default: the checkpoint's); of "
        f"tokens {', '.join(TOKEN_SCHEDULES)}",
        metavar="NAME",
        aliases="schedule-type noise-schedule timestep-spacing",
        false_friends=spellings.SCHEDULE_FLAGS,
    )
    temperature: float | None = setting(
        None,
        "of the distributions that tokens are drawn from, with models of tokens; below 1 is surer (default 1)",
        kind=float,
        range=Range(0, open_minimum=True),
        metavar="T",
        always_recorded=False,
    )
    width: int | None = setting(
        None, f"{_SIDE}, or the image's)", kind=int, unit="pixels", range=Range(8), aliases="W w"
    )
    height: int | None = setting(
        None, f"{_SIDE}, or the image's)", kind=int, unit="pixels", range=Range(8), aliases="H"
    )
    clip_skip: int = setting(
        0,
        "layers of the text encoder to leave out at the end (default 0)",
        kind=int,
        range=Range(0),
        metavar="LAYERS",
        conversions={"clip-stop-at-last-layers": spellings.clip_words, "stop-at-clip-layer": spellings.clip_words},
    )
    deepcache: Policy | None = setting(
        None,
        f"run the whole UNet only at every N-th evaluation, or by a policy, for example {policy_examples()}; "
        "+forecast1 after any of them",
        kind=object,
        parse=request_values.parse_deepcache,
        to_json=str,
        metavar="N[:BRANCH]",
        aliases="deep-cache cache-interval",
        false_friends={"cache-branch-id": "say it behind the interval: --deepcache 3:{value}"},
    )
    tgate: TGate | None = setting(
        None,
        "from evaluation GATE on, no prompt and no guidance; before it, self-attention at every SP-th evaluation "
        "(default 5)",
        kind=object,
        parse=request_values.parse_tgate,
        to_json=str,
        metavar="GATE[,SP[,FI[,WARM_UP]]]",
        aliases="t-gate gate-step",
    )
    token_downsampling: TokenDownsampling | None = setting(
        None,
        "ToDo, for large pictures: self-attention to one in FACTOR rows and columns of tokens, in the outermost DEPTH "
        "levels (default 1), up to END of the steps (default 1)",
        kind=object,
        parse=token_downsampling.parse,
        to_json=str,
        metavar=token_downsampling.FORM,
        always_recorded=False,
        aliases="todo token-downsampling-factor",
        false_friends={"token-merging-ratio": "tokens are downsampled and not merged: --token-downsampling 2"},
    )
    freeu: FreeU | None = setting(
        None,
        "FreeU (default factors: those published for the family)",
        kind=object,
        parse=request_values.parse_freeu,
        to_json=str,
        without_value="",
        form=r"(constant|structure):\S*|[-+]?\.?\d[-+.,\w]*",
        metavar="B1,B2,S1,S2",
        aliases="free-u enable-freeu",
    )
    tuning: str | None = setting(
        None,
        "choices that mlx-sd tune has measured here: all that are faster, also those that change last digits; none; or "
        "each by name (default: those that change no bit)",
        kind=object,
        parse=choices.parse,
        always_recorded=False,
        metavar=choices.FORM,
    )
    refiner: str | None = setting(
        None,
        "a second model that goes on with the latents at --refine-at, on the same schedule",
        always_recorded=False,
        metavar="MODEL",
        aliases="refiner-model refiner-path refiner-checkpoint",
    )
    refine_at: float | None = setting(
        None,
        f"share of the way at which the refiner begins (default {REFINE_AT})",
        kind=float,
        range=Range(0, 1, open_minimum=True, open_maximum=True),
        always_recorded=False,
        metavar="SHARE",
        aliases="refiner-switch-at switch-at denoising-end high-noise-frac",
    )
    tile: int | None = setting(
        None,
        "decode in tiles of so many pixels a side; 0 never (default: above 192 latents a side)",
        kind=int,
        unit="pixels",
        range=Range(0),
        metavar="PIXELS",
        false_friends=spellings.TILE_FLAGS,
    )
    denoise_tile: int | None = setting(
        None,
        f"denoise in overlapping tiles of so many latents a side; 0 never (default: upscalers {DENOISE_TILE})",
        kind=int,
        unit="latents",
        range=Range(0),
        metavar="LATENTS",
    )
    model_hash: str | None = setting(None, "of the model's weights", hidden=True)
    checkpoint_hash: str | None = _hash_setting("SHA-256 of the single file that the model comes from")
    lora_hashes: str | None = _hash_setting("names and hashes of the LoRAs as A1111 has them")
    init_image_hash: str | None = _hash_setting("SHA-256 of the file")
    mask_hash: str | None = _hash_setting("SHA-256 of the file")
    refiner_hash: str | None = _hash_setting("of the refiner's weights")

    def __post_init__(self) -> None:
        for name, description in SETTINGS.items():
            object.__setattr__(self, name, description.check(name, getattr(self, name)))
        for name, value in names.canonical(self.sampler, self.schedule, self.kind)._asdict().items():
            object.__setattr__(self, name, value)

    @property
    def subject(self) -> str | int | None:
        """The prompt or the class of the picture; None where the model takes neither."""
        label = self.class_label
        return self.prompt if label is None else label

    @property
    def options(self) -> Options:
        """The options of the solver, as `mlx_sd.sampling` takes them."""
        from .sampling.table import Options

        return Options(**{name: getattr(self, name) for name in SOLVER})

    def with_values(self, **values: Any) -> Request:
        """Returns the request with other values, checked."""
        return replace(self, **values)

    @property
    def decides_per_image(self) -> bool:
        """Whether the picture decides what is computed: which evaluations are whole, or guided."""
        by_features = self.deepcache is not None and self.deepcache.decides_per_image
        return by_features or self.adaptive_guidance is not None

    def with_subject(self, other: Request) -> Request:
        """Returns the request with the prompt, the class and the seed of another one."""
        return replace(self, prompt=other.prompt, class_label=other.class_label, seed=other.seed)

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON object, which `from_json` reads back to an equal request."""
        return {
            description.key or name: None if value is None else description.to_json(value)
            for name, description in SETTINGS.items()
            if (value := getattr(self, name)) not in (None, ()) or description.always_recorded
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any], where: str) -> Request:
        """Reads a JSON object; InputError names `where` and the key that is unknown or whose value makes no sense."""
        return cls(**values_from_json(values, where))


SETTINGS: dict[str, Setting] = settings_of(Request)
SOLVER = tuple(name for name, description in SETTINGS.items() if description.group == "solver")  # fields of `Options`
# A change of these needs another model.
MODEL_FIELDS = ("model", "dtype", "loras", "quantize", "coreml", "refiner", "vae", "lora_mode")


def values_from_json(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Returns the fields of a request that a JSON object names, checked; InputError as `Request.from_json`."""
    return fields_from_json(SETTINGS, request_values.with_present_names(values), where)


def pictures_of(requests: Sequence[Request], count: int, batch: int) -> list[Request]:
    """Returns `count` requests for each, with seeds from its own up; those without one share a random one.

    InputError where a number is out of range.
    """
    if count < 1 or batch < 1:
        raise InputError(f"count and batch must be at least 1, not {count} and {batch}")
    drawn = seeds.draw(count)
    first = [drawn if request.seed is None else request.seed for request in requests]
    for seed in first:
        if seed + count - 1 > seeds.HIGHEST:
            raise InputError(f"seeds must be from 0 to {seeds.HIGHEST}, not {seed} to {seed + count - 1}")
    return [
        request.with_values(seed=seed + i) for request, seed in zip(requests, first, strict=True) for i in range(count)
    ]
