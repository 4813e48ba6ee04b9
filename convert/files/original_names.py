"""How the original code (CompVis, Stability, OpenCLIP) names layers: one table, read in both directions.

Single files are read by it, from the original's names to diffusers'; adapters are looked up by it the other way round.
The tables hold what does not depend on the number of blocks. Which numbered block is which is found elsewhere: from the
names in a file (`sources.original_weights`), or from the stages of our UNet, which are counted as the original's.
"""

from collections.abc import Iterable, Mapping

# Original layer -> diffusers layer
UNET_LAYERS = {
    "input_blocks.0.0": "conv_in",
    "label_emb": "class_embedding",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "middle_block.0": "mid_block.resnets.0",
    "middle_block.1": "mid_block.attentions.0",
    "middle_block.2": "mid_block.resnets.1",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "time_embed.cond_proj": "time_embedding.cond_proj",
}
VAE_LAYERS = {
    f"{side}.{original}": f"{side}.{diffusers}"
    for side in ("encoder", "decoder")
    for original, diffusers in {
        "mid.attn_1": "mid_block.attentions.0",
        "mid.block_1": "mid_block.resnets.0",
        "mid.block_2": "mid_block.resnets.1",
        "norm_out": "conv_norm_out",
    }.items()
}
OPEN_CLIP_LAYERS = {
    "ln_final": "final_layer_norm",
    "positional_embedding": "embeddings.position_embedding.weight",
    "text_projection": "text_projection.weight",
    "token_embedding": "embeddings.token_embedding",
}
OPEN_CLIP_BLOCKS = ("transformer.resblocks", "encoder.layers")  # with a number after them

# Names inside a layer; those not listed are the same in both.
RESNET = {
    "emb_layers.1": "time_emb_proj",
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
DOWNSAMPLER = {"op": "conv"}
PLAIN_ATTENTION = {"norm": "group_norm", "proj_out": "to_out.0"}
VAE_INSIDE = {
    "k": "to_k",
    "nin_shortcut": "conv_shortcut",
    "norm": "group_norm",
    "proj_out": "to_out.0",
    "q": "to_q",
    "v": "to_v",
}
OPEN_CLIP_INSIDE = {
    "attn": "self_attn",
    "c_fc": "fc1",
    "c_proj": "fc2",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
}

# Our numbered stages -> the original's
_STAGES = {"down": "input_blocks", "up": "output_blocks"}
# diffusers' kind of layer -> what it has inside
_INSIDE = {"resnets": RESNET, "downsamplers": RESNET | DOWNSAMPLER, "upsamplers": RESNET}


def renamed(name: str, layers: Mapping[str, str], inside: Mapping[str, str]) -> str:
    """Returns a parameter's name after its layer, the longest that `layers` has, and the names inside are replaced."""
    segments = name.split(".")
    for end in range(len(segments), 0, -1):
        if (layer := ".".join(segments[:end])) in layers:
            between, parameter = ".".join(segments[end:-1]), segments[-1] if end < len(segments) else ""
            return ".".join(s for s in (layers[layer], _replaced(between, inside), parameter) if s)
    return name


def unet_layer(layer: str, diffusers: str) -> str:
    """Returns the original name of a UNet's layer, from our name and diffusers' name of it."""
    path, *place = layer.split(".")  # down.stages.STAGE.LAYER...
    if path in _STAGES and diffusers != UNET_LAYERS["input_blocks.0.0"]:
        _, _, kind, _, inside = diffusers.split(".", 4)  # down_blocks.LEVEL.KIND.NUMBER.INSIDE
        return ".".join([_STAGES[path], *place[1:3], _replaced(inside, _inverse(_INSIDE.get(kind, {})))])
    fixed = _inverse(UNET_LAYERS)
    segments = diffusers.split(".")
    for end in range(len(segments), 0, -1):
        if (start := ".".join(segments[:end])) in fixed:
            inside = ".".join(segments[end:])
            resnet = _inverse(RESNET) if ".resnets." in start else {}
            return ".".join(s for s in (fixed[start], _replaced(inside, resnet)) if s)
    return diffusers


def control_layer(layer: str, diffusers: str, names: Iterable[str]) -> str:
    """Returns the original name of a ControlNet's layer, from our name and diffusers' name of it.

    names: of all its layers, because the last of those that embed the control image is numbered after the others.
    """
    part, _, inside = layer.partition(".")
    if part == "image":
        middle = sum(name.startswith("image.blocks.") for name in names)
        places = {"first": 0, "last": middle + 1} | {f"blocks.{i}": i + 1 for i in range(middle)}
        return f"input_hint_block.{2 * places[inside]}"  # the odd numbers are activations
    if part == "skip_outputs":
        return f"zero_convs.{inside}.0"
    return "middle_block_out.0" if part == "middle_output" else unet_layer(layer, diffusers)


def open_clip_layer(diffusers: str) -> str:
    """Returns OpenCLIP's name of a text encoder's layer, from transformers' name of it."""
    fixed = _inverse(OPEN_CLIP_LAYERS)
    if diffusers in fixed:
        return fixed[diffusers]
    blocks, layers = OPEN_CLIP_BLOCKS
    if not diffusers.startswith(f"{layers}."):
        return diffusers
    number, _, inside = diffusers.removeprefix(f"{layers}.").partition(".")
    return f"{blocks}.{number}.{_replaced(inside, _inverse(OPEN_CLIP_INSIDE))}"


def _replaced(name: str, table: Mapping[str, str]) -> str:
    """The name by the table as a whole, or segment by segment."""
    return table.get(name) or ".".join(table.get(segment, segment) for segment in name.split("."))


def _inverse(table: Mapping[str, str]) -> dict[str, str]:
    return {diffusers: original for original, diffusers in table.items()}
