"""Runs a saved Core ML package where Core ML cannot run, to check what was exported.

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
    """An operation, the names its results go by, and the values that nothing needs after it."""

    operation: Operation
    results: tuple[str, ...]
    done: tuple[str, ...] = ()


class _Plan(NamedTuple):
    """How a function is run: its steps, and what makes the constants, by the name of each of their results."""

    function: Function
    steps: tuple[_Step, ...]
    constants: dict[str, _Step]


class Package:
    """A saved ML program and the means to run it. Constants are read when needed; `keep` bytes of them are kept."""

    def __init__(self, path: Path, program: Program, keep: int) -> None:
        self.path = path
        self._program = program
        self._room = keep
        self._kept: dict[tuple[str, str, bool], _Value] = {}
        self._plans: dict[str, _Plan] = {}

    @classmethod
    def load(cls, path: str | os.PathLike[str], keep: int = 1 << 30) -> "Package":
        """Opens a .mlpackage without Core ML; up to `keep` bytes of decoded constants stay in memory between runs.

        Raises InputError where it is missing, damaged, cut short, compiled, or not an ML program.
        """
        return cls(Path(path), read(Path(path)), keep)

    @property
    def functions(self) -> tuple[str, ...]:
        """The names of its functions; several in a multifunction package."""
        return tuple(self._program.functions)

    @property
    def default(self) -> str:
        """The function that runs when none is named."""
        return self._program.default

    @property
    def metadata(self) -> dict[str, str]:
        """The user-defined metadata."""
        return dict(self._program.metadata)

    def inputs(self, function: str | None = None) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Name -> shape (-1 where any size goes) and type of each input."""
        return {name: (t.shape, t.numpy) for name, t in self._function(function).inputs.items()}

    def outputs(self, function: str | None = None) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Name -> shape and declared type of each output."""
        return {name: (t.shape, t.numpy) for name, t in self._function(function).outputs.items()}

    def states(self, function: str | None = None) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Name -> shape and type of each state."""
        return {name: (t.shape, t.numpy) for name, t in self._function(function).states.items()}

    def operations(self, function: str | None = None) -> Iterator[Operation]:
        """Every operation in order, constants too: kind, name, names of the inputs, declared types of the outputs."""
        return iter(self._function(function).operations)

    def kinds(self, function: str | None = None) -> Counter[str]:
        """How many operations there are of each kind, constants left out."""
        return Counter(o.kind for o in self.operations(function) if o.kind != "const")

    def run(
        self,
        feeds: Mapping[str, Numbers],
        function: str | None = None,
        rounding: bool = False,
        state: MutableMapping[str, Numbers] | None = None,
    ) -> dict[str, Numbers]:
        """The outputs of a function for these inputs, computed on the CPU in float32.

        With `rounding`, the result of every operation declared fp16 is rounded to it (what is too large becomes
        infinite) and outputs have their declared types; without, fp16 is ignored. `state` is read, zeros standing for
        what it lacks, and updated. Raises InputError for inputs that do not fit, and Failure for operations that are
        not known or that compute something else than they declare.
        """
        name, f = function or self.default, self._function(function)
        plan = self._plan(name)
        values: dict[str, _Value] = {}
        with mx.stream(mx.cpu):
            for kind, types, given in (("input", f.inputs, feeds), ("state", f.states, state or {})):
                for key, fed in self._checked(kind, types, given).items():
                    values[key] = _declared(mx.array(fed), types[key], rounding)
            for step in plan.steps:
                values.update(self._apply(name, step, values, rounding))
                for key in step.done:
                    del values[key]
            if state is not None:
                state.update({key: _numpy(values[key], t, rounding) for key, t in f.states.items()})
            return {key: _numpy(self._value(name, key, values, rounding), t, rounding) for key, t in f.outputs.items()}

    def _function(self, name: str | None) -> Function:
        if name is not None and name not in self._program.functions:
            raise InputError(f"{self.path} has no function {name}; there is {', '.join(self.functions)}")
        return self._program.functions[name or self.default]

    def _checked(self, kind: str, types: Mapping[str, Type], given: Mapping[str, Numbers]) -> dict[str, Numbers]:
        # What was given, by every name that is expected and by no other, in the right types and shapes.
        missing = [key for key in types if key not in given and kind != "state"]
        extra = [key for key in given if key not in types]
        if missing or extra:
            wrong = [
                f"{word} {', '.join(keys)}" for word, keys in (("missing", missing), ("unexpected", extra)) if keys
            ]
            raise InputError(f"{self.path}: {kind}s {' and '.join(wrong)}; it takes {', '.join(types) or 'none'}")
        checked = {}
        for key, declared in types.items():
            value = np.asarray(given[key] if key in given else np.zeros(declared.shape, declared.numpy))
            if not _fits(value.shape, declared.shape):
                raise InputError(f"{self.path}: {kind} {key} has shape {value.shape}; it takes {declared.shape}")
            wanted = np.dtype(np.float32) if declared.dtype in _FLOATS else declared.numpy
            if not np.can_cast(value.dtype, wanted, "same_kind"):
                raise InputError(f"{self.path}: {kind} {key} is {value.dtype}; it takes {declared.dtype}")
            checked[key] = value.astype(wanted)
        return checked

    def _plan(self, name: str) -> _Plan:
        # Made once, every operation checked to be known before anything is computed.
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
        made = [o for o in f.operations if o.kind.startswith("const")]
        constants = {output: _Step(o, tuple(o.outputs)) for o in made for output in o.outputs}
        steps: list[_Step] = []
        needed = {*f.outputs, *f.states, *constants}
        for o in reversed([o for o in f.operations if not o.kind.startswith("const")]):
            results = tuple(o.outputs) or _names(o, "input")  # what has no output writes a state
            done = {*results, *(name for key in o.inputs for name in _names(o, key))} - needed
            needed |= done
            steps.append(_Step(o, results, tuple(done)))
        self._plans[name] = _Plan(f, tuple(reversed(steps)), constants)
        return self._plans[name]

    def _value(self, function: str, name: str, values: Mapping[str, _Value], rounding: bool) -> _Value:
        if name in values:
            return values[name]
        step = self._plan(function).constants[name]
        exact = step.operation.kind == "const"  # as stored, rounding or not
        if (function, name, rounding and not exact) not in self._kept:
            made = self._apply(function, step, {}, rounding)
            size = sum(v.nbytes if isinstance(v, mx.array) else len(v) for v in made.values())
            if size > self._room:
                return made[name]
            self._room -= size
            self._kept.update({(function, n, rounding and not exact): v for n, v in made.items()})
        return self._kept[function, name, rounding and not exact]

    def _apply(self, function: str, step: _Step, values: Mapping[str, _Value], rounding: bool) -> dict[str, _Value]:
        o = step.operation

        def argument(a: str | Constant) -> _Value:
            if isinstance(a, str):
                return self._value(function, a, values, rounding)
            stored = a.read()
            return stored if isinstance(stored, str) else _declared(mx.array(stored), a.type, rounding)

        arguments: dict[str, Any] = {key: tuple(map(argument, given)) for key, given in o.inputs.items()}
        for key in arguments.keys() - {"values"}:  # the one that MIL takes several of
            (arguments[key],) = arguments[key]
        try:
            made = OPERATIONS[o.kind](**arguments)
            results = made if isinstance(made, tuple) else (made,)
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
    # In the declared type, floating ones held in float32 and rounded on request.
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
