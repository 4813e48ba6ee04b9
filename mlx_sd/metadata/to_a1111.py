"""Our settings -> the text "parameters" of A1111's web UI, which many programs read.

A prompt, a line "Negative prompt: ...", and a last line "Key: value, ..." with the keys in A1111's order.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..checkpoint.tiny_vaes import REPOSITORIES
from ..core.version import VERSION
from ..prompts.style_names import A1111, PLAIN
from ..sampling import names
from .a1111_names import labels

VERSION_KEY = "mlx_sd"  # of the version that made the picture, among its settings
DEVICE_KEY = "device"  # of the device that made it
CALLS_KEY = "network_calls"  # of models whose pictures are tokens
FACTS = (VERSION_KEY, DEVICE_KEY, CALLS_KEY)
NUMPY = "NumPy"  # of RNG: A1111 has no such noise, but without the key it would take a GPU's
# Solver options -> A1111's keys.
CHURN = {"s_churn": "Sigma churn", "s_tmin": "Sigma tmin", "s_tmax": "Sigma tmax", "s_noise": "Sigma noise"}
# Settings that A1111 does not have -> their keys in the text, for those who read it.
OURS = {
    "guidance_rescale": "CFG Rescale",
    "guidance_interval": "Guidance interval",
    "adaptive_guidance": "Adaptive guidance",
    "unconditional_refresh": "Unconditional refresh",
    "deepcache": "DeepCache",
    "tgate": "T-GATE",
    "token_downsampling": "Token downsampling",
    "temperature": "Temperature",
    "tuning": "Tuning",
    "freeu": "FreeU",
    "prompt_2": "Prompt 2",
    "negative_2": "Negative prompt 2",
    "original_size": "Original size",
    "pag": "PAG scale",
    "pag_adaptive": "PAG adaptive scale",
    "target_size": "Target size",
    "crop": "Crop",
}
HIRES = {  # modes of hires fix -> A1111's names
    "latent": "Latent",
    "latent-antialiased": "Latent (antialiased)",
    "latent-bicubic": "Latent (bicubic)",
    "latent-bicubic-antialiased": "Latent (bicubic antialiased)",
    "latent-nearest": "Latent (nearest)",
    "latent-nearest-exact": "Latent (nearest-exact)",
    "lanczos": "Lanczos",
}
STYLE = "Prompt style"  # of a prompt that is not written as in A1111


def to_text(settings: Mapping[str, Any]) -> str:
    """Returns the text of a JSON object of settings, as `Request.to_json` writes it."""
    lines = [_with_loras(settings)]
    if settings.get("negative"):
        lines.append(f"Negative prompt: {written(settings['negative'], settings)}")
    lines.append(", ".join(f"{key}: {quoted(value)}" for key, value in _pairs(settings) if value is not None))
    return "\n".join(lines)


def written(prompt: str, settings: Mapping[str, Any]) -> str:
    """Returns a prompt as A1111's text holds it: plain text escaped, other styles as they are."""
    return escaped(prompt) if settings.get("prompt_style", PLAIN) == PLAIN else prompt


def escaped(prompt: str) -> str:
    """Returns plain text with a backslash before brackets, which would change weights in A1111."""
    return re.sub(r"([\\()\[\]])", r"\\\1", prompt)


def quoted(value: Any) -> str:
    """Returns a value as the last line holds it: in JSON's quotes where it has a comma, a colon or a new line."""
    text = str(int(value) if isinstance(value, float) and value.is_integer() else value)
    return json.dumps(text, ensure_ascii=False) if re.search(r'[,:\n\r"]', text) or text != text.strip() else text


def lora_name(path: str) -> str:
    """Returns the name by which A1111 calls an adapter: its file's, without characters that end a name there."""
    name = re.sub(r"[:,<>]", "_", Path(path).name)
    return name.removesuffix(".safetensors") or "lora"


def lora_hashes(loras: Iterable[tuple[Mapping[str, Any], str]]) -> str | None:
    """Returns the value of "Lora hashes" for records of adapters and their hashes, None without any."""
    return ", ".join(f"{lora_name(record['path'])}: {value}" for record, value in loras) or None


def _with_loras(settings: Mapping[str, Any]) -> str:
    label = settings.get("class")
    prompt = written(str(settings.get("prompt") or ("" if label is None else f"class {label}")), settings)
    tags = [f"<lora:{lora_name(lora['path'])}:{quoted(lora['scale'])}>" for lora in settings.get("loras") or ()]
    return " ".join([prompt, *tags] if prompt else tags)


def _pairs(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yields keys and values in A1111's order."""

    def setting(name: str) -> Any:
        """Returns a setting, None where it is not recorded."""
        return settings.get(name)

    yield "Steps", setting("steps")
    sampler, schedule_type = labels(settings)
    yield "Sampler", sampler
    yield "Schedule type", schedule_type
    yield "CFG scale", setting("guidance")
    yield "Image CFG scale", setting("image_guidance")
    yield "Seed", setting("seed")
    yield "Size", f"{setting('width')}x{setting('height')}"
    yield "Model hash", (setting("checkpoint_hash") or "")[:10] or setting("model_hash")
    yield "Model", _model_name(str(setting("model")))
    if vae := setting("vae"):
        yield ("VAE Decoder", "TAESD") if vae in REPOSITORIES else ("VAE", _model_name(vae))
    if setting("strength") is not None:
        yield "Denoising strength", setting("strength")
    if setting("hires"):
        scale, steps, strength = setting("hires").split(":")
        yield "Denoising strength", float(strength)
        yield "Hires upscale", float(scale)
        yield "Hires steps", steps or None
        mode = setting("hires_mode") or "latent"
        yield "Hires upscaler", HIRES.get(mode) or _model_name(mode)
    if setting("mask_blur"):
        yield "Mask blur", setting("mask_blur")
    if setting("clip_skip"):
        yield "Clip skip", setting("clip_skip") + 1
    yield "RNG", names.a1111_rng(setting("rng") or names.NUMPY) or NUMPY
    if setting("rho"):
        yield "Schedule rho", setting("rho")
    if setting("eta") is not None:
        yield ("Eta DDIM" if setting("sampler") == "ddim" else "Eta"), setting("eta")
    for name, key in CHURN.items():
        if setting(name) is not None:
            yield key, setting(name)
    if setting("refiner"):
        yield "Refiner", _model_name(setting("refiner"))
        yield "Refiner switch at", setting("refine_at")
    for name, key in OURS.items():
        if setting(name):
            yield key, setting(name)
    if setting("prompt_style") not in (None, A1111, PLAIN):
        yield STYLE, setting("prompt_style")
    for i, control in enumerate(setting("controls") or ()):
        yield f"ControlNet {i}", _control(control, bool(setting("guess_mode")))
    if setting("lora_hashes"):
        yield "Lora hashes", setting("lora_hashes")
    if setting("embeddings"):
        hashes = (f"{re.sub('[:,]', '', entry['name'])}: {entry['sha256'][:12]}" for entry in setting("embeddings"))
        yield "TI hashes", ", ".join(hashes)
    yield "Version", f"mlx-sd {setting(VERSION_KEY) or VERSION}"


def _control(control: Mapping[str, Any], guess: bool) -> str:
    """Returns what A1111's extension writes of a control network."""
    values = {
        "Module": control.get("maker", "none"),
        "Model": f"{_model_name(control['model'])} [{control.get('model_hash', '')[:8]}]",
        "Weight": control["scale"],
        "Guidance Start": control["start"],
        "Guidance End": control["end"],
        "Control Mode": "ControlNet is more important" if guess else "Balanced",
    }
    return ", ".join(f"{key}: {value}" for key, value in values.items())


def _model_name(model: str) -> str:
    """Returns the name that A1111 would show: the last part of a path or hub id, without the suffix."""
    return Path(model).name.removesuffix(".safetensors") or model
