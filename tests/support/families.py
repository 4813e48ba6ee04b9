"""Tiny random checkpoints of every kind that Stable Diffusion comes in: configs, weights and inputs, without torch.

Weights are not stored: each is made from its name and shape, so that everyone who knows the names has the same ones.
"""

import json
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from mlx_sd.core.embedded import TINY

Config = dict[str, Any]
Shapes = Mapping[str, Mapping[str, list[int]]]  # part -> tensor name -> shape

PROMPT, NEGATIVE, GUIDANCE, STEPS, SEED = "a red tent on green grass", "a dark stormy sky", 5.0, 20, 3
VOCABULARY, END = 700, 699  # of the tokenizer that is copied from the embedded checkpoint

# ------------------------------------------------------------------------------------------------ configs

_DOWN, _CROSS_DOWN, _UP, _CROSS_UP = "DownBlock2D", "CrossAttnDownBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"
_BETAS: Config = {
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}


def _unet(**changes: Any) -> Config:
    return {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": "0.42.1",
        "act_fn": "silu",
        "attention_head_dim": 4,
        "block_out_channels": [32, 32, 64, 64],
        "center_input_sample": False,
        "cross_attention_dim": 32,
        "down_block_types": [_CROSS_DOWN, _CROSS_DOWN, _CROSS_DOWN, _DOWN],
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": 4,
        "layers_per_block": 2,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
        "norm_num_groups": 8,
        "out_channels": 4,
        "sample_size": 8,
        "up_block_types": [_UP, _CROSS_UP, _CROSS_UP, _CROSS_UP],
    } | changes


def _vae(channels: list[int], layers: int, **changes: Any) -> Config:
    return {
        "_class_name": "AutoencoderKL",
        "_diffusers_version": "0.42.1",
        "act_fn": "silu",
        "block_out_channels": channels,
        "down_block_types": ["DownEncoderBlock2D"] * len(channels),
        "in_channels": 3,
        "latent_channels": 4,
        "layers_per_block": layers,
        "norm_num_groups": 8,
        "out_channels": 3,
        "sample_size": 8 * 2 ** (len(channels) - 1),
        "up_block_types": ["UpDecoderBlock2D"] * len(channels),
    } | changes


def _text(**changes: Any) -> Config:
    return {
        "architectures": ["CLIPTextModel"],
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "dropout": 0.0,
        "eos_token_id": 2,  # as OpenAI's and all early conversions say, though the end token's id is another
        "hidden_act": "quick_gelu",
        "hidden_size": 32,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": 128,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 77,
        "model_type": "clip_text_model",
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
        "pad_token_id": 1,
        "projection_dim": 32,
        "torch_dtype": "float32",
        "transformers_version": "4.22.0.dev0",
        "vocab_size": VOCABULARY,
    } | changes


_PNDM = _BETAS | {"_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0"}
_SD1: Config = {
    "text_encoder": _text(),
    "unet": _unet(),
    "vae": _vae([16, 16, 32, 32], 2),
    "scheduler": _PNDM,
    "pipeline": {"_class_name": "StableDiffusionPipeline"},
}

# Family -> part -> config, as diffusers and transformers save them.
FAMILIES: dict[str, dict[str, Config]] = {
    "sd1": _SD1,
    "sd2v": {
        "text_encoder": _text(hidden_act="gelu", hidden_size=48, eos_token_id=END, projection_dim=64),
        "unet": _unet(
            attention_head_dim=[2, 4, 4, 8],
            cross_attention_dim=48,
            layers_per_block=1,
            upcast_attention=True,
            use_linear_projection=True,
        ),
        "vae": _vae([16, 32], 1, scaling_factor=0.18215),
        "scheduler": _BETAS
        | {"_class_name": "DDIMScheduler", "_diffusers_version": "0.8.0", "prediction_type": "v_prediction"},
        "pipeline": {"_class_name": "StableDiffusionPipeline"},
    },
    "sdxl": {
        "text_encoder": _text(),
        "text_encoder_2": _text(
            architectures=["CLIPTextModelWithProjection"], hidden_act="gelu", hidden_size=48, projection_dim=24
        ),
        "unet": _unet(
            addition_embed_type="text_time",
            addition_embed_type_num_heads=64,
            addition_time_embed_dim=8,
            attention_head_dim=[2, 4, 8],
            block_out_channels=[32, 64, 64],
            cross_attention_dim=80,
            down_block_types=[_DOWN, _CROSS_DOWN, _CROSS_DOWN],
            projection_class_embeddings_input_dim=24 + 6 * 8,
            transformer_layers_per_block=[1, 2, 3],
            up_block_types=[_CROSS_UP, _CROSS_UP, _UP],
            use_linear_projection=True,
        ),
        "vae": _vae([16, 32, 32], 1, scaling_factor=0.13025, force_upcast=True, latents_mean=None, latents_std=None),
        "scheduler": _BETAS
        | {
            "_class_name": "EulerDiscreteScheduler",
            "_diffusers_version": "0.19.0.dev0",
            "interpolation_type": "linear",
            "prediction_type": "epsilon",
            "sample_max_value": 1.0,
            "timestep_spacing": "leading",
            "use_karras_sigmas": False,
        },
        "pipeline": {"_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": True},
    },
    "inpaint9": _SD1
    | {
        "unet": _unet(in_channels=9, layers_per_block=1),
        "pipeline": {"_class_name": "StableDiffusionInpaintPipeline"},
    },
}

_SMALL = {
    "block_out_channels": [32, 64],
    "down_block_types": [_DOWN, _CROSS_DOWN],
    "up_block_types": [_CROSS_UP, _UP],
    "layers_per_block": 1,
}

# UNets beyond those of the families, each with something that no other has.
UNETS: dict[str, Config] = {
    "refiner": _unet(
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        attention_head_dim=[2, 4, 8, 8],
        block_out_channels=[32, 64, 64, 96],
        down_block_types=[_DOWN, _CROSS_DOWN, _CROSS_DOWN, _DOWN],
        layers_per_block=1,
        projection_class_embeddings_input_dim=24 + 5 * 8,
        transformer_layers_per_block=2,
        up_block_types=[_UP, _CROSS_UP, _CROSS_UP, _UP],
        use_linear_projection=True,
    ),
    "upscaler": _unet(
        attention_head_dim=8,
        block_out_channels=[32, 32, 64, 96],
        down_block_types=[_DOWN, _CROSS_DOWN, _CROSS_DOWN, _CROSS_DOWN],
        in_channels=7,
        layers_per_block=1,
        num_class_embeds=20,
        only_cross_attention=[True, True, True, False],
        up_block_types=[_CROSS_UP, _CROSS_UP, _CROSS_UP, _UP],
        use_linear_projection=True,
    ),
    "lcm": _unet(**_SMALL, time_cond_proj_dim=16),
    "ssd1b": _unet(
        attention_head_dim=[2, 4, 8],
        block_out_channels=[32, 64, 64],
        cross_attention_dim=[32, 32, 32],
        down_block_types=[_DOWN, _CROSS_DOWN, _CROSS_DOWN],
        layers_per_block=[1, 2, 2],
        reverse_transformer_layers_per_block=[[1, 2, 3], [2, 1, 1], 1],
        transformer_layers_per_block=[1, [2, 1], [3, 1]],
        up_block_types=[_CROSS_UP, _CROSS_UP, _UP],
        use_linear_projection=True,
    ),
    "no_middle": _unet(**_SMALL, mid_block_type=None),
    "plain_middle": _unet(**_SMALL, mid_block_type="UNetMidBlock2D"),
    "scale_shift": _unet(**_SMALL, resnet_time_scale_shift="scale_shift"),
    "only_cross": _unet(**_SMALL, only_cross_attention=True),
    "waves": _unet(**_SMALL, flip_sin_to_cos=False, freq_shift=1, norm_eps=1e-6, time_embedding_dim=48),
    "class_timestep": _unet(**_SMALL, class_embed_type="timestep"),
    "class_projection": _unet(**_SMALL, class_embed_type="projection", projection_class_embeddings_input_dim=12),
    "class_simple_projection": _unet(
        **_SMALL, class_embed_type="simple_projection", projection_class_embeddings_input_dim=12
    ),
    "class_identity": _unet(**_SMALL, class_embed_type="identity"),
}

# ------------------------------------------------------------------------------------------------ weights


def tensor(part: str, name: str, shape: list[int]) -> np.ndarray:
    """The weight that `name` (in today's spelling) of network `part` has in every family."""
    name = name.removeprefix("text_model.")
    numbers = np.random.RandomState(zlib.crc32(f"{part}.{name}".encode())).standard_normal(shape)
    if name.endswith("bias"):
        numbers *= 0.1
    elif len(shape) == 1:  # a norm
        numbers = 1 + 0.1 * numbers
    elif "position_embedding" in name:
        numbers *= 0.3
    elif "token_embedding" not in name:
        numbers /= np.sqrt(np.prod(shape[1:]))
    return numbers.astype(np.float32)


def weights(part: str, shapes: Mapping[str, list[int]]) -> dict[str, np.ndarray]:
    return {name: tensor(part, name, shape) for name, shape in shapes.items()}


# ------------------------------------------------------------------------------------------------ folders

_FILES = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}
_CLASSES = {
    "unet": ("diffusers", "UNet2DConditionModel"),
    "vae": ("diffusers", "AutoencoderKL"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
    "tokenizer_2": ("transformers", "CLIPTokenizer"),
}


def networks(family: str) -> list[str]:
    return [part for part in FAMILIES[family] if part not in ("scheduler", "pipeline")]


def write_folder(
    family: str, shapes: Shapes, path: Path, *, scheduler: Config | None = None, unet: str | None = None
) -> Path:
    """Writes a whole diffusers folder; `scheduler` replaces the family's own, `unet` names one of UNETS instead."""
    configs = dict(FAMILIES[family])
    if scheduler:
        configs["scheduler"] = scheduler
    if unet:
        configs["unet"] = UNETS[unet]
    for part in networks(family):
        config = configs[part]
        (path / part).mkdir(parents=True)
        _write_json(path / part / "config.json", config)
        file = path / part / f"{_FILES.get(part, 'model')}.safetensors"
        save_file(weights(part, shapes[part]), file, {"format": "pt"})
    write_rest(configs, path)
    return path


def write_rest(configs: Mapping[str, Config], path: Path) -> None:
    """Writes what a checkpoint has beside its networks: scheduler, tokenizers and model_index.json."""
    (path / "scheduler").mkdir(parents=True)
    _write_json(path / "scheduler" / "scheduler_config.json", configs["scheduler"])
    parts: dict[str, Any] = {
        part: list(_CLASSES.get(part) or ("transformers", config["architectures"][0]))
        for part, config in configs.items()
        if part not in ("scheduler", "pipeline")
    }
    for part in [p for p in parts if p.startswith("text_encoder")]:
        tokenizer = part.replace("text_encoder", "tokenizer")
        # OpenCLIP's are padded with "!".
        write_tokenizer(path / tokenizer, "!" if configs[part]["hidden_act"] == "gelu" else "<|endoftext|>")
        parts[tokenizer] = list(_CLASSES[tokenizer])
    parts["scheduler"] = ["diffusers", configs["scheduler"]["_class_name"]]
    if "XL" not in configs["pipeline"]["_class_name"]:
        parts |= {"safety_checker": [None, None], "feature_extractor": [None, None]}
    _write_json(path / "model_index.json", {"_diffusers_version": "0.42.1"} | configs["pipeline"] | parts)


def write_tokenizer(path: Path, pad: str, files: tuple[str, ...] = ("vocab.json", "merges.txt")) -> None:
    """A tokenizer folder with the given files of the embedded checkpoint's and a padding token."""
    path.mkdir(parents=True)
    for file in files:
        shutil.copyfile(TINY / "tokenizer" / file, path / file)
    config = json.loads((TINY / "tokenizer" / "tokenizer_config.json").read_text(encoding="utf-8"))
    _write_json(path / "tokenizer_config.json", config | {"pad_token": pad})


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")


# ------------------------------------------------------------------------------------------------ inputs


def numbers(seed: str, *shape: int) -> np.ndarray:
    """The same unit normal numbers everywhere, float32."""
    return np.random.RandomState(zlib.crc32(seed.encode())).standard_normal(shape).astype(np.float32)


def unet_inputs(config: Config, size: tuple[int, int] = (8, 8), batch: int = 2) -> dict[str, np.ndarray]:
    """What a UNet of this config is called with in tests, channel-last."""
    width = config["cross_attention_dim"]
    found = {
        "x": numbers("x", batch, *size, config["in_channels"]),
        "t": np.array([961.0, 37.5, 400.0, 3.0][:batch], np.float32),
        "context": numbers("context", batch, 7, width[0] if isinstance(width, list) else width),
    }
    kind = config.get("class_embed_type") or ("table" if config.get("num_class_embeds") else None)
    if kind == "table":
        found["class_labels"] = np.array([3, 17, 0, 5][:batch])
    elif kind == "timestep":
        found["class_labels"] = np.array([20.0, 350.0, 7.0, 0.0][:batch], np.float32)
    elif kind:
        wide = kind == "identity"
        width = 4 * config["block_out_channels"][0] if wide else config["projection_class_embeddings_input_dim"]
        found["class_labels"] = numbers("classes", batch, width)
    if config.get("addition_embed_type"):
        dims = config["addition_time_embed_dim"]
        ids = (config["projection_class_embeddings_input_dim"] - 24) // dims
        found["text_embeds"] = numbers("pooled", batch, 24)
        rows = [[64, 48, 0, 8, 64, 48], [32, 128, 16, 0, 64, 64], [64] * 6, [48] * 6]
        found["time_ids"] = np.array([row[:ids] for row in rows[:batch]], np.float32)
    if config.get("time_cond_proj_dim"):
        found["timestep_cond"] = numbers("guidance", batch, config["time_cond_proj_dim"])
    return found


def noise(size: tuple[int, int] = (8, 8), batch: int = 1) -> np.ndarray:
    return numbers("latents", batch, *size, 4)


def beside(size: tuple[int, int] = (8, 8)) -> np.ndarray:
    """What an inpainting network is given beside the latents: mask and masked latents."""
    mask = np.zeros((1, *size, 1), np.float32)
    mask[:, : size[0] // 2] = 1
    return np.concatenate([mask, numbers("masked", 1, *size, 4)], axis=-1)


def distance(ours: Any, theirs: Any) -> float:
    """Largest absolute difference over the largest absolute value of the reference."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape, f"{ours.shape} here, {theirs.shape} in the reference"
    assert np.isfinite(ours).all(), "not finite"
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def image() -> np.ndarray:
    return np.clip(numbers("image", 1, 32, 48, 3), -1, 1)


def small_latents() -> np.ndarray:
    return numbers("small latents", 1, 5, 4, 4)


def sampled(family: str) -> list[tuple[str, str | None]]:
    """The (sampler, schedule) pairs that goldens are kept of; None is what the checkpoint's config leads to.

    The rest are compared live (tests/parity), where a network of one line stands for the UNet.
    """
    spaced = ["ddim", "dpmpp_2m", "euler", "euler_ancestral", "plms"]
    if family == "sd1":  # of other kinds: two evaluations a step, a corrector, the reverse diffusion
        spaced += ["heun", "unipc", "dpmpp_2m_sde"]
    return [
        *((name, None) for name in spaced),
        *((name, "diffusers_karras") for name in ("dpmpp_2m", "euler", "euler_ancestral")),
    ]


def cached(family: str) -> list[tuple[str, int, int]]:
    """The (sampler, DeepCache interval, branch) triples that goldens are kept of.

    The family's own sampler, but for PNDM: it asks twice at one timestep, by which the authors' helper counts.
    """
    own = {"sd2v": "ddim", "sdxl": "euler"}.get(family, "dpmpp_2m")
    return [(own, 3, 0), (own, 2, 1), (own, 5, 4)]
