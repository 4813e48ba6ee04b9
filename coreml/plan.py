"""Which packages to write for a model, decided and checked before anything is lowered."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from mlx_sd.checkpoint.model import DTYPES
from mlx_sd.checkpoint.model_folder import TEXT
from mlx_sd.core.errors import InputError

from . import compress
from .networks import Spec, UNetPackages, text_encoder, vae_decoder, vae_encoder
from .operations import ATTENTIONS
from .package import TARGETS

UNETS = ("full", "chunks", "halves", "functions")
Size = tuple[int, int]  # (width, height) in pixels


@dataclass(frozen=True)
class Options:
    """What to write, and how; complete and checked against each other."""

    dtype: str = "float16"
    attention: str = "split-einsum"
    target: str = "iOS16"
    compress: str | None = None
    unets: tuple[str, ...] = ("full", "chunks")
    branch: int = 0
    sizes: tuple[tuple[int | None, int | None], ...] = ((None, None),)  # None is the model's own
    batch: int = 2
    split: bool = False

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("dtype", self.dtype, ("float16", "float32")),
            ("attention", self.attention, tuple(ATTENTIONS)),
            ("target", self.target, tuple(TARGETS)),
            ("batch", self.batch, (1, 2)),
            *(("unet", name, UNETS) for name in self.unets),
        ):
            if value not in allowed:
                raise InputError(f"{name} is one of {', '.join(map(str, allowed))}, not {value}")
        if self.compress is not None:
            compress.choose(self.compress, self.target)
        if self.attention == "fused" and self.target != "iOS18":
            raise InputError(f"fused attention needs --target iOS18, not {self.target}")
        if self.functions and self.target != "iOS18":
            raise InputError(f"packages of several functions need --target iOS18, not {self.target}")
        if len(self.sizes) > 1 and self.unets != ("functions",):
            raise InputError("several sizes go into packages of several functions: add --unet functions")
        if "chunks" in self.unets and "halves" in self.unets:
            raise InputError("chunks and halves of the UNet have the same names: give one of them to --unet")
        if self.functions and self.split:
            raise InputError("a package of several functions cannot be split; leave out --split or use --unet chunks")

    @property
    def functions(self) -> bool:
        """Whether any package has several functions."""
        return "functions" in self.unets


@dataclass(frozen=True)
class Entry:
    """A function of a package, and what it is for."""

    role: str  # text_encoder, unet, unet_deep, ...
    size: Size | None  # the pictures it makes, None for text
    spec: Spec


@dataclass(frozen=True)
class Item:
    """A package to be written, its functions by name."""

    name: str
    functions: Mapping[str, Entry]
    pieces: tuple[str, ...] = ()  # names of the packages that it is cut into, none if it stays whole

    @property
    def part(self) -> str:
        """The network that it is made from."""
        return next(iter(self.functions.values())).spec.part


def plan(networks: Mapping[str, Any], options: Options, where: str) -> list[Item]:
    """The packages to write; InputError for a size or a branch that the model does not have."""
    if not any(part in networks for part in TEXT):
        raise InputError(f"{where}: Core ML packages are for models that take a prompt; this one takes none")
    unet, vae = networks["unet"], networks["vae"].config
    if vae.codes:
        raise InputError(f"{where}: Core ML: an autoencoder with a codebook (VQModel) cannot be exported")
    texts = {part: networks[part].config for part in TEXT if part in networks}
    dtype = DTYPES[options.dtype]
    xl = unet.config.added_time_dims is not None
    picture = mx.float32 if xl and vae.force_upcast else dtype  # SDXL's VAE overflows float16
    sizes = _sizes(unet.config, vae, options, where)
    if options.branch not in unet.branches:
        raise InputError(f"{where}: there is no branch {options.branch} in this UNet; it has 0 to {unet.branches[-1]}")

    last = list(texts.values())[-1]
    items = [_one(part, None, text_encoder(part, config, dtype, xl)) for part, config in texts.items()]
    functions: dict[str, Entry] = {}
    decoders: dict[str, Entry] = {}
    encoders: dict[str, Entry] = {}
    for size in sizes:
        width, height = (side // vae.downsampling for side in size)
        tag = f"_{size[0]}x{size[1]}" if len(sizes) > 1 else ""
        made = UNetPackages(
            unet.config, last.tokens, last.projection or 0, height, width, options.batch, dtype, options.branch + 1
        )
        deep = made.deep_shape(unet)
        functions[f"full{tag}"] = Entry("unet", size, made.both(deep))
        functions[f"shallow{tag}"] = Entry("unet_shallow", size, made.shallow(deep))
        decoders[f"decode{tag}"] = Entry("vae_decoder", size, vae_decoder(vae, height, width, picture))
        encoders[f"encode{tag}"] = Entry("vae_encoder", size, vae_encoder(vae, height, width, picture))
        if "full" in options.unets:
            items.append(_one("unet", size, made.full()))
        if "chunks" in options.unets:
            items += [_one("unet_deep", size, made.deep(deep)), _one("unet_shallow", size, made.shallow(deep))]
        if "halves" in options.unets:
            item = _one("unet", size, made.full())
            items.append(Item("UnetHalves", item.functions, ("UnetChunk1", "UnetChunk2")))
    if options.functions:
        items.append(Item("UnetFunctions", functions))
    for name, entries in (("VAEDecoder", decoders), ("VAEEncoder", encoders)):
        items.append(Item(name, entries if len(sizes) > 1 else {"main": next(iter(entries.values()))}))
    return items


def _one(role: str, size: Size | None, spec: Spec) -> Item:
    return Item(spec.name, {"main": Entry(role, size, spec)})


def _sizes(unet: Any, vae: Any, options: Options, where: str) -> tuple[Size, ...]:
    native = unet.sample_size * vae.downsampling
    multiple = vae.downsampling * unet.downsampling
    sizes = tuple((width or native, height or native) for width, height in options.sizes)
    for side in (side for size in sizes for side in size):
        if side < multiple or side % multiple:
            raise InputError(f"{where}: width and height must be multiples of {multiple}, not {side}")
    if len(set(sizes)) < len(sizes):
        raise InputError("a size is given twice")
    return sizes
