"""A folder of packages or assets as the networks of a model, so that the pipeline runs what an app would run.

On a Mac Core ML runs packages; elsewhere the interpreter does, rounding to float16 where they store float16. Assets of
Core AI are run by Apple's CPU runtime, in a process that has no MLX.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_sd.checkpoint.control import Control
from mlx_sd.checkpoint.model import Model
from mlx_sd.checkpoint.model_folder import TEXT
from mlx_sd.controls import packaged_network
from mlx_sd.core.errors import InputError
from mlx_sd.core.parser import Parser, program
from mlx_sd.networks.blocks import Attend, apply_attention
from mlx_sd.networks.clip import Encoded
from mlx_sd.networks.configs import TextConfig, vae_config
from mlx_sd.networks.family import family_of, task_of
from mlx_sd.networks.unet import Deep, Join, concatenate
from mlx_sd.networks.unet_config import UNetConfig
from mlx_sd.networks.vae import Autoencoder, EvaluateTiles, one_by_one
from mlx_sd.prompts.tokenizer import Tokenizer
from mlx_sd.sampling.scheduler import Scheduler

from . import info, token_sets
from .control_networks import role
from .coreai import speed
from .coreai.runtime import PLACE
from .lowering.interfaces import RESIDUAL, context_port, is_xl
from .package_set import PackageSet, channel_first, channel_last
from .packaged_control import PackagedControl


def load(folder: Path) -> Model:
    """Loads a folder that `python -m coreml` wrote as a model; InputError where a package is missing or damaged."""
    content = info.read(folder)
    if token_sets.KEY in content:
        name = content["model"]["name"]
        raise InputError(f"{folder}: its pictures are tokens, of which --coreml has no sampler; --model {name} has")
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
        packaged_controls={name: PackagedControl(packages, name, entry) for name, entry in content["controls"].items()},
    )


def _tokenizer(folder: Path, ids: Mapping[str, int]) -> Tokenizer:
    tokenizer = Tokenizer.load(folder, ids["length"])
    tokenizer.pad = ids["pad"]
    return tokenizer


def time_words(
    model: Model, full: int, cached: int, size: tuple[int, int], controls: Sequence[Control] = ()
) -> list[str]:
    """Returns a line with the predicted minutes of a picture, or none for packages of Core ML.

    full, cached: evaluations of the UNet. size: (width, height) in pixels. controls: of the picture's request.
    """
    unet: Any = model.unet
    names = [packaged_network(control, model).name for control in controls if control.scale]
    lines: list[str] = unet.time_words(full, cached, f"{size[0]}x{size[1]}", names)
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Makes pictures with an exported folder alone: `mlx_sd.generate` with --coreml, whose other options it takes."""
    words = list(sys.argv[1:] if argv is None else argv)
    p = Parser(prog=f"{program('coreml')} drive", description=main.__doc__)
    p.add_argument("folder", type=Path, help="what python -m coreml wrote, in either format; first")
    p.add_argument("prompt", help="what to make a picture of; then the options of python -m mlx_sd.generate")
    arguments, others = p.parse_args(words[:2]), words[2:]
    generate = import_module("mlx_sd.cli.generate")  # a command above this package, run by its name
    code: int = generate.main([arguments.prompt, "--coreml", str(arguments.folder), *others])
    return code


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
            raise InputError("packages attend as they were exported; leave out --tgate and --token-downsampling")
        if features is not None:
            raise InputError("packages take nothing of adapters; generate with the model itself")
        if skip_residuals is not None and not self._packages.controlled:
            raise InputError("the packages take nothing of control networks; export them with --control")
        if callable(deep):
            raise InputError("packages do not show their shallow features; choose another --deepcache than adaptive")
        packages, size = self._packages, self._packages.size(x)
        inputs = packages.step_inputs(x, t, context, extra)
        residuals = [*(skip_residuals or ()), *(() if middle_residual is None else (middle_residual,))]
        inputs |= {f"{RESIDUAL}{i}": channel_first(array) for i, array in enumerate(residuals)}
        if deep is None:
            role = next(role for role in ("unet_deep", "unet_full", "unet") if packages.has(role))
            outputs = packages.run_rows(role, size, inputs)
            deep = mx.array(outputs.get("deep_feature", np.zeros(1)))
            if "noise_pred" in outputs:
                return channel_last(outputs["noise_pred"]), deep
        outputs = packages.run_rows("unet_shallow", size, inputs | {"deep_feature": np.array(deep)})
        return channel_last(outputs["noise_pred"]), deep

    def time_words(self, full: int, cached: int, size: str, controls: Sequence[str] = ()) -> list[str]:
        """Returns a line with the predicted minutes of a picture, or none for packages of Core ML.

        controls: names of the control networks that act.
        """
        packages = self._packages
        if not packages.core_ai:
            return []
        unet = "unet_full" if packages.has("unet_full") else "unet"
        runs = 2 / packages.inputs(unet, size)["sample"][0]  # of both texts
        duration = packages.seconds("vae_decoder", size)
        for count, roles in (
            (full, [unet, *(role("control", name) for name in controls)]),
            (cached, ["unet_shallow", *(role("control_shallow", name) for name in controls)]),
        ):
            duration += sum(packages.seconds(role, size) for role in roles) * count if count else 0
        return [f"{PLACE}, one thread: {speed.words(runs * duration)} for a picture"]


class PackagedVAE(Autoencoder):
    """The VAE's packages in the place of `mlx_sd.networks.vae.Autoencoder`; for their own sizes, never in tiles."""

    def __init__(self, packages: PackageSet, config: Mapping[str, Any]):
        nn.Module.__init__(self)
        self.config, self._packages = vae_config(config), packages

    @property
    def dtype(self) -> mx.Dtype:
        """Returns the dtype of its inputs."""
        return mx.float32

    def decode(self, latents: mx.array, tile: int | None = None, evaluate: EvaluateTiles = one_by_one) -> mx.array:
        """Decodes unscaled latents (B, h, w, C) into images (B, H, W, 3) in [-1, 1]."""
        size = self._packages.size(latents)
        rows = [self._packages.run("vae_decoder", size, {"z": row[None]}) for row in channel_first(latents)]
        return _joined([row["image"] for row in rows]).transpose(0, 2, 3, 1)

    def moments(self, image: mx.array) -> mx.array:
        """Encodes images (B, H, W, 3) into mean and log variance of their latents (B, h, w, 2 C).

        Where encoding is deterministic it returns the latents themselves, (B, h, w, C).
        """
        size = f"{image.shape[2]}x{image.shape[1]}"
        x, latent = ("image", "latent_params") if self._packages.core_ai else ("x", "latent")
        rows = [self._packages.run("vae_encoder", size, {x: row[None]}) for row in channel_first(image)]
        moments = _joined([row[latent] for row in rows]).transpose(0, 2, 3, 1)
        return moments[..., : self.config.latent_channels] if self.config.deterministic else moments


def _joined(rows: list[np.ndarray]) -> mx.array:
    return mx.array(np.concatenate(rows).astype(np.float32))
