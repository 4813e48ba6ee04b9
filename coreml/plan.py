"""Which packages to write for a model, decided and checked before anything is lowered."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from mlx_sd.checkpoint.model import DTYPES
from mlx_sd.checkpoint.model_folder import TEXT
from mlx_sd.core.errors import InputError
from mlx_sd.networks.configs import VAEConfig
from mlx_sd.networks.family import Family, family_of, task_of
from mlx_sd.networks.unet_config import UNetConfig

from .lowering.attention import ATTENTIONS
from .lowering.interfaces import FunctionSpec, UNetFunctions, is_xl, text_encoder, vae_decoder, vae_encoder
from .mil import emitter
from .mil.package import TARGETS

UNETS = ("full", "chunks", "halves", "functions")
Size = tuple[int, int]  # (width, height) in pixels


@dataclass(frozen=True)
class Options:
    """What to export and in which form; InputError for values that do not exist or contradict each other."""

    dtype: str = "float16"  # of weights and activations
    attention: str = "split-einsum"  # a name in `attention.ATTENTIONS`
    target: str = "iOS16"  # the oldest system, a name in `mil.package.TARGETS`
    compress: str | None = None  # a name in `emitter.COMPRESSIONS`
    unets: tuple[str, ...] = ("full", "chunks")  # names in UNETS
    branch: int = 0  # of DeepCache: 0 keeps all but the outermost level
    sizes: tuple[tuple[int | None, int | None], ...] = ((None, None),)  # (width, height); None: the model's own
    batch: int = 2  # of the UNet: negative prompt and prompt
    split: bool = False  # cut packages above 1 GB

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
        emitter.weights(self.compress, self.target)  # refuses an unknown name
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
        """Returns whether any package has several functions."""
        return "functions" in self.unets


@dataclass(frozen=True)
class Entry:
    """A function of a package, with the role that it has in an app."""

    role: str  # text_encoder, unet, unet_deep, unet_shallow, vae_decoder, ...
    size: Size | None  # of the pictures, None for text
    spec: FunctionSpec


@dataclass(frozen=True)
class Item:
    """A package to write, its functions by name."""

    name: str
    functions: Mapping[str, Entry]
    pieces: tuple[str, ...] = ()  # names of the packages that it is cut into; empty: it stays in one

    @property
    def part(self) -> str:
        """Returns the name of the network that all functions of the package compute."""
        return next(iter(self.functions.values())).spec.part


def plan(networks: Mapping[str, Any], options: Options, where: str) -> list[Item]:
    """Returns the packages to write for a model's networks, in the order in which they are written.

    networks: part -> network. where: the model's name for messages. Raises InputError for a model that no app can run,
    and for a size or a branch that the model does not have.
    """
    texts = {part: networks[part].config for part in TEXT if part in networks}
    if not texts:
        raise InputError(f"{where}: Core ML packages are for models that take a prompt; this one takes none")
    unet, vae = networks["unet"], networks["vae"].config
    if vae.codes:
        raise InputError(f"{where}: Core ML: an autoencoder with a codebook (VQModel) cannot be exported")
    family = _family(unet.config, vae)
    dtype = DTYPES[options.dtype]
    vae_dtype = mx.float32 if is_xl(family) and vae.force_upcast else dtype  # SDXL's VAE overflows float16
    sizes = _sizes(unet.config, vae, options, where)
    if options.branch not in unet.branches:
        raise InputError(f"{where}: there is no branch {options.branch} in this UNet; it has 0 to {unet.branches[-1]}")

    last_text = list(texts.values())[-1]
    items = [_package(part, None, text_encoder(part, config, dtype, family)) for part, config in texts.items()]
    unets: dict[str, Entry] = {}
    decoders: dict[str, Entry] = {}
    encoders: dict[str, Entry] = {}
    for size in sizes:
        width, height = (side // vae.downsampling for side in size)
        tag = f"_{size[0]}x{size[1]}" if len(sizes) > 1 else ""
        functions = UNetFunctions(
            config=unet.config,
            tokens=last_text.tokens,
            pooled=last_text.projection or 0,
            height=height,
            width=width,
            batch=options.batch,
            dtype=dtype,
            depth=options.branch + 1,
        )
        feature = functions.deep_shape(unet)
        unets[f"full{tag}"] = Entry("unet", size, functions.full_and_deep(feature))
        unets[f"shallow{tag}"] = Entry("unet_shallow", size, functions.shallow(feature))
        decoders[f"decode{tag}"] = Entry("vae_decoder", size, vae_decoder(vae, height, width, vae_dtype))
        encoders[f"encode{tag}"] = Entry("vae_encoder", size, vae_encoder(vae, height, width, vae_dtype))
        if "full" in options.unets:
            items.append(_package("unet", size, functions.full()))
        if "chunks" in options.unets:
            items.append(_package("unet_deep", size, functions.deep(feature)))
            items.append(_package("unet_shallow", size, functions.shallow(feature)))
        if "halves" in options.unets:
            item = _package("unet", size, functions.full())
            items.append(Item("UnetHalves", item.functions, ("UnetChunk1", "UnetChunk2")))
    if options.functions:
        items.append(Item("UnetFunctions", unets))
    for name, entries in (("VAEDecoder", decoders), ("VAEEncoder", encoders)):
        items.append(Item(name, entries if len(sizes) > 1 else {"main": next(iter(entries.values()))}))
    return items


def _family(unet: UNetConfig, vae: VAEConfig) -> Family:
    """Returns the family of a model with text encoders; the refiner's packages are those of SDXL."""
    task = task_of(unet, vae.latent_channels)
    return family_of(unet, task, text=True, classes=False, aesthetic_score=False)


def _package(role: str, size: Size | None, spec: FunctionSpec) -> Item:
    return Item(spec.name, {"main": Entry(role, size, spec)})


def _sizes(unet: UNetConfig, vae: VAEConfig, options: Options, where: str) -> tuple[Size, ...]:
    """Returns the sizes of the pictures in pixels, the model's own where none is given."""
    native = unet.sample_size * vae.downsampling
    multiple = vae.downsampling * unet.downsampling
    sizes = tuple((width or native, height or native) for width, height in options.sizes)
    for side in (side for size in sizes for side in size):
        if side < multiple or side % multiple:
            raise InputError(f"{where}: width and height must be multiples of {multiple}, not {side}")
    if len(set(sizes)) < len(sizes):
        raise InputError("a size is given twice")
    return sizes
