"""Full-size models as configs, and their random weights, on which speed and memory are measured."""

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from convert.files.diffusers_names import diffusers_name
from convert.files.safetensors_stream import Entry, write_tensors
from mlx_sd.checkpoint.model import DTYPES
from mlx_sd.checkpoint.model_folder import FORMAT, TEXT, VERSION, build, shapes
from mlx_sd.core.embedded import TINY

from . import process

Config = dict[str, Any]

_CROSS, _PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"
_UP_CROSS, _UP_PLAIN = "CrossAttnUpBlock2D", "UpBlock2D"

NAMES = {"sd15": "SD 1.5", "sd21": "SD 2.1", "sdxl": "SDXL"}  # as tables show the models
FULL_SIZES = {"sd15": (512, 512), "sd21": (768, 768), "sdxl": (1024, 1024)}  # (width, height) in pixels
UNETS: dict[str, Config] = {
    "sd15": {
        "sample_size": 64,
        "block_out_channels": [320, 640, 1280, 1280],
        "down_block_types": [_CROSS, _CROSS, _CROSS, _PLAIN],
        "up_block_types": [_UP_PLAIN, _UP_CROSS, _UP_CROSS, _UP_CROSS],
        "attention_head_dim": 8,
        "cross_attention_dim": 768,
    },
    "sd21": {
        "sample_size": 96,
        "block_out_channels": [320, 640, 1280, 1280],
        "down_block_types": [_CROSS, _CROSS, _CROSS, _PLAIN],
        "up_block_types": [_UP_PLAIN, _UP_CROSS, _UP_CROSS, _UP_CROSS],
        "attention_head_dim": [5, 10, 20, 20],
        "cross_attention_dim": 1024,
        "use_linear_projection": True,
        "upcast_attention": True,
    },
    "sdxl": {
        "sample_size": 128,
        "block_out_channels": [320, 640, 1280],
        "down_block_types": [_PLAIN, _CROSS, _CROSS],
        "up_block_types": [_UP_CROSS, _UP_CROSS, _UP_PLAIN],
        "attention_head_dim": [5, 10, 20],
        "cross_attention_dim": 2048,
        "transformer_layers_per_block": [1, 2, 10],
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}

SD15_TEXT: Config = {
    "architectures": ["CLIPTextModel"],
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "quick_gelu",
}
TEXTS: dict[str, list[Config]] = {
    "sd15": [SD15_TEXT],
    "sd21": [
        {
            "architectures": ["CLIPTextModel"],
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 23,
            "num_attention_heads": 16,
            "hidden_act": "gelu",
        }
    ],
    "sdxl": [
        SD15_TEXT,
        {
            "architectures": ["CLIPTextModelWithProjection"],
            "hidden_size": 1280,
            "intermediate_size": 5120,
            "num_hidden_layers": 32,
            "num_attention_heads": 20,
            "hidden_act": "gelu",
            "projection_dim": 1280,
        },
    ],
}
VAE: Config = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "sample_size": 512}
_PROJECTIONS = ("proj_in.weight", "proj_out.weight")
_SCHEDULER: Config = {
    "_class_name": "PNDMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "skip_prk_steps": True,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def sized(name: str, size: Sequence[int]) -> str:
    """Returns a model and a size in pixels as tables name them."""
    return f"{NAMES[name]}, {'x'.join(map(str, size))}"


def write(name: str, folder: Path, dtype: str = "float32", seed: int = 0) -> None:
    """Writes a diffusers folder of a model of NAMES with random weights of a dtype, one tensor at a time.

    float32 takes 4.3 GB for SD 1.5, float16 7.0 GB for SDXL. The tokenizers are those of the embedded checkpoint.
    """
    parts = {**dict(zip(TEXT, TEXTS[name], strict=False)), "unet": UNETS[name], "vae": VAE}
    tokenizers = [f"tokenizer{part.removeprefix('text_encoder')}" for part in parts if part in TEXT]
    folder.mkdir(parents=True)
    pipeline = "StableDiffusionXLPipeline" if name == "sdxl" else "StableDiffusionPipeline"
    index: Config = {"_class_name": pipeline, "scheduler": ["diffusers", "PNDMScheduler"]}
    index |= {part: ["mlx-sd", "random"] for part in (*parts, *tokenizers)}
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(_SCHEDULER))
    for tokenizer in tokenizers:
        shutil.copytree(TINY / "tokenizer", folder / tokenizer)
    rng = np.random.default_rng(seed)
    for part, config in parts.items():
        (folder / part).mkdir()
        (folder / part / "config.json").write_text(json.dumps(config))
        stem = "model" if part in TEXT else "diffusion_pytorch_model"
        entries = [
            Entry(parameter, shape, DTYPES[dtype], partial(_array, shape, rng))
            for parameter, shape in weight_shapes(part, config).items()
        ]
        write_tensors(folder / part / f"{stem}.safetensors", entries, lambda size: None, "pt")


def write_outline(name: str, folder: Path) -> None:
    """Writes the model folder of a model of NAMES whose files hold no weights: its shapes can be counted with."""
    parts = {**dict(zip(TEXT, TEXTS[name], strict=False)), "unet": UNETS[name], "vae": VAE}
    folder.mkdir(parents=True)
    for part in parts:
        (folder / f"{part}.safetensors").touch()
        if part in TEXT:
            shutil.copytree(TINY / "tokenizer", folder / part.replace("text_encoder", "tokenizer"))
    pipeline = "StableDiffusionXLPipeline" if name == "sdxl" else "StableDiffusionPipeline"
    about = {
        "format": FORMAT,
        "version": VERSION,
        "source": {"model": name, "sha256": {}},
        "quantization": None,
        "loras": [],
        "pipeline": {"_class_name": pipeline},
        "networks": parts,
        "scheduler": _SCHEDULER,
        "files": {},
    }
    (folder / "model.json").write_text(json.dumps(about))


@contextmanager
def temporary(name: str, dtype: str = "float16") -> Iterator[Path]:
    """Yields a temporary model folder of a model of NAMES with random weights; other processes write it."""
    with tempfile.TemporaryDirectory() as home:
        checkpoint, folder = Path(home, "checkpoint"), Path(home, name)
        code = "from pathlib import Path; from bench import models; "
        process.run(f"{code}models.write({name!r}, Path({str(checkpoint)!r}), {dtype!r})")
        process.run_command(sys.executable, "-m", "convert", "--model", str(checkpoint), "--out", str(folder))
        shutil.rmtree(checkpoint)
        yield folder


def random_weights(part: str, config: Config, rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
    """Draws a network's weights, of diffusers' shapes and under its names; each is scaled by 1/sqrt(fan-in)."""
    return {name: _draw(shape, rng) for name, shape in weight_shapes(part, config).items()}


def weight_shapes(part: str, config: Config) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a network's weights as diffusers has them, under its names."""
    network = build(part, config, part)
    stored = {}
    for own_name, shape in shapes(network).items():
        name = diffusers_name(part, network.names, own_name)
        if len(shape) == 4:
            shape = (shape[0], shape[3], shape[1], shape[2])
        elif part == "unet" and name.endswith(_PROJECTIONS) and not config.get("use_linear_projection"):
            shape = (*shape, 1, 1)
        stored[name] = shape
    return stored


def _draw(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    weights = rng.standard_normal(shape, dtype=np.float32)
    weights /= np.float32(np.sqrt(np.prod(shape[1:]) or 1))
    return weights


def _array(shape: tuple[int, ...], rng: np.random.Generator) -> mx.array:
    return mx.array(_draw(shape, rng))
