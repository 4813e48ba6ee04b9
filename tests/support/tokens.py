"""Tiny random checkpoints whose pictures are tokens, made as families.py makes the others."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file

from convert.files.diffusers_names import diffusers_name
from mlx_sd.checkpoint.model_folder import build
from mlx_sd.checkpoint.model_folder import shapes as own_shapes
from tests.support import families
from tests.support.families import FAMILIES, Config

TOKENS, SIDE, FACTOR = 24, 6, 4  # of the codebook; tokens a side of a picture; pixels a side of a token

_SMALL = {
    "block_out_channels": [16, 32],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "sample_size": SIDE,
}
UNET = FAMILIES["sd1"]["unet"] | _SMALL | {"in_channels": 16, "out_channels": TOKENS, "token_states": TOKENS + 1}
VQ: Config = {
    "_class_name": "VQModel",
    "_diffusers_version": "0.42.1",
    "block_out_channels": [8, 8, 16],
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "latent_channels": 4,
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "num_vq_embeddings": TOKENS,
    "sample_size": SIDE * FACTOR,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "vq_embed_dim": 4,
}
SCHEDULER: Config = {
    "_class_name": "TokenDiffusion",
    "corruption": "absorbing",
    "num_train_timesteps": 100,
    "schedule": "linear",
}
CONFIGS: dict[str, Config] = {"unet": UNET, "vqvae": VQ, "text_encoder": FAMILIES["sd1"]["text_encoder"]}
MULTINOMIAL: dict[str, Config] = {
    "unet": {"token_states": TOKENS},
    "scheduler": {"corruption": "multinomial"},
}


def write_folder(path: Path, changes: Mapping[str, Mapping[str, Any]] | None = None) -> Path:
    """Writes a whole checkpoint; changes: of configs by the names of their parts, such as MULTINOMIAL."""
    changes = changes or {}
    for name, original in CONFIGS.items():
        config = {key: value for key, value in (original | changes.get(name, {})).items() if value is not None}
        part = "vae" if name == "vqvae" else name
        network = build(part, config, name)
        shapes = {
            diffusers_name(part, network.names, parameter): _as_stored(shape)
            for parameter, shape in own_shapes(network).items()
        }
        (path / name).mkdir(parents=True)
        families._write_json(path / name / "config.json", config)
        stem = "model" if name == "text_encoder" else "diffusion_pytorch_model"
        save_file(families.weights(part, shapes), path / name / f"{stem}.safetensors", {"format": "pt"})
    (path / "scheduler").mkdir()
    families._write_json(path / "scheduler" / "scheduler_config.json", SCHEDULER | changes.get("scheduler", {}))
    families.write_tokenizer(path / "tokenizer", "<|endoftext|>")
    index = {
        "_class_name": "TokenDiffusionPipeline",
        "_diffusers_version": "0.42.1",
        "scheduler": ["mlx_sd", "TokenDiffusion"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["mlx_sd", "TokenUNet"],
        "vqvae": ["diffusers", "VQModel"],
    }
    families._write_json(path / "model_index.json", index)
    return path


def _as_stored(shape: tuple[int, ...]) -> list[int]:
    """The shape in PyTorch's order: channels before height and width."""
    if len(shape) != 4:
        return list(shape)
    outputs, height, width, inputs = shape
    return [outputs, inputs, height, width]
