"""info.json: what a folder of packages holds and how an app drives it."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlx_sd.checkpoint import model_folder
from mlx_sd.core.errors import InputError
from mlx_sd.core.files import read_json
from mlx_sd.core.version import VERSION
from mlx_sd.sampling.scheduler import Scheduler

FORMAT = "mlx-sd Core ML"

_HOW = [
    "Tokenize with vocab.json and merges.txt: start token, at most 75 tokens, end token, padded to 77 with 'pad'.",
    "Encode the prompt and the negative prompt; the UNet's batch is [negative, prompt]. encoder_hidden_states is the"
    " hidden state with its axes moved to (batch, channels, 1, tokens); SDXL joins both encoders along the channels.",
    "Draw latents (1, latents.channels, height / factor, width / factor) from a normal distribution, times the first"
    " sigma for samplers that count in sigmas.",
    "At each evaluation i: where i % interval == 0 run unet_deep and keep its deep_feature; then, always, run"
    " unet_shallow with the one that is kept. Running unet_deep every time gives what unet gives.",
    "Where the batch is 1, negative and prompt run one after the other: keep a deep_feature for each.",
    "Guide: noise_pred = negative + guidance * (prompt - negative); then step the sampler.",
    "Divide the latents by latents.scaling_factor and run vae_decoder: a picture in [-1, 1].",
]


def describe(
    model: str, about: Mapping[str, Any], networks: Mapping[str, Any], folder: Path, options: Any, packages: Any
) -> dict[str, Any]:
    """What info.json says of an export."""
    unet, vae = networks["unet"].config, networks["vae"].config
    scheduler = model_folder.scheduler_config(about)
    xl = unet.added_time_dims is not None
    schedule = Scheduler.from_hf(scheduler, "scheduler", xl=xl)
    roles: dict[str, dict[str, list[list[str]]]] = {}
    for name, package in packages.items():
        for function, told in package["functions"].items():
            size = "x".join(map(str, told["size"])) if told["size"] else "any"
            steps = roles.setdefault(size, {}).setdefault(told["role"], [])
            if len(steps) == told["piece"][0] - 1:  # of several packages for one role the first is named
                steps.append([name, function])
    macs = {
        role: sum(packages[name]["functions"][function]["macs"] for name, function in steps)
        for found in roles.values()
        for role, steps in found.items()
    }
    return {
        "format": FORMAT,
        "version": 1,
        "made_by": f"mlx-sd {VERSION}",
        "model": {"name": model, "hash": model_folder.model_hash(about), "loras": about["loras"]},
        "options": options,
        "how": _HOW,
        "roles": roles,
        "deepcache": {
            "branch": options["branch"],
            "macs": {role: macs[role] for role in ("unet", "unet_deep", "unet_shallow") if role in macs},
        },
        "latents": {
            "channels": vae.latent_channels,
            "factor": vae.downsampling,  # pixels along the side of one
            "scaling_factor": vae.scaling_factor,
        },
        "scheduler": {name: _finite(value) for name, value in scheduler.items()},
        "prediction": schedule.prediction,
        "alphas_cumprod": [] if schedule.edm else [round(float(a), 9) for a in schedule.alphas_cumprod()],
        "tokenizers": [
            {"start": t.start, "end": t.end, "pad": t.pad, "length": t.length}
            for t in model_folder.tokenizers(folder, networks)
        ],
        "networks": about["networks"],
        "pipeline": about["pipeline"],
        "packages": packages,
    }


def read(folder: Path) -> dict[str, Any]:
    """What info.json of a folder of packages says; InputError where it is none."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give one that python -m coreml has written")
    told = read_json(folder / "info.json")
    if told.get("format") != FORMAT or told.get("version") != 1:
        raise InputError(f"{folder}/info.json is not of the format {FORMAT} 1; export the model again")
    return told


def line(name: str, package: Mapping[str, Any]) -> str:
    """One package for the reader of a terminal."""
    functions = package["functions"].values()
    macs = " + ".join(f"{f['macs'] / 1e9:.3g}" for f in functions)
    kinds: dict[str, int] = {}
    for function in functions:
        for kind, count in function["operations"].items():
            kinds[kind] = kinds.get(kind, 0) + count
    most = sorted(kinds.items(), key=lambda item: -item[1])[:5]
    return (
        f"{name}.mlpackage: {package['bytes'] / 1e6:.1f} MB, {macs} GMACs, {sum(kinds.values())} operations "
        f"({', '.join(f'{count} {kind}' for kind, count in most)}, ...), {kinds.get('transpose', 0)} transposes"
    )


def _finite(value: Any) -> Any:
    # JSON has no infinity, and Swift refuses a file that has; to a scheduler none and null are the same.
    return None if isinstance(value, float) and not math.isfinite(value) else value
