"""Small Core ML programs made with coremltools' builder, saved, loaded and run."""

import gc
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from coreml.interpret.package import Package
from coreml.mil.coremltools import ct, mb, types

IOS16, IOS17, IOS18 = ct.target.iOS16, ct.target.iOS17, ct.target.iOS18
RANDOM = np.random.RandomState(0)
MIL = {"float32": types.fp32, "float16": types.fp16, "int32": types.int32, "bool": types.bool}


def convert(build: Callable, *feeds: np.ndarray, opset=IOS17, precision=None, passes=None):
    """A model whose inputs x0, x1, ... are like `feeds` and whose outputs are what `build` makes of them."""
    names = ", ".join(f"x{i}" for i in range(len(feeds)))
    specs = [mb.TensorSpec(shape=f.shape, dtype=MIL[f.dtype.name]) for f in feeds]
    named = eval(f"lambda {names}: build({names})", {"build": build})  # a function's parameters name the inputs
    program = mb.program(input_specs=specs, opset_version=opset)(named)
    gc.freeze()  # coremltools collects garbage at each conversion, which takes longer than a small program's conversion
    return ct.convert(
        program,
        minimum_deployment_target=opset,
        compute_precision=precision or ct.precision.FLOAT32,
        pass_pipeline=passes or ct.PassPipeline.EMPTY,
        skip_model_load=True,
    )


def save(folder: Path, build: Callable, *feeds: np.ndarray, **options) -> Path:
    """The package of `convert`, saved anew in a folder."""
    path = folder / "model.mlpackage"
    shutil.rmtree(path, ignore_errors=True)
    convert(build, *feeds, **options).save(str(path))
    return path


def run(folder: Path, build: Callable, *feeds: np.ndarray, rounding: bool = False, **options) -> list[np.ndarray]:
    """The outputs of what `build` makes of `feeds`, converted, saved, loaded and interpreted."""
    package = Package.load(save(folder, build, *feeds, **options))
    return list(package.run({f"x{i}": f for i, f in enumerate(feeds)}, rounding=rounding).values())


def weighted(folder: Path) -> tuple[Path, np.ndarray]:
    """A package with a weight file, of one linear, and an input for it."""
    x = normal(2, 5, 6)
    return save(folder, lambda a: mb.linear(x=a, weight=normal(40, 6), bias=normal(40)), x), x


def agree(result: np.ndarray, expected: np.ndarray, limit: float = 1e-5) -> None:
    assert result.shape == np.shape(expected)
    if result.dtype.kind == "f":
        assert np.abs(result - expected).max(initial=0) <= limit * max(1.0, np.abs(expected).max(initial=0))
    else:
        np.testing.assert_array_equal(result, expected)


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def numbers(*values: int) -> np.ndarray:
    return np.array(values, np.int32)
