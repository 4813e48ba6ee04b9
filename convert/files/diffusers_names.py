"""The names of parameters in a diffusers checkpoint, as data: one table of segments per kind of network."""

from collections.abc import Mapping

# our segment -> diffusers'; "" drops the segment
UNET = {
    "attention": "",
    "blocks": "transformer_blocks",
    "down": "ff.net.2",
    "embed": "time_emb_proj",
    "guidance": "cond_proj",
    "k": "to_k",
    "linear1": "linear_1",
    "linear2": "linear_2",
    "out": "to_out.0",
    "q": "to_q",
    "skip": "conv_shortcut",
    "up": "ff.net.0.proj",
    "v": "to_v",
}
VAE = {
    "attention": "",
    "k": "to_k",
    "norm": "group_norm",
    "out": "to_out.0",
    "q": "to_q",
    "skip": "conv_shortcut",
    "v": "to_v",
}
TEXT = {
    "attention": "self_attn",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
    "k": "k_proj",
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "out": "out_proj",
    "q": "q_proj",
    "v": "v_proj",
}
SEGMENTS = {
    "unet": UNET,
    "control": UNET,
    "vae": VAE,
    "text_encoder": TEXT,
    "text_encoder_2": TEXT,
    "class_embedder": {},
    "t2i_adapter": {},
    "ip_adapter": {},
    "image_encoder": TEXT,
}

# Segments that older versions of diffusers and transformers wrote -> those that current versions write.
_RENAMED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0", "text_model": ""}
# Saved by older versions: constants, not weights.
_CONSTANTS = ("position_ids",)


def diffusers_name(part: str, layers: Mapping[str, str], parameter: str) -> str:
    """Returns the name in a diffusers checkpoint of one of our parameters of network `part`.

    layers: our layers -> their names in the checkpoint; names inside a layer follow the table of segments.
    """
    layer = parameter
    while layer and layer not in layers:
        layer = layer.rpartition(".")[0]
    inside = parameter[len(layer) :].strip(".") if layer else parameter
    segments = [SEGMENTS[part].get(s, s) for s in inside.split(".")]
    return ".".join(s for s in (layers.get(layer, ""), *segments) if s)


def written_name(part: str, layers: Mapping[str, str], parameter: str) -> str:
    """Returns the name by which diffusers' folders and trainers' files are written.

    It is that of `diffusers_name`, but a text encoder's layers stand below `text_model`, all but its projection.
    """
    name = diffusers_name(part, layers, parameter)
    below = part.startswith("text_encoder") and not name.startswith("text_projection")
    return f"text_model.{name}" if below else name


def current_name(name: str) -> str | None:
    """Returns a checkpoint's name in current spelling, or None for a constant that is not a weight."""
    segments = name.split(".")
    if segments[-1] in _CONSTANTS:
        return None
    return ".".join(s for s in (_RENAMED.get(s, s) for s in segments) if s)
