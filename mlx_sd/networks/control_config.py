"""Configs of ControlNets of Hugging Face -> one frozen dataclass, and whether such a network fits a UNet."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..core.config_fields import ConfigFields
from ..core.errors import InputError
from .family import Family, Task, family_of
from .unet_config import UNetConfig

CLASS, UNION = "ControlNetModel", "ControlNetUnionModel"  # of diffusers
_UNIONS = (UNION, "ControlNetModel_Union")  # the second is its authors'
INFERRED = "_inferred"  # a field of configs that come from the shapes of weights


@dataclass(frozen=True)
class ControlConfig:
    """A ControlNetModel, or a ControlNetUnionModel, which has modes.

    `unet` describes the layers that it shares with the UNets it is for; its way up is unused.
    """

    unet: UNetConfig
    image_channels: int
    embedding_channels: tuple[int, ...]  # of the layers that embed the control image; all but the last halve its size
    bgr: bool  # the image's channels are taken in reverse order
    pools: bool  # residuals are means over the picture; the half without a prompt then has none
    modes: int = 0  # kinds of control images that a union knows; 0 is a network of one kind
    mode_layers: int = 0
    inferred: bool = False  # from the shapes of weights, which do not tell everything: see `completed_by`

    @property
    def downsampling(self) -> int:
        """Returns how many pixels of the control image a side one latent covers."""
        return int(2 ** (len(self.embedding_channels) - 1))

    @classmethod
    def from_hf(cls, values: Mapping[str, Any], where: str = "config.json") -> "ControlConfig":
        """Reads a ControlNet's config; InputError names a class or field that is missing or not supported."""
        f = ConfigFields(values, where)
        name = values.get("_class_name", CLASS)
        if name not in (CLASS, *_UNIONS):
            raise f.unsupported("_class_name", name, (CLASS, UNION))
        union = name in _UNIONS
        channels = f.take("conditioning_channels", 3)
        widths = (48, 96, 192, 384) if union else (16, 32, 96, 256)
        embedding = tuple(f.take("conditioning_embedding_out_channels") or widths)
        modes, mode_layers = 0, 0
        if union:
            modes, mode_layers = f.take("num_control_type", 6), f.take("num_trans_layer", 1)
            f.ignore(("num_trans_head",))  # heads of values alone are one matrix
            width = (f.unread.get("block_out_channels") or [320])[0]
            for field in ("num_trans_channel", "num_proj_channel"):  # both are added to embedded images
                if (value := f.take(field, 320)) != width:
                    raise f.unsupported(field, value, (width,))
        order = f.only("controlnet_conditioning_channel_order", "rgb", "bgr")
        pools = bool(f.take("global_pool_conditions", False))
        heads = f.take("num_attention_heads")
        shared = dict(f.unread)
        if heads is not None:  # attention_head_dim means the number of heads, see `UNetConfig`
            shared["attention_head_dim"] = heads
        down = shared.get("down_block_types") or ()
        shared["up_block_types"] = [str(kind).replace("Down", "Up") for kind in reversed(down)]
        inferred = bool(values.get(INFERRED, False))
        unet = UNetConfig.from_hf(shared, where)
        if union and not unet.added_time_dims:
            raise InputError(f"{where}: the field addition_time_embed_dim is missing, of which a union has its modes")
        return cls(
            unet,
            channels,
            embedding,
            bgr=order == "bgr",
            pools=pools,
            modes=modes,
            mode_layers=mode_layers,
            inferred=inferred,
        )

    @property
    def family(self) -> Family:
        """Returns the family of the checkpoints that the network is for."""
        return family_of(self.unet, Task.GENERATION, text=True, classes=False, aesthetic_score=False)

    def completed_by(self, unet: UNetConfig) -> "ControlConfig":
        """Returns the config with what shapes do not tell, such as the number of heads, as the UNet has it.

        A control network is a copy of the UNet it was trained beside. A config that was not inferred stays as it is.
        """
        if not self.inferred:
            return self
        shared = self.unet
        down = tuple(replace(a, heads=b.heads) for a, b in zip(shared.down, unet.down, strict=True))
        middle = shared.mid and replace(shared.mid, heads=(unet.mid or unet.down[-1]).heads)
        fields = ("groups", "eps", "flip_sin_to_cos", "freq_shift", "far_padded", "added_time_dims")
        values = {name: getattr(unet, name) for name in fields}
        return replace(self, unet=replace(shared, down=down, mid=middle, **values))

    def misfit(self, unet: UNetConfig, latent_channels: int, downsampling: int) -> str | None:
        """Returns in which way the network does not fit a UNet, as the end of a sentence, or None where it fits.

        latent_channels, downsampling: of the UNet's autoencoder.
        """
        comparisons = {
            "{} levels": (len(self.unet.down), len(unet.down)),
            "skips of the widths {}": (self.unet.skip_channels, unet.skip_channels),
            "prompts of the width {}": (_context(self.unet) or _context(unet), _context(unet)),
            "{} features of text and sizes": (self.unet.added_inputs, unet.added_inputs),
            "latents of {} channels": (self.unet.in_channels, latent_channels),
            "{} pixels for a latent": (self.downsampling, downsampling),
        }
        for words, (value, other) in comparisons.items():
            if value != other:
                return f"it is for {words.format(_words(value))}, and the model has {_words(other)}"
        return None


def _context(config: UNetConfig) -> int:
    """Returns the width of the prompts that a network attends to, 0 where it attends to none."""
    blocks = (*config.down, *([config.mid] if config.mid else []))
    return max((block.context for block in blocks if any(block.transformers)), default=0)


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
