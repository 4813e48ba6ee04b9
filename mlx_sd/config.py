"""Hugging Face configs -> frozen dataclasses. Irregular per-block lists end here; an unknown field is an error."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import InputError


class Fields:
    """A config read field by field: a value nobody supports, or a field nobody asked for, is an error naming it."""

    def __init__(self, values: Mapping[str, Any], where: str):
        self.where = where
        self._left = {name: value for name, value in values.items() if not name.startswith("_")}

    def take(self, name: str, default: Any = None) -> Any:
        return self._left.pop(name, default)

    def require(self, name: str) -> Any:
        if name not in self._left:
            raise InputError(f"{self.where}: the field {name} is missing")
        return self._left.pop(name)

    def only(self, name: str, *allowed: Any) -> Any:
        """Takes a field that must be absent or hold one of the `allowed` values; absent means the first."""
        value = self._left.pop(name, allowed[0])
        if value not in allowed:
            raise self.unsupported(name, value, allowed)
        return value

    def ignore(self, names: Iterable[str]) -> None:
        """Drops fields that do not change what the network computes."""
        for name in names:
            self._left.pop(name, None)

    def unsupported(self, name: str, value: Any, allowed: Iterable[Any] = ()) -> InputError:
        known = ", ".join(repr(v) for v in allowed)
        return InputError(f"{self.where}: {name} = {value!r} is not supported" + (f" (only {known})" if known else ""))

    def done(self) -> None:
        if self._left:
            raise InputError(f"{self.where}: unknown field(s) {', '.join(sorted(self._left))}")


@dataclass(frozen=True)
class Block:
    """One resolution on one side of the UNet, or its middle."""

    channels: int
    resnets: int
    transformers: tuple[int, ...]  # how many transformer blocks follow each resnet; () where there is no attention
    heads: int
    context: int
    only_cross: bool = False


@dataclass(frozen=True)
class UNetConfig:
    """UNet2DConditionModel. `down` goes from fine to coarse, `up` back."""

    in_channels: int
    out_channels: int
    sample_size: int
    down: tuple[Block, ...]
    mid: Block | None
    up: tuple[Block, ...]
    groups: int
    eps: float
    scale_shift: bool
    embedding: int  # width of the time embedding
    flip_sin_to_cos: bool
    freq_shift: int
    guidance_dims: int | None  # time_cond_proj_dim: the width of an embedded guidance scale (LCM)
    class_embedding: str | None  # None, "table", "timestep", "projection", "simple_projection" or "identity"
    class_inputs: int  # rows of the table, or width of what is projected
    added_time_dims: int | None  # SDXL: width of each embedded size, None without text_time
    added_inputs: int  # SDXL: width of pooled text and embedded sizes together

    @property
    def channels(self) -> int:
        """Width of the finest level."""
        return self.down[0].channels

    @property
    def shrinks(self) -> int:
        """Latents along the side of one feature of the coarsest level."""
        return int(2 ** (len(self.down) - 1))

    @classmethod
    def from_hf(cls, values: Mapping[str, Any], where: str = "unet/config.json") -> "UNetConfig":
        """Reads a UNet2DConditionModel config; InputError names a field that is missing or not supported."""
        f = Fields(values, where)
        channels = tuple(f.require("block_out_channels"))
        levels = len(channels)
        down_types, up_types = tuple(f.require("down_block_types")), tuple(f.require("up_block_types"))
        for name, types, known in (
            ("down_block_types", down_types, ("DownBlock2D", "CrossAttnDownBlock2D")),
            ("up_block_types", up_types, ("UpBlock2D", "CrossAttnUpBlock2D")),
        ):
            if len(types) != levels:
                raise InputError(f"{where}: {name} has {len(types)} entries for {levels} block_out_channels")
            for t in types:
                if t not in known:
                    raise f.unsupported(name, t, known)

        def per_block(name: str, default: Any) -> list[Any]:
            value = f.take(name, default)
            value = list(value) if isinstance(value, (list, tuple)) else [value] * levels
            if len(value) != levels:
                raise InputError(f"{where}: {name} has {len(value)} entries for {levels} block_out_channels")
            return value

        layers = per_block("layers_per_block", 2)
        # attention_head_dim means the number of heads in this class, see diffusers issue 2011.
        f.only("num_attention_heads", None)
        heads = per_block("attention_head_dim", 8)
        context = per_block("cross_attention_dim", 1280)
        only_cross = per_block("only_cross_attention", False)
        depth = per_block("transformer_layers_per_block", 1)
        up_depth = f.take("reverse_transformer_layers_per_block") or depth[::-1]

        def block(i: int, resnets: int, attends: bool, depth: Any) -> Block:
            depths = tuple(depth) if isinstance(depth, (list, tuple)) else (depth,) * resnets
            if attends and len(depths) != resnets:
                raise InputError(
                    f"{where}: transformer_layers_per_block lists {len(depths)} depths for {resnets} layers"
                )
            if channels[i] % heads[i]:
                raise InputError(f"{where}: {channels[i]} channels do not divide into {heads[i]} heads")
            return Block(channels[i], resnets, depths if attends else (), heads[i], context[i], bool(only_cross[i]))

        mid_type = f.take("mid_block_type", "UNetMidBlock2DCrossAttn")
        if mid_type not in (None, "UNetMidBlock2DCrossAttn", "UNetMidBlock2D"):
            raise f.unsupported("mid_block_type", mid_type, ("UNetMidBlock2DCrossAttn", "UNetMidBlock2D", None))
        mid_depth = depth[-1] if isinstance(depth[-1], (list, tuple)) else [depth[-1]]
        mid = {
            "UNetMidBlock2DCrossAttn": Block(channels[-1], 2, (mid_depth[0],), heads[-1], context[-1]),
            "UNetMidBlock2D": Block(channels[-1], 1, (), heads[-1], context[-1]),
            None: None,
        }[mid_type]

        classes, kind = f.take("num_class_embeds"), f.take("class_embed_type")
        projected = f.take("projection_class_embeddings_input_dim")
        if kind not in (None, "timestep", "projection", "simple_projection", "identity"):
            raise f.unsupported("class_embed_type", kind, ("timestep", "projection", "simple_projection", "identity"))
        if kind is None and classes is not None:
            kind = "table"
        added = f.only("addition_embed_type", None, "text_time")
        added_time = f.take("addition_time_embed_dim")
        if (added or kind in ("projection", "simple_projection")) and projected is None:
            raise InputError(f"{where}: the field projection_class_embeddings_input_dim is missing")

        config = cls(
            in_channels=f.take("in_channels", 4),
            out_channels=f.take("out_channels", 4),
            sample_size=_square(f.take("sample_size") or 64, f),
            down=tuple(block(i, layers[i], "Attn" in down_types[i], depth[i]) for i in range(levels)),
            mid=mid,
            up=tuple(
                block(levels - 1 - i, layers[levels - 1 - i] + 1, "Attn" in up_types[i], up_depth[i])
                for i in range(levels)
            ),
            groups=f.take("norm_num_groups", 32),
            eps=f.take("norm_eps", 1e-5),
            scale_shift=f.only("resnet_time_scale_shift", "default", "scale_shift") == "scale_shift",
            embedding=f.take("time_embedding_dim") or 4 * channels[0],
            flip_sin_to_cos=f.take("flip_sin_to_cos", True),
            freq_shift=f.take("freq_shift", 0),
            guidance_dims=f.take("time_cond_proj_dim"),
            class_embedding=kind,
            class_inputs=classes if kind == "table" else projected or 0,
            added_time_dims=added_time if added else None,
            added_inputs=projected if added else 0,
        )
        f.only("act_fn", "silu", "swish")
        for name, value in _UNET_FIXED.items():
            f.only(name, value)
        # Without effect here: dropout is for training, attention always sums in float32, a linear and a 1x1
        # convolution are one computation, and the last is read only with addition_embed_type "text".
        f.ignore(("dropout", "upcast_attention", "use_linear_projection", "addition_embed_type_num_heads"))
        f.done()
        return config


_UNET_FIXED = {
    "center_input_sample": False,
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "dual_cross_attention": False,
    "resnet_skip_time_act": False,
    "resnet_out_scale_factor": 1.0,
    "time_embedding_type": "positional",
    "time_embedding_act_fn": None,
    "timestep_post_act": None,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "attention_type": "default",
    "class_embeddings_concat": False,
    "mid_block_only_cross_attention": None,
    "cross_attention_norm": None,
}


@dataclass(frozen=True)
class TextConfig:
    """CLIPTextModel and CLIPTextModelWithProjection."""

    vocabulary: int
    width: int
    hidden: int
    layers: int
    heads: int
    tokens: int
    activation: str
    eps: float
    eos: int
    projection: int | None  # width of the projected pooled output, None without a projection

    @classmethod
    def from_hf(cls, values: Mapping[str, Any], where: str = "text_encoder/config.json") -> "TextConfig":
        """Reads a CLIP text config; InputError names a field that is missing or not supported."""
        f = Fields(values, where)
        architectures = f.take("architectures") or ["CLIPTextModel"]
        if architectures[0] not in ("CLIPTextModel", "CLIPTextModelWithProjection"):
            raise f.unsupported("architectures", architectures[0], ("CLIPTextModel", "CLIPTextModelWithProjection"))
        projection = f.take("projection_dim", 512)
        config = cls(
            vocabulary=f.take("vocab_size", 49408),
            width=f.require("hidden_size"),
            hidden=f.require("intermediate_size"),
            layers=f.require("num_hidden_layers"),
            heads=f.require("num_attention_heads"),
            tokens=f.take("max_position_embeddings", 77),
            activation=f.only("hidden_act", "quick_gelu", "gelu"),
            eps=f.take("layer_norm_eps", 1e-5),
            eos=f.take("eos_token_id", 49407),
            projection=projection if architectures[0] == "CLIPTextModelWithProjection" else None,
        )
        f.only("model_type", "clip_text_model")
        f.ignore(_TEXT_IGNORED)
        f.done()
        return config


# Training, bookkeeping of transformers, and token ids that the tokenizer's own files decide.
_TEXT_IGNORED = (
    "attention_dropout",
    "bos_token_id",
    "dropout",
    "dtype",
    "gradient_checkpointing",
    "initializer_factor",
    "initializer_range",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "return_dict",
    "torch_dtype",
    "transformers_version",
    "use_cache",
)


@dataclass(frozen=True)
class VAEConfig:
    """AutoencoderKL. `channels` goes from fine to coarse."""

    in_channels: int
    out_channels: int
    latent_channels: int
    channels: tuple[int, ...]
    layers: int
    groups: int
    sample_size: int
    scaling_factor: float
    shift_factor: float
    latents_mean: tuple[float, ...]  # per channel, or empty
    latents_std: tuple[float, ...]
    force_upcast: bool
    quant_conv: bool
    post_quant_conv: bool
    mid_attention: bool

    @property
    def factor(self) -> int:
        """Pixels along the side of one latent."""
        return int(2 ** (len(self.channels) - 1))

    @classmethod
    def from_hf(cls, values: Mapping[str, Any], where: str = "vae/config.json") -> "VAEConfig":
        """Reads an AutoencoderKL config; InputError names a field that is missing or not supported."""
        f = Fields(values, where)
        channels = tuple(f.require("block_out_channels"))
        for name, known in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
            types = f.take(name, [known] * len(channels))
            if any(t != known for t in types) or len(types) != len(channels):
                raise f.unsupported(name, types, ([known] * len(channels),))
        mean, std = f.take("latents_mean"), f.take("latents_std")
        if (mean is None) != (std is None):
            raise InputError(f"{where}: latents_mean and latents_std must be given together")
        config = cls(
            in_channels=f.take("in_channels", 3),
            out_channels=f.take("out_channels", 3),
            latent_channels=f.take("latent_channels", 4),
            channels=channels,
            layers=f.take("layers_per_block", 1),
            groups=f.take("norm_num_groups", 32),
            sample_size=_square(f.take("sample_size", 512), f),
            scaling_factor=f.take("scaling_factor", 0.18215),
            shift_factor=f.take("shift_factor") or 0.0,
            latents_mean=tuple(mean or ()),
            latents_std=tuple(std or ()),
            force_upcast=f.take("force_upcast", True),
            quant_conv=f.take("use_quant_conv", True),
            post_quant_conv=f.take("use_post_quant_conv", True),
            mid_attention=f.take("mid_block_add_attention", True),
        )
        f.only("act_fn", "silu", "swish")
        f.done()
        return config


def _square(size: Any, f: Fields) -> int:
    if isinstance(size, (list, tuple)):
        if len(set(size)) != 1:
            raise f.unsupported("sample_size", size)
        return int(size[0])
    return int(size)
