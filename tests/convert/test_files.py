"""Whatever a file's header says, reading it is an InputError or stays inside the file."""

import json
import random
import resource

import numpy as np
import pytest
from safetensors.numpy import save_file

from convert.sources.checkpoint import SourceOptions
from convert.sources.open_checkpoint import open_checkpoint
from mlx_sd.core.errors import InputError
from mlx_sd.core.files import TENSOR_DTYPES, Tensor, metadata, tensors
from tests.support import families, singles

CASES = 10_000
ODD = [
    0,
    1,
    -1,
    3,
    7,
    8,
    2**31,
    2**53,
    2**63,
    2**64 - 1,
    2**70,
    -(2**63),
    1.5,
    1e400,
    None,
    "F32",
    "",
    [],
    {},
    True,
    "x" * 99,
]
DTYPES = ["F32", "F16", "BF16", "F64", "I64", "I8", "BOOL", "F8_E4M3", "F128", "f32", "", None, 7, "F4", "C64"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a small valid file."""
    path = tmp_path_factory.mktemp("valid") / "x.safetensors"
    arrays = {"a.weight": np.ones((3, 4), np.float32), "b": np.ones(5, np.float16), "c": np.ones((2, 2, 2), np.float32)}
    save_file(arrays, path, {"format": "pt"})
    return path.read_bytes()


def spoil(rng: random.Random, whole: bytes) -> bytes:
    """A file with its header, its length or its size changed in a few places."""
    length = int.from_bytes(whole[:8], "little")
    header, data = json.loads(whole[8 : 8 + length]), whole[8 + length :]
    for _ in range(rng.randint(1, 3)):
        name = rng.choice([n for n in header if n != "__metadata__"] or ["x"])
        about = header.setdefault(name, {})
        if not isinstance(about, dict):
            about = header[name] = {}
        change = rng.randrange(8)
        if change == 0:
            about["dtype"] = rng.choice(DTYPES)
        elif change == 1:
            about["shape"] = [rng.choice(ODD) for _ in range(rng.randrange(6))]
        elif change == 2:
            about["data_offsets"] = [
                rng.choice([*ODD, len(data), len(data) + 1]) for _ in range(rng.choice([2, 2, 2, 1, 3]))
            ]
        elif change == 3:
            about.pop(rng.choice(["dtype", "shape", "data_offsets", "x"]), None)
        elif change == 4:
            header[name] = rng.choice(ODD)
        elif change == 5:
            header[rng.choice(["a.weight", "../../x", "", "\0", "é" * 50])] = dict(about)
        elif change == 6:
            header["__metadata__"] = rng.choice([*ODD, {"a": 1}, {"a": "b"}])
        else:
            about[rng.choice(["shape", "data_offsets"])] = rng.choice(ODD)
    text = json.dumps(header).encode()
    twist = rng.randrange(10)
    if twist == 0:  # some bytes of the text itself
        text = bytearray(text)
        for _ in range(rng.randint(1, 4)):
            text[rng.randrange(len(text))] = rng.randrange(256)
        text = bytes(text)
    elif twist == 1:
        text = text.replace(b'"b"', b'"a.weight"')
    elif twist == 2:
        text = b"[" * rng.choice([10, 100_000]) + text
    size = len(text) if rng.randrange(8) else rng.choice([0, 1, len(text) - 1, len(text) + 1, 2**31, 2**62, 2**64 - 1])
    if not rng.randrange(10):
        data = data[: rng.randrange(len(data))]
    return size.to_bytes(8, "little") + text + data


@pytest.mark.slow
def test_ten_thousand_spoilt_headers_are_refused_or_harmless(whole, tmp_path):
    """Nothing but InputError comes out, no tensor lies outside its file, and no size that is said is allocated."""
    rng, path, refused = random.Random(0), tmp_path / "x.safetensors", 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(CASES):
        content = spoil(rng, whole)
        path.unlink(missing_ok=True)  # a new file costs a tenth of one written over
        path.write_bytes(content)
        try:
            found = list(tensors(path))
        except InputError as error:
            refused += 1
            assert str(path) in str(error) and "\n" not in str(error)
            continue
        assert len({t.name for t in found}) == len(found)
        for t in found:
            assert 0 <= t.start <= t.end <= len(content)
            if t.dtype in TENSOR_DTYPES and t.end > t.start:
                assert t.read().shape == t.shape
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss <= before * 1.2
    assert CASES // 2 < refused < CASES  # most are refused; what is left was harmless


def header(**tensors):
    text = json.dumps(tensors).encode()
    return len(text).to_bytes(8, "little") + text + bytes(64)


def entry(start, end, shape, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize(
    "content",
    [
        header(a=entry(0, 32, [8]), b=entry(16, 64, [12])),
        header(a=entry(0, 32, [8]), b=entry(0, 32, [8])),
        header(a=entry(-32, 32, [16])),
        header(a=entry(32, 0, [8])),
        header(a=entry(0, 64, [2**31, 2**33])),
        header(a=entry(0, 64, [2**64])),
        header(a=entry(0, 2**40, [2**38])),
        header(a=entry(0, 64, [15])),
        header(a=entry(0, 64, [64], "U7")),
        header(a=entry(0, 64, [-4, -4])),
        header(a=entry(0, 32, [8])),  # bytes that belong to nothing
        (2**40).to_bytes(8, "little") + b"{}",
        (200_000_000).to_bytes(8, "little") + b"{" + bytes(1000),
    ],
)
def test_headers_that_lie_are_refused(content, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(content)
    for read_it in (lambda p: list(tensors(p)), metadata):
        with pytest.raises(InputError, match="damaged"):
            read_it(tmp_path / "x.safetensors")


def test_a_name_that_is_there_twice_is_refused(tmp_path):
    text = (
        b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'
    )
    (tmp_path / "x.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(16))
    with pytest.raises(InputError, match=r"its header has 'a' twice|damaged or incomplete"):
        list(tensors(tmp_path / "x.safetensors"))


def test_rows_and_transposes_are_those_of_numpy(tmp_path):
    array = np.arange(24, dtype=np.float32).reshape(6, 4)
    save_file({"pad": np.ones(3, np.float16), "a": array}, tmp_path / "x.safetensors")
    (tensor,) = [t for t in tensors(tmp_path / "x.safetensors") if t.name == "a"]
    assert np.array_equal(np.array(tensor.rows(2, 4).read()), array[2:4])
    assert np.array_equal(np.array(tensor.transpose().read()), array.T)
    assert np.array_equal(np.array(tensor.transpose().transpose().read()), array)


@pytest.mark.slow
def test_single_files_of_any_names_and_shapes_are_read_or_refused(shapes, tmp_path, monkeypatch):
    """Names and shapes of whole checkpoints, changed at random; nothing but InputError comes out."""
    families.write_tokenizer(tmp_path / "tokenizer", "!")
    file = tmp_path / "x.safetensors"
    file.write_bytes(bytes(1 << 20))
    monkeypatch.setattr("convert.sources.single_file._tokenizers", lambda *arguments: {})
    monkeypatch.setattr("convert.sources.single_file.metadata", lambda file: {})
    monkeypatch.setattr("convert.sources.control_network.is_control", lambda path: False)  # it reads the file
    rng = random.Random(0)
    kinds = {}
    for name in singles.NAMES:
        found = singles.arrays(name, *singles.parts(name, shapes))
        kinds[name] = {n: Tensor(file, n, "F32", a.shape, 0, 4 * a.size) for n, a in found.items()}
    done = 0
    for _ in range(150):
        every = dict(kinds[rng.choice(singles.NAMES)])
        for _ in range(rng.choice([0, 1, 1, 2, 5])):
            old = rng.choice(list(every))
            tensor, change = every.pop(old), rng.randrange(4)
            if change == 0:
                every[old] = tensor._replace(
                    shape=tuple(rng.choice([0, 1, 3, 32, 2**40 + 15]) for _ in range(rng.randrange(5)))
                )
            elif change == 1:
                new = rng.choice(list(every))
                every[rng.choice([old + ".x", old.replace("0", "77"), new, old.rpartition(".")[0], "." + old])] = tensor
            elif change == 2:
                every[old.replace("blocks", "block")] = tensor
        monkeypatch.setattr("convert.sources.single_file.open_tensors", lambda file, every=every: every)
        try:
            done += bool(open_checkpoint(str(file), SourceOptions(tokenizer=tmp_path / "tokenizer")).components)
        except InputError as error:
            assert "\n" not in str(error)
    assert done
