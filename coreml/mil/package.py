"""Writing .mlpackage folders: a recorded graph becomes a saved package, several packages become one of functions."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from mlx_sd.networks.graph import Graph

from ..lowering import operations, primitives
from ..lowering.interfaces import FunctionSpec, Port
from ..lowering.layout import Value
from ..lowering.lower import CAST, NUMPY, Lowering
from .coremltools import Function, Program, ct, mb, model_messages, quiet, types
from .emitter import Emitter, Weight

KEY = "mlx_sd"  # of a package's user-defined metadata
TARGETS = {"iOS16": ct.target.iOS16, "iOS17": ct.target.iOS17, "iOS18": ct.target.iOS18}

# The graph arrives optimised; all that is dead are the pads that convolutions have taken in.
_PASSES = ["common::dead_code_elimination"]


def write(
    spec: FunctionSpec,
    graph: Graph,
    read: Callable[[str], np.ndarray],
    weight: Weight,
    attention: str,
    target: str,
    path: Path,
) -> dict[str, int]:
    """Lowers a recorded graph, saves it as the package `path` and returns the count of each kind of operation.

    read(name): numbers of a parameter. weight: see `emitter.weights`. attention: a name in `attention.ATTENTIONS`.
    target: the oldest system that runs the package, a name in TARGETS.
    """
    program = _lower(spec, graph, read, weight, attention, target)
    with quiet(), redirect_stderr(StringIO()):  # hides the progress bars of its passes
        saved = ct.convert(
            program,
            convert_to="mlprogram",
            compute_precision=ct.precision.FLOAT32,  # no pass changes types: they are those of the graph
            minimum_deployment_target=TARGETS[target],
            pass_pipeline=ct.PassPipeline(list(_PASSES), "mlx-sd"),
            package_dir=str(path),
            skip_model_load=True,
        )
    kinds = Counter(op.op_type for op in saved._mil_program.functions["main"].operations)
    kinds.pop("const", None)
    return dict(kinds.most_common())


def _lower(
    spec: FunctionSpec, graph: Graph, read: Callable[[str], np.ndarray], weight: Weight, attention: str, target: str
) -> Any:
    rules = primitives.RULES | operations.rules(attention)
    lowering = Lowering(graph, rules, Emitter(weight), read)
    placeholders = {
        port.name: mb.placeholder(shape=port.stored, dtype=types.numpy_type_to_builtin_type(NUMPY[port.dtype]))
        for port in spec.inputs
    }
    program = Program()
    with Function(placeholders, opset_version=TARGETS[target]) as function:
        outputs = lowering.run([_input(port, function.inputs[port.name]) for port in spec.inputs])
        function.set_outputs(
            [_output(lowering, port, value) for port, value in zip(spec.outputs, outputs, strict=True)]
        )
        program.add_function("main", function)
    return program


def _input(port: Port, var: Any) -> Value:
    if port.network_dtype != port.dtype:
        var = mb.cast(x=var, dtype=CAST[np.dtype(NUMPY[port.network_dtype])])
    return Value(var, port.stored, port.order)


def _output(lowering: Lowering, port: Port, value: Value) -> Any:
    var = lowering.stored(value, port.order)
    if port.network_dtype != port.dtype:
        return mb.cast(x=var, dtype=CAST[np.dtype(NUMPY[port.dtype])], name=port.name)
    return mb.identity(x=var, name=port.name)


def join(functions: Mapping[str, Path], path: Path) -> None:
    """Saves several packages as the functions of one, which stores equal weights once; the first is the default."""
    descriptor = ct.utils.MultiFunctionDescriptor()
    for name, source in functions.items():
        descriptor.add_function(str(source), "main", name)
    descriptor.default_function_name = next(iter(functions))
    with quiet(), redirect_stderr(StringIO()):
        ct.utils.save_multifunction(descriptor, str(path))


def write_metadata(path: Path, metadata: Mapping[str, Any]) -> None:
    """Writes into a saved package what it holds, as JSON under KEY in its user-defined metadata."""
    file = path / "Data/com.apple.CoreML/model.mlmodel"
    specification = model_messages.Model.FromString(file.read_bytes())
    specification.description.metadata.userDefined[KEY] = json.dumps(metadata)
    file.write_bytes(specification.SerializeToString())


def size(path: Path) -> int:
    """Returns the bytes of a package's files on disk."""
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
