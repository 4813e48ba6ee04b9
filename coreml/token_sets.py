"""What info.json says of an export whose pictures are tokens, in the place of latents and their noise schedule."""

from typing import Any

from mlx_sd.checkpoint.token_diffusion import TokenDiffusion
from mlx_sd.core.errors import InputError
from mlx_sd.networks.vae import Autoencoder

KEY = "tokens"  # of info.json, where pictures are tokens

_CACHE = {
    "coreml": "where i % interval == 0 run unet_deep and keep its deep_feature; then, always, run unet_shallow with the"
    " one that is kept. Running unet_deep every time gives what unet gives.",
    "coreai": "where i % interval == 0 run the function full of Unet and keep its deep_feature; else run shallow with"
    " the one that is kept. Running full every time gives what main gives. refresh, where there is one, is full with"
    " deep_feature as a state that it writes in place.",
}


def instructions(format: str, texts: list[str]) -> list[str]:
    """Returns how an app makes a picture; format: a name in `info.FORMATS`; texts: how prompts are encoded."""
    return [
        *texts,
        "Begin with (height / factor, width / factor) tokens, which are all tokens.mask, or, where that is null, each"
        " drawn evenly from the codebook. Both rows of a batch have the same ones.",
        "time, in (0, 1], is that at which as many tokens have changed by tokens.schedule.",
        f"At each call i of the UNet: {_CACHE[format]}",
        "Where the batch is 1, negative and prompt run one after the other: keep a deep_feature for each.",
        "log_probabilities is (batch, codebook, rows, columns). Guide: negative + guidance * (prompt - negative), less"
        " the logarithm of the sum of its exponentials over the codebook; then the sampler decides tokens.",
        "Run vae_decoder on the tokens, of which none is masked any more: a picture in [-1, 1].",
    ]


def describe(diffusion: TokenDiffusion, autoencoder: Autoencoder) -> dict[str, Any]:
    """Returns the content of KEY: the codebook, how tokens are corrupted, and which samplers there are for that."""
    corruption = diffusion.corruption
    return {
        "codebook": corruption.tokens,
        "states": corruption.states,
        "mask": corruption.mask,  # the number of the state, or null
        "corruption": corruption.kind,
        "schedule": diffusion.schedule,
        "steps": diffusion.steps,  # of the training
        "factor": autoencoder.config.downsampling,  # pixels along each side of one token
        "sampler": diffusion.sampler,
        "samplers": list(diffusion.samplers),
    }


def refuse_kit(model: str) -> None:
    """Raises InputError: a kit holds tables of samplers of latents, and the Swift package runs no others."""
    raise InputError(
        f"{model}: its pictures are tokens, which the Swift package and its kit know no sampler of; leave"
        " --kit and --swift out"
    )
