"""Fixtures that tests share, and the options that choose among tests."""

import argparse
import gc
import json
import os
import shutil
import signal
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support import proofs

# The tests' matrices are so small that threads cost more than they give.
for library in ("MKL", "OPENBLAS"):
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")

import mlx_sd  # noqa: E402, F401 - before any test imports mlx.core: it brings the BLAS

GOLDENS = Path(__file__).parent / "goldens"

# Examples of a property that does not state its own number. `make test-all` runs "full".
_HYPOTHESIS = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]}
settings.register_profile("quick", max_examples=10, **_HYPOTHESIS)
settings.register_profile("full", max_examples=50, **_HYPOTHESIS)
settings.load_profile("quick")  # before the command line's --hypothesis-profile is read, which replaces it


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds --share: how much of each proof runs. The results of whole proofs alone are written down. Adds --part."""
    parser.addoption("--share", type=float, default=0.1, help="the share of each proof that runs, above 0, to 1")
    parser.addoption("--part", type=_part, default=(0, 1), metavar="K/N", help="run the K-th of N parts of the tests")


def _part(text: str) -> tuple[int, int]:
    """Parses K/N, K from 0 to N - 1."""
    number, _, of = text.partition("/")
    if not (number.isdigit() and of.isdigit() and int(number) < int(of)):
        raise argparse.ArgumentTypeError(f"{text!r} is no part: write K/N, K from 0 to N - 1, as 0/3")
    return int(number), int(of)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keeps the tests of --part. Their names deal them out: a test is in the same part on every machine."""
    part, parts = config.getoption("--part")
    dealt: dict[bool, list[pytest.Item]] = {True: [], False: []}
    for item in items:
        dealt[zlib.crc32(item.nodeid.encode()) % parts == part].append(item)
    config.hook.pytest_deselected(items=dealt[False])
    items[:] = dealt[True]


@pytest.fixture
def proof(request: pytest.FixtureRequest) -> proofs.Proof:
    """Scales the test's repetitions to --share, and writes its results to tests/proofs when all of it has run."""
    name = request.node.name.removeprefix("test_")
    return proofs.Proof(name, request.config.getoption("--share"))


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache that is not the user's, with the embedded checkpoint's preview, which takes seconds to fit."""
    before, folder = os.environ.get("MLX_SD_CACHE"), tmp_path_factory.mktemp("cache")
    shutil.copytree(GOLDENS / "previews", folder / "previews")
    os.environ["MLX_SD_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["MLX_SD_CACHE"]
    else:
        os.environ["MLX_SD_CACHE"] = before


@pytest.fixture(scope="session", autouse=True)
def frozen() -> Iterator[None]:
    """What is loaded by now is no garbage: coremltools looks for some at each conversion."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Processes started by the test take Ctrl-C, also when the tests were started in the background, ignoring it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for all tests of a module, where hypothesis writes anew for each example."""
    return tmp_path_factory.mktemp("folder")


@pytest.fixture(scope="session")
def shapes() -> dict[str, dict[str, dict[str, list[int]]]]:
    """Family -> part -> tensor name -> shape, as diffusers saves them; UNETS' under "unets"."""
    return json.loads((GOLDENS / "shapes.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def family(shapes, tmp_path_factory: pytest.TempPathFactory) -> Callable:
    """family("sd1") is that family's tiny random checkpoint, loaded in float32; made once."""
    from mlx_sd import StableDiffusion
    from tests.support import families

    made = {}

    def load(name: str) -> StableDiffusion:
        if name not in made:
            folder = families.write_folder(name, shapes[name], tmp_path_factory.mktemp("checkpoints") / name)
            made[name] = StableDiffusion.load(folder, dtype="float32")
        return made[name]

    return load


@pytest.fixture(scope="session")
def original(shapes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny sd1 checkpoint as a diffusers folder, to be read."""
    from tests.support import families

    return families.write_folder("sd1", shapes["sd1"], tmp_path_factory.mktemp("original") / "sd1")


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer's folder, as single files need one."""
    from tests.support import families

    folder = tmp_path_factory.mktemp("vocabulary") / "tokenizer"
    families.write_tokenizer(folder, "!")
    return folder


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable:
    """run(*arguments) -> (exit code, stdout, stderr), in an empty folder."""
    from mlx_sd.cli import generate

    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        try:
            code = generate.main([str(a) for a in arguments])
        except SystemExit as stop:  # argparse's way
            code = stop.code
        return code, *capsys.readouterr()

    return call
