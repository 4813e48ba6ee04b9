"""Values are rounded where that is declared; inputs that do not fit and unknown operations are named."""

from collections import Counter

import numpy as np
import pytest
from coremltools.converters.mil.frontend.milproto.load import load

from coreml.interpret.package import Package
from coreml.mil.coremltools import ct, mb, quiet, types
from mlx_sd.core.errors import Failure, InputError
from tests.support.programs import IOS18, agree, convert, normal, numbers, run, save, weighted


def test_casts_truncate_and_keep_their_type(folder):
    x = np.array([-2.7, -0.5, 0.0, 0.5, 2.5, 7.9], np.float32)
    for name, expected in {
        "int32": x.astype(np.int32),
        "int8": x.astype(np.int8),
        "int16": x.astype(np.int16),
        "bool": x != 0,
        "fp32": x,
    }.items():
        package = Package.load(save(folder, lambda a, n=name: mb.cast(x=mb.cast(x=a, dtype=n), dtype="fp32"), x))
        (result,) = package.run({"x0": x}).values()
        agree(result, expected.astype(np.float32))


def test_rounding_rounds_every_half_precision_value(folder):
    """1 + 2^-11 is 1 in fp16, and 65504 + 32 is infinite; float32 knows better in both."""
    x = np.array([1.0, 65504.0], np.float32)
    step = np.array([2**-11, 32.0], np.float16)

    def build(a):
        b = mb.cast(x=a, dtype="fp16")
        return mb.cast(x=mb.sub(x=mb.add(x=b, y=step), y=np.array([1.0, 65504.0], np.float16)), dtype="fp32")

    path = save(folder, build, x)
    (exact,), (rounded,) = (Package.load(path).run({"x0": x}, rounding=r).values() for r in (False, True))
    np.testing.assert_array_equal(exact, [2**-11, 32.0])
    np.testing.assert_array_equal(rounded, [0.0, np.inf])


def test_rounding_is_that_of_numpy(folder):
    """A chain in fp16 equals the same chain in numpy, rounded after each operation, bit for bit."""
    x, y = normal(50), normal(50)

    def build(a, b):
        a, b = mb.cast(x=a, dtype="fp16"), mb.cast(x=b, dtype="fp16")
        return mb.sub(x=mb.mul(x=mb.add(x=a, y=b), y=b), y=a)

    (result,) = run(folder, build, x, y, rounding=True)
    a, b = x.astype(np.float16), y.astype(np.float16)
    assert result.dtype == np.float16
    np.testing.assert_array_equal(result, (a + b) * b - a)


def test_infinities_are_not_hidden(folder):
    """What overflows before a softmax or an attention is NaN after it, as on a device, not a plausible number."""
    x = np.array([[[1.0, 300.0]]], np.float32)

    def build(a):
        b = mb.cast(x=a, dtype="fp16")
        big = mb.mul(x=b, y=b)
        return mb.softmax(x=big), mb.scaled_dot_product_attention(query=big, key=b, value=b)

    for result in run(folder, build, x, rounding=True, opset=IOS18):
        assert np.isnan(result).all()


def test_inputs_that_do_not_fit_are_named(tmp_path):
    path, x = weighted(tmp_path)
    package = Package.load(path)
    assert package.inputs() == {"x0": ((2, 5, 6), np.dtype(np.float32))}
    assert package.outputs() == {"linear_0": ((2, 5, 40), np.dtype(np.float32))}
    for feeds, message in [
        ({}, "missing x0"),
        ({"x0": x, "y": x}, "unexpected y"),
        ({"x0": x[:1]}, r"x0 has shape \(1, 5, 6\); it takes \(2, 5, 6\)"),
        ({"x0": x.astype(complex)}, "x0 is complex128"),
    ]:
        with pytest.raises(InputError, match=message):
            package.run(feeds)
    with pytest.raises(InputError, match="no function other; there is main"):
        package.run({"x0": x}, function="other")


def test_an_unknown_operation_is_named_before_anything_runs(tmp_path):
    x = normal(3, 4)
    path = save(tmp_path, lambda a: mb.topk(x=a, k=2, axis=1, name="best"), x)
    package = Package.load(path)
    assert package.kinds() == Counter(topk=1)
    with pytest.raises(Failure, match=r"function main: topk \(best\) is not an operation"):
        package.run({"x0": x})


def test_an_operation_that_fails_is_named(tmp_path):
    x = numbers(9)
    path = save(tmp_path, lambda i: mb.gather(x=normal(5, 2), indices=i, axis=0, name="look_up"), x)
    with pytest.raises(Failure, match=r"gather \(look_up\): indices from 9 to 9 into 5 entries"):
        Package.load(path).run({"x0": x})


def test_states_are_read_and_updated(tmp_path):
    """A counter: what is written in one run is read in the next, and zeros before the first."""

    @mb.program(
        input_specs=[mb.TensorSpec((3,), types.fp32), mb.StateTensorSpec((3,), types.fp16)], opset_version=IOS18
    )
    def program(x, total):
        new = mb.add(x=mb.read_state(input=total), y=mb.cast(x=x, dtype="fp16"))
        return mb.cast(x=mb.coreml_update_state(state=total, value=new), dtype="fp32")

    model = ct.convert(program, minimum_deployment_target=IOS18, skip_model_load=True)
    path = tmp_path / "model.mlpackage"
    model.save(str(path))
    package, state = Package.load(path), {}
    assert package.states() == {"total": ((3,), np.dtype(np.float16))}
    for k in (1, 2, 3):
        (result,) = package.run({"x": np.array([1, 2, 3], np.float32)}, state=state, rounding=True).values()
        np.testing.assert_array_equal(result, k * np.array([1, 2, 3]))
        np.testing.assert_array_equal(state["total"], result)
        assert state["total"].dtype == np.float16
    with pytest.raises(InputError, match="states unexpected other"):
        package.run({"x": np.zeros(3, np.float32)}, state={"other": np.zeros(3)})


def test_functions_of_one_package(tmp_path):
    x, descriptor = normal(2, 3), ct.utils.MultiFunctionDescriptor()
    for name, build in (
        ("twice", lambda a: mb.mul(x=a, y=2.0, name="y")),
        ("half", lambda a: mb.mul(x=a, y=0.5, name="y")),
    ):
        (tmp_path / name).mkdir()
        descriptor.add_function(str(save(tmp_path / name, build, x, opset=IOS18)), "main", name)
    descriptor.default_function_name = "half"
    with quiet():
        ct.utils.save_multifunction(descriptor, str(tmp_path / "both.mlpackage"))
    package = Package.load(tmp_path / "both.mlpackage")
    assert sorted(package.functions) == ["half", "twice"]
    assert package.default == "half"
    np.testing.assert_array_equal(package.run({"x0": x})["y"], x / 2)
    np.testing.assert_array_equal(package.run({"x0": x}, function="twice")["y"], x * 2)


def test_metadata_and_audits(tmp_path):
    x = normal(1, 4, 6, 6)
    model = convert(
        lambda a: mb.relu(x=mb.reshape(x=mb.conv(x=a, weight=normal(8, 4, 3, 3)), shape=[1, 2, 4, 4, 4])), x
    )
    model.user_defined_metadata["made by"] = "a test"
    model.save(str(tmp_path / "model.mlpackage"))
    package = Package.load(tmp_path / "model.mlpackage")
    assert package.metadata["made by"] == "a test"
    assert package.kinds() == Counter(conv=1, reshape=1, relu=1)
    assert max(len(t.shape) for o in package.operations() for t in o.outputs.values()) == 5
    # What coremltools itself reads from the same file.
    spec = ct.utils.load_spec(str(tmp_path / "model.mlpackage"))
    read = load(spec, spec.specificationVersion, str(tmp_path / "model.mlpackage/Data/com.apple.CoreML/weights"))
    assert package.kinds() == Counter(o.op_type for o in read.functions["main"].operations if o.op_type != "const")


def test_constants_need_not_stay_in_memory(tmp_path):
    """With no room for constants, each run reads them again, and computes the same."""
    path, x = weighted(tmp_path)
    lean, rich = Package.load(path, keep=0), Package.load(path)
    for _ in range(2):
        np.testing.assert_array_equal(*(next(iter(p.run({"x0": x}).values())) for p in (lean, rich)))
    assert not lean._constants
    assert rich._constants
