"""The control networks of a request: checked against the model, loaded beside it, and shown their images."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
from mlx.utils import tree_flatten

from . import metadata, resolve
from .checkpoint.control import MODES, Control
from .checkpoint.model import Model
from .checkpoint.model_folder import (
    CONTROL,
    DIFFERENCES,
    VERSION,
    model_hash,
    network_configs,
    parameter_name,
    read_model_json,
)
from .control_fit import check_family, check_fit, mode_number
from .controller import Branch
from .core.errors import InputError
from .load import beside
from .networks.control import ControlNet
from .networks.control_config import ControlConfig
from .request import Request
from .tasks import control_image, images


def completed(model: Model, request: Request, size: tuple[int, int]) -> tuple[Control, ...]:
    """Returns the control networks of a request with hashes, checked against the model; their weights stay unread.

    size: (width, height) of the picture. InputError for a network of another family, and for an image that is missing,
    unreadable or of another shape.
    """
    if not request.controls:
        if request.guess_mode:
            raise InputError("guess mode is of control networks; give --control too")
        return ()
    check_family(model.name, model.family, model.task)
    if request.only_masked:
        raise InputError("--only-masked paints a part that control images do not show; leave it out with --control")
    if request.denoise_tile and model.packaged_controls is not None:
        raise InputError("packages of control networks see whole images; leave --denoise-tile out with --coreml")
    controls = []
    for control in request.controls:
        if model.packaged_controls is None:
            _, about, config = _open(control.model, model)
            mode_number(control.model, _named_mode(control, config), config)
            network_hash = model_hash(about)
        else:
            network_hash = packaged_network(control, model).hash
        opened = images.read(control.image)
        control_image.check_shape(opened, size, control.model)
        if control.maker == control_image.INPAINT:
            control_image.pixels(opened, control.maker, size, request.mask)
        digest = metadata.digest(control.image) if isinstance(control.image, str) else None
        controls.append(control._replace(model_hash=network_hash, image_hash=digest))
    return tuple(controls)


def size_for(model: Model, request: Request) -> tuple[int | None, int | None]:
    """Returns width and height of a picture without an init image: as requested, else of the first image's shape."""
    if not request.controls or (request.width is not None and request.height is not None):
        return request.width, request.height
    opened = images.read(request.controls[0].image)
    if model.sizes and request.width is None and request.height is None:  # of packages: the nearest in shape
        wide, high = opened.size
        return min(model.sizes, key=lambda size: abs(math.log(size[0] * high / (size[1] * wide))))
    factor = model.vae.config.downsampling
    native = (model.unet.config.sample_size * factor,) * 2
    multiple = factor * model.unet.config.size_multiple
    return control_image.shape_for(opened, native, request.width, request.height, multiple)


def branches(model: Model, request: Request) -> list[Branch]:
    """Returns the networks of a completed request with their embedded images; a scale of 0 is none.

    A network that was loaded beside the model before is not loaded again. Images that a union sees during the same
    steps are one branch.
    """
    present: dict[Any, list[_Image]] = {}
    for i, control in enumerate(request.controls):
        if not control.scale:
            continue
        pixels = _pixels(control, request)
        if model.packaged_controls is not None:  # an export has fixed the mode of a union
            present[i] = [_Image(control, packaged_network(control, model), pixels, 0)]
            continue
        network = load_network(control.model, model)
        mode = mode_number(control.model, _named_mode(control, network.config), network.config)
        place = (control.model, control.start, control.end) if network.config.modes else i
        present.setdefault(place, []).append(_Image(control, network, pixels, mode))
    return [_branch(images) for images in present.values()]


class _Image(NamedTuple):
    """What one entry of --control shows a network."""

    control: Control
    network: ControlNet
    pixels: mx.array
    mode: int


def _branch(images: Sequence[_Image]) -> Branch:
    """Returns a network with the image that it sees, or with the scaled sum of several, which only unions see."""
    first, *others = images
    if not others:
        branch = Branch(first.control, first.network, first.network.embed(first.pixels, first.mode), first.mode)
    else:
        total = sum(i.network.embed(i.pixels, i.mode, i.control.scale) for i in images)
        branch = Branch(first.control._replace(scale=1.0), first.network, total, tuple(i.mode for i in images))
    mx.eval(branch.image)
    return branch


def _pixels(control: Control, request: Request) -> mx.array:
    size = (request.width or 0, request.height or 0)
    return control_image.pixels(control.image, control.maker, size, request.mask)


def size_in_memory(model: Model, controls: Sequence[Control]) -> int:
    """Returns the bytes that the weights of control networks take, each network counted once, loaded or not."""
    if model.packaged_controls is not None:
        return 0
    total = 0
    for name in {control.model for control in controls if control.scale}:
        _, _, config = _open(name, model)
        parameters: Any = tree_flatten(ControlNet(config).parameters())
        total += sum(array.size for _, array in parameters) * model.dtype.size
    return total


def _named_mode(control: Control, config: ControlConfig) -> str | None:
    """The name of a union's mode, which the maker of its image may tell."""
    return (control.mode or control.maker) if config.modes else control.mode


def packaged_network(control: Control, model: Model) -> Any:
    """Returns the network of packages that an entry names: by the package's name, or as the export was told it.

    InputError lists what the packages hold.
    """
    networks = model.packaged_controls or {}
    named = [n for name, n in networks.items() if control.model in (name, n.model) and control.mode in (None, n.mode)]
    if not networks:
        raise InputError("the packages hold no control network; export them with --control, or leave --control out")
    if len(named) != 1:
        names = ", ".join(f"{name} ({n.title})" for name, n in networks.items())
        raise InputError(f"the packages hold no control network {control.model}; --control takes one of {names}")
    (network,) = named
    if network.mode and control.maker in MODES and MODES[control.maker] != MODES[network.mode]:
        raise InputError(f"{control.model} was exported for images of {network.mode}, not {control.maker}")
    return network


def load_network(name: str, model: Model) -> ControlNet:
    """Returns a control network with its weights, loaded beside a model on first use."""
    if name in model.learning_controls:
        learning: ControlNet = model.learning_controls[name]
        return learning
    folder, about, config = _open(name, model)
    differences = about.get(DIFFERENCES)
    network: ControlNet = beside(
        model,
        folder,
        CONTROL,
        lambda: ControlNet(config),
        about["version"],
        lambda: _added_to_base(name, model, differences) if differences else None,
    )
    return network


def _open(name: str, model: Model) -> tuple[Path, Mapping[str, Any], ControlConfig]:
    """The converted folder of a control network, its model.json, and its config for this model."""
    if name in model.learning_controls:
        return Path(name), {"version": VERSION, "source": {}}, model.learning_controls[name].config
    folder = resolve.model_folder(name, variant="fp16" if model.dtype == mx.float16 else None, part=CONTROL)
    about = read_model_json(folder)
    config = ControlConfig.from_hf(network_configs(about)[CONTROL], f"{folder}/model.json: {CONTROL}")
    unet, vae = model.unet.config, model.vae.config
    check_fit(name, model.name, config, unet, config.misfit(unet, vae.latent_channels, vae.downsampling))
    return folder, about, config.completed_by(unet)


def _added_to_base(name: str, model: Model, differences: Sequence[str]) -> Any:
    """Returns the function that adds a parameter of the base UNet to a difference from it.

    The base's weights are those of its folder, as they were converted, without adapters merged while loading.
    """
    folder = model.folder
    about = read_model_json(folder) if folder else {}
    if folder is None or about.get("quantization"):
        raise InputError(f"{name} holds differences from the weights of its UNet, which {model.name} has no longer")
    stored: Any = mx.load(str(folder / "unet.safetensors"))
    base = {parameter_name("unet", parameter, about["version"]): array for parameter, array in stored.items()}

    def change(parameter: str, array: mx.array) -> mx.array:
        """Returns the sum of difference and base in float32; the array itself where it is whole."""
        if parameter not in differences or parameter not in base:
            return array
        total: mx.array = array.astype(mx.float32) + base[parameter].astype(mx.float32)
        return total

    return change
