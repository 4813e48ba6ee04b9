"""Running a saved Core ML package where Core ML cannot run, to check what was exported.

    package = Package.load("Unet.mlpackage")
    outputs = package.run({"sample": sample, "timestep": t, "encoder_hidden_states": context})

It shows what the saved operations compute on the saved weights, in float32 or with every half-precision value rounded
as declared. It cannot show how fast a device is, where Core ML places an operation, whether Core ML compiles the
package, nor how sums are rounded inside an operation.
"""

import inspect
import os
from collections import Counter
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from mlx_sd.core.errors import Failure, InputError

from .operations import OPERATIONS
from .program import Constant, Function, Operation, Program, Type, read

Numbers = np.ndarray[Any, Any]
_Value = mx.array | str

_FLOATS = ("fp16", "fp32", "fp64")


class _Step(NamedTuple):
    """An operation, the names of its results, and the values that no later operation needs."""

    operation: Operation
    results: tuple[str, ...]
    last_uses: tuple[str, ...] = ()


class _Plan(NamedTuple):
    """The order in which a function runs: its steps, and by its name the step that computes each constant."""

    function: Function
    steps: tuple[_Step, ...]
    constants: dict[str, _Step]


class Package:
    """A saved ML program that can be run. Constants are read when needed, and stay in memory up to a limit."""

    def __init__(self, path: Path, program: Program, keep: int) -> None:
        """Holds a program that was read from `path`; see `load`."""
        self.path = path
        self._program = program
        self._free_bytes = keep
        self._constants: dict[tuple[str, str, bool], _Value] = {}
        self._plans: dict[str, _Plan] = {}

    @classmethod
    def load(cls, path: str | os.PathLike[str], keep: int = 1 << 30) -> "Package":
        """Opens a .mlpackage without Core ML; up to `keep` bytes of decoded constants stay in memory between runs.

        Raises InputError where it is missing, damaged, incomplete, compiled, or not an ML program.
        """
        return cls(Path(path), read(Path(path)), keep)

    @property
    def functions(self) -> tuple[str, ...]:
        """Returns the names of its functions; a multifunction package has several."""
        return tuple(self._program.functions)

    @property
    def default(self) -> str:
        """Returns the name of the function that runs when none is given."""
        return self._program.default

    @property
    def metadata(self) -> dict[str, str]:
        """Returns the user-defined metadata: key -> text."""
        return dict(self._program.metadata)

    def inputs(self, function: str | None = None) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Returns the shape (-1 where any size is allowed) and type of each input by its name."""
        return {name: (t.shape, t.numpy) for name, t in self._function(function).inputs.items()}

    def outputs(self, function: str | None = None) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Returns the shape and declared type of each output by its name."""
        return {name: (t.shape, t.numpy) for name, t in self._function(function).outputs.items()}

    def states(self, function: str | None = None) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Returns the shape and type of each state by its name."""
        return {name: (t.shape, t.numpy) for name, t in self._function(function).states.items()}

    def operations(self, function: str | None = None) -> Iterator[Operation]:
        """Iterates over every operation in order, constants too."""
        return iter(self._function(function).operations)

    def kinds(self, function: str | None = None) -> Counter[str]:
        """Counts the operations of each kind, without constants."""
        return Counter(o.kind for o in self.operations(function) if o.kind != "const")

    def run(
        self,
        feeds: Mapping[str, Numbers],
        function: str | None = None,
        rounding: bool = False,
        state: MutableMapping[str, Numbers] | None = None,
    ) -> dict[str, Numbers]:
        """Returns the outputs of a function for the inputs `feeds`, computed on the CPU in float32.

        With `rounding`, the result of every operation declared fp16 is rounded to it (too large values become
        infinite) and outputs have their declared types; without, fp16 is ignored. `state` is read and updated; states
        that it lacks are zeros. Raises InputError for inputs that do not fit, and Failure for operations that are
        not interpreted here or whose result differs from its declared type or shape.
        """
        name, f = function or self.default, self._function(function)
        plan = self._plan(name)
        values: dict[str, _Value] = {}
        with mx.stream(mx.cpu):
            for kind, types, arrays in (("input", f.inputs, feeds), ("state", f.states, state or {})):
                for key, array in self._checked(kind, types, arrays).items():
                    values[key] = _declared(mx.array(array), types[key], rounding)
            for step in plan.steps:
                values.update(self._apply(name, step, values, rounding))
                for key in step.last_uses:
                    del values[key]
            if state is not None:
                state.update({key: _numpy(values[key], t, rounding) for key, t in f.states.items()})
            return {key: _numpy(self._value(name, key, values, rounding), t, rounding) for key, t in f.outputs.items()}

    def _function(self, name: str | None) -> Function:
        if name is not None and name not in self._program.functions:
            raise InputError(f"{self.path} has no function {name}; there is {', '.join(self.functions)}")
        return self._program.functions[name or self.default]

    def _checked(self, kind: str, types: Mapping[str, Type], arrays: Mapping[str, Numbers]) -> dict[str, Numbers]:
        """Returns the arrays in their types; InputError for a missing or unexpected name, a shape or a type."""
        missing = [key for key in types if key not in arrays and kind != "state"]
        unexpected = [key for key in arrays if key not in types]
        if missing or unexpected:
            pairs = (("missing", missing), ("unexpected", unexpected))
            wrong = [f"{word} {', '.join(keys)}" for word, keys in pairs if keys]
            raise InputError(f"{self.path}: {kind}s {' and '.join(wrong)}; it takes {', '.join(types) or 'none'}")
        checked = {}
        for key, declared in types.items():
            value = np.asarray(arrays[key] if key in arrays else np.zeros(declared.shape, declared.numpy))
            if not _fits(value.shape, declared.shape):
                raise InputError(f"{self.path}: {kind} {key} has shape {value.shape}; it takes {declared.shape}")
            dtype = np.dtype(np.float32) if declared.dtype in _FLOATS else declared.numpy
            if not np.can_cast(value.dtype, dtype, "same_kind"):
                raise InputError(f"{self.path}: {kind} {key} is {value.dtype}; it takes {declared.dtype}")
            checked[key] = value.astype(dtype)
        return checked

    def _plan(self, name: str) -> _Plan:
        """Returns the plan of a function; Failure names an operation that is not interpreted, before anything runs."""
        if name in self._plans:
            return self._plans[name]
        f = self._program.functions[name]
        for o in f.operations:
            if o.kind not in OPERATIONS:
                raise Failure(f"{self.path}: function {name}: {o.kind} ({o.name}) is not an operation interpreted here")
            try:
                inspect.signature(OPERATIONS[o.kind]).bind(**o.inputs)
            except TypeError as error:
                raise Failure(f"{self.path}: function {name}: {o.kind} ({o.name}): {error}") from None
        constants = {
            output: _Step(o, tuple(o.outputs))
            for o in f.operations
            if o.kind.startswith("const")
            for output in o.outputs
        }
        steps: list[_Step] = []
        needed = {*f.outputs, *f.states, *constants}
        for o in reversed([o for o in f.operations if not o.kind.startswith("const")]):
            results = tuple(o.outputs) or _names(o, "input")  # an operation without outputs writes a state
            last_uses = {*results, *(name for key in o.inputs for name in _names(o, key))} - needed
            needed |= last_uses
            steps.append(_Step(o, results, tuple(last_uses)))
        self._plans[name] = _Plan(f, tuple(reversed(steps)), constants)
        return self._plans[name]

    def _value(self, function: str, name: str, values: Mapping[str, _Value], rounding: bool) -> _Value:
        """Returns a computed value, or a constant, which is computed and kept where there is room."""
        if name in values:
            return values[name]
        step = self._plan(function).constants[name]
        rounds = rounding and step.operation.kind != "const"  # plain constants are in their types as stored
        if (function, name, rounds) not in self._constants:
            results = self._apply(function, step, {}, rounding)
            size = sum(v.nbytes if isinstance(v, mx.array) else len(v) for v in results.values())
            if size > self._free_bytes:
                return results[name]
            self._free_bytes -= size
            self._constants.update({(function, n, rounds): v for n, v in results.items()})
        return self._constants[function, name, rounds]

    def _apply(self, function: str, step: _Step, values: Mapping[str, _Value], rounding: bool) -> dict[str, _Value]:
        """Computes one operation; returns its results by name."""
        o = step.operation

        def argument(a: str | Constant) -> _Value:
            """Returns a value by its name, or reads a constant."""
            if isinstance(a, str):
                return self._value(function, a, values, rounding)
            stored = a.read()
            return stored if isinstance(stored, str) else _declared(mx.array(stored), a.type, rounding)

        arguments: dict[str, Any] = {key: tuple(map(argument, inputs)) for key, inputs in o.inputs.items()}
        for key in arguments.keys() - {"values"}:  # the only parameter that is a tuple in MIL
            (arguments[key],) = arguments[key]
        try:
            computed = OPERATIONS[o.kind](**arguments)
            results = computed if isinstance(computed, tuple) else (computed,)
            types = tuple(o.outputs.values()) or (self._program.functions[function].states[step.results[0]],)
            if len(results) != len(types):
                raise ValueError(f"it has {len(types)} outputs, and computes {len(results)}")
            results = tuple(_declared(r, t, rounding) for r, t in zip(results, types, strict=True))
            mx.eval([r for r in results if isinstance(r, mx.array)])
            for r, t in zip(results, types, strict=True):
                if isinstance(r, mx.array) and not _fits(r.shape, t.shape):
                    raise ValueError(f"it declares the shape {t.shape}, and computes {r.shape}")
        except (ValueError, RuntimeError, IndexError, KeyError) as error:
            raise Failure(f"{self.path}: function {function}: {o.kind} ({o.name}): {error}") from error
        return dict(zip(step.results, results, strict=True))


def _declared(value: Any, declared: Type, rounding: bool) -> Any:
    """Returns a value in its declared type; floating types are kept in float32, rounded to fp16 on request."""
    if isinstance(value, str):
        return value
    if declared.dtype not in _FLOATS:
        return value.astype(getattr(mx, declared.numpy.name if declared.dtype != "bool" else "bool_"))
    value = value.astype(mx.float32)
    return value.astype(mx.float16).astype(mx.float32) if rounding and declared.dtype == "fp16" else value


def _numpy(value: Any, declared: Type, rounding: bool) -> Numbers:
    numbers = np.array(value)
    return numbers.astype(declared.numpy) if rounding and declared.dtype in _FLOATS else numbers


def _names(operation: Operation, key: str) -> tuple[str, ...]:
    return tuple(a for a in operation.inputs[key] if isinstance(a, str))


def _fits(shape: tuple[int, ...], declared: tuple[int, ...]) -> bool:
    return len(shape) == len(declared) and all(d in (-1, n) for n, d in zip(shape, declared, strict=True))
