"""Configs of text encoders, autoencoders and class embedders from Hugging Face -> frozen dataclasses."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..core.config_fields import ConfigFields
from ..core.errors import InputError


def downsampling(levels: int) -> int:
    """Returns by how much a network of so many levels shrinks height and width: all but the last halve them."""
    return int(2 ** (levels - 1))


@dataclass(frozen=True)
class TextConfig:
    """A CLIPTextModel or CLIPTextModelWithProjection."""

    vocabulary: int  # token ids
    width: int
    hidden: int  # width inside the feed-forwards
    layers: int
    heads: int
    tokens: int  # of a prompt, start and end included
    activation: str  # "quick_gelu" or "gelu"
    eps: float
    eos: int  # id of the end token
    projection: int | None  # width of the projected pooled output, None without a projection

    @classmethod
    def from_hf(cls, values: Mapping[str, Any], where: str = "text_encoder/config.json") -> "TextConfig":
        """Reads a CLIP text config; InputError names a field that is missing or not supported."""
        f = ConfigFields(values, where)
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
class ClassConfig:
    """A ClassEmbedder of the original latent diffusion code: a table whose rows take the place of a prompt."""

    classes: int  # rows, with the row that stands for no class
    width: int

    @classmethod
    def from_hf(cls, values: Mapping[str, Any], where: str = "class_embedder/config.json") -> "ClassConfig":
        """Reads a class embedder's config, as `convert` wrote it; InputError names a missing or unknown field."""
        f = ConfigFields(values, where)
        config = cls(classes=f.require("n_classes"), width=f.require("embed_dim"))
        f.done()
        return config


@dataclass(frozen=True)
class VAEConfig:
    """An AutoencoderKL or a VQModel. `channels` goes from fine to coarse."""

    in_channels: int
    out_channels: int
    latent_channels: int
    inner_channels: int  # of the encoder's output and the decoder's input; a VQModel's latents may have others
    codes: int | None  # rows of a VQModel's codebook, None for an AutoencoderKL
    channels: tuple[int, ...]
    layers: int  # residual blocks of each level of the encoder; the decoder has one more
    groups: int
    sample_size: int  # pixels a side of the images that the checkpoint was trained on
    scaling_factor: float
    shift_factor: float
    latents_mean: tuple[float, ...]  # per channel, or empty
    latents_std: tuple[float, ...]
    force_upcast: bool  # float16 overflows
    quant_conv: bool  # a 1x1 convolution follows the encoder
    post_quant_conv: bool  # a 1x1 convolution precedes the decoder
    mid_attention: bool

    @property
    def deterministic(self) -> bool:
        """Returns whether the encoder makes latents, and not the mean and variance of latents to draw."""
        return self.codes is not None

    @property
    def downsampling(self) -> int:
        """Returns how many pixels a side one latent covers."""
        return downsampling(len(self.channels))

    @classmethod
    def from_hf(cls, values: Mapping[str, Any], where: str = "vae/config.json") -> "VAEConfig":
        """Reads an autoencoder's config; InputError names a class or field that is missing or not supported."""
        f = ConfigFields(values, where)
        name = values.get("_class_name", "AutoencoderKL")
        if name not in ("AutoencoderKL", "VQModel"):
            raise f.unsupported("_class_name", name, ("AutoencoderKL", "VQModel", "AutoencoderTiny"))
        quantized = name == "VQModel"
        channels = tuple(f.require("block_out_channels"))
        for field, block in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
            supported = [block] * len(channels)
            types = f.take(field, supported)
            if list(types) != supported:
                raise f.unsupported(field, types, (supported,))
        mean, std = f.take("latents_mean"), f.take("latents_std")
        if (mean is None) != (std is None):
            raise InputError(f"{where}: latents_mean and latents_std must both be there, or neither")
        inner = f.take("latent_channels", 3 if quantized else 4)
        if quantized:
            f.only("norm_type", "group")
            f.ignore(("lookup_from_codebook",))  # is about decoding indices, which is not done here
        config = cls(
            in_channels=f.take("in_channels", 3),
            out_channels=f.take("out_channels", 3),
            latent_channels=(f.take("vq_embed_dim") if quantized else None) or inner,
            inner_channels=inner,
            codes=f.take("num_vq_embeddings", 256) if quantized else None,
            channels=channels,
            layers=f.take("layers_per_block", 1),
            groups=f.take("norm_num_groups", 32),
            sample_size=f.side("sample_size", 512),
            scaling_factor=f.take("scaling_factor", 0.18215),
            shift_factor=f.take("shift_factor") or 0.0,
            latents_mean=tuple(mean or ()),
            latents_std=tuple(std or ()),
            force_upcast=f.take("force_upcast", not quantized),
            quant_conv=f.take("use_quant_conv", True),
            post_quant_conv=f.take("use_post_quant_conv", True),
            mid_attention=f.take("mid_block_add_attention", True),
        )
        f.only("act_fn", "silu", "swish")
        f.done()
        return config


@dataclass(frozen=True)
class TinyConfig(VAEConfig):
    """An AutoencoderTiny: blocks of one width on each side, of which every stage but one changes the resolution."""

    decoder_width: int
    encoder_blocks: tuple[int, ...]  # of each stage, fine to coarse
    decoder_blocks: tuple[int, ...]  # of each stage, coarse to fine

    @property
    def deterministic(self) -> bool:
        """Returns True: the encoder has no variance."""
        return True

    @classmethod
    def from_hf(cls, values: Mapping[str, Any], where: str = "vae/config.json") -> "TinyConfig":
        """Reads an AutoencoderTiny's config; InputError names a field that is not supported."""
        f = ConfigFields(values, where)
        latents = f.take("latent_channels", 4)
        blocks = {side: tuple(f.take(f"num_{side}_blocks", default)) for side, default in _TINY_BLOCKS.items()}
        if len(blocks["encoder"]) != len(blocks["decoder"]):
            raise f.unsupported("num_decoder_blocks", blocks["decoder"], ("as many stages as num_encoder_blocks",))
        widths = {}
        for side, stages in blocks.items():
            channels = f.take(f"{side}_block_out_channels", [64] * len(stages))
            if len(channels) != len(stages) or len(set(channels)) != 1:
                raise f.unsupported(f"{side}_block_out_channels", channels, ("one width for all stages",))
            widths[side] = channels[0]
        f.only("act_fn", "relu")
        f.only("upsample_fn", "nearest")
        f.only("upsampling_scaling_factor", 2)
        # The range of latents that are stored as bytes, which is not done here, and what other fields say already.
        f.ignore(("latent_magnitude", "latent_shift", "block_out_channels", "force_upcast"))
        config = cls(
            in_channels=f.take("in_channels", 3),
            out_channels=f.take("out_channels", 3),
            latent_channels=latents,
            inner_channels=latents,
            codes=None,
            channels=(widths["encoder"],) * len(blocks["encoder"]),
            layers=0,
            groups=1,
            sample_size=f.side("sample_size", 512),
            scaling_factor=f.take("scaling_factor", 1.0),
            shift_factor=f.take("shift_factor") or 0.0,
            latents_mean=(),
            latents_std=(),
            force_upcast=False,
            quant_conv=False,
            post_quant_conv=False,
            mid_attention=False,
            decoder_width=widths["decoder"],
            encoder_blocks=blocks["encoder"],
            decoder_blocks=blocks["decoder"],
        )
        f.done()
        return config


_TINY_BLOCKS = {"encoder": (1, 3, 3, 3), "decoder": (3, 3, 3, 1)}  # TAESD's


def is_tiny(values: Mapping[str, Any]) -> bool:
    """Returns whether an autoencoder's config is of an AutoencoderTiny."""
    return values.get("_class_name") == "AutoencoderTiny"


def vae_config(values: Mapping[str, Any], where: str = "vae/config.json") -> VAEConfig:
    """Reads the config of an autoencoder of any class here; InputError names what is missing or not supported."""
    return (TinyConfig if is_tiny(values) else VAEConfig).from_hf(values, where)
