"""A checkpoint is read bit for bit as it was written, or not at all."""

import json
import random
import shutil

import mlx_sd  # noqa: F401 - before mlx.core: it brings the BLAS

import mlx.core as mx  # isort: skip
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mlx.utils import tree_flatten, tree_unflatten

from mlx_sd.core.errors import InputError
from mlx_sd.train.run import checkpoint
from tests.train.run.records import bits, same, state

DTYPES = [mx.float32, mx.bfloat16, mx.float16, mx.uint64, mx.uint32, mx.int32, mx.int64, mx.uint8, mx.bool_]
NAMES = st.text(max_size=12).filter(lambda name: name != "__metadata__")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def arrays(draw):
    """An array of any dtype, of 0 to 3 dimensions, with any bits at all."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    data = np.random.default_rng(draw(st.integers(0, 2**32))).bytes(int(np.prod(shape, dtype=int)) * dtype.size)
    raw = mx.array(np.frombuffer(data, np.uint8))
    return (raw > 127 if dtype == mx.bool_ else raw.view(dtype)).reshape(shape)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_that_trains_comes_back_bit_for_bit(tmp_path, dtype):
    tree = {"a": (mx.arange(24) * 0.37).astype(dtype).reshape(2, 3, 4), "step": mx.array(1, dtype)}
    checkpoint.write(tmp_path, 1, {"weights": tree}, {})
    loaded = checkpoint.read(tmp_path / "step-000001").arrays
    assert same(loaded, {"weights": tree})


def test_numbers_that_are_none_and_the_largest_come_back_bit_for_bit(tmp_path):
    odd = mx.array(np.array([0x7FC00001, 0xFF800000, 0x80000000, 1], np.uint32)).view(mx.float32)  # NaN, -inf, -0, tiny
    tree = {"odd": odd, "step": mx.array(np.array(2**64 - 1, np.uint64)), "turned": mx.arange(6).reshape(2, 3).T}
    checkpoint.write(tmp_path, 1, {"ema": tree}, {})
    assert same(checkpoint.read(tmp_path / "step-000001").arrays, {"ema": tree})


@given(tree=st.dictionaries(NAMES, arrays(), max_size=4), record=st.dictionaries(st.text(max_size=5), JSON, max_size=3))
@example(tree={}, record={})
@example(tree={"": mx.array(1), "a.0.b": mx.array(2), '\x00\n"ü': mx.array(3), "a.0": mx.array(4)}, record={"": 0.1})
def test_any_tree_of_names_comes_back(tmp_path, tree, record):
    shutil.rmtree(tmp_path / "any", ignore_errors=True)
    path = checkpoint.write(tmp_path / "any", 7, {"weights": tree, "optimizer": {}}, record)
    step, loaded, loaded_record = checkpoint.read(path)
    assert step == 7 and loaded_record == record
    assert same(loaded, {"weights": tree, "optimizer": {}})


def test_a_run_that_is_resumed_ends_bit_equal(tmp_path):
    """Weights and AdamW's state, saved after 3 of 6 steps, go on as if nothing had happened."""

    def start():
        layer = nn.Linear(4, 4)
        layer.update(tree_unflatten([(n, mx.ones(a.shape) * 0.1) for n, a in tree_flatten(layer.parameters())]))
        optimizer = optim.AdamW(learning_rate=optim.cosine_decay(1e-2, 6), bias_correction=True)
        optimizer.init(layer.trainable_parameters())
        return layer, optimizer

    def train(layer, optimizer, steps):
        for step in steps:
            x = mx.random.normal((2, 4), key=mx.random.key(step))
            _, gradients = nn.value_and_grad(layer, lambda x: (layer(x) ** 2).mean())(x)
            optimizer.update(layer, gradients)
            mx.eval(layer.parameters(), optimizer.state)

    layer, optimizer = start()
    train(layer, optimizer, range(3))
    path = checkpoint.write(tmp_path, 3, {"weights": layer.parameters(), "optimizer": optimizer.state}, {})
    train(layer, optimizer, range(3, 6))

    resumed, its_optimizer = start()
    loaded = checkpoint.read(path).arrays
    resumed.update(tree_unflatten(list(loaded["weights"].items())))
    its_optimizer.state = tree_unflatten(list(loaded["optimizer"].items()))
    train(resumed, its_optimizer, range(3, 6))
    assert loaded["optimizer"]["step"].dtype == mx.uint64
    for one, other in ((layer.parameters(), resumed.parameters()), (optimizer.state, its_optimizer.state)):
        assert {n: bits(a) for n, a in tree_flatten(one)} == {n: bits(a) for n, a in tree_flatten(other)}


def test_arrays_that_are_read_need_their_file_no_more(tmp_path):
    path = checkpoint.write(tmp_path, 1, state(1), {})
    loaded = checkpoint.read(path).arrays
    for file in path.iterdir():
        file.write_bytes(b"")
    assert same(loaded, state(1))


def test_two_checkpoints_stay(tmp_path):
    for step in (1, 2, 3, 10, 999_999, 1_000_000):
        checkpoint.write(tmp_path, step, state(step), {})
        assert checkpoint.newest(tmp_path) == step
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-1000000", "step-999999"]


def test_a_checkpoint_of_the_same_step_is_replaced_and_later_ones_go(tmp_path):
    for step in (1, 2):
        checkpoint.write(tmp_path, step, state(step), {})
    checkpoint.write(tmp_path, 1, state(5), {})
    assert [p.name for p in tmp_path.iterdir()] == ["step-000001"]
    assert same(checkpoint.read(tmp_path / "step-000001").arrays, state(5))


def _flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)


def _edit(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


DAMAGE = {
    "a flipped bit of the numbers": lambda p: _flip(p / "weights.safetensors", -1),
    "a flipped bit of a header": lambda p: _flip(p / "optimizer.safetensors", 12),
    "a file that ends early": lambda p: (p / "weights.safetensors").write_bytes(b"12"),
    "a file that is missing": lambda p: (p / "optimizer.safetensors").unlink(),
    "a folder in the place of a file": lambda p: (
        (p / "weights.safetensors").unlink(),
        (p / "weights.safetensors").mkdir(),
    ),
    "no manifest": lambda p: (p / "manifest.json").unlink(),
    "an empty manifest": lambda p: (p / "manifest.json").write_bytes(b""),
    "a manifest of zeros": lambda p: (p / "manifest.json").write_bytes(bytes(300)),
    "another record": lambda p: _edit(p / "manifest.json", record={"epoch": 3}),
    "another step": lambda p: _edit(p / "manifest.json", step=1),
    "no folder": lambda p: (shutil.rmtree(p), p.write_text("")),
    "an empty folder": lambda p: (shutil.rmtree(p), p.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_where_the_newest_is_damaged_the_one_before_is_taken_with_one_warning(tmp_path, damage):
    for step in (1, 2):
        checkpoint.write(tmp_path, step, state(step), {})
    damage(tmp_path / "step-000002")
    with pytest.warns(UserWarning, match=r"step-000002.*; the run goes on from step 1$") as warned:
        assert checkpoint.newest(tmp_path) == 1
    assert len(warned) == 1 and "\n" not in str(warned[0].message)
    with pytest.raises(InputError, match="step-000002"):
        checkpoint.read(tmp_path / "step-000002")
    assert same(checkpoint.read(tmp_path / "step-000001").arrays, state(1))
    checkpoint.write(tmp_path, 2, state(2), {})
    assert checkpoint.newest(tmp_path) == 2


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_where_all_are_damaged_the_error_names_the_folder(tmp_path, damage):
    for step in (1, 2):
        checkpoint.write(tmp_path, step, state(step), {})
        damage(tmp_path / f"step-{step:06d}")
    if damage is DAMAGE["another step"]:
        _flip(tmp_path / "step-000001" / "weights.safetensors", -1)
    with pytest.raises(InputError) as error:
        checkpoint.newest(tmp_path)
    assert str(error.value).startswith(f"{tmp_path} holds no whole checkpoint: ")
    assert "step-000001" in str(error.value) and "\n" not in str(error.value)


def test_a_flip_of_any_bit_is_seen(tmp_path):
    path = checkpoint.write(tmp_path, 1, state(1, size=1), {"epoch": 1})
    random.seed(0)
    for file in sorted(path.iterdir()):
        whole = file.read_bytes()
        for place in random.sample(range(len(whole)), 60):
            changed = bytearray(whole)
            changed[place] ^= 1 << random.randrange(8)
            file.write_bytes(changed)
            # A space of the manifest that becomes another changes nothing that it says.
            same_text = file.suffix == ".json" and _says(changed) == json.loads(whole)
            if not same_text:
                with pytest.raises(InputError):
                    checkpoint.read(path)
        file.write_bytes(whole)
    checkpoint.read(path)


def _says(data):
    try:
        return json.loads(data)
    except ValueError:
        return None


@pytest.mark.parametrize(
    "content",
    [
        {"version": 2, "step": 1, "record": {}, "files": {}},
        {"version": 1, "step": 1, "record": {}},
        {"version": 1, "step": "1", "record": {}, "files": {}},
        {"version": 1, "step": 1, "record": [], "files": {}},
        {"version": 1, "step": 1, "record": {}, "files": []},
        {"version": 1, "step": 1, "record": {}, "files": {"../w.safetensors": {"size": 1, "sha256": ""}}},
        {"version": 1, "step": 1, "record": {}, "files": {"w.safetensors": 3}},
        {"version": 1, "step": 1, "record": {}, "files": {"w.npz": {"size": 1, "sha256": ""}}},
    ],
)
def test_a_manifest_that_is_wrong_but_signed_is_one_line(tmp_path, content):
    folder = tmp_path / "step-000001"
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps(content | {"sha256": checkpoint._digest(content)}))
    with pytest.raises(InputError, match="step-000001"):
        checkpoint.read(folder)


@pytest.mark.parametrize(
    "wrong",
    [
        {"Weights": {}},
        {"../weights": {}},
        {"weights": {"__metadata__": mx.array(1)}},
        {"weights": {"a": 1.5}},
        {"weights": {"a": {"b": mx.array(1)}, "a.b": mx.array(2)}},
    ],
)
def test_what_a_checkpoint_cannot_hold_is_refused_and_leaves_nothing(tmp_path, wrong):
    checkpoint.write(tmp_path, 1, state(1), {})
    with pytest.raises(ValueError, match="checkpoint"):
        checkpoint.write(tmp_path, 2, wrong, {})
    assert [p.name for p in tmp_path.iterdir()] == ["step-000001"]


def test_what_a_kill_has_left_is_tidied_up(tmp_path):
    """A half-written checkpoint goes; one that was about to be replaced has its place again."""
    checkpoint.write(tmp_path, 1, state(1), {})
    checkpoint.write(tmp_path, 2, state(2), {})
    (tmp_path / ".step-000003.part").mkdir()
    (tmp_path / ".step-000003.part" / "weights.safetensors").write_bytes(b"1234")
    (tmp_path / "step-000002").rename(tmp_path / "step-000002.replaced")
    shutil.copytree(tmp_path / "step-000001", tmp_path / "step-000001.replaced")
    checkpoint.tidy(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000001", "step-000002"]
    assert checkpoint.newest(tmp_path) == 2
