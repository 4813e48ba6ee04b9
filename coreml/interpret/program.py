"""A saved ML program, checked as it is read: its functions, their operations, and constants that stay in the file."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError

from mlx_sd.core.errors import InputError
from mlx_sd.core.files import read_json

from ..mil.coremltools import mil_messages, model_messages

# MIL's name of a type -> how numpy holds one element, bits in a file, and the type's number in a weight file
_DTYPES: dict[str, tuple[type, int, int | None]] = {
    "fp16": (np.float16, 16, 1),
    "fp32": (np.float32, 32, 2),
    "fp64": (np.float64, 64, None),
    "bool": (np.bool_, 8, None),
    "int4": (np.int8, 4, 8),
    "int8": (np.int8, 8, 4),
    "int16": (np.int16, 16, 6),
    "int32": (np.int32, 32, 14),
    "int64": (np.int64, 64, None),
    "uint1": (np.uint8, 1, 9),
    "uint2": (np.uint8, 2, 10),
    "uint3": (np.uint8, 3, 12),
    "uint4": (np.uint8, 4, 11),
    "uint6": (np.uint8, 6, 13),
    "uint8": (np.uint8, 8, 3),
    "uint16": (np.uint16, 16, 7),
    "uint32": (np.uint32, 32, 15),
    "uint64": (np.uint64, 64, None),
    "string": (np.str_, 8, None),
}
_SHORT = {"float": "fp"}  # the specification's FLOAT16 is fp16 everywhere else

# A weight file: a header, then blobs, each behind 64 bytes that begin with these.
_HEADER = np.dtype([("count", "<u4"), ("version", "<u4")])
_BLOB = np.dtype([("sentinel", "<u4"), ("dtype", "<u4"), ("size", "<u8"), ("start", "<u8"), ("padding_bits", "<u8")])
_RECORD = 64
_SENTINEL = 0xDEADBEEF


class Type(NamedTuple):
    """The declared type of a value; -1 in the shape stands for a size that is known only at run time."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def numpy(self) -> np.dtype[Any]:
        """Returns the numpy type of its elements; types of less than a byte take one byte."""
        return np.dtype(_DTYPES[self.dtype][0])


@dataclass(frozen=True)
class Constant:
    """A value written in the program, or mapped from a weight file."""

    type: Type
    stored: "np.ndarray[Any, Any] | str"  # the bytes of a file, mapped, or the value itself
    packed: bool

    def read(self) -> "np.ndarray[Any, Any] | str":
        """Reads the numbers now, one array element each, or returns the string."""
        if isinstance(self.stored, str) or not self.packed:
            return self.stored
        return unpack(self.stored, self.type.dtype, self.type.shape)


@dataclass(frozen=True)
class Operation:
    """One operation; each input is names of values or constants, several where MIL takes a tuple."""

    kind: str
    name: str
    inputs: dict[str, tuple[str | Constant, ...]]
    outputs: dict[str, Type]


@dataclass(frozen=True)
class Function:
    """One function of a program: its ports by name, and its operations in order."""

    inputs: dict[str, Type]
    states: dict[str, Type]
    outputs: dict[str, Type]
    operations: tuple[Operation, ...]


@dataclass(frozen=True)
class Program:
    """The functions of a package, the one that runs by default, and the user's metadata."""

    functions: dict[str, Function]
    default: str
    metadata: dict[str, str]


def read(package: Path) -> Program:
    """Reads a .mlpackage; InputError where it is missing, damaged, incomplete, or not an ML program."""
    file = _model(package)
    spec = model_messages.Model()
    try:
        spec.ParseFromString(file.read_bytes())
    except DecodeError:
        raise InputError(f"{file} is damaged or incomplete: it is not a Core ML specification") from None
    kind = spec.WhichOneof("Type")
    if kind != "mlProgram":
        raise InputError(f"{package} is not an ML program but {kind or 'empty'}; only ML programs are interpreted")
    reader = _Reader(file.parent)
    functions = {name: reader.function(name, f) for name, f in spec.mlProgram.functions.items()}
    default = spec.description.defaultFunctionName or "main"
    if default not in functions:
        raise InputError(f"{file}: no function {default}, though it is the default; there is {', '.join(functions)}")
    return Program(functions, default, dict(spec.description.metadata.userDefined))


def unpack(stored: "np.ndarray[Any, Any]", dtype: str, shape: tuple[int, ...]) -> "np.ndarray[Any, Any]":
    """Converts bytes into elements; those of less than a byte lie one after the other, lowest bits first."""
    element, bits, _ = _DTYPES[dtype]
    if bits >= 8:
        return stored.view(element).reshape(shape)
    count = int(np.prod(shape))
    digits = np.unpackbits(stored, count=count * bits, bitorder="little").reshape(count, bits)
    values = np.packbits(digits, axis=1, bitorder="little").reshape(shape)
    if np.dtype(element).kind == "i":  # the sign bit is the highest of the few
        sign = 1 << (bits - 1)
        return ((values ^ sign).astype(np.int16) - sign).astype(element)
    return values


def _model(package: Path) -> Path:
    """Returns the path of the specification, which the manifest names."""
    if not package.exists():
        raise InputError(f"{package} does not exist")
    if not package.is_dir():
        raise InputError(f"{package} is a file; ML programs are saved as .mlpackage folders")
    manifest = package / "Manifest.json"
    if not manifest.is_file():
        if (package / "coremldata.bin").is_file() or package.suffix == ".mlmodelc":
            raise InputError(f"{package} is compiled; give the .mlpackage that it was compiled from")
        raise InputError(f"{manifest} is missing, so {package.name} is not an .mlpackage")
    about = read_json(manifest)
    entries, root = about.get("itemInfoEntries"), about.get("rootModelIdentifier")
    entry = entries.get(root) if isinstance(entries, dict) else None
    path = entry.get("path") if isinstance(entry, dict) else None
    if not isinstance(path, str):
        raise InputError(f"{manifest} names no model")
    return _inside(package / "Data", path, manifest)


def _inside(folder: Path, path: str, source: Path) -> Path:
    """Returns the path of a file that `source` names; InputError where it leads out of the package or is missing."""
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts:
        raise InputError(f"{source} names {path!r}, which is not in the package")
    if not (folder / parts).is_file():
        raise InputError(f"{folder / parts} is missing, though {source.name} names it")
    return folder / parts


class _Reader:
    """Converts the specification's messages into the classes above, and maps the weight files that they point into."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, np.memmap[Any, np.dtype[np.uint8]]] = {}

    def function(self, name: str, spec: Any) -> Function:
        """Converts a function; InputError where a value is used before it is computed."""
        block = spec.block_specializations.get(spec.opset)
        if block is None:
            raise InputError(f"{self.folder}: function {name} has no program for its opset {spec.opset!r}")
        types = {value.name: value.type for value in spec.inputs}
        tensors = {n: self.type(t) for n, t in types.items() if t.WhichOneof("type") != "stateType"}
        states = {
            n: self.type(t.stateType.wrappedType) for n, t in types.items() if t.WhichOneof("type") == "stateType"
        }
        values, operations = {**tensors, **states}, []
        for operation in map(self.operation, block.operations):
            missing = [a for a in _names(operation) if a not in values]
            if missing:
                raise InputError(
                    f"{self.folder}: {operation.kind} {operation.name} takes {missing[0]}, which nothing computes"
                )
            values.update(operation.outputs)
            operations.append(operation)
        missing = [output for output in block.outputs if output not in values]
        if missing:
            raise InputError(f"{self.folder}: function {name} returns {missing[0]}, which nothing computes")
        return Function(tensors, states, {output: values[output] for output in block.outputs}, tuple(operations))

    def operation(self, spec: Any) -> Operation:
        """Converts an operation with its constants."""
        inputs: dict[str, tuple[str | Constant, ...]] = {
            key: tuple(
                argument.name if argument.WhichOneof("binding") == "name" else self.constant(argument.value)
                for argument in arguments.arguments
            )
            for key, arguments in spec.inputs.items()
        }
        for key, value in spec.attributes.items():  # of constants, and before iOS 18 of compressed ones
            if key != "name":
                inputs[key] = (self.constant(value),)
        outputs = {output.name: self.type(output.type) for output in spec.outputs}
        name = spec.attributes["name"].immediateValue.tensor.strings.values if "name" in spec.attributes else ()
        return Operation(spec.type, name[0] if name else next(iter(outputs), ""), inputs, outputs)

    def type(self, spec: Any) -> Type:
        """Converts the declared type of a value."""
        if spec.WhichOneof("type") != "tensorType":
            return Type(spec.WhichOneof("type") or "nothing", ())  # no operation here takes it
        tensor = spec.tensorType
        name = mil_messages.DataType.Name(tensor.dataType).lower()
        for long, short in _SHORT.items():
            name = name.replace(long, short)
        sizes = (d.constant.size if d.WhichOneof("dimension") == "constant" else -1 for d in tensor.dimensions)
        return Type(name, tuple(int(size) for size in sizes))

    def constant(self, spec: Any) -> Constant:
        """Converts a value in the program, or maps it from its weight file."""
        declared = self.type(spec.type)
        if spec.WhichOneof("value") == "blobFileValue":
            return Constant(declared, self.blob(declared, spec.blobFileValue), packed=True)
        if spec.immediateValue.WhichOneof("value") != "tensor" or declared.dtype not in _DTYPES:
            return Constant(declared, f"a {declared.dtype}", packed=False)
        tensor = spec.immediateValue.tensor
        kind = tensor.WhichOneof("value")
        values: Any = getattr(tensor, kind).values if kind else ()
        if kind == "bytes":
            return Constant(declared, np.frombuffer(values, np.uint8), packed=True)
        if declared == Type("string", ()):
            return Constant(declared, str(values[0]), packed=False)
        numbers = np.array(values, object if kind == "strings" else None)
        if numbers.size != np.prod(declared.shape):
            raise InputError(f"{self.folder}: a constant of shape {declared.shape} has {numbers.size} values")
        return Constant(declared, numbers.astype(declared.numpy).reshape(declared.shape), packed=False)

    def blob(self, declared: Type, spec: Any) -> "np.ndarray[Any, Any]":
        """Returns the bytes of a constant in a weight file, checked against the header in front of them."""
        name = spec.fileName.removeprefix("@model_path/")
        if name not in self.files:
            self.files[name] = self.weights(_inside(self.folder, name, self.folder / "model.mlmodel"))
        data, path, at = self.files[name], self.folder / name, int(spec.offset)
        _, bits, code = _DTYPES.get(declared.dtype, (np.void, 0, None))
        size = -(-int(np.prod(declared.shape)) * bits // 8)
        if at + _RECORD > data.size:
            raise InputError(f"{path} is incomplete: {data.size} bytes, and the program reads at {at}; copy it again")
        head = data[at : at + _BLOB.itemsize].view(_BLOB)[0]
        start = int(head["start"])
        if head["sentinel"] != _SENTINEL or head["dtype"] != code or head["size"] != size:
            raise InputError(f"{path} is damaged: no {declared.dtype} of shape {declared.shape} at {at}; copy it again")
        if start + size > data.size:
            raise InputError(f"{path} is incomplete: {data.size} bytes of {start + size} or more; copy it again")
        return data[start : start + size]

    @staticmethod
    def weights(path: Path) -> "np.memmap[Any, np.dtype[np.uint8]]":
        """Maps a weight file; InputError where it is too short or of another version."""
        if path.stat().st_size < _RECORD:
            raise InputError(f"{path} is incomplete: {path.stat().st_size} bytes; copy it again")
        data = np.memmap(path, np.uint8, "r")
        if data[: _HEADER.itemsize].view(_HEADER)[0]["version"] != 2:
            raise InputError(f"{path} is not a weight file of Core ML's version 2")
        return data


def _names(operation: Operation) -> Iterable[str]:
    return (a for arguments in operation.inputs.values() for a in arguments if isinstance(a, str))
