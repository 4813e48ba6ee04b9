"""The thread sanitizer finds no data race in the Swift package."""

import subprocess

import pytest

from tests.support import swift_toolchain

pytestmark = pytest.mark.proof
QUICK = "BusyTests|CancellationTests"  # what runs in CI, beside the sanitizer's own build


def test_the_thread_sanitizer_finds_no_race_in_the_swift_package(toolchain, goldens, proof):
    scratch = f"{toolchain.scratch}-tsan"
    toolchain.swift("build --build-tests --sanitize=thread", scratch=scratch, stdout=subprocess.DEVNULL)
    words = "test --skip-build --disable-xctest --sanitize=thread"
    if proof.share < 1:
        words += f" --filter '{QUICK}'"
    words += " --skip memoryDoesNotGrow"  # the sanitizer keeps memory of its own
    environment = {"MLXSD_GOLDENS": f"{toolchain.project}/{swift_toolchain.GOLDENS}"}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "check": False}
    done = toolchain.swift(words, scratch=scratch, environment=environment, **options)
    assert "WARNING: ThreadSanitizer" not in done.stdout and done.returncode == 0, done.stdout[-5000:]
    counted = done.stdout.rpartition("Test run with ")[2].partition(" test")[0]
    assert int(counted) > 0
    proof.record(tests=int(counted), races=0)
