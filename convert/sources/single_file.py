"""A single-file checkpoint, as LDM, sgm, ComfyUI and others save it -> the same as a diffusers folder gives."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlx_sd.core.errors import InputError
from mlx_sd.core.files import Tensor, metadata
from mlx_sd.networks.configs import vae_config
from mlx_sd.networks.family import Task, task_of
from mlx_sd.networks.unet_config import UNetConfig
from mlx_sd.prompts.tokenizer import Tokenizer

from ..files import file_kinds, hub
from ..files.refusals import first
from . import configs_from_shapes, original_weights, prediction_type
from .checkpoint import Checkpoint, Component, SourceOptions, Vocabulary
from .single_file_kinds import IGNORED, KINDS, PIPELINES, TITLES, Kind, detect
from .single_file_parts import (
    Tensors,
    class_embedder,
    component,
    find_prefix,
    numbers,
    open_tensors,
    standalone_text_encoder,
    standalone_vae,
    text_encoder,
    under,
    vae,
)

_UNETS = ("model.diffusion_model.", "diffusion_model.", "")


def read(file: Path, options: SourceOptions) -> Checkpoint:
    """Opens a single file of any of `KINDS`, with the parts that `options` adds or replaces.

    Raises InputError, which names the way out, for any other file and for missing parts.
    """
    stored = open_tensors(file)
    if foreign := file_kinds.foreign(stored):
        raise InputError(f"{file} {foreign.sentence}")
    prefix = find_prefix(stored, _UNETS, "input_blocks.0.0.weight")
    if prefix is None:
        raise InputError(f"{file} {_without_unet(stored)}")
    unet = original_weights.unet(_averaged(stored, prefix, file) if options.ema else under(stored, prefix))
    name, config = _kind(file, stored, unet, options.kind)
    kind = KINDS[name]
    unet = original_weights.plain_attention(unet, kind.heads)

    prediction, reason, likely = prediction_type.find(name, stored, unet, metadata(file))
    if options.prediction:
        prediction, reason, likely = options.prediction, "by --prediction", False
    components = _text_encoders(file, stored, kind, options)
    tokenizers = _tokenizers(file, kind, components, options)
    components["unet"] = component(file, config, unet)
    components["vae"] = _vae(file, stored, kind, options)
    index = dict(kind.pipeline)
    if kind.classes:
        components["class_embedder"] = class_embedder(file, stored)
        index["null_class"] = components["class_embedder"].config["n_classes"] - 1
    if name == "playground" and options.vae is None:
        for field in ("mean", "std"):
            components["vae"].config[f"latents_{field}"] = numbers(stored[f"edm_{field}"])
    _match(file, components, kind, 768 if name == "sd2" and prediction == "v_prediction" else kind.pixels)
    unet_config = UNetConfig.from_hf(config, f"{file}: unet")
    task = task_of(unet_config, config["out_channels"])
    if task in PIPELINES:
        index["_class_name"] = PIPELINES[task][index["_class_name"]]
    if name == "cosxl" and task is Task.INSTRUCTION:
        index["is_cosxl_edit"] = True

    title = f"{kind.title}{TITLES.get(task, '')}, {prediction} ({reason})"
    return Checkpoint(
        file,
        index,
        _scheduler(name, kind, prediction, stored),
        components,
        tokenizers,
        kind.low_res_scheduler,
        title + _notes(stored, prefix, kind, options),
        f"{file} is taken for {title}; if pictures are wrong, convert it with --prediction" if likely else "",
        {"kind": name, "prediction": prediction},
    )


def _averaged(stored: Tensors, prefix: str, file: Path) -> dict[str, Tensor]:
    """The averaged (EMA) weights, which LDM saves under the names of the others with the dots left out."""
    averaged = {}
    for name in under(stored, prefix):
        ema_name = f"model_ema.diffusion_model{name.replace('.', '')}"
        if ema_name not in stored:
            raise InputError(f"{file} has no EMA weights ({ema_name} is missing); leave --ema out")
        averaged[name] = stored[ema_name]
    return averaged


def _kind(file: Path, stored: Tensors, unet: Tensors, option: str | None) -> tuple[str, dict[str, Any]]:
    """The name of the file's kind, by the option or by names and shapes, and the config of its UNet."""
    name = option or detect(stored, configs_from_shapes.unet(unet, str(file), configs_from_shapes.head_size))
    if name is None:
        raise InputError(f"{file} is of no kind known here; if it is one of {', '.join(KINDS)}, say so by --kind")
    kind = KINDS[name]
    config = configs_from_shapes.unet(unet, str(file), kind.heads, kind.only_cross)
    if bool(kind.sizes) != ("addition_embed_type" in config):
        raise InputError(f"{file} is not of the kind {name}: its UNet is {'not ' if kind.sizes else ''}of SDXL's kind")
    channels = config["in_channels"]
    if channels not in kind.channels:
        *others, last = map(str, kind.channels)
        expected = f"{', '.join(others)} or {last}" if others else last
        raise InputError(f"{file}: a UNet of {channels} input channels; {kind.title} has {expected}")
    return name, config


def _match(file: Path, components: Mapping[str, Component], kind: Kind, pixels: int) -> None:
    """Completes the configs of UNet and VAE by each other's and the text encoders'; InputError where they disagree."""
    unet, vae = components["unet"].config, components["vae"].config
    texts = [component.config for part, component in components.items() if part.startswith("text")]
    latent_channels = vae.get("vq_embed_dim") or vae.get("latent_channels", 4)
    if latent_channels != unet["out_channels"]:
        raise InputError(
            f"{components['vae'].files[0]}: a VAE of {latent_channels} channels for a UNet of "
            f"{unet['out_channels']}; give the one of this kind of checkpoint"
        )
    context, width = unet.get("cross_attention_dim", 0), sum(text["hidden_size"] for text in texts)
    if kind.classes:
        width = components["class_embedder"].config["embed_dim"]
    if {width} != set(context if isinstance(context, list) else [context]):
        raise InputError(f"{file}: the UNet takes texts of width {context}, the text encoders give {width}")
    if kind.sizes:  # one input holds the pooled text and the embedded sizes
        sizes_width = unet["projection_class_embeddings_input_dim"] - texts[-1].get("projection_dim", 0)
        if sizes_width <= 0 or sizes_width % kind.sizes:
            raise InputError(f"{file}: the UNet's input of pooled text and sizes does not fit the text encoder")
        unet["addition_time_embed_dim"] = sizes_width // kind.sizes
    scale = vae_config(vae).downsampling  # pixels per latent
    unet["sample_size"], vae["sample_size"] = max(1, pixels // scale), pixels


def _text_encoders(file: Path, stored: Tensors, kind: Kind, options: SourceOptions) -> dict[str, Component]:
    replacements = {"text_encoder": options.text_encoder, "text_encoder_2": options.text_encoder_2}
    return {
        part: standalone_text_encoder(path, part, text)
        if (path := replacements[part])
        else text_encoder(file, stored, part, text)
        for part, text in kind.texts.items()
    }


def _vae(file: Path, stored: Tensors, kind: Kind, options: SourceOptions) -> Component:
    fields = dict(kind.vae)
    if options.vae:
        return standalone_vae(options.vae, fields)
    if fields["scaling_factor"] == 1 and "scale_factor" in stored:
        (fields["scaling_factor"],) = numbers(stored["scale_factor"])
    return vae(file, stored, fields)


def _scheduler(name: str, kind: Kind, prediction: str, stored: Tensors) -> dict[str, Any]:
    config = kind.scheduler | {"prediction_type": prediction}
    if name == "sd2" and prediction == "v_prediction":  # as its authors' folder has it
        config |= {"_class_name": "DDIMScheduler", "clip_sample": False}
    if name == "cosxl":
        for key in ("sigma_min", "sigma_max"):
            if (tensor := stored.get(f"edm_vpred.{key}")) is not None:
                config[key] = numbers(tensor)[0]
    if "ztsnr" in stored:  # trained from pure noise, where only trailing steps begin
        config |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        if config["_class_name"] == "PNDMScheduler":
            config |= {"_class_name": "DDIMScheduler", "clip_sample": False}
    return config


def _tokenizers(
    file: Path, kind: Kind, texts: Mapping[str, Component], options: SourceOptions
) -> dict[str, Vocabulary]:
    if not texts:
        if options.tokenizer or options.text_encoder:
            raise InputError(f"{file} takes no prompt: leave --tokenizer and --text-encoder out")
        return {}
    folder = _vocabulary(options.tokenizer) if options.tokenizer else hub.vocabulary(str(file))
    last = Tokenizer.load(folder).end
    for part, text in texts.items():
        if last >= text.config["vocab_size"]:
            raise InputError(
                f"{file}: the {part} knows {text.config['vocab_size']} tokens, the tokenizer in {folder} has "
                f"{last + 1}; give another by --tokenizer"
            )
    return {
        part.replace("text_encoder", "tokenizer"): Vocabulary(folder, text.pad) for part, text in kind.texts.items()
    }


def _vocabulary(folder: Path) -> Path:
    """A tokenizer's folder, or that inside a diffusers folder; InputError where it has no vocabulary."""
    inside = folder / "tokenizer"
    folder = inside if inside.is_dir() else folder
    Tokenizer.load(folder)
    return folder


def _notes(stored: Tensors, prefix: str, kind: Kind, options: SourceOptions) -> str:
    """What the summary says of EMA weights and of tensors that are left out."""
    texts = (place for text in kind.texts.values() for place in text.prefixes)
    converted = tuple(place for place in (prefix, "first_stage_model.", *texts) if place)
    ignored = [n for n in stored if prefix and not n.startswith(converted) and not IGNORED.fullmatch(n)]
    notes = ["; its EMA weights" if options.ema else ""]
    if not options.ema and any(name.startswith("model_ema.diffusion_model") for name in stored):
        notes.append("; --ema takes its EMA weights instead")
    if ignored:
        notes.append(f"; {len(ignored)} tensors of no network are left out ({first(ignored, 3)})")
    return "".join(notes)


def _without_unet(stored: Tensors) -> str:
    """What a file without a UNet in the original's names is."""
    if part := file_kinds.part(stored):
        return part.sentence
    return "has no UNet in it that is known here, so it is not a Stable Diffusion checkpoint"
