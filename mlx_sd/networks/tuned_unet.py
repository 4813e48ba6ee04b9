"""A UNet that computes as this machine was tuned, and otherwise as it always does."""

from collections.abc import MutableMapping
from typing import Any

import mlx.core as mx

from . import ops
from .blocks import apply_attention
from .tuning import DEFAULT, Coverage, Tuning, using
from .unet import UNet, concatenate

# Arguments of `UNet.__call__` that are arrays and belong to every evaluation of their family.
_INPUTS = ("text_embeds", "time_ids", "class_labels", "timestep_cond")
_PLAIN: dict[str, Any] = {
    "join": concatenate,
    "attend": apply_attention,
    "skip_residuals": None,
    "middle_residual": None,
    "features": None,
}

Compiled = MutableMapping[Any, Any]  # compiled steps, kept between pictures


class TunedUNet:
    """Calls a UNet with a tuning; a call takes what `UNet.__call__` takes, and returns the same.

    coverage: the evaluations that are tuned, those on which the tuning is known to change no bit; None is all.
    compiled: keeps the compiled steps. An evaluation that a recorder sees is not tuned.
    """

    def __init__(self, unet: UNet, tuning: Tuning, coverage: Coverage | None = None, compiled: Compiled | None = None):
        self._unet, self._coverage = unet, coverage
        self._tuning, self._compiled = tuning, {} if compiled is None else compiled

    def __call__(
        self, x: mx.array, t: mx.array, context: mx.array | None = None, **arguments: Any
    ) -> tuple[mx.array, mx.array]:
        """Runs one evaluation; see `UNet.__call__`."""
        if ops.recorded() or not self._covers(x, context, arguments):
            return self._unet(x, t, context, **arguments)
        with using(self._tuning):
            if self._tuning.compile_step and self._compiles(arguments):
                return self._run_compiled(x, t, context, arguments)
            return self._unet(x, t, context, **arguments)

    def _covers(self, x: mx.array, context: mx.array | None, arguments: dict[str, Any]) -> bool:
        """Tells whether an evaluation is one of those on which the tuning was compared with the default."""
        coverage = self._coverage
        if coverage is None:
            return self._tuning != DEFAULT
        tokens = 0 if context is None else context.shape[1]
        shape = Coverage(coverage.rows, x.shape[1], x.shape[2], tokens)
        return x.shape[0] in coverage.rows and shape == coverage and _is_plain(arguments)

    def _compiles(self, arguments: dict[str, Any]) -> bool:
        """Tells whether a step is a function of arrays alone, as mx.compile takes it."""
        beside = any(getattr(layer, "beside", None) is not None for layer in self._unet.modules())
        return not beside and not callable(arguments.get("deep")) and _is_plain(arguments)

    def _run_compiled(
        self, x: mx.array, t: mx.array, context: mx.array | None, arguments: dict[str, Any]
    ) -> tuple[mx.array, mx.array]:
        depth = arguments.get("depth", 1)
        arrays = {"x": x, "t": t, "context": context, "deep": arguments.get("deep")}
        arrays |= {name: arguments.get(name) for name in _INPUTS}
        present = {name: array for name, array in arrays.items() if array is not None}
        key = id(self._unet), self._tuning, depth, tuple(present)
        if (step := self._compiled.get(key)) is None:
            unet = self._unet

            def run(arrays: dict[str, mx.array]) -> tuple[mx.array, mx.array]:
                """Runs the UNet on arrays by their names."""
                return unet(depth=depth, **arrays)  # type: ignore[arg-type]

            # The weights are inputs, so that those that are loaded later count.
            step = self._compiled[key] = mx.compile(run, inputs=[unet.state])
        prediction, deep = step(present)
        return prediction, deep


def _is_plain(arguments: dict[str, Any]) -> bool:
    """Tells whether nothing takes part in an evaluation but the UNet: no FreeU, no T-GATE, no control network."""
    plain = {name: value for name, value in arguments.items() if name not in (*_INPUTS, "deep", "depth")}
    # Empty residuals and features are none.
    return all(name in _PLAIN and (value is _PLAIN[name] or value in ((), {})) for name, value in plain.items())
