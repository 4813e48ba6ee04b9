"""A checkpoint whose pictures are tokens: its network, how tokens are corrupted, and whether its parts fit together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.nn as nn
import numpy as np

from ..core.config_fields import ConfigFields
from ..core.errors import InputError
from ..discrete import schedules
from ..discrete.calls import DNDM_K, MASKGIT, MASKING, NAMES, Call, times_of
from ..discrete.corruption import KINDS, Corruption
from ..networks.clip import TextEncoder
from ..networks.tokens import TokenUNet
from ..networks.vae import Autoencoder

SCHEDULER = "TokenDiffusion"  # the class that scheduler_config.json names
_EARLIEST = 1e-4  # time that a network is told at least: it knows none of 0


@dataclass(frozen=True)
class TokenDiffusion:
    """The network over tokens, and the corruption and the schedule that it was trained with."""

    network: TokenUNet = field(compare=False)
    corruption: Corruption
    schedule: str
    steps: int

    @classmethod
    def of(cls, networks: Mapping[str, nn.Module], scheduler: Mapping[str, Any], where: str) -> "TokenDiffusion | None":
        """Returns the record of a checkpoint's networks and scheduler config; None where its pictures are no tokens.

        InputError names `where` two of its parts do not fit together.
        """
        network, vae = networks.get("unet"), networks.get("vae")
        of_tokens = scheduler.get("_class_name") == SCHEDULER
        if not isinstance(network, TokenUNet):
            if of_tokens:
                raise InputError(f"{where}: its scheduler is of tokens, and its UNet's config has no token_states")
            return None
        if not of_tokens:
            raise InputError(f"{where}: its UNet is of tokens, and its scheduler is no {SCHEDULER}")
        tokens = network.config.out_channels
        if network.config.class_embedding or network.config.guidance_dims or network.config.added_time_dims:
            raise InputError(f"{where}: its UNet is of tokens, and takes more than a time and a text beside them")
        codes = vae.config.codes if isinstance(vae, Autoencoder) else None
        if codes is None:
            raise InputError(f"{where}: its UNet is of tokens, and its autoencoder has no codebook (VQModel)")
        if codes != tokens:
            raise InputError(f"{where}: its UNet scores {tokens} tokens, and its codebook has {codes}")
        encoders = [encoder for encoder in networks.values() if isinstance(encoder, TextEncoder)]
        width, context = sum(encoder.config.width for encoder in encoders), network.config.down[-1].context
        contexts = {block.context for block in network.config.down if block.transformers} or {context}
        if encoders and contexts != {width}:
            expected = " and ".join(map(str, sorted(contexts)))
            raise InputError(f"{where}: its UNet looks at text of width {expected}, and its text encoder's is {width}")
        fields = ConfigFields(scheduler, f"{where}: scheduler")
        corruption = Corruption(fields.only("corruption", *KINDS), tokens)
        schedule, steps = fields.require("schedule"), fields.take("num_train_timesteps", 1000)
        fields.done()
        if corruption.states != network.states:
            raise InputError(
                f"{where}: {corruption.kind} corruption of {tokens} tokens has {corruption.states} states, and the "
                f"UNet's are {network.states}"
            )
        if not isinstance(schedule, str) or not isinstance(steps, int):
            raise InputError(f"{where}: scheduler: schedule is a text, and num_train_timesteps a whole number")
        schedules.alphas(schedule, steps)  # raises what is wrong with the two
        return cls(network, corruption, schedule, steps)

    @property
    def samplers(self) -> tuple[str, ...]:
        """Returns the samplers that go with the corruption: some take tokens that are masked."""
        return tuple(name for name in NAMES if self.corruption.mask is not None or name not in MASKING)

    @property
    def sampler(self) -> str:
        """Returns the sampler that is used where none is given."""
        return MASKGIT if MASKGIT in self.samplers else DNDM_K

    def timed(self, calls: Sequence[Call], share: float = 1.0) -> list[Call]:
        """Returns calls with the times at which the network saw as many changed tokens in its training.

        These are the calls' own where they follow the schedule of the training. share: of a picture's tokens that the
        calls are about; all others are as they will be.
        """
        unchanged = np.array([1 - (1 - call.alpha) * share for call in calls])
        times = np.clip(times_of(self.schedule, np.clip(unchanged, 0, 1)), _EARLIEST, 1)
        return [call._replace(time=float(time)) for call, time in zip(calls, times, strict=True)]
