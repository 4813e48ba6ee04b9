"""A folder of packages or assets as the networks of a model, so that the pipeline runs what an app would run.

On a Mac Core ML runs packages; elsewhere the interpreter does, rounding to float16 where they store float16. Assets of
Core AI are run by Apple's CPU runtime, in a process that has no MLX.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_sd.checkpoint.model import Model
from mlx_sd.checkpoint.model_folder import TEXT
from mlx_sd.core.errors import InputError
from mlx_sd.core.parser import Parser, program
from mlx_sd.networks.blocks import Attend, apply_attention
from mlx_sd.networks.clip import Encoded
from mlx_sd.networks.configs import TextConfig, vae_config
from mlx_sd.networks.family import family_of, task_of
from mlx_sd.networks.unet import Deep, Join, concatenate
from mlx_sd.networks.unet_config import UNetConfig
from mlx_sd.networks.vae import Autoencoder
from mlx_sd.prompts.tokenizer import Tokenizer
from mlx_sd.sampling.scheduler import Scheduler

from . import asset_checks, info
from .coreai import availability, speed
from .coreai.asset_files import SUFFIX
from .coreai.runtime import PLACE, Runtime
from .lowering.interfaces import context_port, is_xl
from .stock import TOKENIZER

Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


def load(folder: Path) -> Model:
    """Loads a folder that `python -m coreml` wrote as a model; InputError where a package is missing or damaged."""
    content = info.read(folder)
    packages = PackageSet(folder, content)
    configs, pipeline = content["networks"], content["pipeline"]
    texts = [part for part in TEXT if part in configs]
    unet: Any = PackagedUNet(packages, configs["unet"], content["deepcache"]["branch"])
    vae = PackagedVAE(packages, configs["vae"])
    task = task_of(unet.config, vae.config.latent_channels)
    aesthetic_score = bool(pipeline.get("requires_aesthetics_score", False))
    family = family_of(unet.config, task, text=bool(texts), classes=False, aesthetic_score=aesthetic_score)
    text_encoders: Any = tuple(
        PackagedTextEncoder(packages, part, configs[part], context_port(family)) for part in texts
    )
    return Model(
        name=content["model"]["name"],
        hash=content["model"]["hash"],
        dtype=mx.float32,
        text_encoders=text_encoders,
        tokenizers=tuple(_tokenizer(packages.tokenizer, ids) for ids in content["tokenizers"]),
        unet=unet,
        vae=vae,
        scheduler=Scheduler.from_hf(content["scheduler"], f"{folder}/info.json: scheduler", xl=is_xl(family)),
        zeros_for_empty=bool(pipeline.get("force_zeros_for_empty_prompt", False)),
        family=family,
        task=task,
        sizes=packages.sizes,
    )


def _tokenizer(folder: Path, ids: Mapping[str, int]) -> Tokenizer:
    tokenizer = Tokenizer.load(folder, ids["length"])
    tokenizer.pad = ids["pad"]
    return tokenizer


def runner(path: Path, function: str) -> Run:
    """Returns what runs a package's function: Core ML on a Mac, else the interpreter, which rounds to float16."""
    if sys.platform == "darwin":
        return predictor(path, function)
    from .interpret.package import Package  # coremltools takes seconds to import

    return partial(Package.load(path).run, function=function, rounding=True)


def predictor(path: Path, function: str) -> Run:
    """Returns Core ML's own prediction of a package's function, which only a Mac has."""
    from .mil.coremltools import ct, quiet

    with quiet():
        model = ct.models.MLModel(str(path), function_name=None if function == "main" else function)
    predict: Run = model.predict
    return predict


def time_words(model: Model, full: int, cached: int, size: tuple[int, int]) -> list[str]:
    """Returns a line with the predicted minutes of a picture, or none for packages of Core ML.

    full, cached: evaluations of the UNet. size: (width, height) in pixels.
    """
    unet: Any = model.unet
    lines: list[str] = unet.time_words(full, cached, f"{size[0]}x{size[1]}")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Makes pictures with an exported folder alone: `mlx_sd.generate` with --coreml, whose other options it takes."""
    words = list(sys.argv[1:] if argv is None else argv)
    p = Parser(prog=f"{program('coreml')} drive", description=main.__doc__)
    p.add_argument("folder", type=Path, help="what python -m coreml wrote, in either format; first")
    p.add_argument("prompt", help="what to make a picture of; then the options of python -m mlx_sd.generate")
    arguments, others = p.parse_args(words[:2]), words[2:]
    from mlx_sd.cli import generate  # above this package

    return generate.main([arguments.prompt, "--coreml", str(arguments.folder), *others])


class PackageSet:
    """The packages of a folder by the role they have in a generation; each is loaded when it is first run."""

    def __init__(self, folder: Path, content: Mapping[str, Any]):
        """Checks that the packages of info.json (`content`) are in the folder; InputError names those that are not.

        Assets of Core AI are compared with their hashes too: their runtime does not.
        """
        self._folder, self._content, self._suffix = folder, content, info.suffix(content)
        self._runners: dict[tuple[str, str], Run] = {}
        self._runtimes: dict[str, Runtime] = {}
        missing = [name for name in content["packages"] if not (folder / f"{name}{self._suffix}").is_dir()]
        if missing:
            raise InputError(f"{folder}: {', '.join(missing)}{self._suffix} of its info.json is missing; export again")
        if self.core_ai:
            availability.check()
            for name, description in content["packages"].items():
                asset_checks.check_asset(folder / f"{name}{self._suffix}", description)

    @property
    def core_ai(self) -> bool:
        """Returns whether these are assets of Core AI, whose contexts are (B, tokens, channels)."""
        return self._suffix == SUFFIX

    @property
    def tokenizer(self) -> Path:
        """Returns the folder with vocab.json and merges.txt."""
        return self._folder / TOKENIZER if self.core_ai else self._folder

    def seconds(self, role: str, size: str) -> float:
        """Predicts how long Apple's CPU runtime takes for one run of a role; 0 for packages of Core ML."""
        steps = self._steps(role, size) if self.core_ai else ()
        functions = (self._content["packages"][name]["functions"][function] for name, function in steps)
        return sum(speed.seconds(function, self._content["options"]["attention"]) for function in functions)

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Returns (width, height) in pixels of the pictures that the packages make."""
        sizes = [tuple(map(int, size.split("x"))) for size in self._content["roles"] if size != "any"]
        return tuple((width, height) for width, height in sizes)

    def size(self, latents: mx.array) -> str:
        """Returns the size of the picture of latents (B, h, w, C) as info.json lists it: WIDTHxHEIGHT in pixels."""
        factor = self._content["latents"]["factor"]
        return f"{latents.shape[2] * factor}x{latents.shape[1] * factor}"

    def has(self, role: str) -> bool:
        """Returns whether any package has this role."""
        return any(role in roles for roles in self._content["roles"].values())

    def inputs(self, role: str, size: str) -> dict[str, list[int]]:
        """Returns the name and shape of each input of the first package of a role."""
        name, function = self._steps(role, size)[0]
        inputs = self._content["packages"][name]["functions"][function]["inputs"]
        return {name: port["shape"] for name, port in inputs.items()}

    def run(self, role: str, size: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs the packages of a role one after the other and returns the outputs of the last.

        Each package takes, by name, from `inputs` and from the outputs of those before it.
        """
        arrays = dict(inputs)
        outputs: dict[str, np.ndarray] = {}
        for name, function in self._steps(role, size):
            if (name, function) not in self._runners:
                self._runners[name, function] = self._runner(name, function)
            ports = self._content["packages"][name]["functions"][function]["inputs"]
            feeds = {key: arrays[key].astype(port["dtype"]) for key, port in ports.items()}
            outputs = self._runners[name, function](feeds)
            arrays |= outputs
        return outputs

    def _runner(self, name: str, function: str) -> Run:
        path = self._folder / f"{name}{self._suffix}"
        if not self.core_ai:
            return runner(path, function)
        if name not in self._runtimes:
            self._runtimes[name] = Runtime(path)
        runtime, description = self._runtimes[name], self._content["packages"][name]["functions"][function]
        duration = speed.seconds(description, self._content["options"]["attention"])
        return lambda inputs: runtime.run(function, inputs, seconds=duration)

    def _steps(self, role: str, size: str) -> list[list[str]]:
        steps: list[list[str]] = self._content["roles"].get(size, {}).get(role)
        if not steps:
            raise InputError(f"{self._folder} has no package for {role} at {size}; export it")
        return steps


class PackagedTextEncoder(nn.Module):
    """A text encoder's package in the place of `mlx_sd.networks.clip.TextEncoder`."""

    def __init__(self, packages: PackageSet, part: str, config: Mapping[str, Any], context_port: str):
        super().__init__()
        self._packages, self._part, self._context_port = packages, part, context_port
        self.config = replace(TextConfig.from_hf(config), layers=1)  # the package has the output of one layer
        self.norm = nn.Identity()  # the package has applied it

    @property
    def token_embedding(self) -> nn.Embedding:
        """Raises InputError: a package holds its table of tokens inside."""
        raise InputError("packages take the ids of tokens alone; leave --embedding out with --coreml")

    def __call__(self, ids: mx.array, *, embedded: mx.array | None = None, visible: mx.array | None = None) -> Encoded:
        """Encodes token ids (B, tokens), one row at a time, as `TextEncoder` does.

        InputError for hidden tokens, which packages do not take.
        """
        if visible is not None:
            raise InputError("packages see all tokens; choose another --prompt-style with --coreml")
        rows = [self._packages.run(self._part, "any", {"input_ids": row[None]}) for row in np.array(ids)]
        hidden = _joined([row[self._context_port] for row in rows])
        return Encoded([hidden, hidden], hidden, _joined([row["pooled_outputs"] for row in rows]))


class PackagedUNet:
    """The UNet's packages in the place of `mlx_sd.networks.unet.UNet`."""

    dtype = mx.float32  # of its inputs; each package converts to its own

    def __init__(self, packages: PackageSet, config: Mapping[str, Any], branch: int):
        self.config = UNetConfig.from_hf(config)
        self._packages, self._branch = packages, branch

    @property
    def branches(self) -> Sequence[int]:
        """Returns the DeepCache branch at which the UNet was cut into packages, or nothing where it was not."""
        return (self._branch,) if self._packages.has("unet_shallow") else ()

    def __call__(
        self,
        x: mx.array,
        t: mx.array,
        context: mx.array,
        *,
        deep: Deep = None,
        depth: int = 1,
        join: Join = concatenate,
        attend: Attend = apply_attention,
        skip_residuals: Sequence[mx.array] | None = None,
        middle_residual: mx.array | None = None,
        features: Any = None,
        **extra: Any,
    ) -> tuple[mx.array, mx.array]:
        """Returns (prediction (B, h, w, C), deep feature), as `UNet.__call__` does.

        The deep feature is as the packages store it, channel-first; without one the UNet runs in full. InputError for
        what was decided at the export: FreeU, T-GATE, and policies that look at the shallow features.
        """
        if join is not concatenate:
            raise InputError("packages join their skips as they were exported; leave out --freeu")
        if attend is not apply_attention:
            raise InputError("packages attend as they were exported; leave out --tgate")
        if skip_residuals is not None or middle_residual is not None or features is not None:
            raise InputError("packages take nothing of control networks or adapters; generate with the model itself")
        if callable(deep):
            raise InputError("packages do not show their shallow features; choose another --deepcache than adaptive")
        size, tokens = self._packages.size(x), np.array(context)
        inputs = {
            "sample": _channel_first(x),
            "timestep": np.broadcast_to(np.array(t, np.float32), x.shape[:1]),
            "encoder_hidden_states": tokens if self._packages.core_ai else tokens.transpose(0, 2, 1)[:, :, None],
            **{name: np.array(array) for name, array in extra.items()},
        }
        if deep is None:
            role = next(role for role in ("unet_deep", "unet_full", "unet") if self._packages.has(role))
            outputs = self._run(role, size, inputs)
            deep = mx.array(outputs.get("deep_feature", np.zeros(1)))
            if "noise_pred" in outputs:
                return _channel_last(outputs["noise_pred"]), deep
        outputs = self._run("unet_shallow", size, inputs | {"deep_feature": np.array(deep)})
        return _channel_last(outputs["noise_pred"]), deep

    def time_words(self, full: int, cached: int, size: str) -> list[str]:
        """Returns a line with the predicted minutes of a picture, or none for packages of Core ML."""
        packages = self._packages
        if not packages.core_ai:
            return []
        role = "unet_full" if packages.has("unet_full") else "unet"
        runs = 2 / packages.inputs(role, size)["sample"][0]  # of both texts
        duration = full * packages.seconds(role, size) + packages.seconds("vae_decoder", size)
        if cached:
            duration += cached * packages.seconds("unet_shallow", size)
        return [f"{PLACE}, one thread: {speed.words(runs * duration)} for a picture"]

    def _run(self, role: str, size: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs a role in batches of the packages' size; the last batch is filled up with copies of its last row."""
        shapes = self._packages.inputs(role, size)
        wrong = [name for name in shapes if name not in inputs or list(inputs[name].shape[1:]) != shapes[name][1:]]
        if wrong:
            name = wrong[0]
            shape = inputs[name].shape[1:] if name in inputs else "none"
            raise InputError(f"the packages take {name} of {shapes[name][1:]}, not {shape} (is the prompt too long?)")
        total, batch = len(inputs["sample"]), shapes["sample"][0]
        outputs = []
        for start in range(0, total, batch):
            rows = np.minimum(np.arange(start, start + batch), total - 1)
            outputs.append(self._packages.run(role, size, {name: array[rows] for name, array in inputs.items()}))
        return {name: np.concatenate([batch[name] for batch in outputs])[:total] for name in outputs[0]}


class PackagedVAE(Autoencoder):
    """The VAE's packages in the place of `mlx_sd.networks.vae.Autoencoder`; for their own sizes, never in tiles."""

    def __init__(self, packages: PackageSet, config: Mapping[str, Any]):
        nn.Module.__init__(self)
        self.config, self._packages = vae_config(config), packages

    @property
    def dtype(self) -> mx.Dtype:
        """Returns the dtype of its inputs."""
        return mx.float32

    def decode(self, latents: mx.array, tile: int | None = None) -> mx.array:
        """Decodes unscaled latents (B, h, w, C) into images (B, H, W, 3) in [-1, 1]."""
        size = self._packages.size(latents)
        rows = [self._packages.run("vae_decoder", size, {"z": row[None]}) for row in _channel_first(latents)]
        return _joined([row["image"] for row in rows]).transpose(0, 2, 3, 1)

    def moments(self, image: mx.array) -> mx.array:
        """Encodes images (B, H, W, 3) into mean and log variance of their latents (B, h, w, 2 C).

        Where encoding is deterministic it returns the latents themselves, (B, h, w, C).
        """
        size = f"{image.shape[2]}x{image.shape[1]}"
        x, latent = ("image", "latent_params") if self._packages.core_ai else ("x", "latent")
        rows = [self._packages.run("vae_encoder", size, {x: row[None]}) for row in _channel_first(image)]
        moments = _joined([row[latent] for row in rows]).transpose(0, 2, 3, 1)
        return moments[..., : self.config.latent_channels] if self.config.deterministic else moments


def _channel_first(x: mx.array) -> np.ndarray:
    first: np.ndarray = np.array(x).transpose(0, 3, 1, 2)
    return first


def _channel_last(x: np.ndarray) -> mx.array:
    return mx.array(x.astype(np.float32)).transpose(0, 2, 3, 1)


def _joined(rows: list[np.ndarray]) -> mx.array:
    return mx.array(np.concatenate(rows).astype(np.float32))
