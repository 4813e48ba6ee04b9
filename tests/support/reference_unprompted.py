"""The reference side of models without a prompt: diffusers' own pipelines, and guidance by classes written out."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DModel, VQModel

from tests.support import families, reference, unprompted
from tests.support.families import Config
from tests.support.reference import first, last

CLASSES = {"UNet2DModel": UNet2DModel, "VQModel": VQModel, "AutoencoderKL": AutoencoderKL}


def module(part: str, config: Config) -> Any:
    """The torch network of a part with the weights that its names have."""
    made: Any = CLASSES[config["_class_name"]].from_config(config)
    state = {
        name: torch.from_numpy(families.tensor(part, name, list(value.shape)))
        for name, value in made.state_dict().items()
    }
    made.load_state_dict(state)
    return made.eval()


def modules(family: str) -> dict[str, Any]:
    configs = unprompted.FAMILIES[family]
    return {place: module(unprompted.part(place), configs[place]) for place in unprompted.networks(family)}


def unet(network: Any, inputs: dict[str, np.ndarray]) -> np.ndarray:
    given = {name: first(value) for name, value in inputs.items()}
    return last(network(given["x"], given["t"], class_labels=given.get("class_labels")).sample)


def pictures(folder: Path, seed: int, count: int, steps: int, precise: bool = False, **settings: Any) -> np.ndarray:
    """What a folder's own pipeline makes, in [0, 1], from the noise that mlx_sd draws for these seeds."""
    pipe: Any = diffusers.DiffusionPipeline.from_pretrained(folder)
    dtype = torch.float64 if precise else torch.float32
    pipe.unet.to(dtype)
    pipe.set_progress_bar_config(disable=True)
    size = pipe.unet.config.sample_size
    draw = reference.stream(seed, count, pipe.unet.config.in_channels, size, size, dtype)
    with ExitStack() as patched:
        for made in (pipe, pipe.scheduler):
            patched.enter_context(reference.noise_from(made, draw))
        found: np.ndarray = pipe(batch_size=count, num_inference_steps=steps, output_type="np", **settings).images
    return found


def guided(network: Any, scheduler: Any, classes: list[int], guidance: float, noise: np.ndarray, steps: int) -> Any:
    """Final latents of classes, steered away from the null class."""
    labels = torch.tensor([unprompted.NULL] * len(classes) + classes)

    def predict(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        uncond, cond = network(torch.cat([x, x]), t, class_labels=labels).sample.chunk(2)
        return uncond + guidance * (cond - uncond)

    return last(reference.run(scheduler, steps, first(noise), predict, families.SEED))
