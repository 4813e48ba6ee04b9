"""T-GATE (Zhang et al. 2024): what a prompt does to attention settles early, so it is kept from there on.

Up to the gate every evaluation looks at the prompt; from the gate on what cross-attention gave last is used instead,
and guidance, which compares two prompts, is dropped: one batch in place of two. Before the gate, self-attention may be
kept for some evaluations, too. Like DeepCache's, the policy counts evaluations from 0.
"""

from dataclasses import dataclass

import mlx.core as mx

from ..core.errors import InputError
from ..networks.blocks import Attend
from ..networks.layers import Attention

GATE = "--tgate takes GATE[,SP[,FI[,WARM_UP]]], for example 10 or 10,5,1,2"


@dataclass(frozen=True)
class TGate:
    """The authors' four numbers, in their names: "GATE[,SP[,FI[,WARM_UP]]]" on the command line.

    gate_step: the first evaluation that looks at no prompt. sp_interval: of those before it, from `warm_up` on, only
    multiples of this compute self-attention anew. fi_interval: the same after the gate. 1 is always.
    """

    gate_step: int = 10
    sp_interval: int = 5
    fi_interval: int = 1
    warm_up: int = 2

    def __post_init__(self) -> None:
        for name in ("gate_step", "sp_interval", "fi_interval"):
            if getattr(self, name) < 1:
                raise InputError(f"T-GATE's {name} must be at least 1, not {getattr(self, name)}")
        if self.warm_up < 0:
            raise InputError(f"T-GATE's warm_up must be at least 0, not {self.warm_up}")

    @classmethod
    def parse(cls, text: str) -> "TGate":
        """Reads what `--tgate` takes."""
        try:
            numbers = [int(number) for number in text.split(",")]
        except ValueError:
            raise InputError(f"{GATE}, not {text!r}") from None
        if len(numbers) > 4:
            raise InputError(f"{GATE}, not {text!r}")
        return cls(*numbers)

    def __str__(self) -> str:
        return f"{self.gate_step},{self.sp_interval},{self.fi_interval},{self.warm_up}"

    def check(self, evaluations: int) -> None:
        """InputError where so few evaluations never reach the gate."""
        if self.gate_step >= evaluations:
            raise InputError(
                f"the gate is at evaluation {self.gate_step}, but there are only {evaluations}, from 0 to "
                f"{evaluations - 1}; choose an earlier one, or more steps"
            )

    def anew(self, evaluation: int) -> bool:
        """Whether self-attention is computed there."""
        if evaluation >= self.gate_step:
            return evaluation % self.fi_interval == 0
        return evaluation <= self.warm_up or evaluation % self.sp_interval == 0 or evaluation == self.gate_step - 1


class Gate:
    """What one generation keeps of its attentions. Made fresh for each."""

    def __init__(self, policy: TGate, halves: bool, deepcache: bool):
        """halves: before the gate, a batch is of two halves, whose mean is kept. deepcache: self-attention is not kept,
        as in the authors' combination of the two, for most layers do not run."""
        self._policy, self._halves, self._self = policy, halves, not deepcache
        self._kept: dict[int, mx.array] = {}  # by the layer itself, not by the order of calls: DeepCache skips layers

    def passed(self, evaluation: int) -> bool:
        """Whether guidance is dropped there."""
        return evaluation >= self._policy.gate_step

    def attend(self, evaluation: int) -> Attend:
        """How the UNet's transformers attend at that evaluation; they are to be asked in order."""
        policy, last = self._policy, evaluation == self._policy.gate_step - 1
        anew = not self._self or policy.anew(evaluation)
        keeps = self._self and anew and evaluation >= min(policy.warm_up, policy.gate_step - 1)

        def attended(layer: Attention, x: mx.array, context: mx.array) -> mx.array:
            crosses = context is not x
            if self.passed(evaluation) if crosses else not anew:
                return self._kept[id(layer)]
            y = layer(x, context)
            if last if crosses else keeps:
                self._kept[id(layer)] = _mean(*mx.split(y, 2)) if last and self._halves else y
            return y

        return attended


def _mean(unconditional: mx.array, conditional: mx.array) -> mx.array:
    return (unconditional + conditional) / 2
