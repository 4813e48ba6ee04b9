"""A folder of packages as the networks of a model, so that the one pipeline drives what an app would drive.

On a Mac Core ML runs them; elsewhere the interpreter does, rounding to float16 where the packages store float16.
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
from mlx_sd.networks.blocks import Attend, apply_attention
from mlx_sd.networks.clip import Encoded
from mlx_sd.networks.configs import TextConfig, VAEConfig
from mlx_sd.networks.family import family_of, task_of
from mlx_sd.networks.unet import Deep, Join, concatenate
from mlx_sd.networks.unet_config import UNetConfig
from mlx_sd.networks.vae import Autoencoder
from mlx_sd.prompts.tokenizer import Tokenizer
from mlx_sd.sampling.scheduler import Scheduler

from . import info
from .interpret import Package
from .tools import ct, quiet

Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


def load(folder: Path) -> Model:
    """The model that a folder written by `python -m coreml` makes up; InputError where a package is missing."""
    told = info.read(folder)
    packages = Packages(folder, told)
    configs, xl = told["networks"], packages.xl
    texts = [part for part in TEXT if part in configs]
    tokenizers = []
    for ids in told["tokenizers"]:
        tokenizer = Tokenizer.load(folder, ids["length"])
        tokenizer.pad = ids["pad"]
        tokenizers.append(tokenizer)
    text_encoders: Any = tuple(PackagedText(packages, part, configs[part]) for part in texts)
    unet: Any = PackagedUNet(packages, configs["unet"], told["deepcache"]["branch"])
    vae = PackagedVAE(packages, configs["vae"])
    task = task_of(unet.config, vae.config.latent_channels)
    aesthetic_score = bool(told["pipeline"].get("requires_aesthetics_score", False))
    return Model(
        name=told["model"]["name"],
        hash=told["model"]["hash"],
        dtype=mx.float32,
        text_encoders=text_encoders,
        tokenizers=tuple(tokenizers),
        unet=unet,
        vae=vae,
        scheduler=Scheduler.from_hf(told["scheduler"], f"{folder}/info.json: scheduler", xl=xl),
        zeros_for_empty=bool(told["pipeline"].get("force_zeros_for_empty_prompt", False)),
        family=family_of(unet.config, task, text=bool(texts), classes=False, aesthetic_score=aesthetic_score),
        task=task,
        sizes=packages.sizes,
    )


def runner(path: Path, function: str) -> Run:
    """What runs a package's function: Core ML on a Mac, else the interpreter."""
    if sys.platform == "darwin":
        return predictor(path, function)
    return partial(Package.load(path).run, function=function, rounding=True)


def predictor(path: Path, function: str) -> Run:
    """Core ML itself, on a Mac."""
    with quiet():
        model = ct.models.MLModel(str(path), function_name=None if function == "main" else function)
    predict: Run = model.predict
    return predict


class Packages:
    """The packages of a folder by what they are for; each is loaded when it is first run."""

    def __init__(self, folder: Path, told: Mapping[str, Any]):
        self._folder, self._told = folder, told
        self._runners: dict[tuple[str, str], Run] = {}
        missing = [name for name in told["packages"] if not (folder / f"{name}.mlpackage").is_dir()]
        if missing:
            raise InputError(f"{folder}: {', '.join(missing)}.mlpackage of its info.json is missing; export again")

    @property
    def xl(self) -> bool:
        """Whether the UNet is of the SDXL kind."""
        return bool(self._told["networks"]["unet"].get("addition_embed_type") == "text_time")

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(width, height) of the pictures they make."""
        sizes = [tuple(map(int, size.split("x"))) for size in self._told["roles"] if size != "any"]
        return tuple((width, height) for width, height in sizes)

    def size(self, latents: mx.array) -> str:
        """Of the picture that latents (B, h, w, C) stand for, as roles are listed."""
        factor = self._told["latents"]["factor"]
        return f"{latents.shape[2] * factor}x{latents.shape[1] * factor}"

    def has(self, role: str) -> bool:
        """Whether any package is for this."""
        return any(role in roles for roles in self._told["roles"].values())

    def inputs(self, role: str, size: str) -> dict[str, list[int]]:
        """Shapes of what the first package of a role takes."""
        name, function = self._steps(role, size)[0]
        inputs = self._told["packages"][name]["functions"][function]["inputs"]
        return {name: about["shape"] for name, about in inputs.items()}

    def run(self, role: str, size: str, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs the packages of a role one after the other, each with what was given and what those before gave."""
        known = dict(feeds)
        made: dict[str, np.ndarray] = {}
        for name, function in self._steps(role, size):
            if (name, function) not in self._runners:
                self._runners[name, function] = runner(self._folder / f"{name}.mlpackage", function)
            about = self._told["packages"][name]["functions"][function]["inputs"]
            given = {port: known[port].astype(told["dtype"]) for port, told in about.items()}
            made = self._runners[name, function](given)
            known |= made
        return made

    def _steps(self, role: str, size: str) -> list[list[str]]:
        steps = self._told["roles"].get(size, {}).get(role)
        if not steps:
            raise InputError(f"{self._folder} has no package for {role} at {size}; export it")
        found: list[list[str]] = steps
        return found


class PackagedText(nn.Module):
    """A text encoder's package in the place of `mlx_sd.clip.TextEncoder`."""

    def __init__(self, packages: Packages, part: str, config: Mapping[str, Any]):
        super().__init__()
        self._packages, self._part = packages, part
        self.config = replace(TextConfig.from_hf(config), layers=1)  # the package gives the one layer asked for
        self.norm = nn.Identity()  # done in the package

    def __call__(self, ids: mx.array) -> Encoded:
        rows = [self._packages.run(self._part, "any", {"input_ids": row[None]}) for row in np.array(ids)]
        hidden = _joined([row["hidden_embeds" if self._packages.xl else "last_hidden_state"] for row in rows])
        return Encoded([hidden, hidden], hidden, _joined([row["pooled_outputs"] for row in rows]))


class PackagedUNet:
    """The UNet's packages in the place of `mlx_sd.unet.UNet`."""

    dtype = mx.float32  # what it is given; each package takes its own

    def __init__(self, packages: Packages, config: Mapping[str, Any], branch: int):
        self.config = UNetConfig.from_hf(config)
        self._packages, self._branch = packages, branch

    @property
    def branches(self) -> Sequence[int]:
        """The one branch at which the packages were cut, or none."""
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
        **extra: Any,
    ) -> tuple[mx.array, mx.array]:
        """As `UNet.__call__`, but that `deep` is as the packages have it; without it they run in full."""
        if join is not concatenate:
            raise InputError("packages join their skips as they were exported; leave out --freeu")
        if attend is not apply_attention:
            raise InputError("packages attend as they were exported; leave out --tgate")
        if skip_residuals is not None or middle_residual is not None:
            raise InputError("packages take no residuals of a control network; generate with the model itself")
        if callable(deep):
            raise InputError("packages do not show their shallow features; choose another --deepcache than adaptive")
        size = self._packages.size(x)
        feeds = {
            "sample": _stored(x),
            "timestep": np.broadcast_to(np.array(t, np.float32), x.shape[:1]),
            "encoder_hidden_states": np.array(context).transpose(0, 2, 1)[:, :, None],
            **{name: np.array(array) for name, array in extra.items()},
        }
        if deep is None:
            made = self._run("unet_deep" if self._packages.has("unet_deep") else "unet", size, feeds)
            deep = mx.array(made.get("deep_feature", np.zeros(1)))
            if "noise_pred" in made:
                return _channel_last(made["noise_pred"]), deep
        made = self._run("unet_shallow", size, feeds | {"deep_feature": np.array(deep)})
        return _channel_last(made["noise_pred"]), deep

    def _run(self, role: str, size: str, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """In batches of the packages' size; the last is filled up with copies of its last row."""
        shapes = self._packages.inputs(role, size)
        wrong = [name for name in shapes if name not in feeds or list(feeds[name].shape[1:]) != shapes[name][1:]]
        if wrong:
            name = wrong[0]
            given = feeds[name].shape[1:] if name in feeds else "none"
            raise InputError(f"the packages take {name} of {shapes[name][1:]}, not {given} (is the prompt too long?)")
        total, batch = len(feeds["sample"]), shapes["sample"][0]
        made = []
        for start in range(0, total, batch):
            rows = np.minimum(np.arange(start, start + batch), total - 1)
            made.append(self._packages.run(role, size, {name: array[rows] for name, array in feeds.items()}))
        return {name: np.concatenate([m[name] for m in made])[:total] for name in made[0]}


class PackagedVAE(Autoencoder):
    """The VAE's packages in the place of `mlx_sd.vae.Autoencoder`; pictures of their sizes, never in tiles."""

    def __init__(self, packages: Packages, config: Mapping[str, Any]):
        nn.Module.__init__(self)
        self.config, self._packages = VAEConfig.from_hf(config), packages

    @property
    def dtype(self) -> mx.Dtype:
        """Of what goes in."""
        return mx.float32

    def decode(self, latents: mx.array, tile: int | None = None) -> mx.array:
        """Images (B, H, W, 3) of unscaled latents."""
        size = self._packages.size(latents)
        rows = [self._packages.run("vae_decoder", size, {"z": row[None]}) for row in _stored(latents)]
        return _joined([row["image"] for row in rows]).transpose(0, 2, 3, 1)

    def moments(self, image: mx.array) -> mx.array:
        """Mean and log variance side by side of images (B, H, W, 3)."""
        size = f"{image.shape[2]}x{image.shape[1]}"
        rows = [self._packages.run("vae_encoder", size, {"x": row[None]}) for row in _stored(image)]
        return _joined([row["latent"] for row in rows]).transpose(0, 2, 3, 1)


def _stored(x: mx.array) -> np.ndarray:
    """Channel-first."""
    stored: np.ndarray = np.array(x).transpose(0, 3, 1, 2)
    return stored


def _channel_last(x: np.ndarray) -> mx.array:
    return mx.array(x.astype(np.float32)).transpose(0, 2, 3, 1)


def _joined(rows: list[np.ndarray]) -> mx.array:
    return mx.array(np.concatenate(rows).astype(np.float32))
