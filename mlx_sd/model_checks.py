"""What the configs of a request's checkpoint alone tell about a request, before anything large is loaded."""

from . import resolve
from .core.embedded import EMBEDDED
from .networks.configs import vae_config
from .networks.family import Task, task_of
from .networks.unet_config import UNetConfig
from .request import Request
from .tasks import instruction


def check_task(request: Request) -> None:
    """Raises InputError where a request does not fit the task of its checkpoint's UNet."""
    task = None if request.model in EMBEDDED else task_of_checkpoint(request.model)
    instruction.check(request.model, task or Task.GENERATION, request)
    if task is Task.INSTRUCTION and request.init_image is None:
        raise instruction.without_image(request.model)


def task_of_checkpoint(model: str) -> Task | None:
    """Returns the task of a checkpoint's UNet; None where it has no autoencoder. InputError as `resolve.configs`."""
    networks = resolve.configs(model)
    if not networks.get("vae") or not networks.get("unet"):
        return None
    unet = UNetConfig.from_hf(networks["unet"], f"{model}: unet")
    return task_of(unet, vae_config(networks["vae"], f"{model}: vae").latent_channels)
