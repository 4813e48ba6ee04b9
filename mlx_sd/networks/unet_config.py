"""UNet configs of Hugging Face -> one frozen dataclass, in which every level's block is spelled out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..core.config_fields import ConfigFields
from ..core.errors import InputError
from .configs import downsampling


@dataclass(frozen=True)
class Block:
    """One level of the down or the up path, or the middle."""

    channels: int
    resnets: int  # residual blocks
    transformers: tuple[int, ...]  # transformer blocks after each residual block; () in a level without transformers
    heads: int  # of every attention
    context: int = 0  # width of the context that transformers attend to
    only_cross: bool = False  # both attentions of a transformer block attend to the context
    self_attention: bool = False  # attention over the image, without a transformer, follows each residual block
    resnet_resampling: bool = False  # a residual block, not a convolution, leads to the next level


@dataclass(frozen=True)
class UNetConfig:
    """A UNet2DConditionModel, or a UNet2DModel, which takes no context. `down` goes from fine to coarse, `up` back."""

    in_channels: int
    out_channels: int
    sample_size: int  # latents a side of the images that the checkpoint was trained on
    down: tuple[Block, ...]
    mid: Block | None
    up: tuple[Block, ...]
    groups: int  # of every group norm
    eps: float  # of every group norm outside transformers
    scale_shift: bool  # the embedding scales and shifts the features, instead of being added
    embedding: int  # width of the embedding of timestep, class and sizes
    flip_sin_to_cos: bool  # cosines come first in sinusoids
    freq_shift: int  # lowers the number of frequencies that sinusoids are spread over
    far_padded: bool  # downsampling convolutions are padded at the bottom and right only
    class_embedding: str | None  # None, "table", "timestep", "projection", "simple_projection" or "identity"
    class_inputs: int  # rows of the table, or width of the labels that are projected
    guidance_dims: int | None = None  # time_cond_proj_dim: width of the embedded guidance scale (LCM)
    added_time_dims: int | None = None  # SDXL: width of each embedded size, None without text_time
    added_inputs: int = 0  # SDXL: width of pooled text and embedded sizes together
    middle_groups: int | None = None  # attn_norm_num_groups: of the norm before self-attention in the middle
    centers_input: bool = False  # images come in [0, 1] and are brought to [-1, 1]
    token_states: int | None = None  # of a UNet over tokens: the rows of its embedding, a field of this package's

    @property
    def channels(self) -> int:
        """Returns the width of the finest level."""
        return self.down[0].channels

    @property
    def skip_channels(self) -> tuple[int, ...]:
        """Returns the width of every skip: the first convolution's, then each residual block's and downsampling's."""
        widths = [self.channels]
        for block in self.down[:-1]:
            widths += [block.channels] * (block.resnets + 1)
        return (*widths, *[self.down[-1].channels] * self.down[-1].resnets)

    @property
    def skip_levels(self) -> tuple[int, ...]:
        """Returns how often the height and width of every skip are halved."""
        levels = [0]
        for level, block in enumerate(self.down):
            levels += [level] * block.resnets + [level + 1] * (level + 1 < len(self.down))
        return tuple(levels)

    @property
    def takes_context(self) -> bool:
        """Returns whether any level attends to a context: a prompt, or an embedding that takes its place."""
        return any(block.transformers for block in (*self.down, *([self.mid] if self.mid else []), *self.up))

    @property
    def attention_groups(self) -> int | None:
        """Returns the groups of the norm before self-attention in the middle; None where there is no norm."""
        return self.middle_groups or (None if self.scale_shift else self.groups)

    @property
    def downsampling(self) -> int:
        """Returns how many latents a side one feature of the coarsest level covers."""
        return downsampling(len(self.down))

    @property
    def size_multiple(self) -> int:
        """Returns what height and width of x must be multiples of: 1 where downsampling rounds up."""
        rounds_down = self.far_padded or any(block.resnet_resampling for block in self.down)
        return self.downsampling if rounds_down else 1

    @classmethod
    def from_hf(cls, values: Mapping[str, Any], where: str = "unet/config.json") -> "UNetConfig":
        """Reads a UNet's config; InputError names a class or field that is missing or not supported."""
        f = ConfigFields(values, where)
        name = values.get("_class_name", "UNet2DConditionModel")
        if name not in _READERS:
            raise f.unsupported("_class_name", name, _READERS)
        specific = _READERS[name](f)
        config = cls(
            **specific,
            sample_size=f.side("sample_size", 64),
            groups=f.take("norm_num_groups", 32),
            scale_shift=f.only("resnet_time_scale_shift", "default", "scale_shift") == "scale_shift",
            eps=f.take("norm_eps", 1e-5),
            embedding=f.take("time_embedding_dim") or 4 * specific["down"][0].channels,
            flip_sin_to_cos=f.take("flip_sin_to_cos", True),
            freq_shift=f.take("freq_shift", 0),
            far_padded=f.only("downsample_padding", 1, 0) == 0,
            token_states=_token_states(f),
        )
        f.only("act_fn", "silu", "swish")
        f.only("mid_block_scale_factor", 1)
        f.only("time_embedding_type", "positional")
        f.ignore(("dropout",))  # is for training
        f.done()
        return config


def _token_states(f: ConfigFields) -> int | None:
    if "token_states" not in f.unread:
        return None
    states = f.take("token_states")
    if not isinstance(states, int) or isinstance(states, bool):
        raise InputError(f"{f.where}: token_states is a whole number, not {states!r}")
    return states


def _conditional(f: ConfigFields) -> dict[str, Any]:
    """The fields that only UNet2DConditionModel has, or that it has in a form of its own."""
    channels, down_types, up_types = _levels(f, ("DownBlock2D", "CrossAttnDownBlock2D"))
    levels = len(channels)

    layers = f.listed("layers_per_block", 2, levels)
    # attention_head_dim means the number of heads in this class, see diffusers issue 2011.
    f.only("num_attention_heads", None)
    heads = f.listed("attention_head_dim", 8, levels)
    context = f.listed("cross_attention_dim", 1280, levels)
    only_cross = f.listed("only_cross_attention", False, levels)
    depth = f.listed("transformer_layers_per_block", 1, levels)
    up_depth = f.listed("reverse_transformer_layers_per_block", None, levels)
    if None in up_depth:  # the usual case: the way up has the depths of the way down
        up_depth = depth[::-1]

    def block(i: int, resnets: int, attends: bool, depth: Any) -> Block:
        """Returns the block of level `i`; depth: of its transformers, one number for all or a list of one for each."""
        depths = tuple(depth) if isinstance(depth, (list, tuple)) else (depth,) * resnets
        if attends and len(depths) != resnets:
            raise InputError(f"{f.where}: transformer_layers_per_block lists {len(depths)} depths for {resnets} layers")
        if channels[i] % heads[i]:
            raise InputError(f"{f.where}: {channels[i]} channels do not divide into {heads[i]} heads")
        return Block(channels[i], resnets, depths if attends else (), heads[i], context[i], bool(only_cross[i]))

    mid_type = f.only("mid_block_type", "UNetMidBlock2DCrossAttn", "UNetMidBlock2D", None)
    mid = None
    if mid_type == "UNetMidBlock2DCrossAttn":
        mid_depth = depth[-1][0] if isinstance(depth[-1], (list, tuple)) else depth[-1]
        mid = Block(channels[-1], 2, (mid_depth,), heads[-1], context[-1])
    elif mid_type == "UNetMidBlock2D":
        mid = Block(channels[-1], 1, (), heads[-1], context[-1])
    kind, rows = _classes(f, "timestep", "projection", "simple_projection", "identity")
    projected = f.take("projection_class_embeddings_input_dim")
    added = f.only("addition_embed_type", None, "text_time")
    added_time_dims = f.take("addition_time_embed_dim")
    if (added or kind in ("projection", "simple_projection")) and projected is None:
        raise InputError(f"{f.where}: the field projection_class_embeddings_input_dim is missing")
    for name, value in _CONDITIONAL_FIXED.items():
        f.only(name, value)
    # Without effect here: attention always sums in float32, a linear layer and a 1x1 convolution compute the same, and
    # the last is read only with addition_embed_type "text".
    f.ignore(("upcast_attention", "use_linear_projection", "addition_embed_type_num_heads"))
    return {
        "in_channels": f.take("in_channels", 4),
        "out_channels": f.take("out_channels", 4),
        "down": tuple(block(i, layers[i], "Attn" in down_types[i], depth[i]) for i in range(levels)),
        "mid": mid,
        "up": tuple(
            block(i, layers[i] + 1, "Attn" in up_type, up_depths)
            for i, up_type, up_depths in zip(reversed(range(levels)), up_types, up_depth, strict=True)
        ),
        "guidance_dims": f.take("time_cond_proj_dim"),
        "class_embedding": kind,
        "class_inputs": rows if kind == "table" else projected or 0,
        "added_time_dims": added_time_dims if added else None,
        "added_inputs": projected if added else 0,
    }


def _unconditional(f: ConfigFields) -> dict[str, Any]:
    """The same of UNet2DModel, in which `attention_head_dim` is the size of a head, and null means one head."""
    channels, down_types, up_types = _levels(f, ("DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"))
    levels = len(channels)
    layers = f.take("layers_per_block", 2)
    sizes = f.listed("attention_head_dim", 8, levels)  # a list is this package's, for early latent diffusion models
    resampling = {
        "down": f.only("downsample_type", "conv", "resnet"),
        "up": f.only("upsample_type", "conv", "resnet"),
    }

    def block(i: int, resnets: int, kind: str, side: str) -> Block:
        """Returns the block of level `i`; kind: diffusers' class of blocks; side: "down" or "up"."""
        size = sizes[i] or channels[i]
        if channels[i] % size:
            raise InputError(f"{f.where}: {channels[i]} channels do not divide into heads of {size}")
        attends = kind.startswith("Attn")
        # Only blocks with attention read downsample_type and upsample_type; the others have it in their name.
        by_resnet = kind.startswith("Resnet") or (attends and resampling[side] == "resnet")
        return Block(channels[i], resnets, (), channels[i] // size, self_attention=attends, resnet_resampling=by_resnet)

    attends = f.take("add_attention", True)
    mid = block(levels - 1, 2, "Attn" if attends else "", "down")
    kind, rows = _classes(f, "timestep", "identity")
    f.ignore(("num_train_timesteps",))  # diffusers reads it with a time_embedding_type that is refused here
    return {
        "in_channels": f.take("in_channels", 3),
        "out_channels": f.take("out_channels", 3),
        "down": tuple(block(i, layers, down_types[i], "down") for i in range(levels)),
        "mid": mid if f.only("mid_block_type", "UNetMidBlock2D", None) else None,
        "up": tuple(
            block(i, layers + 1, up_type, "up") for i, up_type in zip(reversed(range(levels)), up_types, strict=True)
        ),
        "class_embedding": kind,
        "class_inputs": rows,
        "middle_groups": f.take("attn_norm_num_groups"),
        "centers_input": bool(f.take("center_input_sample", False)),
    }


def _levels(f: ConfigFields, down: tuple[str, ...]) -> tuple[tuple[int, ...], tuple[str, ...], tuple[str, ...]]:
    """The width of every level, and the types of its blocks on both paths; `down` lists the supported ones down."""
    channels = tuple(f.require("block_out_channels"))
    up = tuple(name.replace("Downsample", "Upsample").replace("Down", "Up") for name in down)
    return channels, _types(f, "down_block_types", down, len(channels)), _types(f, "up_block_types", up, len(channels))


def _types(f: ConfigFields, field: str, supported: tuple[str, ...], levels: int) -> tuple[str, ...]:
    types = tuple(f.require(field))
    if len(types) != levels:
        raise InputError(f"{f.where}: {field} has {len(types)} entries for {levels} block_out_channels")
    for name in types:
        if name not in supported:
            raise f.unsupported(field, name, supported)
    return types


def _classes(f: ConfigFields, *supported: str) -> tuple[str | None, int]:
    """The kind of class embedding, and the rows of the table."""
    kind, rows = f.take("class_embed_type"), f.take("num_class_embeds")
    if kind not in (None, *supported):
        raise f.unsupported("class_embed_type", kind, supported)
    return "table" if kind is None and rows is not None else kind, rows or 0


_READERS = {"UNet2DConditionModel": _conditional, "UNet2DModel": _unconditional}
_CONDITIONAL_FIXED = {
    "center_input_sample": False,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "dual_cross_attention": False,
    "resnet_skip_time_act": False,
    "resnet_out_scale_factor": 1.0,
    "time_embedding_act_fn": None,
    "timestep_post_act": None,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "attention_type": "default",
    "class_embeddings_concat": False,
    "mid_block_only_cross_attention": None,
    "cross_attention_norm": None,
}
