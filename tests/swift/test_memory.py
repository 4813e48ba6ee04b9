"""The memory of the Swift pipeline does not grow over a thousand pictures."""

import subprocess

import pytest

from tests.support import swift_toolchain

pytestmark = pytest.mark.proof


def test_a_thousand_pictures_of_the_swift_pipeline_take_no_more_memory_than_a_hundred(toolchain, goldens, proof):
    environment = {"MLXSD_GOLDENS": f"{toolchain.project}/{swift_toolchain.GOLDENS}"}
    if proof.share == 1:
        environment["MLXSD_PROOF"] = "1"
    toolchain.swift("build --build-tests", stdout=subprocess.DEVNULL)
    words = "test --skip-build --disable-xctest --filter memoryDoesNotGrow"
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "check": False}
    done = toolchain.swift(words, environment=environment, **options)
    assert done.returncode == 0 and "Test run with 1 test" in done.stdout, done.stdout[-3000:]
    proof.record(pictures=1000, growth="below 2 MB of resident memory")
