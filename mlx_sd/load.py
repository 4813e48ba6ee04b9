"""What `--model` takes -> a model folder -> networks, strictly: every weight is there and has its shape."""

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import platformdirs
from mlx.utils import tree_flatten

from . import blas, quantization
from .classes import ClassEmbedder, Classes
from .clip import TextEncoder
from .config import ClassConfig, TextConfig, VAEConfig
from .errors import InputError
from .files import read_json, tensors
from .lora import Given, Lora
from .lowres import LowRes
from .scheduler import Scheduler
from .tokenizer import Tokenizer
from .unet import UNet
from .unet_config import UNetConfig
from .vae import Autoencoder, Pixels

FORMAT, VERSION = "mlx-sd", 2
_COLOURS = 3  # beside the latents
TINY = Path(__file__).parent / "tiny"
EMBEDDED = {"tiny": TINY, "tiny-classes": TINY.with_name("tiny_classes")}  # what is in the package, by its name
DTYPES = {"float16": mx.float16, "bfloat16": mx.bfloat16, "float32": mx.float32}

TEXT = ("text_encoder", "text_encoder_2")
_SCALES = {"StableDiffusionUpscalePipeline": 0.08333, "LDMSuperResolutionPipeline": 1.0}
PIXELS = ("DDPMPipeline", "DDIMPipeline")  # of diffusers: without an autoencoder


@dataclass(frozen=True)
class Model:
    """A loaded model folder."""

    name: str
    hash: str  # of the source's weights
    dtype: mx.Dtype
    text_encoders: tuple[TextEncoder, ...]  # none in models without a prompt
    tokenizers: tuple[Tokenizer, ...]
    unet: UNet
    vae: Autoencoder
    scheduler: Scheduler
    zeros_for_empty: bool  # SDXL: no negative prompt means zeros, not an encoded empty text
    aesthetics: bool  # SDXL refiner: conditioned on a score where the base has the target size
    sizes: tuple[tuple[int, int], ...] = ()  # (width, height) of the pictures it makes; empty is any
    loras: tuple[dict[str, Any], ...] = ()  # merged while loading: path, sha256 and scale of each
    quantization: str | None = None  # done while loading, as `--quantize` takes it
    folder: Path | None = None  # a model folder, where it comes from one
    low_res: LowRes | None = None  # of upscalers: how the small picture is noised
    classes: Classes | None = None  # those it makes pictures of
    class_embedder: ClassEmbedder | None = None  # what makes a context of them, where the UNet does not look them up

    @property
    def upscales(self) -> bool:
        """Whether the UNet takes a small picture beside the latents."""
        return self.unet.config.in_channels - self.vae.config.latent_channels == _COLOURS


def tokenizers(folder: Path, networks: Mapping[str, Any]) -> tuple[Tokenizer, ...]:
    """A model folder's tokenizers, one for each of its text encoders, which decide how many tokens a chunk has."""
    return tuple(
        Tokenizer.load(folder / part.replace("text_encoder", "tokenizer"), networks[part].config.tokens)
        for part in TEXT
        if part in networks
    )


def build(part: str, config: Mapping[str, Any], where: str) -> nn.Module:
    """The network for a part's Hugging Face config, its weights not yet there."""
    if part == "unet":
        return UNet(UNetConfig.from_hf(config, where))
    if part == "vae":
        return Autoencoder(VAEConfig.from_hf(config, where))
    if part in TEXT:
        return TextEncoder(TextConfig.from_hf(config, where))
    if part == "class_embedder":
        return ClassEmbedder(ClassConfig.from_hf(config, where))
    raise InputError(f"{where}: no network is called {part}")


def absent(configs: Mapping[str, Mapping[str, Any]], pipeline: Mapping[str, Any]) -> str | None:
    """The network that a model with these lacks, if any."""
    if "unet" not in configs:
        return "unet"
    if "vae" not in configs and pipeline.get("_class_name") not in PIXELS:
        return "vae"
    prompted = configs["unet"].get("_class_name") != "UNet2DModel"
    return "text_encoder" if prompted and not configs.keys() & {*TEXT, "class_embedder"} else None


def shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """A network's parameters by name."""
    flat: Any = tree_flatten(network.parameters())
    return {name: tuple(array.shape) for name, array in flat}


def default_dtype() -> mx.Dtype:
    """float16 on a GPU, float32 on the CPU, where half precision is slower."""
    return mx.float32 if mx.default_device() == mx.cpu else mx.float16


def load(
    model: str | os.PathLike[str] = "tiny",
    dtype: str | mx.Dtype | None = None,
    loras: Sequence[Given] = (),
    quantize: str | None = None,
) -> Model:
    """Loads "tiny", a model folder, a diffusers folder, a single file or a hub id; the cache keeps what it converts.

    loras: paths, or pairs of path and scale, merged in memory in float32. quantize: what `--quantize` takes, done in
    memory after that; a folder that was converted with it takes neither.
    """
    if isinstance(dtype, str):
        if dtype not in DTYPES:
            raise InputError(f"unknown dtype {dtype!r}; there are {', '.join(DTYPES)}")
        dtype = DTYPES[dtype]
    dtype = dtype or default_dtype()
    if mx.default_device() == mx.cpu and (problem := blas.problem()):
        warnings.warn(problem, stacklevel=3)
    if quantize:
        quantization.parse(quantize)
    adapters = _adapters(loras)
    folder = converted(os.fspath(model), variant="fp16" if dtype == mx.float16 else None)
    about = read_about(folder)
    if missing := absent(about["networks"], about["pipeline"]):
        raise InputError(f"{folder}/model.json lists no {missing}; convert the checkpoint again")
    configs = network_configs(about)
    built = {part: build(part, config, f"{folder}/model.json: {part}") for part, config in configs.items()}
    stored = quantization.stored(about["quantization"], f"{folder}/model.json")
    if stored and (adapters or quantize):
        why = "an adapter vanishes in it when it is merged" if adapters else "that is not done twice"
        raise InputError(f"{os.fspath(model)} is quantized, and {why}; convert its source again with both")
    wanted = quantization.chosen(quantize, built)
    merge = _merge(adapters, built)
    networks: dict[str, Any] = built
    for part, network in built.items():
        if part in stored:
            quantization.prepare(network, stored[part])
        _fill(network, folder, part, dtype, merge and partial(merge, part))
        if part in wanted:
            quantization.convert(network, wanted[part])
    texts = [part for part in TEXT if part in networks]
    unet, embedder = networks["unet"], networks.get("class_embedder")
    config = unet.config
    return Model(
        name=os.fspath(model),
        hash=model_hash(about),
        dtype=dtype,
        text_encoders=tuple(networks[part] for part in texts),
        tokenizers=tokenizers(folder, networks),
        unet=unet,
        vae=networks.get("vae") or Pixels(config.out_channels, config.sample_size),
        scheduler=Scheduler.from_hf(
            scheduler_config(about),
            f"{folder}/model.json: scheduler",
            xl=config.added_time_dims is not None,
        ),
        zeros_for_empty=bool(about["pipeline"].get("force_zeros_for_empty_prompt", False)),
        aesthetics=bool(about["pipeline"].get("requires_aesthetics_score", False)),
        loras=tuple(merge.records if merge else ()),
        quantization=quantize,
        folder=folder,
        low_res=LowRes.of(about, f"{folder}/model.json"),
        classes=Classes.of(config, embedder and embedder.config, about["pipeline"], f"{folder}/model.json"),
        class_embedder=embedder,
    )


def converted(model: str, variant: str | None = None) -> Path:
    """The model folder of what `--model` takes, converted into the cache on first use.

    The cache is the system's for users, or MLX_SD_CACHE. A source that has changed is converted anew.
    """
    folder = EMBEDDED.get(model) or Path(model)
    if (folder / "model.json").is_file():
        return folder
    from convert import checkpoint, source, write  # convert builds on this package

    found = source.read(model, checkpoint.Choices(variant=variant))
    out = _cache() / f"{found.folder.resolve().name}-{_fingerprint(found.folder)}"
    if not (out / "model.json").is_file():
        if found.guess:
            warnings.warn(found.guess, stacklevel=4)
        try:
            write.write(found, out, {"model": model})
        except InputError:
            if not (out / "model.json").is_file():  # else another process was first
                raise
    return out


def _fill(
    network: nn.Module, folder: Path, part: str, dtype: mx.Dtype, change: Callable[[str, mx.array], mx.array] | None
) -> None:
    file = folder / f"{part}.safetensors"
    have = {t.name: t.shape for t in tensors(file)}
    wanted = shapes(network)
    if have != wanted:
        wrong = sorted(name for name in have.keys() | wanted.keys() if have.get(name) != wanted.get(name))
        raise InputError(f"{file} does not fit model.json ({', '.join(wrong[:8])}); remove {folder} and convert again")
    if part == "vae" and network.config.force_upcast and dtype == mx.float16:
        dtype = mx.float32  # this VAE's activations overflow float16
    weights: Any = mx.load(str(file))
    if change:
        for name, array in weights.items():
            weights[name] = change(name, array).astype(dtype)
            mx.eval(weights[name])  # one weight's float32 at a time
    network.load_weights([(name, _cast(array, dtype)) for name, array in weights.items()])
    mx.eval(network.parameters())


def _cast(array: mx.array, dtype: mx.Dtype) -> mx.array:
    return array if array.dtype == mx.uint32 else array.astype(dtype)  # codes are no numbers


def _adapters(loras: Sequence[Given]) -> list[Any]:
    """Opened by convert, which builds on this package."""
    if not loras:
        return []
    from convert import lora

    return lora.read(Lora.of(given) for given in loras)


def _merge(adapters: list[Any], networks: Mapping[str, nn.Module]) -> Any:
    """convert's plan of what adapters do to parameters, or None without adapters."""
    if not adapters:
        return None
    from convert import lora

    return lora.plan(adapters, networks)


def read_about(folder: Path) -> dict[str, Any]:
    """What a model folder says of itself in model.json; InputError where this version cannot read it."""
    about = read_json(folder / "model.json")
    if about.get("format") != FORMAT:
        raise InputError(f"{folder}/model.json is not of the format {FORMAT}; convert the checkpoint again")
    if about.get("version") == 1:  # knew no hashes of its own files
        about |= {"version": 2, "files": {}}
    if about.get("version") != VERSION:
        raise InputError(
            f"{folder}/model.json is of version {about.get('version')}, this mlx-sd reads 1 to {VERSION}; "
            "convert the checkpoint again"
        )
    return about


def network_configs(about: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The networks' configs as the checkpoint's pipeline uses them: two scale latents as they do, whatever is said."""
    scale = _SCALES.get(str(about["pipeline"].get("_class_name")))
    configs = dict(about["networks"])
    return configs if scale is None else configs | {"vae": configs["vae"] | {"scaling_factor": scale}}


def scheduler_config(about: Mapping[str, Any]) -> dict[str, Any]:
    """The scheduler's config as the checkpoint's pipeline uses it."""
    name = str(about["pipeline"].get("_class_name", ""))
    if name.startswith("StableDiffusion") and not name.startswith(("StableDiffusionXL", "StableDiffusionUpscale")):
        # Old configs leave these out or have them wrong; diffusers' pipelines mend them in the same way.
        return {**about["scheduler"], "steps_offset": 1, "clip_sample": False}
    return dict(about["scheduler"])


def _cache() -> Path:
    return Path(os.environ.get("MLX_SD_CACHE") or platformdirs.user_cache_dir("mlx-sd"))


def _fingerprint(folder: Path) -> str:
    # Enough to notice a changed checkpoint without reading it.
    files = sorted(folder.rglob("*")) if folder.is_dir() else [folder]
    stats = [(str(p.relative_to(folder)), p.stat()) for p in files if p.is_file()]
    seen = [VERSION, str(folder.resolve()), [(name, s.st_size, s.st_mtime_ns) for name, s in stats]]
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()[:12]


def model_hash(about: Mapping[str, Any]) -> str:
    """A few digits that tell one model's weights from another's: the source's, what was merged, how it is stored."""
    seen: list[Any] = sorted(about["source"].get("sha256", {}).items())
    seen += [[lora["sha256"], lora["scale"], *lora.get("blocks", [])] for lora in about.get("loras", [])]
    seen += [about["quantization"]] if about.get("quantization") else []
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()[:12]
