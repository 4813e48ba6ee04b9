"""info.json: what a folder of packages holds, and how an app runs them."""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx.nn as nn

from mlx_sd.checkpoint import model_folder
from mlx_sd.checkpoint.token_diffusion import TokenDiffusion
from mlx_sd.core.errors import InputError
from mlx_sd.core.files import read_json
from mlx_sd.core.version import VERSION as PROGRAM
from mlx_sd.networks.configs import VAEConfig
from mlx_sd.networks.graph import Graph
from mlx_sd.sampling.scheduler import Scheduler

from . import info_fields, token_sets
from .coreai.asset_files import SUFFIX
from .lowering.interfaces import FunctionSpec, Port

FORMATS, VERSION = {"coreml": "mlx-sd Core ML", "coreai": "mlx-sd Core AI"}, 3
_OLDEST = 1  # that is still read; it has no "files", and up to version 2 there are no "controls"

_INSTRUCTIONS = [
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


_CORE_AI_INSTRUCTIONS = [
    "Tokenize with tokenizer/vocab.json and merges.txt: start token, at most 75 tokens, end token, padded to 77 with"
    " 'pad'.",
    "Encode the prompt and the negative prompt; the UNet's batch is [negative, prompt]. encoder_hidden_states is the"
    " hidden state as it is, (batch, tokens, channels); SDXL joins both encoders along the channels.",
    _INSTRUCTIONS[2],
    "Load the functions full and shallow of Unet. At each evaluation i: where i % interval == 0 run full, take its"
    " noise_pred and keep its deep_feature; else run shallow with the one that is kept. Running full every time gives"
    " what main gives. refresh, where there is one, is full with deep_feature as a state that it writes in place.",
    *_INSTRUCTIONS[4:],
]


_CONTROL_INSTRUCTIONS = [
    "The UNet takes additional_residual_0, ...: of each skip, and last of the middle. Without control feed zeros.",
    "Run control:NAME on the UNet's latents, timestep and texts, and on the control image in [0, 1] (controlnet_cond)."
    " Multiply its outputs by the scale, add those of several networks, and feed the sums to the UNet.",
]
_CONTROL_CACHE = {
    "coreml": "Where only unet_shallow runs",
    "coreai": "Where shallow runs",
}


def control_instructions(format: str) -> list[str]:
    """Returns how an app runs control networks; format: a name in FORMATS."""
    return [
        *_CONTROL_INSTRUCTIONS,
        f"{_CONTROL_CACHE[format]}, control_shallow:NAME gives the residuals that it takes. Its image_features come"
        " from control_image:NAME, which runs once for each picture. Where networks or scales change, refresh.",
    ]


def describe(
    model: str,
    about: Mapping[str, Any],
    networks: Mapping[str, nn.Module],
    folder: Path,
    options: Mapping[str, Any],
    packages: Mapping[str, Any],
    tokens: TokenDiffusion | None = None,
) -> dict[str, Any]:
    """Returns the content of info.json for an export.

    model: as given to --model. about: the model folder's model.json. networks: part -> network. folder: the model
    folder, for its tokenizers. options: the fields of `plan.Options`. packages: name -> description of each. tokens:
    how the model makes tokens, None where it makes latents.
    """
    vae: Any = networks["vae"]
    scheduler = model_folder.scheduler_config(about)
    instructions = _INSTRUCTIONS if options["format"] == "coreml" else _CORE_AI_INSTRUCTIONS
    roles = _roles(packages)
    macs = {
        role: sum(packages[name]["functions"][function]["macs"] for name, function in steps)
        for steps_by_role in roles.values()
        for role, steps in steps_by_role.items()
    }
    return {
        "format": FORMATS[options["format"]],
        "version": VERSION,
        "made_by": f"mlx-sd {PROGRAM}",
        "model": {"name": model, "hash": model_folder.model_hash(about), "loras": about["loras"]},
        "options": options,
        "how": token_sets.instructions(str(options["format"]), instructions[:2]) if tokens else instructions,
        "roles": roles,
        "deepcache": {
            "branch": options["branch"],
            "macs": {role: macs[role] for role in ("unet", "unet_deep", "unet_full", "unet_shallow") if role in macs},
        },
        **({token_sets.KEY: token_sets.describe(tokens, vae)} if tokens else _latents(vae.config, scheduler)),
        "scheduler": {name: _finite(value) for name, value in scheduler.items()},
        "tokenizers": [
            {"start": t.start, "end": t.end, "pad": t.pad, "length": t.length}
            for t in model_folder.tokenizers(folder, networks)
        ],
        "networks": about["networks"],
        "pipeline": about["pipeline"],
        "packages": packages,
    }


def _latents(vae: VAEConfig, scheduler: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what is of latents in info.json: their sizes and noise schedule, and what the UNet predicts."""
    schedule = Scheduler.from_hf(scheduler, "scheduler")
    return {
        "latents": {
            "channels": vae.latent_channels,
            "factor": vae.downsampling,  # pixels along each side of one latent
            "scaling_factor": vae.scaling_factor,
        },
        "prediction": schedule.prediction_type,
        "alphas_cumprod": [] if schedule.edm else [round(float(a), 9) for a in schedule.alphas_cumprod()],
    }


def _roles(packages: Mapping[str, Any]) -> dict[str, dict[str, list[list[str]]]]:
    """Returns size -> role -> [package, function] of each piece in turn; of several packages for a role, the first."""
    roles: dict[str, dict[str, list[list[str]]]] = {}
    for name, package in packages.items():
        for function, description in package["functions"].items():
            size = "x".join(map(str, description["size"])) if description["size"] else "any"
            steps = roles.setdefault(size, {}).setdefault(description["role"], [])
            if len(steps) == description["piece"][0] - 1:
                steps.append([name, function])
    return roles


def read(folder: Path) -> dict[str, Any]:
    """Reads the info.json of a folder of packages, of version 1 too; InputError where it is damaged or of no format."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give one that python -m coreml has written")
    info = read_json(folder / "info.json")
    if info.get("format") not in FORMATS.values() or info.get("version") not in range(_OLDEST, VERSION + 1):
        formats = f"{FORMATS['coreml']} {_OLDEST} to {VERSION}, nor {FORMATS['coreai']}"
        raise InputError(f"{folder}/info.json is not of the format {formats}; export again")
    info = {"files": {}, "controls": {}} | info
    with _naming(folder / "info.json"):
        info_fields.check(info, info["format"] == FORMATS["coreai"])
    return info


def check_asset(info: Mapping[str, Any], path: Path) -> None:
    """Raises InputError where the content of info.json in the asset `path` lacks what a check of it looks up."""
    with _naming(path):
        info_fields.check_packages(info, core_ai=True)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Puts the file and the way out around the message of an InputError, which begins with a field."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path} is damaged: {error}; export again") from None


def check_ports(
    path: Path, function: str, description: Mapping[str, Any], inputs: Mapping[str, Any], outputs: Mapping[str, Any]
) -> None:
    """Raises InputError where a function of a package does not have the ports that info.json describes.

    inputs, outputs: those that the package itself has, (shape, type's name) by name.
    """
    for kind, ports in (("input", inputs), ("output", outputs)):
        described = {name: _port_words(port["shape"], port["dtype"]) for name, port in description[f"{kind}s"].items()}
        loaded = {name: _port_words(*port) for name, port in ports.items()}
        for name in {**loaded, **described}:
            a, b = loaded.get(name), described.get(name)
            if a != b:
                words = f"the {kind} {name} is {a or 'missing'}, and info.json describes {b or 'none'}"
                raise InputError(f"{path}: {function}: {words}; export again")


def _port_words(shape: Iterable[int], dtype: Any) -> str:
    return f"{dtype} {list(shape)}"


def describe_port(port: Port) -> dict[str, Any]:
    """Returns shape and type of an input or an output, as a package stores it."""
    return {"shape": list(port.stored), "dtype": str(port.dtype).rpartition(".")[2]}


def describe_function(
    role: str,
    size: tuple[int, int] | None,
    spec: FunctionSpec,
    graph: Graph,
    operations: Mapping[str, int],
    states: Collection[str] = (),
) -> dict[str, Any]:
    """Returns the description of a function, whatever its format.

    operations: how many there are of each kind. states: names of outputs that the function takes and writes in place.
    """
    written = [port for port in spec.outputs if port.name in states]
    return {
        "role": role,
        "size": size,
        "about": spec.description,
        "inputs": {port.name: describe_port(port) for port in (*spec.inputs, *written)},
        "outputs": {port.name: describe_port(port) for port in spec.outputs if port not in written},
        "macs": graph.macs(),
        "operations": dict(operations),
    }


def suffix(info: Mapping[str, Any]) -> str:
    """Returns how the names of an export's packages end: .mlpackage or .aimodel."""
    return SUFFIX if info["format"] == FORMATS["coreai"] else ".mlpackage"


def summary(name: str, package: Mapping[str, Any]) -> str:
    """Returns one line about a package for a terminal: megabytes, GMACs and counts of operations."""
    functions = package["functions"].values()
    if "sha256" in package:
        return (
            f"{name}{SUFFIX}: {package['bytes'] / 1e6:.1f} MB, "
            + ", ".join(f"{function} {f['macs'] / 1e9:.3g} GMACs" for function, f in package["functions"].items())
            + f"; {sum(sum(f['operations'].values()) for f in functions)} recorded operations"
        )
    macs = " + ".join(f"{f['macs'] / 1e9:.3g}" for f in functions)
    kinds: dict[str, int] = {}
    for function in functions:
        for kind, count in function["operations"].items():
            kinds[kind] = kinds.get(kind, 0) + count
    frequent = sorted(kinds.items(), key=lambda item: -item[1])[:5]
    return (
        f"{name}.mlpackage: {package['bytes'] / 1e6:.1f} MB, {macs} GMACs, {sum(kinds.values())} operations "
        f"({', '.join(f'{count} {kind}' for kind, count in frequent)}, ...), {kinds.get('transpose', 0)} transposes"
    )


def _finite(value: Any) -> Any:
    # JSON has no infinity, and Swift refuses a file that has; a scheduler reads null in the same way.
    return None if isinstance(value, float) and not math.isfinite(value) else value
