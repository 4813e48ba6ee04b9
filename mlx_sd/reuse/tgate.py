"""T-GATE (Zhang et al. 2024): the effect of a prompt on attention settles early, so it is reused from a gate on.

Up to the gate every evaluation attends to the prompt. The evaluation before the gate keeps the outputs of all
cross-attention layers, the mean of the two halves where guidance makes two; from the gate on they are used as they are
and guidance is dropped, so that one batch passes the UNet in place of two. Before the gate, the outputs of
self-attention may be reused for some evaluations, too. Evaluations are counted from 0, as DeepCache's policies do.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, overload

import mlx.core as mx

from ..core.errors import InputError
from ..networks.blocks import Attend, apply_attention
from ..networks.layers import Attention
from .feature_cache import FeatureCache
from .policy import CollectRows, PathDecision, Policy, all_rows


@dataclass(frozen=True)
class TGate:
    """Holds the authors' four numbers under their names: GATE[,SP[,FI[,WARM_UP]]] on the command line.

    gate_step: the first evaluation that reuses cross-attention, at least 1.
    sp_interval: before the gate, after evaluation `warm_up`, self-attention is computed at multiples of this number.
    fi_interval: the same from the gate on. 1 computes it at every evaluation.
    warm_up: the last of the first evaluations that all compute self-attention.
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

    def __str__(self) -> str:
        return f"{self.gate_step},{self.sp_interval},{self.fi_interval},{self.warm_up}"

    def check(self, evaluations: int) -> None:
        """Raises InputError if a generation of `evaluations` evaluations ends before the gate."""
        if self.gate_step >= evaluations:
            raise InputError(
                f"the gate is at evaluation {self.gate_step}, but there are only {evaluations}, from 0 to "
                f"{evaluations - 1}; choose an earlier one, or more steps"
            )

    def drops_guidance(self, evaluation: int) -> bool:
        """Tells whether the evaluation is past the gate: cross-attention is reused, and guidance dropped."""
        return evaluation >= self.gate_step

    def computes_self_attention(self, evaluation: int) -> bool:
        """Tells whether the evaluation computes self-attention, and does not reuse its latest outputs."""
        if self.drops_guidance(evaluation):
            return evaluation % self.fi_interval == 0
        return evaluation <= self.warm_up or evaluation % self.sp_interval == 0 or evaluation == self.gate_step - 1


class AttentionCache:
    """Keeps attention outputs during one generation with T-GATE; made fresh for each generation."""

    def __init__(self, tgate: TGate, *, guided: bool, deepcache: bool):
        """Prepares for a generation.

        guided: before the gate a batch has an unconditional and a conditional half, whose mean is kept.
        deepcache: DeepCache runs, too. Self-attention is then never reused, as in the authors' combination of the two,
            because most layers do not run at most evaluations.
        """
        self._tgate, self._guided, self._deepcache = tgate, guided, deepcache
        self._outputs: dict[int, mx.array] = {}  # by layer, not by order of calls, because DeepCache skips layers

    def drops_guidance(self, evaluation: int) -> bool:
        """Tells whether the evaluation is past the gate, as `TGate.drops_guidance`."""
        return self._tgate.drops_guidance(evaluation)

    @property
    def sizes(self) -> list[int]:
        """Returns the bytes of each layer's output that is kept."""
        return [output.nbytes for output in self._outputs.values()]

    def attend(self, evaluation: int, apply: Attend = apply_attention) -> Attend:
        """Returns what the UNet calls for every attention of its transformers; evaluations come in order.

        apply: what computes an attention that is not reused.
        """
        tgate, before_gate = self._tgate, evaluation == self._tgate.gate_step - 1
        computes_self = self._deepcache or tgate.computes_self_attention(evaluation)
        keeps_self = not self._deepcache and computes_self and evaluation >= min(tgate.warm_up, tgate.gate_step - 1)
        if before_gate:
            self._outputs = {}  # nothing that was kept earlier is read any more
        if evaluation >= tgate.gate_step - 1 and tgate.fi_interval == 1:
            keeps_self = False  # it is computed at every evaluation from here on

        def attend(layer: Attention, x: mx.array, context: mx.array) -> mx.array:
            """Returns the layer's output for queries from x and keys from context, computed or reused."""
            cross = context is not x
            if self.drops_guidance(evaluation) if cross else not computes_self:
                return self._outputs[id(layer)]
            output = apply(layer, x, context)
            if before_gate if cross else keeps_self:
                self._outputs[id(layer)] = output
            return output

        return attend

    def end(self, evaluation: int, collect: CollectRows = all_rows) -> None:
        """Ends an evaluation: the last one before the gate keeps the mean of both halves of what was attended to.

        collect: makes an array of this process's rows one of all rows, of which other ranks may have some.
        """
        if self._guided and evaluation == self._tgate.gate_step - 1:
            self._outputs = {layer: _mean_of_halves(collect(output)) for layer, output in self._outputs.items()}


def caches(
    deepcache: Policy | None,
    tgate: TGate | None,
    log_snr: Sequence[float],
    *,
    guided: bool,
    restarts: Collection[int] = (),
    decision: PathDecision | None = None,
) -> tuple[FeatureCache, AttentionCache | None]:
    """Returns the fresh caches of one generation with DeepCache, T-GATE, both or neither.

    With both, the evaluation before the gate runs the whole UNet, so that every layer's attention is kept, and so does
    the gate, where guidance ends and a batch has half its size: no earlier deep features fit.
    log_snr: of every evaluation, restarts and decision, as `FeatureCache` takes them. guided: as `AttentionCache` takes
    it.
    """
    if tgate is None:
        return FeatureCache(deepcache, log_snr, restarts=restarts, decision=decision), None
    gate = tgate.gate_step
    restarts = {gate, *restarts}
    features = FeatureCache(deepcache, log_snr, forced=(gate - 1,), restarts=restarts, decision=decision)
    return features, AttentionCache(tgate, guided=guided, deepcache=deepcache is not None)


@overload
def parse(value: None) -> None:
    """Returns None, which is no T-GATE."""


@overload
def parse(value: int | str | TGate) -> TGate:
    """Returns the TGate that a number or a text stands for, or the TGate itself."""


def parse(value: int | str | TGate | None) -> TGate | None:
    """Reads what `tgate=` and `--tgate` take; raises InputError for anything else.

    value: 10 is TGate(10), "10,5,1,2" are its numbers in order; a TGate and None are returned as they are.
    """
    if value is None or isinstance(value, TGate):
        return value
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise _unreadable(value)
    try:
        numbers = [int(number) for number in str(value).split(",")]
    except ValueError:
        raise _unreadable(value) from None
    if len(numbers) > 4:
        raise _unreadable(value)
    return TGate(*numbers)


def _unreadable(value: Any) -> InputError:
    return InputError(f"--tgate takes GATE[,SP[,FI[,WARM_UP]]], for example 10 or 10,5,1,2, not {value!r}")


def _mean_of_halves(output: mx.array) -> mx.array:
    unconditional, conditional = mx.split(output, 2)
    return (unconditional + conditional) / 2
