"""Descriptions of compressed weights are as near to the weight as their form allows, and as small as they say."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from coreml.compression import schemes
from coreml.compression.constants import Palette, Scaled, Sparse, pack
from coreml.compression.palettes import palettize
from coreml.interpret.program import unpack
from mlx_sd.core.errors import InputError

HALVES = st.floats(-1000, 1000, width=16)
WEIGHTS = hnp.arrays(np.float16, st.sampled_from([(32, 64), (64, 32, 1, 1), (8, 64, 3, 3)]), elements=HALVES)
NAMES = ("palettize1", "palettize3", "palettize6", "palettize4:16", "palettize2:8", "int8", "int4", "int8:32")
NAMES += ("int4:32", "sparse50", "sparse25")


def _normal(*shape, dtype=np.float16):
    return (np.random.default_rng(0).standard_normal(shape) * 0.02).astype(dtype)


@pytest.mark.parametrize("name", NAMES)
@given(weight=WEIGHTS)
def test_dense_numbers_have_the_weights_shape_and_type(name, weight):
    constant = schemes.parse(name).compress(weight)
    dense = constant.dense()
    assert (dense.shape, dense.dtype) == (weight.shape, weight.dtype)
    assert np.abs(dense.astype(np.float32) - weight.astype(np.float32)).max() <= 2 * np.abs(weight).max()


@given(weight=WEIGHTS, bits=st.sampled_from(schemes.INTEGER_BITS), group=st.sampled_from((None, 32)))
def test_integers_are_off_by_half_a_step_of_their_block(weight, bits, group):
    constant = schemes.Scheme("int", bits, group).compress(weight)
    assert isinstance(constant, Scaled) and np.abs(constant.numbers).max() <= 2 ** (bits - 1) - 1
    blocks = weight.shape[1] // group if group else 1
    assert constant.scale.shape == (weight.shape[0], blocks, *(1,) * (weight.ndim - 2))
    numbers = weight.astype(np.float32).reshape(weight.shape[0], blocks, -1)
    dense = constant.dense().astype(np.float32).reshape(numbers.shape)
    largest = np.abs(numbers).max(axis=2, keepdims=True)
    # The scale is rounded to float16, and so is the product.
    assert (np.abs(dense - numbers) <= largest / (2**bits - 2) * 1.02 + largest * 2**-10 + 1e-4).all()


def test_groups_of_outputs_have_palettes_of_their_own():
    weight = _normal(64, 64)
    weight[16:] *= 50
    constant = schemes.parse("palettize4:16").compress(weight)
    assert isinstance(constant, Palette) and constant.table.shape == (4, 16)
    for i in range(4):
        table, indices = palettize(weight[16 * i : 16 * i + 16], 4)
        assert (constant.table[i] == table).all() and (constant.indices[16 * i : 16 * i + 16] == indices).all()
    whole = schemes.parse("palettize4").compress(weight)
    errors = [((c.dense()[:16].astype(np.float32) - weight[:16]) ** 2).mean() for c in (constant, whole)]
    assert errors[0] < errors[1] / 20


def test_a_group_that_does_not_divide_the_weight_is_the_whole_of_it():
    weight = _normal(60, 40)
    assert schemes.parse("palettize4:16").compress(weight).table.shape == (1, 16)
    assert schemes.parse("int4:32").compress(weight).scale.shape == (60, 1)


@pytest.mark.parametrize(("name", "share"), (("sparse50", 0.5), ("sparse75", 0.25), ("sparse1", 0.99)))
def test_sparse_weights_keep_the_largest(name, share):
    weight = _normal(64, 64)
    constant = schemes.parse(name).compress(weight)
    assert isinstance(constant, Sparse) and constant.mask.mean() == pytest.approx(share, abs=1e-3)
    dense = constant.dense()
    assert (dense[constant.mask == 1] == weight[constant.mask == 1]).all() and not dense[constant.mask == 0].any()
    assert np.abs(weight[constant.mask == 0]).max() <= np.abs(weight[constant.mask == 1]).min()


# Of float16, for a convolution of 320 to 320 channels, as Apple's Core AI stores the same forms.
SHARES = {
    "palettize1": 0.063,
    "palettize2": 0.126,
    "palettize3": 0.188,
    "palettize4": 0.251,
    "palettize6": 0.376,
    "palettize8": 0.501,
    "int8": 0.501,
    "int4": 0.251,
    "int8:32": 0.504,
    "int4:32": 0.254,
    "sparse50": 0.563,
    "sparse75": 0.313,
}


@pytest.mark.parametrize("name", SHARES)
def test_sizes(name):
    weight = _normal(320, 320, 3, 3)
    assert schemes.parse(name).compress(weight).bytes / weight.nbytes == pytest.approx(SHARES[name], abs=2e-3)
    assert schemes.bits_per_number(name) / 16 == pytest.approx(SHARES[name], abs=5e-3)


@given(bits=st.sampled_from((1, 2, 3, 4, 6, 8)), values=hnp.arrays(np.uint8, hnp.array_shapes(max_side=9)))
def test_packed_elements_are_unpacked_by_the_interpreter(bits, values):
    values = values & np.uint8((1 << bits) - 1)
    packed = pack(values, bits)
    np.testing.assert_array_equal(unpack(packed, f"uint{bits}", values.shape), values)
    assert packed.size == -(-values.size * bits // 8)


def test_small_weights_are_left_alone():
    assert schemes.parse("palettize4").compress(_normal(4, 4)) is None
    assert schemes.compressor(None, "unet")("w", _normal(64, 64)) is None


@pytest.mark.parametrize(
    "name", ("zip", "palettize5", "palettize", "int6", "int8:0", "sparse0", "sparse50:4", "palettize4:", "palettize44")
)
def test_unknown_names_are_refused(name):
    with pytest.raises(InputError, match=r"unknown compression.*palettize4:16"):
        schemes.parse(name)


def test_names_are_read_back():
    for name in NAMES:
        assert schemes.parse(name).name == name


# ------------------------------------------------------------------------------------------------ mixed bits

CONTENT = {
    "format": schemes.MIXED,
    "version": schemes.MIXED_VERSION,
    "model": {"name": "m", "hash": "abc"},
    "others": "palettize4",
    "bits": 3.5,
    "layers": {"a.weight": {"bits": 2}, "b.weight": {"bits": 16}},
}


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "bits.json"
    file.write_text(json.dumps(CONTENT))
    return str(file)


def test_each_layer_has_its_own_bits(path):
    compress = schemes.compressor(path, "unet")
    assert compress("a.weight", _normal(64, 64)).bits == 2
    assert compress("b.weight", _normal(64, 64)) is None
    assert compress("c.weight", _normal(4, 4)) is None
    assert schemes.compressor(path, "vae")("a.weight", _normal(64, 64)).bits == 4
    with pytest.raises(InputError, match=r"no bits for c\.weight"):
        compress("c.weight", _normal(64, 64))
    assert schemes.bits_per_number(path) == 3.5
    assert schemes.record(path) == {"name": "mixed", "others": "palettize4", "bits": {"a.weight": 2, "b.weight": 16}}


def test_mixed_bits_of_another_model_are_refused(path):
    schemes.check_model(path, "abc")
    schemes.check_model("palettize4", "abd")
    with pytest.raises(InputError, match="of another model"):
        schemes.check_model(path, "abd")


DAMAGE = {
    "no JSON": "{",
    "another format": {"format": "mlx-sd kit"},
    "a later version": {"version": 9},
    "no layers": {"layers": None},
    "layers without bits": {"layers": {"a.weight": {}}},
    "no bits of palettes": {"layers": {"a.weight": {"bits": 5}}},
    "another scheme": {"others": "zip"},
    "no model": {"model": "m"},
    "no number of bits": {"bits": "few"},
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_of_bits_is_refused(damage, path):
    change = DAMAGE[damage]
    Path(path).write_text(change if isinstance(change, str) else json.dumps(CONTENT | change))
    with pytest.raises(InputError):
        schemes.compressor(path, "unet")


def test_a_missing_file_of_bits_is_refused():
    with pytest.raises(InputError, match=r"nowhere\.json is missing"):
        schemes.compressor("nowhere.json", "unet")


def test_what_is_recorded_of_a_compression_restores_it(tmp_path):
    file = tmp_path / "bits.json"
    for name in (None, "palettize4:16", "sparse50"):
        assert schemes.restore(schemes.record(name), "hash", file) == name
    recorded = {"name": "mixed", "others": "palettize6", "bits": {"a.weight": 3, "b.weight": 16}}
    assert schemes.record(schemes.restore(recorded, "hash", file)) == recorded
    schemes.check_model(str(file), "hash")
    for damaged in ([], "mixed", {"name": "mixed"}, {"name": 4}, recorded | {"bits": [3]}):
        with pytest.raises(InputError, match="damaged; export again"):
            schemes.restore(damaged, "hash", file)
