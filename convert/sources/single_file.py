"""A single-file checkpoint, as LDM, sgm, ComfyUI and others save it -> the same as a diffusers folder gives."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_sd.core.errors import InputError
from mlx_sd.core.files import Tensor, metadata, tensors
from mlx_sd.prompts.tokenizer import Tokenizer

from ..files import diffusers_names, hub
from . import configs_from_shapes, diffusers_folder, original_weights, prediction_type, single_file_kinds
from .checkpoint import Checkpoint, Component, SourceOptions, Vocabulary, readable
from .single_file_kinds import KINDS, Kind, Text

_PICKLED = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_UNETS = ("model.diffusion_model.", "diffusion_model.", "")
_VAES = ("first_stage_model.", "vae.", "")
_UNDER = ("", "model.", "transformer.")  # what a text encoder's place holds
_TEXTS = ("", "text_encoders.clip_l.", "text_encoders.clip_g.", "cond_stage_model.", "conditioner.embedders.0.")
_OPEN_CLIP, _HUGGING_FACE = "transformer.resblocks.0.ln_1.weight", "encoder.layers.0.layer_norm1.weight"


def read(file: Path, choices: SourceOptions) -> Checkpoint:
    """Opens a single file of any of `KINDS`; what it lacks or the user wants otherwise comes from `choices`.

    Raises InputError, naming the way out, for whatever else it is, and for what is missing.
    """
    every = _tensors(file)
    if what := single_file_kinds.foreign(every):
        raise InputError(f"{file} {what}")
    prefix = _prefix(every, _UNETS, "input_blocks.0.0.weight")
    if prefix is None:
        raise InputError(f"{file} {_other(every)}")
    network = original_weights.unet(_ema(every, prefix, file) if choices.ema else _under(every, prefix))
    name, config = _kind(file, every, network, choices.kind)
    kind = KINDS[name]
    network = original_weights.plain_attention(network, kind.heads)

    predicts, why, likely = prediction_type.find(name, every, network, metadata(file))
    if choices.prediction:
        predicts, why, likely = choices.prediction, "as you say", False
    parts = {part: _text(file, every, part, text, choices) for part, text in kind.texts.items()}
    tokenizers = _tokenizers(file, kind, parts, choices)
    parts |= {"unet": Component(config, readable(network), (file,))}
    parts |= {"vae": _vae(file, every, choices.vae, kind)}
    pipeline = dict(kind.pipeline)
    if kind.classes:
        parts["class_embedder"] = _class_embedder(file, every)
        pipeline["null_class"] = parts["class_embedder"].config["n_classes"] - 1
    if name == "playground" and choices.vae is None:
        means = {key: _numbers(every[f"edm_{key[8:]}"]) for key in ("latents_mean", "latents_std")}
        parts["vae"].config.update(means)
    _match(file, parts, kind, 768 if name == "sd2" and predicts == "v_prediction" else kind.pixels)
    if config["in_channels"] == 9:
        pipeline["_class_name"] = single_file_kinds.INPAINTING[pipeline["_class_name"]]

    title = f"{kind.title}{', inpainting' if config['in_channels'] == 9 else ''}, {predicts} ({why})"
    return Checkpoint(
        file,
        pipeline,
        _scheduler(name, kind, predicts, every),
        parts,
        tokenizers,
        kind.low_res_scheduler,
        title + _notes(every, prefix, kind, choices),
        f"{file} is taken for {title}; if pictures are wrong, convert it with --prediction" if likely else "",
        {"kind": name, "prediction": predicts},
    )


def standalone_vae(path: Path, extra: Mapping[str, Any]) -> Component:
    """A VAE on its own: a file of LDM or diffusers names, or a folder that has it.

    extra: fields of its config that a file does not tell, the scale of its latents first of all.
    """
    if path.is_dir():
        return _from_folder(path, "vae")
    every = _tensors(path)
    prefix = _prefix(every, _VAES, "decoder.conv_in.weight")
    if prefix is None:
        raise InputError(
            f"{path} is given as a VAE, but {single_file_kinds.foreign(every) or 'has none of its tensors'}"
        )
    return _vae_component(path, _under(every, prefix), extra)


def standalone_text(path: Path, part: str, text: Text) -> Component:
    """A text encoder on its own: a file of transformers' or OpenCLIP's names, or a folder that has it."""
    if path.is_dir():
        return _from_folder(path, part)
    every = _tensors(path)
    for prefix in (f"{prefix}{under}" for prefix in _TEXTS for under in _UNDER):
        if found := _text_tensors(_under(every, prefix), text):
            return _text_component(path, found, text)
    raise InputError(
        f"{path} is given as a text encoder, but {single_file_kinds.foreign(every) or 'has none of its tensors'}"
    )


def vocabulary(folder: Path) -> Path:
    """A tokenizer's folder, or that inside a diffusers folder; InputError where it has no vocabulary."""
    inside = folder / "tokenizer"
    folder = inside if inside.is_dir() else folder
    Tokenizer.load(folder)
    return folder


def _tensors(file: Path) -> dict[str, Tensor]:
    try:
        with file.open("rb") as f:
            head = f.read(9)
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from None
    if head.startswith(b"GGUF"):
        raise InputError(f"{file} is a GGUF file, which is not supported; get the safetensors version")
    pickled = head.startswith(_PICKLED) and not head.endswith(b"{")  # the ninth byte of safetensors
    if pickled or any(file.match(pattern) for pattern in diffusers_folder.PICKLES):
        raise InputError(f"{file} is a pickle, {diffusers_folder.PICKLED}")
    if file.suffix != ".safetensors" and not head.endswith(b"{"):
        raise InputError(
            f"{file} is a file; give a diffusers folder (with model_index.json), a converted one (with model.json), "
            "or a .safetensors file"
        )
    return {tensor.name: tensor for tensor in tensors(file)}


def _prefix(every: Mapping[str, Tensor], prefixes: tuple[str, ...], mark: str) -> str | None:
    return next((prefix for prefix in prefixes if prefix + mark in every), None)


def _under(every: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: tensor for name, tensor in every.items() if name.startswith(prefix)}


def _ema(every: Mapping[str, Tensor], prefix: str, file: Path) -> dict[str, Tensor]:
    """The averaged weights, which LDM saves under the names of the others with the dots left out."""
    found = {}
    for name in _under(every, prefix):
        averaged = f"model_ema.diffusion_model{name.replace('.', '')}"
        if averaged not in every:
            raise InputError(f"{file} has no EMA weights ({averaged} is missing); leave --ema out")
        found[name] = every[averaged]
    return found


def _kind(
    file: Path, every: Mapping[str, Tensor], unet: Mapping[str, Tensor], wanted: str | None
) -> tuple[str, dict[str, Any]]:
    name = wanted or single_file_kinds.detect(
        every, configs_from_shapes.unet(unet, str(file), configs_from_shapes.head_size)
    )
    if name is None:
        raise InputError(f"{file} is of no kind known here; if it is one of {', '.join(KINDS)}, say so by --kind")
    kind = KINDS[name]
    config = configs_from_shapes.unet(unet, str(file), kind.heads, kind.only_cross)
    if bool(kind.sizes) != ("addition_embed_type" in config):
        raise InputError(f"{file} is not of the kind {name}: its UNet is {'not ' if kind.sizes else ''}of SDXL's kind")
    channels = config["in_channels"]
    if channels not in kind.channels or (
        channels == 9 and kind.pipeline["_class_name"] not in single_file_kinds.INPAINTING
    ):
        known = " or ".join(map(str, kind.channels))
        raise InputError(f"{file}: a UNet of {channels} input channels; {kind.title} has {known}")
    return name, config


def _match(file: Path, parts: Mapping[str, Component], kind: Kind, pixels: int) -> None:
    """Completes the UNet's and the VAE's configs by each other's and the texts'; InputError where they do not match."""
    unet, vae = parts["unet"].config, parts["vae"].config
    texts = [component.config for part, component in parts.items() if part.startswith("text")]
    latent = vae.get("vq_embed_dim") or vae.get("latent_channels", 4)
    if latent != unet["out_channels"]:
        raise InputError(
            f"{parts['vae'].files[0]}: a VAE of {latent} channels for a UNet of "
            f"{unet['out_channels']}; give the one of this kind of checkpoint"
        )
    context, width = unet.get("cross_attention_dim", 0), sum(text["hidden_size"] for text in texts)
    if kind.classes:
        width = parts["class_embedder"].config["embed_dim"]
    if {width} != set(context if isinstance(context, list) else [context]):
        raise InputError(f"{file}: the UNet takes texts of width {context}, the text encoders give {width}")
    if kind.sizes:  # the pooled text and they share one input
        rest = unet["projection_class_embeddings_input_dim"] - texts[-1].get("projection_dim", 0)
        if rest <= 0 or rest % kind.sizes:
            raise InputError(f"{file}: the UNet's input of pooled text and sizes does not fit the text encoder")
        unet["addition_time_embed_dim"] = rest // kind.sizes
    side = 2 ** (len(vae["block_out_channels"]) - 1)
    unet["sample_size"], vae["sample_size"] = max(1, pixels // side), pixels


def _vae(file: Path, every: Mapping[str, Tensor], given: Path | None, kind: Kind) -> Component:
    if given:
        return standalone_vae(given, kind.vae)
    prefix = _prefix(every, ("first_stage_model.",), "decoder.conv_in.weight")
    if prefix is None:
        raise InputError(f"{file} has no VAE; give one by --vae")
    extra = dict(kind.vae)
    if extra["scaling_factor"] == 1 and "scale_factor" in every:
        (extra["scaling_factor"],) = _numbers(every["scale_factor"])
    return _vae_component(file, _under(every, prefix), extra)


def _class_embedder(file: Path, every: Mapping[str, Tensor]) -> Component:
    found = _under(every, "cond_stage_model.")
    return Component(configs_from_shapes.class_embedder(found, str(file)), readable(found), (file,))


def _vae_component(file: Path, inside: Mapping[str, Tensor], extra: Mapping[str, Any]) -> Component:
    inside = {name: tensor for name, tensor in inside.items() if not single_file_kinds.IGNORED.fullmatch(name)}
    if "decoder.mid.block_1.conv1.weight" in inside:
        found = original_weights.vae(inside)
    else:
        found = {today: tensor for name, tensor in inside.items() if (today := diffusers_names.current_name(name))}
    return Component({**configs_from_shapes.vae(found, str(file)), **extra}, readable(found), (file,))


def _text(file: Path, every: Mapping[str, Tensor], part: str, text: Text, choices: SourceOptions) -> Component:
    if given := {"text_encoder": choices.text_encoder, "text_encoder_2": choices.text_encoder_2}[part]:
        return standalone_text(given, part, text)
    for prefix in (f"{prefix}{under}" for prefix in text.prefixes for under in _UNDER):
        if found := _text_tensors(_under(every, prefix), text):
            return _text_component(file, found, text)
    raise InputError(f"{file} has no text encoder under {text.prefixes[0]}; give one by --{part.replace('_', '-')}")


def _text_tensors(inside: Mapping[str, Tensor], text: Text) -> dict[str, Tensor]:
    """By transformers' names in today's spelling; empty if this is no text encoder."""
    if _OPEN_CLIP in inside:
        found = original_weights.open_clip(inside, text.penultimate)
    else:
        found = {name.removeprefix("text_model."): tensor for name, tensor in inside.items()}
        if _HUGGING_FACE not in found:
            return {}
    unused = () if text.projected else ("text_projection.weight",)
    return {
        n: tensor for n, tensor in found.items() if n not in unused and not single_file_kinds.TEXT_IGNORED.fullmatch(n)
    }


def _text_component(file: Path, found: dict[str, Tensor], text: Text) -> Component:
    config = configs_from_shapes.text(found, str(file), text.activation, text.projected)
    return Component(config, readable(found), (file,))


def _from_folder(folder: Path, part: str) -> Component:
    return diffusers_folder.component(folder if (folder / "config.json").is_file() else folder / part)


def _scheduler(name: str, kind: Kind, predicts: str, every: Mapping[str, Tensor]) -> dict[str, Any]:
    config = kind.scheduler | {"prediction_type": predicts}
    if name == "sd2" and predicts == "v_prediction":  # as its authors' folder has it
        config |= {"_class_name": "DDIMScheduler", "clip_sample": False}
    if name == "cosxl":
        for key in ("sigma_min", "sigma_max"):
            if (tensor := every.get(f"edm_vpred.{key}")) is not None:
                config[key] = _numbers(tensor)[0]
    if "ztsnr" in every:  # trained from pure noise, where only trailing steps begin
        config |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        if config["_class_name"] == "PNDMScheduler":
            config |= {"_class_name": "DDIMScheduler", "clip_sample": False}
    return config


def _tokenizers(
    file: Path, kind: Kind, texts: Mapping[str, Component], choices: SourceOptions
) -> dict[str, Vocabulary]:
    if not texts:
        if choices.tokenizer or choices.text_encoder:
            raise InputError(f"{file} takes no prompt: leave --tokenizer and --text-encoder out")
        return {}
    folder = vocabulary(choices.tokenizer) if choices.tokenizer else hub.vocabulary(str(file))
    last = Tokenizer.load(folder).end
    for part, component in texts.items():
        if last >= component.config["vocab_size"]:
            raise InputError(
                f"{file}: the {part} knows {component.config['vocab_size']} tokens, the tokenizer in {folder} has "
                f"{last + 1}; give another by --tokenizer"
            )
    return {
        part.replace("text_encoder", "tokenizer"): Vocabulary(folder, text.pad) for part, text in kind.texts.items()
    }


def _notes(every: Mapping[str, Tensor], prefix: str, kind: Kind, choices: SourceOptions) -> str:
    """What a user may want to know of the rest of the file."""
    known = tuple(
        p for p in (prefix, "first_stage_model.", *(p for text in kind.texts.values() for p in text.prefixes)) if p
    )
    left = [n for n in every if prefix and not n.startswith(known) and not single_file_kinds.IGNORED.fullmatch(n)]
    notes = ["; its EMA weights" if choices.ema else ""]
    if not choices.ema and any(name.startswith("model_ema.diffusion_model") for name in every):
        notes.append("; --ema takes its EMA weights instead")
    if left:
        notes.append(f"; {len(left)} tensors of no network are left out ({', '.join(left[:3])})")
    return "".join(notes)


def _other(every: Mapping[str, Tensor]) -> str:
    """What a file without a UNet is."""
    if _prefix(every, _VAES, "decoder.conv_in.weight") is not None:
        return "is a VAE; give it by --vae beside a checkpoint"
    if any(name.endswith((_OPEN_CLIP, _HUGGING_FACE)) for name in every):
        return "is a text encoder; give it by --text-encoder beside a checkpoint"
    if "down_blocks.0.resnets.0.conv1.weight" in every:
        return "is one network of a diffusers folder; give the whole folder"
    return "has no UNet in it that is known here, so it is not a Stable Diffusion checkpoint"


def _numbers(tensor: Tensor) -> list[float]:
    readable({tensor.name: tensor})
    if not 0 < math.prod(tensor.shape) <= 64:
        raise InputError(f"{tensor.file}: {tensor.name} has shape {tensor.shape}, not a few numbers")
    return [float(x) for x in np.array(tensor.read().astype(mx.float32)).ravel()]
