"""Which packages to write for a model, decided and checked before anything is lowered."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx

from mlx_sd.checkpoint.model import DTYPES
from mlx_sd.checkpoint.model_folder import TEXT
from mlx_sd.core.errors import InputError
from mlx_sd.core.files import Tensor
from mlx_sd.networks.configs import VAEConfig
from mlx_sd.networks.family import Family, family_of, task_of
from mlx_sd.networks.unet_config import UNetConfig

from .compression import schemes
from .control_networks import DEEPCACHE, ControlSource, role
from .coreai.ports import interface
from .lowering.attention import ATTENTIONS
from .lowering.control_functions import ControlFunctions
from .lowering.interfaces import (
    CONTROLLED,
    FunctionSpec,
    UNetFunctions,
    is_xl,
    text_encoder,
    vae_decoder,
    vae_encoder,
)
from .lowering.token_functions import TokenFunctions, token_decoder

FORMATS = ("coreml", "coreai")
UNETS = ("full", "chunks", "halves", "functions")
OS27 = "OS27"  # iOS, macOS, ... 27: the only systems with Core AI
TARGETS = ("iOS16", "iOS17", "iOS18", OS27)
Size = tuple[int, int]  # (width, height) in pixels


@dataclass(frozen=True)
class Options:
    """What to export and in which form; InputError for values that do not exist or contradict each other.

    The defaults are those of Core ML; `defaults` returns those of a format.
    """

    dtype: str = "float16"  # of weights and activations
    attention: str = "split-einsum"  # a name in `attention.ATTENTIONS`
    target: str = "iOS16"  # the oldest system, a name in TARGETS
    compress: str | None = None  # a name in `emitter.COMPRESSIONS`
    unets: tuple[str, ...] = ("full", "chunks")  # names in UNETS
    branch: int = 0  # of DeepCache: 0 keeps all but the outermost level
    sizes: tuple[tuple[int | None, int | None], ...] = ((None, None),)  # (width, height); None: the model's own
    batch: int = 2  # of the UNet: negative prompt and prompt
    split: bool = False  # cut packages above 1 GB
    format: str = "coreml"  # a name in FORMATS
    stateful: bool = False  # of Core AI: a function that writes the deep feature into a state
    control: tuple[str, ...] = ()  # control networks, as --control takes them; with any, the UNet takes residuals

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("format", self.format, FORMATS),
            ("dtype", self.dtype, ("float16", "float32")),
            ("attention", self.attention, tuple(ATTENTIONS)),
            ("target", self.target, TARGETS),
            ("batch", self.batch, (1, 2)),
            *(("unet", name, UNETS) for name in self.unets),
        ):
            if value not in allowed:
                raise InputError(f"{name} is one of {', '.join(map(str, allowed))}, not {value}")
        if self.compress:
            schemes.compressor(self.compress, "unet")  # refuses an unknown name
        if self.format == "coreai":
            self._check_coreai()
        else:
            self._check_coreml()

    def _check_coreai(self) -> None:
        if self.target != OS27:
            raise InputError(
                f"Core AI is of {OS27}, not {self.target}: leave out --target, or export to --format coreml"
            )
        if self.unets not in (("full",), ("functions",)):
            raise InputError(
                f"--unet {','.join(self.unets)} is of Core ML; an .aimodel has one UNet: functions (main, full and "
                "shallow in one file, the default), or full (main alone, without DeepCache)"
            )
        if self.split:
            raise InputError("--split is of Core ML; an .aimodel is one file, which --compress makes smaller")
        if self.stateful and not self.functions:
            raise InputError("--stateful is of DeepCache's functions: add --unet functions, or leave it out")

    def _check_coreml(self) -> None:
        if self.target == OS27:
            raise InputError(f"--target {OS27} is of Core AI: add --format coreai")
        if self.compress:
            from .mil import emitter  # coremltools takes seconds to import

            emitter.weights(self.compress, self.target)  # refuses what the target does not have
        if self.stateful:
            raise InputError("--stateful is of Core AI: add --format coreai, or leave it out")
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


def defaults(format: str) -> Options:
    """Returns what an export to a format, a name in FORMATS, does without options."""
    if format == "coreai":
        return Options(attention="fused", target=OS27, unets=("functions",), format=format)
    return Options()


@dataclass(frozen=True)
class Entry:
    """A function of a package, with the role that it has in an app."""

    role: str  # text_encoder, unet, unet_deep, unet_full, unet_shallow, vae_decoder, ...
    size: Size | None  # of the pictures, None for text
    spec: FunctionSpec
    states: tuple[str, ...] = ()  # outputs that are states of Core AI


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


def plan(
    networks: Mapping[str, Any], options: Options, where: str, controls: Sequence[ControlSource] = ()
) -> list[Item]:
    """Returns the packages to write for a model's networks, in the order in which they are written.

    networks: part -> network. where: the model's name for messages. controls: the networks of `options.control` to
    write beside the UNet. Raises InputError for a model that no app can run, and for a size or a branch that the model
    does not have.
    """
    texts = {part: networks[part].config for part in TEXT if part in networks}
    if not texts:
        raise InputError(f"{where}: packages for apps are for models that take a prompt; this one takes none")
    unet, vae = networks["unet"], networks["vae"].config
    family = _family(unet.config, vae)
    of_tokens = family is Family.TOKENS
    if vae.codes and not of_tokens:
        raise InputError(f"{where}: an autoencoder with a codebook (VQModel) cannot be exported")
    if of_tokens and options.control:
        raise InputError(f"{where}: control networks act on latents, and its pictures are tokens; leave --control out")
    dtype = DTYPES[options.dtype]
    vae_dtype = mx.float32 if is_xl(family) and vae.force_upcast else dtype  # SDXL's VAE overflows float16
    sizes = _sizes(unet.config, vae, options, where)
    if options.branch not in unet.branches:
        raise InputError(f"{where}: there is no branch {options.branch} in this UNet; it has 0 to {unet.branches[-1]}")

    last_text = list(texts.values())[-1]

    def pictures(size: Size) -> _Pictures:
        """Returns the functions that make pictures of a size."""
        width, height = (side // vae.downsampling for side in size)
        functions = (TokenFunctions if of_tokens else UNetFunctions)(
            config=unet.config,
            tokens=last_text.tokens,
            pooled=last_text.projection or 0,
            height=height,
            width=width,
            batch=options.batch,
            dtype=dtype,
            depth=options.branch + 1,
            controlled=bool(options.control),
        )
        decoder = (token_decoder if of_tokens else vae_decoder)(vae, height, width, vae_dtype)
        encoder = None if of_tokens else vae_encoder(vae, height, width, vae_dtype)
        beside = {c.name: ControlFunctions(c.part, c.config, c.mode_number, functions) for c in controls}
        return _Pictures(size, functions, functions.deep_shape(unet), decoder, encoder, beside)

    items = [_package(part, None, text_encoder(part, config, dtype, family)) for part, config in texts.items()]
    write = _assets if options.format == "coreai" else _packages
    items += write([pictures(size) for size in sizes], options)
    return [_with_core_ai_ports(item) for item in items] if options.format == "coreai" else items


@dataclass(frozen=True)
class _Pictures:
    """The functions that make pictures of one size."""

    size: Size
    unet: UNetFunctions
    feature: tuple[int, ...]  # shape of what DeepCache keeps
    decoder: FunctionSpec
    encoder: FunctionSpec | None  # of tokens, nothing
    controls: Mapping[str, ControlFunctions]

    def control_functions(self, name: str) -> dict[str, Entry]:
        """Returns the functions of a control network: the whole, and the two that DeepCache needs."""
        functions = self.controls[name]
        return {
            "main": Entry(role("control", name), self.size, functions.main()),
            "shallow": Entry(role("control_shallow", name), self.size, functions.shallow()),
            "image": Entry(role("control_image", name), self.size, functions.image()),
        }


def _packages(sizes: Sequence[_Pictures], options: Options) -> list[Item]:
    """Returns the packages of Core ML for the UNet and the VAE."""
    items: list[Item] = []
    unets: dict[str, Entry] = {}
    decoders: dict[str, Entry] = {}
    encoders: dict[str, Entry] = {}
    prefix = CONTROLLED if options.control else ""
    for p in sizes:
        tag = f"_{p.size[0]}x{p.size[1]}" if len(sizes) > 1 else ""
        unets[f"full{tag}"] = Entry("unet", p.size, p.unet.full_and_deep(p.feature))
        unets[f"shallow{tag}"] = Entry("unet_shallow", p.size, p.unet.shallow(p.feature))
        decoders[f"decode{tag}"] = Entry("vae_decoder", p.size, p.decoder)
        if p.encoder:
            encoders[f"encode{tag}"] = Entry("vae_encoder", p.size, p.encoder)
        if "full" in options.unets:
            items.append(_package("unet", p.size, p.unet.full()))
        if "chunks" in options.unets:
            items.append(_package("unet_deep", p.size, p.unet.deep(p.feature)))
            items.append(_package("unet_shallow", p.size, p.unet.shallow(p.feature)))
        if "halves" in options.unets:
            item = _package("unet", p.size, p.unet.full())
            pieces = (f"{prefix}UnetChunk1", f"{prefix}UnetChunk2")
            items.append(Item(f"{prefix}UnetHalves", item.functions, pieces))
    if options.functions:
        items.append(Item(f"{prefix}UnetFunctions", unets))
    for name, entries in (("VAEDecoder", decoders), *((("VAEEncoder", encoders),) if encoders else ())):
        items.append(Item(name, entries if len(sizes) > 1 else {"main": next(iter(entries.values()))}))
    return [*items, *_control_packages(sizes, options)]


def _control_packages(sizes: Sequence[_Pictures], options: Options) -> list[Item]:
    """Returns the packages of control networks: the whole, and for a UNet that is cut the two of DeepCache."""
    items: list[Item] = []
    for name, functions in sizes[0].controls.items():
        if options.functions:
            items.append(Item(functions.part, _control_entries(sizes, name, len(sizes) > 1)))
            continue
        entries = sizes[0].control_functions(name)
        items.append(Item(functions.part, {"main": entries["main"]}))
        if "chunks" in options.unets:
            items.append(Item(f"{DEEPCACHE}/{name}Shallow", {"main": entries["shallow"]}))
            items.append(Item(f"{DEEPCACHE}/{name}Image", {"main": entries["image"]}))
    return items


def _control_entries(sizes: Sequence[_Pictures], name: str, tagged: bool) -> dict[str, Entry]:
    """Returns a control network's functions of all sizes; tagged: names of the first size end with it, too."""
    return {
        f"{function}{f'_{p.size[0]}x{p.size[1]}' if tagged or p is not sizes[0] else ''}": entry
        for p in sizes
        for function, entry in p.control_functions(name).items()
    }


def _assets(sizes: Sequence[_Pictures], options: Options) -> list[Item]:
    """Returns the assets of Core AI for the UNet and the VAE: `main` of the first size, main_WxH, ... of the others."""
    names = ("Unet", "VAEDecoder", *(("VAEEncoder",) if sizes[0].encoder else ()))
    assets: dict[str, dict[str, Entry]] = {name: {} for name in names}
    for p in sizes:
        tag = "" if p is sizes[0] else f"_{p.size[0]}x{p.size[1]}"
        assets["Unet"][f"main{tag}"] = Entry("unet", p.size, p.unet.full())
        if options.functions:
            full = p.unet.full_and_deep(p.feature)
            assets["Unet"][f"full{tag}"] = Entry("unet_full", p.size, full)
            assets["Unet"][f"shallow{tag}"] = Entry("unet_shallow", p.size, p.unet.shallow(p.feature))
            if options.stateful:
                assets["Unet"][f"refresh{tag}"] = Entry("unet_refresh", p.size, full, ("deep_feature",))
        assets["VAEDecoder"][f"main{tag}"] = Entry("vae_decoder", p.size, p.decoder)
        if p.encoder:
            assets["VAEEncoder"][f"main{tag}"] = Entry("vae_encoder", p.size, p.encoder)
    for name, functions in sizes[0].controls.items():
        entries = _control_entries(sizes, name, tagged=False)
        cut = options.functions
        assets[functions.part] = {n: e for n, e in entries.items() if cut or e.role == role("control", name)}
    return [Item(name, entries) for name, entries in assets.items()]


def _with_core_ai_ports(item: Item) -> Item:
    functions = {name: replace(entry, spec=interface(entry.spec)) for name, entry in item.functions.items()}
    return replace(item, functions=functions)


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


def weight_bytes(stored: Mapping[str, Tensor], options: Options, only: set[str] | None = None) -> int:
    """Estimates the bytes that a network's weights, or those of the names in `only`, take in a package."""
    numbers = sum(math.prod(tensor.shape) for name, tensor in stored.items() if only is None or name in only)
    bits = schemes.bits_per_number(options.compress) if options.compress else float(options.dtype.removeprefix("float"))
    return int(numbers * bits) // 8
