"""Tiny autoencoders (TAESD) of few channels with random weights, in every form in which they come."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from convert.files.diffusers_names import diffusers_name
from mlx_sd.checkpoint.model_folder import build, shapes
from tests.support import families
from tests.support.families import Config

WIDTH = 8


def config(stages: int = 4, width: int = WIDTH, **changes: object) -> Config:
    """Returns the config of one for latents of 2 ** (stages - 1) pixels a side."""
    fine = [1, 3, 3, 3][:stages]
    return {
        "_class_name": "AutoencoderTiny",
        "_diffusers_version": "0.42.1",
        "act_fn": "relu",
        "block_out_channels": [width] * stages,
        "decoder_block_out_channels": [width] * stages,
        "encoder_block_out_channels": [width] * stages,
        "force_upcast": False,
        "in_channels": 3,
        "latent_channels": 4,
        "latent_magnitude": 3,
        "latent_shift": 0.5,
        "num_decoder_blocks": fine[::-1],
        "num_encoder_blocks": fine,
        "out_channels": 3,
        "scaling_factor": 1.0,
        "shift_factor": 0.0,
        "upsample_fn": "nearest",
        "upsampling_scaling_factor": 2,
    } | changes


def weights(values: Config) -> dict[str, np.ndarray]:
    """Returns random weights by diffusers' names."""
    network = build("vae", values, "tiny")
    names = {diffusers_name("vae", network.names, name): shape for name, shape in shapes(network).items()}
    assert len(names) == len(shapes(network))
    return {name: families.tensor("taesd", name, _first(shape)) for name, shape in names.items()}


def write_folder(folder: Path, values: Config | None = None) -> Path:
    """Writes one as diffusers saves it."""
    values = config() if values is None else values
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    save_file(weights(values), folder / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    return folder


def write_originals(folder: Path, values: Config | None = None) -> Path:
    """Writes the two files of the author, each with the numbers of its own layers; returns the decoder's."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = weights(config() if values is None else values)
    for side, shift in (("encoder", 0), ("decoder", 1)):
        inside = {n.removeprefix(f"{side}.layers."): a for n, a in arrays.items() if n.startswith(f"{side}.")}
        numbered = {
            ".".join([str(int(n.partition(".")[0]) + shift), n.partition(".")[2]]): a for n, a in inside.items()
        }
        save_file(numbered, folder / f"taesd_{side}.safetensors")
    return folder / "taesd_decoder.safetensors"


def _first(shape: tuple[int, ...]) -> list[int]:
    """Returns the shape of a weight, channel-last, as PyTorch has it."""
    return [shape[0], shape[3], *shape[1:3]] if len(shape) == 4 else list(shape)
