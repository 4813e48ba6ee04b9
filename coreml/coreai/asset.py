"""Writing .aimodel folders: recorded graphs become the functions of one asset, which stores equal weights once."""

import gc
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np

from mlx_sd.networks.graph import Graph

from ..lowering import operations, primitives
from ..lowering.interfaces import FunctionSpec, Port
from ..lowering.layout import Value
from ..lowering.lower import CAST, NUMPY, Lowering, Rule
from . import composites
from .asset_files import BYTECODE, KEY
from .coreai_core import AIModelAsset, AIModelAssetMetadata, AIProgram, Module, TensorType, graph, make_states, save
from .coreai_core import Value as CoreAIValue
from .emitter import Compress, Emitter, Var, uncompressed

_UPDATED = "_new"  # ends the name of the result that is written back into a state


class Function(NamedTuple):
    """A function to write: its interface, its graph, and the outputs that are states."""

    spec: FunctionSpec
    graph: Graph
    states: Sequence[str] = ()


class Saved(NamedTuple):
    """A saved asset: the SHA-256 of its bytecode, and its bytes."""

    sha256: str
    bytes: int


def write(
    functions: Mapping[str, Function],
    read: Callable[[str], np.ndarray],
    attention: str,
    path: Path,
    compress: Compress = uncompressed,
    description: str = "",
) -> Saved:
    """Lowers recorded graphs of one network and saves them as the functions of the new asset `path`.

    read(name): numbers of a parameter. attention: a name in `attention.ATTENTIONS`; fused stands for the whole layout
    for GPUs: composites, and products of matrices in the place of 1x1 convolutions.
    """
    emitter = Emitter(compress, fused_silu=attention != "split-einsum")
    module = Module.create()
    with module:
        for name, function in functions.items():
            _add(name, function, read, rules(attention), emitter)
    metadata = AIModelAssetMetadata()
    metadata.model_description = description
    metadata.author = "mlx-sd"
    sha256 = save(AIProgram(module), path, metadata)
    del module
    gc.collect()  # its weights go with it
    return Saved(sha256, (path / BYTECODE).stat().st_size)


def rules(attention: str) -> dict[str, Rule]:
    """Returns the rule of each kind of node for a form of attention."""
    if attention == "fused":
        return primitives.RULES | operations.RULES | operations.MATRICES | composites.rules()
    return primitives.RULES | operations.rules(attention)


def write_metadata(path: Path, content: Mapping[str, Any]) -> None:
    """Writes the content of info.json into an asset's creator-defined metadata, under KEY; it has no null."""
    AIModelAsset.load(path).update_metadata(lambda metadata: metadata.set_custom(KEY, _without_nulls(content)))


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nulls(entry) for key, entry in value.items() if entry is not None}
    if isinstance(value, list | tuple):
        return [_without_nulls(entry) for entry in value if entry is not None]
    return value


def _add(
    name: str, function: Function, read: Callable[[str], np.ndarray], table: Mapping[str, Rule], emitter: Emitter
) -> None:
    """Adds one function to the module that is open."""
    spec, states = function.spec, function.states
    written = [port for port in spec.outputs if port.name in states]

    def body(*block: CoreAIValue) -> CoreAIValue | tuple[CoreAIValue, ...]:
        """Emits the function's operations."""
        lowering = Lowering(function.graph, table, emitter, read)
        inputs = [_input(emitter, port, value) for port, value in zip(spec.inputs, block, strict=False)]
        outputs = [
            _output(emitter, lowering, port, value)
            for port, value in zip(spec.outputs, lowering.run(inputs), strict=True)
        ]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    ports = (*spec.inputs, *written)
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    body.__signature__ = inspect.Signature([inspect.Parameter(p.name, kind) for p in ports])  # type: ignore[attr-defined]
    results = tuple(
        _annotation(port, f"{port.name}{_UPDATED}" if port in written else port.name) for port in spec.outputs
    )
    returned = results[0] if len(results) == 1 else tuple[results]  # type: ignore[valid-type]
    body.__annotations__ = {port.name: _annotation(port, port.name) for port in ports} | {"return": returned}
    built = graph(body, provided_name=name)
    if written:
        make_states(built, {port.name: f"{port.name}{_UPDATED}" for port in written})


def _annotation(port: Port, name: str) -> Any:
    return Annotated[CoreAIValue, TensorType(port.stored, NUMPY[port.dtype], name=name)]


def _input(emitter: Emitter, port: Port, value: CoreAIValue) -> Value:
    var = Var(value, port.stored, np.dtype(NUMPY[port.dtype]))
    if port.network_dtype != port.dtype:
        var = emitter.cast(var, CAST[np.dtype(NUMPY[port.network_dtype])])
    return Value(var, port.stored, port.order)


def _output(emitter: Emitter, lowering: Lowering, port: Port, value: Value) -> CoreAIValue:
    var: Var = lowering.stored(value, port.order)
    if port.network_dtype != port.dtype:
        var = emitter.cast(var, CAST[np.dtype(NUMPY[port.dtype])])
    return var.value
