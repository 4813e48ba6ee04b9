"""Compressed constants are interpreted as coremltools decompresses them."""

import shutil

import hypothesis.strategies as st
import mlx.core as mx
import numpy as np
import pytest
from coremltools.optimize._utils import lut_to_dense, pack_elements_into_bits
from hypothesis import given

from coreml.interpret import compressed_constants
from coreml.interpret.package import Package
from coreml.interpret.program import unpack
from coreml.mil.coremltools import compress, ct, mb
from tests.support.effort import slow_but
from tests.support.programs import IOS16, IOS18, RANDOM, agree, convert, normal, numbers


def _palettes(bits: int, opset) -> ct.models.MLModel:
    weight, x = normal(16, 8, 3, 3), normal(1, 8, 5, 5)
    model = convert(
        lambda a: mb.conv(x=a, weight=weight, pad_type="same"), x, opset=opset, passes=ct.PassPipeline.DEFAULT
    )
    config = compress.OpPalettizerConfig(mode="uniform", nbits=bits, weight_threshold=0)
    return compress.palettize_weights(model, compress.OptimizationConfig(global_config=config))


def _quantized(opset, **options) -> ct.models.MLModel:
    weight, x = normal(16, 8, 3, 3), normal(1, 8, 5, 5)
    model = convert(
        lambda a: mb.conv(x=a, weight=weight, pad_type="same"), x, opset=opset, passes=ct.PassPipeline.DEFAULT
    )
    config = compress.OpLinearQuantizerConfig(weight_threshold=0, **options)
    return compress.linear_quantize_weights(model, compress.OptimizationConfig(global_config=config))


COMPRESSED = {
    **{
        f"{bits} bits, {o.name}": (lambda b=bits, o=o: _palettes(b, o)) for bits in (2, 4, 6, 8) for o in (IOS16, IOS18)
    },
    "3 bits, iOS18": lambda: _palettes(3, IOS18),
    "int8, iOS16": lambda: _quantized(IOS16, mode="linear_symmetric", dtype="int8"),
    "uint8, iOS16": lambda: _quantized(IOS16, mode="linear", dtype="uint8"),
    "int8, iOS18": lambda: _quantized(IOS18, mode="linear_symmetric", dtype="int8"),
    "int4 in blocks, iOS18": lambda: _quantized(
        IOS18, mode="linear", dtype="int4", granularity="per_block", block_size=4
    ),
}


@pytest.mark.parametrize(
    "form", slow_but(["2 bits, iOS16", "6 bits, iOS18", "int8, iOS18", "int4 in blocks, iOS18"], COMPRESSED)
)
def test_compressed_weights_equal_the_decompressed_ones(folder, form):
    model, feeds = COMPRESSED[form](), {"x0": normal(1, 8, 5, 5)}
    outputs = []
    for name, m in (("small", model), ("large", compress.decompress_weights(model))):
        path = folder / f"{name}.mlpackage"
        shutil.rmtree(path, ignore_errors=True)
        m.save(str(path))
        package = Package.load(path)
        assert any(kind.startswith("constexpr") for kind in package.kinds()) == (name == "small")
        (output,) = package.run(feeds).values()  # its name depends on how many coremltools has named before
        outputs.append(output)
    agree(*outputs, limit=1e-6)
    assert np.abs(outputs[0]).max() > 1


@given(
    name=st.sampled_from(["uint1", "uint2", "uint3", "uint4", "uint6", "int4"]),
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=3),
)
def test_elements_of_less_than_a_byte_are_unpacked(name, shape):
    """As coremltools packs them."""
    bits = int(name.lstrip("uint"))
    low = -(1 << (bits - 1)) if name == "int4" else 0
    values = RANDOM.randint(low, low + (1 << bits), shape).astype(np.int8 if name == "int4" else np.uint8)
    packed = pack_elements_into_bits(values, bits)
    np.testing.assert_array_equal(unpack(packed.view(np.uint8), name, tuple(shape)), values)


@pytest.mark.parametrize("groups", [(1, 1), (2, 1), (1, 3)])
@pytest.mark.parametrize("vector", [None, 0, 1])
def test_palettes_of_groups_and_of_vectors(groups, vector):
    lut, indices = normal(*groups, 4, 1 if vector is None else 2), RANDOM.randint(0, 4, (4, 6)).astype(np.uint8)
    result = compressed_constants.constexpr_lut_to_dense(
        mx.array(indices), mx.array(lut), None, None if vector is None else mx.array(vector)
    )
    np.testing.assert_array_equal(np.array(result), lut_to_dense(indices, lut, vector))


def test_sparse_constants():
    """Joined with palettes and scales, they are what is dense at the ones of the mask, and zero elsewhere."""
    mask = np.array([[1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 1], [0, 1, 1, 0, 1, 0], [0, 0, 0, 1, 0, 0]], np.uint8)
    indices = np.array([0, 1, 1, 0, 1, 1, 0, 0, 1], np.uint8)
    for lut, axis in ((normal(1, 1, 2, 1), None), (normal(1, 1, 2, 2), 0)):
        arrays = [mx.array(a) for a in (mask, indices, lut)]
        result = compressed_constants.constexpr_sparse_to_dense(
            *reversed(compressed_constants.constexpr_lut_to_sparse(*arrays, None if axis is None else mx.array(axis)))
        )
        dense = np.zeros(mask.shape, np.uint8)
        dense[mask == 1] = indices
        repeated_mask = np.repeat(mask, lut.shape[-1], 0)
        np.testing.assert_array_equal(np.array(result), lut_to_dense(dense, lut, axis) * repeated_mask)
    data, scale, offset = np.arange(9, dtype=np.int8), normal(2, 3), normal(2, 3)
    out, values = compressed_constants.constexpr_sparse_blockwise_shift_scale(
        *map(mx.array, (mask, data, scale, offset))
    )
    dense = np.zeros(mask.shape)
    dense[mask == 1] = data
    expected = (dense - offset.repeat(2, 0).repeat(2, 1)) * scale.repeat(2, 0).repeat(2, 1)
    agree(np.array(values), expected[mask == 1])
    # iOS 16: the mask as packed bits.
    bits = np.packbits(mask.ravel(), bitorder="little")
    result = compressed_constants.constexpr_sparse_to_dense(mx.array(data), mx.array(bits), mx.array(numbers(4, 6)))
    np.testing.assert_array_equal(np.array(result)[mask == 1], data)
    assert not np.array(result)[mask == 0].any()
    assert (np.array(out) == mask).all()
