"""coreai-core, imported in one place: the public names that are used here, and the few private ones.

Everything under `coreai._compiler` and every name with an underscore is unsupported by Apple and may change with each
version. This module alone uses them, the version is pinned (`availability.VERSION`), and a test looks for each name.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from time import time
from typing import Any

import coreai.authoring as operations
import numpy as np
from coreai._compiler import ir
from coreai._compiler._mlir_libs._coreaiIR._bindings.mlir.dialects.coreai import create_elements_attr
from coreai._compiler.dialects._coreai_ops_gen import ConstantOp
from coreai.authoring import AIModelAsset, AIProgram, Module, TensorType, graph
from coreai.authoring.asset import _COREAI_PRODUCER
from coreai.authoring.constant import constant
from coreai.authoring.operation import Value
from coreai.runtime import AIModelAssetMetadata, _AIModelAsset

from mlx_sd.core.files import sha256

from ..compression.constants import pack

__all__ = [
    "AIModelAsset",
    "AIModelAssetMetadata",
    "AIProgram",
    "Module",
    "TensorType",
    "Value",
    "attribute_of",
    "composite_declaration",
    "constant",
    "constant_of",
    "graph",
    "make_states",
    "operations",
    "packed_constant",
    "save",
]

_MUTATION = "MutableBuffers.buffer_mutation"  # of an argument: the name of the result that is written back into it


def save(program: AIProgram, path: Path, metadata: AIModelAssetMetadata) -> str:
    """Saves a program as the new asset `path` and returns the SHA-256 of its bytecode, in hexadecimal digits.

    It does what `AIProgram.save_asset` does, but reads the bytecode back in pieces, and never removes what exists.
    """
    path.mkdir()
    asset = _AIModelAsset._create(path=str(path), metadata=metadata)
    bytecode = Path(asset._program_bytecode_path)
    program._save_bytecode(bytecode)

    def stamp(m: AIModelAssetMetadata) -> None:
        """Sets the date and the producer, as Apple's code does."""
        m.creation_date = time()
        m._producer = _COREAI_PRODUCER

    asset.update_metadata(updates=stamp)
    digest = sha256(bytecode)
    Path(asset._program_hash_path).write_bytes(bytes.fromhex(digest))
    return digest


def composite_declaration(name: str, inputs: Sequence[str], attributes: Mapping[str, Any]) -> ir.Attribute:
    """Returns the attribute by which Apple's compilers know a fused kernel; see `composites`."""
    pairs = ", ".join(f"{key} = {_literal(value)}" for key, value in {**attributes, "version": 1}.items())
    return ir.Attribute.parse(
        f'#coreai.composite_declaration<"{name}" = {{input_names = {_literal(list(inputs))}, '
        f"output_names = {_literal(['output'])}, op_attrs = {{{pairs}}}}}>"
    )


def _literal(value: Any) -> str:
    """Returns a value in MLIR's syntax: integers of 64 bits, floats of 32."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value} : si64"
    if isinstance(value, float):
        return f"{value:e} : f32"
    if isinstance(value, str):
        return f'"{value}"'
    return f"[{', '.join(map(_literal, value))}]"


def make_states(function: Any, states: Mapping[str, str]) -> None:
    """Turns arguments of a function into states: argument -> the result that is written back into it.

    function: as `graph` returned it, before the module is closed. The results disappear from the outputs.
    """
    built = function._callable
    attributes = [{entry.name: entry.attr for entry in argument} for argument in built.arg_attrs]
    for argument in attributes:
        name = argument["coreai.name"].value
        if name in states:
            argument[_MUTATION] = ir.StringAttr.get(states[name])
    built.arg_attrs = ir.ArrayAttr.get([ir.DictAttr.get(argument) for argument in attributes])


def packed_constant(array: np.ndarray, bits: int, signed: bool = False) -> Value:
    """Adds a constant of integers of 1, 2, 3, 4, 6 or 8 bits, which follow each other in the bytes, low bits first.

    array: int8 for signed numbers, uint8 for others, one number in each element.
    """
    integer = (ir.IntegerType.get_signed if signed else ir.IntegerType.get_unsigned)(bits)
    tensor = ir.RankedTensorType.get(list(array.shape), integer)
    return constant_of(create_elements_attr(ir.Location.current, tensor, pack(array, bits)))


def attribute_of(value: Value) -> ir.Attribute:
    """Returns the numbers of a constant as the attribute that the module keeps; it lives as long as the module."""
    return value.defining_op._attr_dict()["value"]


def constant_of(attribute: ir.Attribute) -> Value:
    """Adds a constant of the open module by an attribute that `attribute_of` returned there: nothing is copied."""
    return Value._from_mlir(ConstantOp(attribute).result)
