"""Apple's named composites: a private function whose name and attributes its compilers replace by a fused kernel.

The body of each is what the rule of the same operation in `coreml.lowering` emits: it runs where no compiler knows the
name, as on Linux. Names, inputs and attributes are those of Apple's coreai-torch.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mlx_sd.networks.graph import Node

from ..lowering import attention, operations
from ..lowering.layout import IMAGE, ROWS, Order, Value
from ..lowering.lower import Lowering, Rule
from .coreai_core import Value as CoreAIValue
from .coreai_core import composite_declaration, constant, graph
from .emitter import Var

Attributes = Callable[[Node, Sequence[Value]], Mapping[str, Any]]
_HEADS: Order = (0, 1, 2, 3)


def rules() -> dict[str, Rule]:
    """Returns the rules of the operations that are composites."""
    return {
        "group_norm": _composite("group_norm", operations.group_norm, ("input", "weight", "bias"), IMAGE, _groups),
        "layer_norm": _composite("layer_norm", operations.rows_layer_norm, ("input", "gamma", "beta"), ROWS, _axes),
        "attention": _composite(
            "scaled_dot_product_attention", attention.rows, ("query", "key", "value", "attn_mask"), _HEADS, _window
        ),
    }


def _groups(node: Node, values: Sequence[Value]) -> Mapping[str, Any]:
    channels = values[0].shape[-1]
    return {"num_groups": node.attributes["groups"], "num_channels": channels, "eps": float(node.attributes["eps"])}


def _axes(node: Node, values: Sequence[Value]) -> Mapping[str, Any]:
    return {"axes": [len(values[0].shape) - 1], "eps": float(node.attributes["eps"])}


def _window(node: Node, values: Sequence[Value]) -> Mapping[str, Any]:
    return {"is_causal": False, "window_size": 0, "scale": float(node.attributes["scale"])}


def _composite(name: str, body: Rule, inputs: Sequence[str], order: Order, attributes: Attributes) -> Rule:
    """Returns a rule that emits what `body` emits as a composite of that name.

    inputs: names of the composite's inputs; an operation may have fewer. order: in which its tensors are stored; norms'
    scales and offsets have one axis, and a mask has those of the scores.
    """

    def rule(lowering: Lowering, node: Node, *values: Value) -> Value:
        """Emits a call of a private function, and the function."""
        names = inputs[: len(values)]
        dtype = lowering.dtype_of(lowering.stored(values[0], order))
        arguments = [_argument(lowering, value, order, dtype) for value in values]
        results: list[Value] = []

        def function(*block: CoreAIValue) -> CoreAIValue:
            """Emits the body with the function's own arguments."""
            variables = [
                Value(a.var._replace(value=value), a.sizes, a.order) for a, value in zip(arguments, block, strict=True)
            ]
            results.append(body(lowering, node, *variables))
            var: Var = lowering.stored(results[0], order)
            return var.value

        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        function.__signature__ = inspect.Signature([inspect.Parameter(n, kind) for n in names])  # type: ignore[attr-defined]
        function.__annotations__ = dict.fromkeys((*names, "return"), CoreAIValue)  # no shapes: it is built at the call
        function.__name__ = name
        declaration = composite_declaration(name, names, attributes(node, values))
        call = graph(function, private=True, no_inline=True, composite_decl=declaration)
        (result,) = call(*(argument.var.value for argument in arguments))
        shape = tuple(1 if axis is None else results[0].shape[axis] for axis in order)
        return Value(Var(result, shape, dtype), shape, order)

    return rule


def _argument(lowering: Lowering, value: Value, order: Order, dtype: np.dtype) -> Value:
    """Returns a variable in the composite's storage order, made of a constant or parameter where it is none."""
    shape = value.shape
    if len(shape) == 2 and len(order) == 4:  # the mask of scores
        value = lowering.reshape(value, (1, 1, *shape))
    place = order if len(value.shape) == len(order) else tuple(range(len(value.shape)))
    var = lowering.stored(value, place)
    if isinstance(var, np.ndarray):
        array = np.ascontiguousarray(var.astype(dtype))
        var = Var(constant(array), array.shape, array.dtype)
    return Value(var, tuple(var.shape), place)
