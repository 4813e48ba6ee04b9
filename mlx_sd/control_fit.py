"""Whether a control network fits a model, and the modes of a union: from configs alone, nothing is loaded."""

from collections.abc import Sequence

from . import resolve
from .checkpoint.control import MODES
from .checkpoint.model_folder import CONTROL
from .core.errors import InputError
from .networks.configs import vae_config
from .networks.control_config import ControlConfig
from .networks.family import Family, Task, family_of
from .networks.unet_config import UNetConfig

FAMILIES = (Family.SD1, Family.SD2, Family.SDXL)


def check_pairs(model: str, controls: Sequence[str]) -> None:
    """Raises InputError where a control network does not fit a model; both by their names, and nothing is loaded.

    Configs alone are read, of checkpoints too that are not converted yet.
    """
    if not controls:
        return
    networks = resolve.configs(model)
    unet, vae = networks.get("unet", {}), networks.get("vae", {})
    if not vae or unet.get("_class_name") == "UNet2DModel":
        return  # loading it says the rest
    config = UNetConfig.from_hf(unet, f"{model}: unet")
    if config.token_states is not None:
        check_family(model, Family.TOKENS, Task.GENERATION)
    factor = vae_config(vae, f"{model}: vae").downsampling
    for name in controls:
        control_config = ControlConfig.from_hf(resolve.configs(name, CONTROL)[CONTROL], name)
        misfit = control_config.misfit(config, vae.get("latent_channels", 4), factor)
        check_fit(name, model, control_config, config, misfit)


def check_family(model: str, family: Family, task: Task) -> None:
    """Raises InputError for a model that no control network is for."""
    if family not in FAMILIES or task not in (Task.GENERATION, Task.INPAINTING):
        names = ", ".join(family.value for family in FAMILIES)
        raise InputError(f"control networks are for {names}; {model} is a checkpoint of {family.value}")


def check_fit(name: str, model: str, config: ControlConfig, unet: UNetConfig, misfit: str | None) -> None:
    """Raises InputError for a misfit, by the names of the families where these differ."""
    if misfit is None:
        return
    family = family_of(unet, Task.GENERATION, text=True, classes=False, aesthetic_score=False)
    if config.family is not family:
        raise InputError(
            f"the ControlNet {name} is for {config.family.value}, and {model} is {family.value} ({misfit})"
        )
    raise InputError(f"the ControlNet {name} does not fit {model}: {misfit}")


def mode_number(model: str, mode: str | None, config: ControlConfig) -> int:
    """Returns the number of a union's mode by its name, 0 of networks of one kind.

    model: the network's name for messages. InputError where the network has no such mode.
    """
    if not config.modes:
        if mode:
            raise InputError(f"{model} is for one kind of images and has no modes; leave @{mode} out")
        return 0
    possible = [name for name, number in MODES.items() if number < config.modes]
    if mode not in possible:
        raise InputError(
            f"{model} is a union, whose image shows one of {', '.join(possible)}; say which, as {model}@depth"
        )
    return MODES[mode]
