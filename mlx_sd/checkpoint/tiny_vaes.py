"""The names of tiny autoencoders: which repository of the hub each means, and whose latents they decode."""

from ..core.errors import InputError

REPOSITORIES = {"taesd": "madebyollin/taesd", "taesdxl": "madebyollin/taesdxl"}


def name_for(xl: bool) -> str:
    """Returns the name of the tiny autoencoder for the latents of SDXL, or of SD 1 and 2."""
    return "taesdxl" if xl else "taesd"


def check(name: str, xl: bool) -> None:
    """Raises InputError where a tiny autoencoder, given by name, decodes another family's latents.

    xl: whether the model is SDXL.
    """
    if name in REPOSITORIES and name != name_for(xl):
        model = "this model is SDXL" if xl else "this model is not SDXL"
        raise InputError(f"the latents of {name} are of another family, for {model}; give --vae {name_for(xl)}")
