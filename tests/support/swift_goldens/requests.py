"""Golden files of requests: random ones as Python writes them, the spellings that it reads, and what it refuses."""

import json
import random
from pathlib import Path
from typing import Any

from mlx_sd.core.errors import InputError
from mlx_sd.request import SETTINGS, Request
from mlx_sd.sampling import samplers, schedules

COUNT, INVALID = 300, 120
_WORDS = (
    "a red tent",
    "on green grass",
    "(sharp:1.2)",
    "snow",
    "a cat, sitting",
    "\u5c71\u6c34",
    "caf\u00e9 \U0001f600",
    "",
)
_POLICIES = ("3:0", "2", 4, "5:1+forecast1", "nonuniform:5", "nonuniform:4,3,1.2:1", "at=0,4,9", "adaptive:inf")
_SAMPLERS = (*samplers.names(), "DPM++ 2M Karras", "Euler a", "DPMSolverMultistepScheduler", "k_lms", "uni_pc_bh2")
_SCHEDULES = (*schedules.names(), "Karras", "SGM Uniform", "Automatic", "timesteps=900,500,100", "sigmas=9,3,1,0")
_SIZES = ("1024x1024", "0,64", [512, 768], "640 X 480")


def _random(generator: random.Random) -> dict[str, Any]:
    """Returns random values of the fields that a model set honours."""

    def text() -> str:
        """Returns a prompt."""
        return " ".join(generator.choices(_WORDS, k=generator.randint(1, 4)))

    def share(low: float = 0.0, high: float = 1.0) -> float:
        """Returns a number of a few digits or of all."""
        number = generator.uniform(low, high)
        return number if generator.random() < 0.5 else round(number, 2)

    def control() -> dict[str, Any]:
        """Returns the entry of a control network."""
        start = share(0, 0.4)
        entry = {"model": "canny", "image": "edges.png", "scale": share(0, 2), "start": start, "end": start + 0.5}
        return entry | generator.choice([{}, {"mode": "depth"}, {"model_hash": "abc", "image_hash": "def"}])

    makers: dict[str, Any] = {
        "prompt": text,
        "negative": text,
        "seed": lambda: generator.choice([0, -1, 2**32 - 1, generator.randrange(2**32)]),
        "model": lambda: generator.choice(["tiny", "stabilityai/sdxl", "models/sd 1.5"]),
        "dtype": lambda: generator.choice(["float16", "bfloat16", "float32", "fp16", "Half", None]),
        "coreml": lambda: "folder",
        "steps": lambda: generator.randint(1, 120),
        "guidance": lambda: generator.choice([share(-3, 15), 7, 1, 0]),
        "guidance_rescale": share,
        "rng": lambda: generator.choice(["numpy", "torch", "cuda", "CPU", "GPU", "nv"]),
        "sampler": lambda: generator.choice(_SAMPLERS),
        "schedule": lambda: generator.choice(_SCHEDULES),
        "width": lambda: generator.randint(1, 200) * 8,
        "height": lambda: generator.randint(8, 1500),
        "deepcache": lambda: generator.choice(_POLICIES),
        "tgate": lambda: generator.choice([10, "10", "8,4", "8,4,2", "7,5,1,3"]),
        "init_image": lambda: "photo.png",
        "strength": lambda: share(0.01, 1.0),
        "mask": lambda: generator.choice(["mask.png", "alpha"]),
        "mask_blur": lambda: share(0, 30),
        "controls": lambda: [control() for _ in range(generator.randint(1, 2))],
        "guess_mode": lambda: generator.random() < 0.5,
        "prompt_style": lambda: generator.choice(["a1111", "comfy", "compel", "plain", "ComfyUI", "none"]),
        "prompt_2": text,
        "negative_2": text,
        "original_size": lambda: generator.choice(_SIZES),
        "target_size": lambda: generator.choice(_SIZES),
        "crop": lambda: generator.choice(_SIZES),
        "eta": lambda: share(-1, 2),
        "gamma": share,
        "order": lambda: generator.randint(1, 4),
        "kind": lambda: generator.choice(["midpoint", "heun", "bh1"]),
        "corrector": lambda: generator.random() < 0.5,
        "rho": lambda: share(0.01, 9),
        "s_churn": lambda: share(0, 40),
        "s_tmin": share,
        "s_tmax": lambda: share(1, 50),
        "s_noise": lambda: share(0, 2),
        # Without effect in a model set, and so allowed at the values that mean nothing.
        "clip_skip": lambda: 0,
        "tile": lambda: 0,
        "denoise_tile": lambda: 0,
        "pag": lambda: 0,
        "only_masked": lambda: False,
        "freeu": lambda: False,
        "embeddings": list,
        "checkpoint_hash": lambda: "0123abcd",
        "lora_hashes": lambda: "x: 1234",
        "init_image_hash": lambda: "55aa",
        "mask_hash": lambda: "aa55",
        "vae_hash": lambda: "77",
    }
    chosen = generator.sample(list(makers), generator.randint(0, len(makers)))
    values = {name: makers[name]() for name in chosen}
    return values | generator.choice([{}, {}, {"model_hash": "cd6cd610170d"}])


_NUMBERS = ("steps", "width", "height", "seed", "clip_skip", "padding", "order", "tile", "denoise_tile", "noise_level")
_REALS = ("guidance", "guidance_rescale", "strength", "mask_blur", "rho", "s_churn", "s_tmin", "s_noise", "eta", "pag")
_TEXTS = (
    "prompt",
    "negative",
    "sampler",
    "schedule",
    "kind",
    "rng",
    "prompt_style",
    "dtype",
    "model",
    "coreml",
    "mask",
)


def _invalid(generator: random.Random) -> dict[str, Any]:
    """Returns a request with something that Python is likely to refuse."""
    kinds: list[dict[str, Any]] = [
        {generator.choice(_NUMBERS): generator.choice([-2, -100, "3", True, 2.5, [1], {}])},
        {"seed": generator.choice([2**32, -2, 2**40, "0"])},
        {generator.choice(("steps", "width", "height")): generator.choice([0, -1])},
        {generator.choice(_REALS): generator.choice(["1", True, [0.5], {"a": 1}])},
        {"guidance_rescale": generator.choice([-0.1, 1.01])},
        {"strength": generator.choice([0, -0.5, 1.5])},
        {"mask_blur": generator.choice([-1, 10001])},
        {"rho": generator.choice([0, -7])},
        {generator.choice(("s_churn", "s_tmin", "s_noise")): -0.5},
        {generator.choice(_TEXTS): generator.choice([1, True, [], {}])},
        {generator.choice(("sampler", "schedule", "kind", "model", "coreml", "mask", "init_image")): ""},
        {"sampler": generator.choice(["not a sampler", "DPM++ SDE", "karras", "euler_cfg_pp"])},
        {"schedule": generator.choice(["no schedule", "Euler a", "beta57", "timestep=3"])},
        {"sampler": "DPM++ 2M Karras", "schedule": generator.choice(["beta", "exponential", "normal"])},
        {"sampler": "DPM++ 2M SDE Heun", "kind": "midpoint"},
        {"deepcache": generator.choice([0, -1, "x", "3:x", "at=1,2", "nonuniform:2,,11", True, [3], "3+forecast3"])},
        {"tgate": generator.choice([0, "10,0", "a", "1,2,3,4,5", True, "5,1,1,-1"])},
        {"rng": generator.choice(["mt19937", "", "metal"])},
        {"prompt_style": generator.choice(["fancy", "a1112"])},
        {"dtype": generator.choice(["int8", "float64"])},
        {
            generator.choice(("original_size", "crop")): generator.choice(
                ["5", "5x", "5x6x7", [1], [1, -2], [1, "2"], 7]
            )
        },
        {"guess_mode": generator.choice([1, "true", []])},
        {"corrector": generator.choice([1, "yes"])},
        {
            "controls": [
                {"model": "canny", "image": "x.png"} | generator.choice([{"scale": "1"}, {"start": 1.0}, {"a": 1}])
            ]
        },
        {"controls": [{"model": "canny", "image": "x.png", "mode": "sketch"}]},
        {"controls": [generator.choice([3, {"model": "canny", "image": 3}, {"model": 1, "image": "x.png"}])]},
        {generator.choice(["Prompt", "cfg", "step", "hight", "negative_prompt", "sampler_name", "scheduler"]): 5},
    ]
    return generator.choice(kinds)


# What Python takes and a model set cannot honour.
UNAVAILABLE: tuple[dict[str, Any], ...] = (
    {"loras": [{"path": "x.safetensors", "scale": 1.0, "sha256": "00"}]},
    {"class": 3},
    {"quantize": "8"},
    {"speed": "fast"},
    {"clip_skip": 1},
    {"freeu": "1.5,1.6,0.9,0.2"},
    {"refiner": "sdxl-refiner"},
    {"refine_at": 0.7},
    {"tile": 512},
    {"denoise_tile": 64},
    {"lora_mode": "runtime"},
    {"vae": "taesd"},
    {"adapter_factor": 0.5},
    {"ip_encoder": "folder"},
    {"only_masked": True},
    {"padding": 0},
    {"image_guidance": 1.5},
    {"noise_level": 20},
    {"extend": "left=64"},
    {"pag": 3.0},
    {"pag_adaptive": 0.1},
    {"guidance_interval": "0-0.6"},
    {"adaptive_guidance": 0.99},
    {"unconditional_refresh": 2},
    {"token_downsampling": "2:1:0.7"},
    {"tuning": "compile_step=true"},
    {"temperature": 0.7},
    {"hires": "2"},
    {"hires_mode": "latent"},
    {"deepcache": "adaptive:0.1"},
    {"deepcache": "spectrum:2"},
    {"deepcache": "sada:4"},
    {"schedule": "steps.json"},
    {"controls": [{"model": "canny", "image": "x.png", "maker": "canny"}]},
)


def _written(values: dict[str, Any]) -> dict[str, Any]:
    """Returns what Python writes of a request that it reads from JSON."""
    written: dict[str, Any] = json.loads(json.dumps(Request.from_json(values, "golden").to_json(), allow_nan=False))
    return written


def write(folder: Path) -> None:
    """Writes folder/requests: valid.json, invalid.json, unavailable.json and fields.json."""
    out = folder / "requests"
    out.mkdir(parents=True, exist_ok=True)
    generator = random.Random(18)
    valid: list[dict[str, Any]] = []
    while len(valid) < COUNT:
        values = _random(generator)
        try:
            valid.append({"read": values, "written": _written(values)})
        except InputError:  # two random values may contradict each other
            continue
    invalid: list[dict[str, Any]] = []
    while len(invalid) < INVALID:
        values = _invalid(generator)
        try:
            _written(values)
        except InputError as error:
            if values not in [entry["read"] for entry in invalid]:
                invalid.append({"read": values, "error": str(error)})
    for values in UNAVAILABLE:
        _written(values)
    fields = [
        {"key": description.key or name, "always": description.always_recorded}
        for name, description in SETTINGS.items()
    ]
    contents: dict[str, Any] = {"valid": valid, "invalid": invalid, "unavailable": UNAVAILABLE, "fields": fields}
    contents |= {"default": Request().to_json()}
    for name, content in contents.items():
        (out / f"{name}.json").write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
