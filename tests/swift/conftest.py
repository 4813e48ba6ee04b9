"""The toolchain, the golden files and the built command of the tests that need Swift."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.support import swift_toolchain

RECORDINGS = Path(swift_toolchain.GOLDENS) / "recordings"


@pytest.fixture(scope="session")
def toolchain():
    """A Swift toolchain; without one the test is skipped with the advice how to get it."""
    try:
        return swift_toolchain.find()
    except swift_toolchain.NoToolchain as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def goldens():
    """The folder of golden files, which is written where it is missing."""
    folder = swift_toolchain.ROOT / swift_toolchain.GOLDENS
    if not (folder / "recordings").is_dir():
        swift_toolchain.write_goldens()
    return folder


@pytest.fixture(scope="session")
def mlxsd(toolchain, goldens):
    """mlxsd("--help") is a finished process of the built command, in the root of the project."""
    toolchain.swift("build --product mlxsd-swift", stdout=subprocess.DEVNULL)

    def run(*words):
        quoted = " ".join("'" + str(word).replace("'", "'\\''") + "'" for word in words)
        command = f"{toolchain.scratch}/debug/mlxsd-swift {quoted}"
        return toolchain.run(command, check=False, capture_output=True, text=True)

    return run


@pytest.fixture
def out():
    """A folder inside the project for pictures, by its path there: a root folder sees nothing else of this machine."""
    folder = swift_toolchain.ROOT / "build/swift-out"
    folder.mkdir(parents=True, exist_ok=True)
    yield Path("build/swift-out")
    for path in folder.iterdir():
        path.unlink()


def expected(goldens, case):
    """The recorded request's result: its pixels (bytes) and its record."""
    folder = goldens / "recordings" / case
    return (folder / "expected.u8").read_bytes(), json.loads((folder / "expected.json").read_text())
