"""Single-file checkpoints in LDM, sgm and OpenCLIP names, numbered from configs as their authors' constructors do.

The way back, in convert.sources, goes by the names alone; tests/parity holds both against diffusers' own reader.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tests.support import families
from tests.support.families import FAMILIES, UNETS, Config

Arrays = dict[str, np.ndarray]

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def unet(arrays: Mapping[str, np.ndarray], config: Config) -> Arrays:
    """Today's diffusers names -> LDM names."""
    places = {
        "conv_in": "input_blocks.0.0",
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "time_embedding.cond_proj": "time_embed.cond_proj",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
        "class_embedding": "label_emb",
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }
    levels = len(config["block_out_channels"])
    layers = config["layers_per_block"]
    layers = layers if isinstance(layers, list) else [layers] * levels
    number = 1
    for level in range(levels):
        for i in range(layers[level]):
            places[f"down_blocks.{level}.resnets.{i}"] = f"input_blocks.{number}.0"
            places[f"down_blocks.{level}.attentions.{i}"] = f"input_blocks.{number}.1"
            number += 1
        if level + 1 < levels:
            places[f"down_blocks.{level}.downsamplers.0"] = f"input_blocks.{number}.0"
            places[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{number}.0.op"
            number += 1
    number = 0
    for level in range(levels):
        attends = "Attn" in config["up_block_types"][level]
        for i in range(layers[levels - 1 - level] + 1):
            places[f"up_blocks.{level}.resnets.{i}"] = f"output_blocks.{number}.0"
            places[f"up_blocks.{level}.attentions.{i}"] = f"output_blocks.{number}.1"
            number += 1
        places[f"up_blocks.{level}.upsamplers.0"] = f"output_blocks.{number - 1}.{2 if attends else 1}"
    return {_moved(name, places, _RESNET): array for name, array in arrays.items()}


def plain_unet(arrays: Mapping[str, np.ndarray], config: Config, heads: int | None = None) -> Arrays:
    """A UNet2DModel's, whose attention over the image is fused: for each head its rows of q, k and v.

    heads: their number, where the config gives the size of each.
    """
    fused: Arrays = {}
    for name, array in arrays.items():
        if ".attentions." not in name:
            fused[name] = array
        elif ".to_q." in name:
            q, k, v = (arrays[name.replace("to_q", f"to_{one}")] for one in "qkv")
            count = heads or len(q) // (config["attention_head_dim"] or len(q))
            rows = [one.reshape(count, -1, *one.shape[1:]) for one in (q, k, v)]
            qkv = np.concatenate(rows, axis=1).reshape(-1, *q.shape[1:])
            fused[name.replace("to_q", "qkv")] = qkv[..., None] if qkv.ndim == 2 else qkv
        elif ".to_out." in name:
            fused[name.replace("to_out.0", "proj_out")] = array[..., None] if array.ndim == 2 else array
        elif ".group_norm." in name:
            fused[name.replace("group_norm", "norm")] = array
    return unet(fused, config)


def vae(arrays: Mapping[str, np.ndarray], config: Config) -> Arrays:
    """Today's diffusers names -> LDM names, with attention as 1 x 1 convolutions."""
    levels, places = len(config["block_out_channels"]), {}
    for side in ("encoder", "decoder"):
        places |= {f"{side}.mid_block.resnets.{i}": f"{side}.mid.block_{i + 1}" for i in (0, 1)}
        places |= {f"{side}.mid_block.attentions.0": f"{side}.mid.attn_1"}
        places |= {f"{side}.conv_norm_out": f"{side}.norm_out"}
    for level in range(levels):
        for i in range(config["layers_per_block"] + 1):
            places[f"encoder.down_blocks.{level}.resnets.{i}"] = f"encoder.down.{level}.block.{i}"
            places[f"decoder.up_blocks.{level}.resnets.{i}"] = f"decoder.up.{levels - 1 - level}.block.{i}"
        places[f"encoder.down_blocks.{level}.downsamplers.0"] = f"encoder.down.{level}.downsample"
        places[f"decoder.up_blocks.{level}.upsamplers.0"] = f"decoder.up.{levels - 1 - level}.upsample"
    attention = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
    inside = attention | {"conv_shortcut": "nin_shortcut"}
    found = {}
    for name, array in arrays.items():
        matrix = "attentions" in name and array.ndim == 2
        found[_moved(name, places, inside)] = array[..., None, None] if matrix else array
    return found


def open_clip(arrays: Mapping[str, np.ndarray], more_layers: int = 0) -> Arrays:
    """transformers' names -> OpenCLIP's: q, k, v fused, the projection transposed, and layers that are not run."""
    arrays = {name.removeprefix("text_model."): array for name, array in arrays.items()}
    found: Arrays = {"logit_scale": np.zeros((), np.float32)}
    fixed = {
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
        "final_layer_norm.weight": "ln_final.weight",
        "final_layer_norm.bias": "ln_final.bias",
    }
    layers = 1 + max(int(name.split(".")[2]) for name in arrays if name.startswith("encoder.layers."))
    for name, array in arrays.items():
        if name in fixed:
            found[fixed[name]] = array
        elif name == "text_projection.weight":
            found["text_projection"] = np.ascontiguousarray(array.T)
        elif "self_attn.q_proj" in name:
            fused = [arrays[name.replace("q_proj", f"{one}_proj")] for one in "qkv"]
            layer, parameter = name.split(".")[2], name.rpartition(".")[2]
            found[f"transformer.resblocks.{layer}.attn.in_proj_{parameter}"] = np.concatenate(fused)
        elif name.split(".")[-2] not in ("k_proj", "v_proj"):
            layer = name.split(".")[2]
            places = {f"encoder.layers.{layer}": f"transformer.resblocks.{layer}"}
            found[_moved(name, places, _OPEN_CLIP)] = array
    for i in range(more_layers):
        last = f"resblocks.{layers - 1}."
        found |= {n.replace(last, f"resblocks.{layers + i}."): a * 2 for n, a in found.items() if last in n}
    found.setdefault("text_projection", np.ones((len(found["positional_embedding"][0]), 8), np.float32))
    return found


def _moved(name: str, places: Mapping[str, str], inside: Mapping[str, str]) -> str:
    place = max((p for p in places if f"{name}.".startswith(f"{p}.")), key=len, default="")
    if not place:
        return name
    rest, _, parameter = name[len(place) + 1 :].rpartition(".")
    return ".".join(s for s in (places[place], inside.get(rest, rest), parameter) if s)


# ------------------------------------------------------------------------------------------------ whole files


def parts(name: str, shapes: Mapping[str, Any]) -> tuple[dict[str, Config], dict[str, Arrays]]:
    """Configs and weights, in today's names, of a family or of what else only single files are made of here."""
    if name in FAMILIES:
        configs = {part: FAMILIES[name][part] for part in families.networks(name)}
        return configs, {part: families.weights(part, shapes[name][part]) for part in configs}
    sdxl, text = shapes["sdxl"], "text_encoder" if name == "upscaler" else "text_encoder_2"
    shape = dict(shapes["sd1"]["text_encoder"]) | ({} if name == "upscaler" else {"text_projection.weight": [24, 32]})
    source = FAMILIES["sd2v" if name == "upscaler" else "sdxl"]
    width = {"hidden_size": 32, "projection_dim": 24 if name == "refiner" else 32}
    configs = {"unet": UNETS[name], "vae": source["vae"], text: source[text] | width}
    vae_shapes = shapes["sd2v"]["vae"] if name == "upscaler" else sdxl["vae"]
    found = {"unet": shapes["unets"][name], "vae": vae_shapes, text: shape}
    return configs, {part: families.weights(part, found[part]) for part in found}


NAMES = (*FAMILIES, "refiner", "upscaler")


def refiner_folder(shapes: Mapping[str, Any], path: Path) -> Path:
    """Writes the tiny SDXL refiner as a diffusers folder."""
    configs, weights = parts("refiner", shapes)
    for part, config in configs.items():
        (path / part).mkdir(parents=True)
        (path / part / "config.json").write_text(json.dumps(config), encoding="utf-8")
        name = "model" if part.startswith("text") else "diffusion_pytorch_model"
        save_file(weights[part], path / part / f"{name}.safetensors", {"format": "pt"})
    missing = {"text_encoder": [None, None], "tokenizer": [None, None]}
    about = {"_class_name": "StableDiffusionXLImg2ImgPipeline", "requires_aesthetics_score": True} | missing
    families.write_rest(configs | {"scheduler": FAMILIES["sdxl"]["scheduler"], "pipeline": about}, path)
    return path


def arrays(name: str, configs: Mapping[str, Config], weights: Mapping[str, Arrays]) -> Arrays:
    """All tensors of a single file."""
    found = _under("model.diffusion_model.", unet(weights["unet"], configs["unet"]))
    found |= _under("first_stage_model.", vae(weights["vae"], configs["vae"]))
    if name in ("sd1", "inpaint9", "sdxl"):
        place = "conditioner.embedders.0." if name == "sdxl" else "cond_stage_model."
        first = {f"text_model.{n.removeprefix('text_model.')}": a for n, a in weights["text_encoder"].items()}
        first["text_model.embeddings.position_ids"] = np.arange(77, dtype=np.int64)[None]
        found |= _under(f"{place}transformer.", first)
    if name in ("sd2v", "upscaler"):
        found |= _under("cond_stage_model.model.", open_clip(weights["text_encoder"], more_layers=1))
    if name in ("sdxl", "refiner"):
        place = f"conditioner.embedders.{1 if name == 'sdxl' else 0}.model."
        found |= _under(place, open_clip(weights["text_encoder_2"]))
    found |= {"alphas_cumprod": np.ones(1000, np.float32), "model_ema.decay": np.ones((), np.float32)}
    return found


def write(name: str, shapes: Mapping[str, Any], file: Path, **extra: np.ndarray) -> tuple[Path, dict[str, Arrays]]:
    """Writes a single file; returns it and the weights that must come out, by today's names."""
    configs, weights = parts(name, shapes)
    save_file(arrays(name, configs, weights) | extra, file, {"format": "pt"})
    return file, weights


def _under(prefix: str, arrays: Mapping[str, np.ndarray]) -> Arrays:
    return {prefix + name: array for name, array in arrays.items()}
