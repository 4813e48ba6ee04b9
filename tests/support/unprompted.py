"""Tiny random checkpoints of models that take no prompt, made as tests/families.py makes the others."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from safetensors.numpy import save_file

from convert.files.diffusers_names import diffusers_name
from convert.sources.single_file_kinds import KINDS
from mlx_sd.checkpoint.model_folder import build
from mlx_sd.checkpoint.model_folder import shapes as own_shapes
from tests.support import families, singles
from tests.support.families import Config, Shapes

_DOWN, _ATTN_DOWN, _RES_DOWN = "DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"
_UP, _ATTN_UP, _RES_UP = "UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"


def unet(**changes: Any) -> Config:
    """As the first checkpoints of denoising diffusion had it, but for its widths."""
    return {
        "_class_name": "UNet2DModel",
        "_diffusers_version": "0.42.1",
        "act_fn": "silu",
        "attention_head_dim": None,
        "block_out_channels": [32, 64, 64],
        "center_input_sample": False,
        "down_block_types": [_DOWN, _ATTN_DOWN, _DOWN],
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "in_channels": 3,
        "layers_per_block": 2,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-06,
        "norm_num_groups": 8,
        "out_channels": 3,
        "sample_size": 16,
        "time_embedding_type": "positional",
        "up_block_types": [_UP, _ATTN_UP, _UP],
    } | changes


_LATENT = {  # as latent diffusion has it
    "attention_head_dim": 16,
    "down_block_types": [_DOWN, _ATTN_DOWN, _ATTN_DOWN],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "norm_eps": 1e-05,
    "sample_size": 8,
    "up_block_types": [_ATTN_UP, _ATTN_UP, _UP],
}

# Each has something that no other has.
UNETS: dict[str, Config] = {
    "ddpm": unet(),
    "ldm": unet(**_LATENT),
    "classes": unet(**_LATENT, in_channels=4, out_channels=4, num_class_embeds=11),
    "super_resolution": unet(**_LATENT, in_channels=6),
    "resnet_blocks": unet(
        down_block_types=[_RES_DOWN, _RES_DOWN, _DOWN],
        resnet_time_scale_shift="scale_shift",
        up_block_types=[_RES_UP, _RES_UP, _UP],
    ),
    "resnet_resampling": unet(
        attention_head_dim=8,
        attn_norm_num_groups=16,
        down_block_types=[_ATTN_DOWN, _ATTN_DOWN, _DOWN],
        downsample_type="resnet",
        resnet_time_scale_shift="scale_shift",
        up_block_types=[_UP, _ATTN_UP, _ATTN_UP],
        upsample_type="resnet",
    ),
    "no_attention": unet(add_attention=False, down_block_types=[_DOWN] * 3, up_block_types=[_UP] * 3),
    "no_middle": unet(mid_block_type=None, layers_per_block=1),
    "centred": unet(center_input_sample=True, time_embedding_dim=48, class_embed_type="timestep"),
    "identity": unet(class_embed_type="identity", downsample_padding=1),
}

VQ: Config = {
    "_class_name": "VQModel",
    "_diffusers_version": "0.42.1",
    "act_fn": "silu",
    "block_out_channels": [16, 32],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "in_channels": 3,
    "latent_channels": 3,
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "num_vq_embeddings": 40,
    "out_channels": 3,
    "sample_size": 16,
    "scaling_factor": 0.5,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "vq_embed_dim": 3,
}
VQS: dict[str, Config] = {
    "vq": VQ,
    "wider_codes": VQ | {"latent_channels": 4, "vq_embed_dim": 5, "mid_block_add_attention": False},
}

_DDPM: Config = {
    "_class_name": "DDPMScheduler",
    "_diffusers_version": "0.42.1",
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "clip_sample": True,
    "num_train_timesteps": 1000,
    "trained_betas": None,
    "variance_type": "fixed_large",
}
_DDIM: Config = _DDPM | {"_class_name": "DDIMScheduler", "set_alpha_to_one": True, "steps_offset": 0}
_DDIM.pop("variance_type")
_LDM: Config = _DDIM | {
    "beta_end": 0.0195,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.0015,
    "clip_sample": False,
}
NULL = 10
WITHOUT_CONDITION = ("ddpm", "ddim", "ldm")  # whose pipelines ask for nothing at all
# Family -> folder -> config, as diffusers saves them.
FAMILIES: dict[str, dict[str, Config]] = {
    "ddpm": {"unet": UNETS["ddpm"], "scheduler": _DDPM, "pipeline": {"_class_name": "DDPMPipeline"}},
    "ddim": {"unet": UNETS["resnet_blocks"], "scheduler": _DDIM, "pipeline": {"_class_name": "DDIMPipeline"}},
    "ldm": {"unet": UNETS["ldm"], "vqvae": VQ, "scheduler": _LDM, "pipeline": {"_class_name": "LDMPipeline"}},
    "ldm_sr": {
        "unet": UNETS["super_resolution"],
        "vqvae": VQ,
        "scheduler": _LDM,
        "pipeline": {"_class_name": "LDMSuperResolutionPipeline"},
    },
    "classes": {
        "unet": UNETS["classes"],
        "vqvae": families.FAMILIES["sd2v"]["vae"],
        "scheduler": _LDM,
        "pipeline": {
            "_class_name": "LDMPipeline",
            "id2label": {"0": "tench, Tinca tinca", "1": "goldfish"},
            "null_class": NULL,
        },
    },
}


def part(place: str) -> str:
    """What we call a part of a folder."""
    return "vae" if place == "vqvae" else place


def networks(family: str) -> list[str]:
    return [place for place in FAMILIES[family] if place not in ("scheduler", "pipeline")]


def write_folder(family: str, tensors: Shapes, path: Path, flat: bool = False, **pipeline: Any) -> Path:
    """Writes a whole diffusers folder; `flat` as its first versions did, `pipeline` changes model_index.json."""
    configs = FAMILIES[family]
    index = dict(configs["pipeline"]) | pipeline
    for place in (*networks(family), "scheduler"):
        home = path if flat else path / place
        home.mkdir(parents=True, exist_ok=True)
        file = "scheduler_config.json" if place == "scheduler" else "config.json"
        (home / file).write_text(json.dumps(configs[place]), encoding="utf-8")
        index[place] = ["diffusers", configs[place]["_class_name"]]
        if place != "scheduler":
            found = families.weights(part(place), tensors[place])
            save_file(found, home / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    (path / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    return path


def unet_inputs(config: Config, size: tuple[int, int] = (8, 8), batch: int = 2) -> dict[str, np.ndarray]:
    """What a UNet of this config is called with in tests, channel-last."""
    found = {
        "x": families.numbers("x", batch, *size, config["in_channels"]),
        "t": np.array([961.0, 37.0, 400.0, 3.0][:batch], np.float32),
    }
    if config.get("num_class_embeds"):
        found["class_labels"] = np.array([3, NULL, 0, 5][:batch])
    elif config.get("class_embed_type") == "timestep":
        found["class_labels"] = np.array([20.0, 350.0, 7.0, 0.0][:batch], np.float32)
    elif config.get("class_embed_type") == "identity":
        found["class_labels"] = families.numbers("classes", batch, 4 * config["block_out_channels"][0])
    return found


def noise() -> np.ndarray:
    """Of two pictures of the family "classes"."""
    return families.numbers("noise of classes", 2, 8, 8, 4)


@cache
def goldens() -> Mapping[str, np.ndarray]:
    """What diffusers computed (make_goldens.py)."""
    return dict(np.load(Path(__file__).parent.parent / "goldens" / "unprompted.npz"))


@cache
def shapes() -> dict[str, Any]:
    """Family, "unets" or "vqs" -> part or name -> tensor name -> shape, as diffusers saves them."""
    found: dict[str, Any] = json.loads((Path(__file__).parent.parent / "goldens" / "unprompted.json").read_text())
    return found


def network(part: str, config: Config, kind: str, name: str) -> Any:
    """Ours, with the weights that its names have in a diffusers checkpoint."""
    made: Any = build(part, config, name)
    weights = []
    for ours, shape in own_shapes(made).items():
        theirs = diffusers_name(part, made.names, ours)
        array = families.tensor(part, theirs, shapes()[kind][name][theirs])
        weights.append((ours, mx.array(array.transpose(0, 2, 3, 1) if array.ndim == 4 else array).reshape(shape)))
    made.load_weights(weights)
    return made


def arrays(inputs: Mapping[str, np.ndarray]) -> dict[str, mx.array]:
    return {name: mx.array(value) for name, value in inputs.items()}


# Single files of the original code: kind -> UNet, its heads where they are of several sizes, autoencoder.
_RESNETS = {
    "attention_head_dim": [4, 8, 8],
    "attn_norm_num_groups": 8,
    "block_out_channels": [32, 64, 64],
    "down_block_types": [_ATTN_DOWN, _ATTN_DOWN, _RES_DOWN],
    "downsample_type": "resnet",
    "resnet_time_scale_shift": "scale_shift",
    "up_block_types": [_RES_UP, _ATTN_UP, _ATTN_UP],
    "upsample_type": "resnet",
}
_CROSS = families.UNETS["plain_middle"] | {
    "attention_head_dim": 1,
    "block_out_channels": [32, 64, 64],
    "cross_attention_dim": 24,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "in_channels": 3,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "out_channels": 3,
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
}
_WIDE = {"attention_head_dim": 32, "block_out_channels": [32, 64, 96]}
SINGLES: dict[str, dict[str, Config]] = {
    "ldm": {"unet": UNETS["ldm"] | _WIDE, "vae": VQ},
    "ldm-sr": {"unet": UNETS["super_resolution"] | _WIDE, "vae": VQ},
    "ldm-churches": {
        "unet": unet(**_LATENT | _RESNETS, in_channels=4, out_channels=4),
        "vae": families.FAMILIES["sd2v"]["vae"],
    },
    "ldm-classes": {"unet": _CROSS, "vae": VQ},
}


def _single_weights(kind: str) -> dict[str, dict[str, np.ndarray]]:
    """Part -> diffusers' tensor name -> weight of one of SINGLES."""
    weights: dict[str, dict[str, np.ndarray]] = {}
    for part, config in SINGLES[kind].items():
        network, weights[part] = build(part, config, "x"), {}
        for ours, shape in own_shapes(network).items():
            theirs = diffusers_name(part, network.names, ours)
            shape = [shape[0], shape[3], *shape[1:3]] if len(shape) == 4 else list(shape)
            weights[part][theirs] = families.tensor(part, theirs, shape)
    return weights


def write_single(kind: str, file: Path, **extra: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """Writes a single file of one of SINGLES and returns the weights that must come out, by diffusers' names."""
    weights, configs = _single_weights(kind), SINGLES[kind]
    sizes = configs["unet"]["attention_head_dim"]
    heads = KINDS[kind].heads(configs["unet"]["block_out_channels"][0]) if isinstance(sizes, list) else None
    plain = configs["unet"]["_class_name"] == "UNet2DModel"
    if plain:
        unet = singles.plain_unet(weights["unet"], configs["unet"], heads)
    else:
        unet = singles.unet(weights["unet"], configs["unet"])
    arrays = {f"model.diffusion_model.{name}": array for name, array in unet.items()}
    arrays |= {f"first_stage_model.{n}": array for n, array in singles.vae(weights["vae"], configs["vae"]).items()}
    if KINDS[kind].classes:
        weights["class_embedder"] = {"embedding.weight": families.tensor("classes", "embedding.weight", [11, 24])}
        arrays["cond_stage_model.embedding.weight"] = weights["class_embedder"]["embedding.weight"]
    save_file({name: np.ascontiguousarray(array) for name, array in (arrays | extra).items()}, file)
    return weights
