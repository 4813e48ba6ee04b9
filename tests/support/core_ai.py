"""What tests of Core AI share: functions written with the emitter and run by Apple's runtime."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np

Arrays = Mapping[str, np.ndarray]
Build = Callable[..., Any]  # build(emitter, *variables) -> a variable


def write(functions: Mapping[str, tuple[Arrays, Build]], path: Path, emitter: Any = None) -> None:
    """Writes functions, each with examples of its inputs and what it emits, as an asset; the output is `y`."""
    from coreml.coreai.coreai_core import AIModelAssetMetadata, AIProgram, Module, TensorType, Value, graph, save
    from coreml.coreai.emitter import Emitter, Var

    emitter = emitter or Emitter()
    module = Module.create()
    with module:
        for name, (arrays, build) in functions.items():
            probe: list[Any] = []

            def body(*block, arrays=arrays, build=build, probe=probe):
                inputs = [
                    Var(value, array.shape, array.dtype) for value, array in zip(block, arrays.values(), strict=True)
                ]
                probe.append(build(emitter, *inputs))
                return probe[0].value

            kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
            body.__signature__ = inspect.Signature([inspect.Parameter(n, kind) for n in arrays])
            body.__annotations__ = {
                n: Annotated[Value, TensorType(a.shape, a.dtype.type, name=n)] for n, a in arrays.items()
            } | {"return": Annotated[Value, TensorType(*expected(name, arrays, build, emitter), name="y")]}
            graph(body, provided_name=name)
    save(AIProgram(module), path, AIModelAssetMetadata())


def expected(name: str, arrays: Arrays, build: Build, emitter: Any) -> tuple[tuple[int, ...], Any]:
    """Returns the shape and type that the emitter says a function's result has, from a module that is thrown away."""
    from coreml.coreai.coreai_core import Module, constant
    from coreml.coreai.emitter import Var

    module = Module.create()
    with module:
        variables = [Var(constant(array), array.shape, array.dtype) for array in arrays.values()]
        result = build(emitter, *variables)
    return result.shape, result.dtype.type
