"""One network's function -> a saved .mlpackage."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_unflatten

from mlx_sd.checkpoint.model_folder import shapes

from . import operations, primitives
from .graph import Graph, trace
from .layout import Value
from .lower import MIL, NUMPY, Lowering, Weight
from .networks import Port, Spec
from .tools import Function, Program, ct, mb, model, quiet, types

KEY = "mlx_sd"
TARGETS = {"iOS16": ct.target.iOS16, "iOS17": ct.target.iOS17, "iOS18": ct.target.iOS18}


# The graph arrives as it should be, but for what convolutions have taken in.
_PASSES = ["common::dead_code_elimination"]


def record(spec: Spec, network: nn.Module) -> Graph:
    """The graph of a package's function; the network's own weights do not matter and are lost."""
    parameters = {name: mx.zeros(shape, spec.weights) for name, shape in shapes(network).items()}

    def function(*inputs: mx.array, **parameters: mx.array) -> tuple[mx.array, ...]:
        network.update(tree_unflatten(list(parameters.items())))
        return spec.function(network, *inputs)

    return trace(function, [mx.zeros(p.shape, p.inside) for p in spec.inputs], parameters)


def write(
    spec: Spec,
    graph: Graph,
    read: Callable[[str], np.ndarray],
    weight: Weight,
    attention: str,
    target: str,
    path: Path,
) -> dict[str, int]:
    """Lowers a recorded graph and saves it as the package `path`; returns how often it has each operation.

    read(name): a parameter's numbers; weight: see `lower`; attention: a name in operations.ATTENTIONS; target: the
    oldest system it is for, a name in TARGETS.
    """
    program = _lower(spec, graph, read, weight, attention, target)
    with quiet(), redirect_stderr(StringIO()):  # its progress bars, of passes nobody asked about
        made = ct.convert(
            program,
            convert_to="mlprogram",
            compute_precision=ct.precision.FLOAT32,  # no pass that changes types: ours are those of the graph
            minimum_deployment_target=TARGETS[target],
            pass_pipeline=ct.PassPipeline(list(_PASSES), "mlx-sd"),
            package_dir=str(path),
            skip_model_load=True,
        )
    kinds = Counter(op.op_type for op in made._mil_program.functions["main"].operations)
    kinds.pop("const", None)
    return dict(kinds.most_common())


def _lower(
    spec: Spec, graph: Graph, read: Callable[[str], np.ndarray], weight: Weight, attention: str, target: str
) -> Any:
    lowering = Lowering(graph, primitives.OPS | operations.table(attention), read, weight)
    placeholders = {
        port.name: mb.placeholder(shape=port.stored, dtype=types.numpy_type_to_builtin_type(NUMPY[port.dtype]))
        for port in spec.inputs
    }
    program = Program()
    with Function(placeholders, opset_version=TARGETS[target]) as function:
        outputs = lowering.run([_enter(port, function.inputs[port.name]) for port in spec.inputs])
        function.set_outputs([_leave(lowering, port, value) for port, value in zip(spec.outputs, outputs, strict=True)])
        program.add_function("main", function)
    return program


def _enter(port: Port, var: Any) -> Value:
    if port.inside != port.dtype:
        var = mb.cast(x=var, dtype=MIL[np.dtype(NUMPY[port.inside])])
    return Value(var, port.stored, port.order)


def _leave(lowering: Lowering, port: Port, value: Value) -> Any:
    var = lowering.stored(value, port.order)
    if port.inside != port.dtype:
        return mb.cast(x=var, dtype=MIL[np.dtype(NUMPY[port.dtype])], name=port.name)
    return mb.identity(x=var, name=port.name)


def tell(path: Path, what: Mapping[str, Any]) -> None:
    """Writes into a package what it is, under KEY in its metadata."""
    file = path / "Data/com.apple.CoreML/model.mlmodel"
    about = model.Model.FromString(file.read_bytes())
    about.description.metadata.userDefined[KEY] = json.dumps(what)
    file.write_bytes(about.SerializeToString())


def size(path: Path) -> int:
    """Bytes of a package on disk."""
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def join(functions: Mapping[str, Path], path: Path) -> None:
    """Several packages -> one whose functions they are; equal weights are stored once. The first is the default."""
    descriptor = ct.utils.MultiFunctionDescriptor()
    for name, source in functions.items():
        descriptor.add_function(str(source), "main", name)
    descriptor.default_function_name = next(iter(functions))
    with quiet(), redirect_stderr(StringIO()):
        ct.utils.save_multifunction(descriptor, str(path))
