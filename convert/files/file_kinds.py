"""The kinds of safetensors files in one table: how the names of tensors tell each, and what to do with such a file."""

import re
from collections.abc import Iterable
from typing import NamedTuple


class FileKind(NamedTuple):
    """A kind of file, told by one name of a tensor."""

    pattern: str  # a regular expression, searched in each name
    title: str
    advice: str = ""  # the end of the error where a checkpoint is expected
    foreign: bool = False  # a checkpoint never has such a name
    adapter: bool = False  # an adapter that cannot be merged by the formulas here
    verb: str = "is"

    @property
    def sentence(self) -> str:
        """The end of an error message whose subject is a file's path."""
        return f"{self.verb} {self.title}{self.advice}"


CONTROLNET = "a ControlNet"  # a title
_NO_CHECKPOINT = ", not a checkpoint"
_UNSUPPORTED = ", which is not supported"
_OTHER_MODEL = ", which is not Stable Diffusion 1, 2 or XL, and not supported"


def _similar(pattern: str, title: str, advice: str = _OTHER_MODEL) -> FileKind:
    """A kind that the name makes likely and not certain."""
    return FileKind(pattern, title, advice, foreign=True, verb="looks like")


# The first that fits is the kind.
KINDS = (
    FileKind(
        r".[._](lora_(down|up|A|B)|hada_w1_a|lokr_w[12]|oft_blocks|dora_scale)\b|.\.lora\.(down|up)\.|._lora\.(down|up)\."
        r"|^lora_(unet|te\d?)_",
        "a LoRA",
        "; give it by --lora beside the checkpoint it is for",
        foreign=True,
    ),
    FileKind(r"\.on_input$|\.ia3_l", "an IA3 adapter", adapter=True),
    FileKind(r"\.[ab][12]\.weight$|\.bm\.weight$", "a GLoRA adapter", adapter=True),
    FileKind(r"\.oft_|\.boft_", "an OFT adapter", adapter=True),
    FileKind(r"vera_lambda_", "a VeRA adapter", adapter=True),
    FileKind(r"\.lora_embedding_", "LoRA on an embedding", adapter=True),
    FileKind(r"^bundle_emb\.", "a textual inversion embedding", adapter=True),
    FileKind(
        r"string_to_param|^emb_params$|^clip_[lg]$",
        "a textual inversion embedding",
        _NO_CHECKPOINT,
        foreign=True,
        adapter=True,
    ),
    FileKind(r"^lora_controlnet$", "a Control-LoRA", adapter=True),
    FileKind(
        r"control_model\.|input_hint_block\.|^controlnet_",
        CONTROLNET,
        "; give it by --control beside the checkpoint it is for",
        foreign=True,
    ),
    FileKind(
        r"^(image_proj|ip_adapter)\.", "an IP-Adapter", "; give it by --ip-adapter beside a checkpoint", foreign=True
    ),
    FileKind(
        r"^(adapter\.)?body\.0\.(resnets\.0\.|body\.0\.)?block1\.weight$",
        "a T2I-Adapter",
        "; give it by --adapter beside a checkpoint",
        foreign=True,
    ),
    FileKind(r"motion_modules\.", "an AnimateDiff motion module", _NO_CHECKPOINT, foreign=True),
    _similar(r"time_stack\.", "Stable Video Diffusion"),
    _similar(r"single_stream_modulation\.", "Flux 2"),
    _similar(r"distilled_guidance_layer\.", "Chroma"),
    _similar(r"(^|\.)(double_blocks|single_transformer_blocks)\.", "Flux"),
    _similar(r"(^|\.)joint_blocks\.|transformer_blocks\.0\.attn\.add_k_proj\.", "Stable Diffusion 3"),
    _similar(r"(^|\.)double_layers\.", "AuraFlow"),
    _similar(r"\.channelwise\.|^clip_txt_mapper\.", "Stable Cascade"),
    _similar(r"(^|\.)blocks\.0\.(cross_attn|attn|self_attn)\.", "a diffusion transformer"),
    _similar(r"cap_embedder\.", "Lumina"),
    _similar(r"^cond_stage_model\.transformer\.token_emb\.", "latent diffusion by BERT"),
    _similar(r"^depth_model\.", "Stable Diffusion 2 depth", _UNSUPPORTED),
    _similar(r"^embedder\.model\.visual\.", "Stable Diffusion 2.1 unCLIP", _UNSUPPORTED),
    _similar(r"^model\.\d+\.(weight|bias)$|\.RDB\d\.", "an ESRGAN upscaler", _NO_CHECKPOINT),
    # What is read here: whole, or as the parts of a checkpoint
    FileKind(r"^model\.diffusion_model\.", "a whole checkpoint in one file"),
    FileKind(r"^time_embedding\.|^down_blocks\.0\.resnets\.0\.conv1\.weight$", "a UNet", "; give the whole folder"),
    FileKind(r"^first_stage_model\.", "a VAE in the original code's names", "; give it by --vae beside a checkpoint"),
    FileKind(
        r"^quant_conv\.|^decoder\.mid_block\.|^(vae\.)?decoder\.conv_in\.weight$",
        "a VAE",
        "; give it by --vae beside a checkpoint",
    ),
    FileKind(
        r"^((taesd_)?(encoder|decoder)\.)?(layers\.)?\d+\.conv\.0\.weight$",
        "a tiny autoencoder (TAESD)",
        "; give it by --vae beside a checkpoint",
    ),
    FileKind(
        r"^text_model\.|(^|\.)(encoder\.layers\.0\.layer_norm1|transformer\.resblocks\.0\.ln_1)\.weight$",
        "a text encoder",
        "; give it by --text-encoder beside a checkpoint",
    ),
)

# The names of an adapter's modules -> the model it was made for, where that is none of those here
_ADAPTER_FAMILIES = (
    (re.compile(r"double_blocks|single_blocks|single_transformer_blocks"), "Flux"),
    (re.compile(r"joint_blocks|lora_te3_"), "Stable Diffusion 3"),
    (re.compile(r"lora_prior_"), "Stable Cascade"),
    (
        re.compile(r"^(lora_)?transformer[._](?!resblocks|text_model)|diffusion_model\.layers\."),
        "a diffusion transformer",
    ),
)


def recognise(names: Iterable[str]) -> FileKind | None:
    """Returns the kind of a file with tensors of these names; None for none that is known."""
    return _first(KINDS, names)


def foreign(names: Iterable[str]) -> FileKind | None:
    """Returns what a file with tensors of these names is, if it is something else than a checkpoint."""
    return _first([kind for kind in KINDS if kind.foreign], names)


def part(names: Iterable[str]) -> FileKind | None:
    """Returns which part of a checkpoint a file with tensors of these names is: a UNet, a VAE or a text encoder."""
    return _first([kind for kind in KINDS if kind.advice and not kind.foreign], names)


def unsupported_adapter(name: str) -> FileKind | None:
    """Returns the kind of adapter that a tensor of this name belongs to, if it is one that cannot be merged."""
    return _first([kind for kind in KINDS if kind.adapter], [name])


def adapter_family(modules: Iterable[str]) -> str | None:
    """Returns the model that an adapter with modules of these names was made for, if it is another than those here."""
    for module in modules:
        for pattern, family in _ADAPTER_FAMILIES:
            if pattern.search(module):
                return family
    return None


def _first(kinds: Iterable[FileKind], names: Iterable[str]) -> FileKind | None:
    names = list(names)
    for kind in kinds:
        if any(re.search(kind.pattern, name) for name in names):
            return kind
    return None
