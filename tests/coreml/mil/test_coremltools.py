"""coremltools is imported without its warnings."""

import subprocess
import sys

import pytest


@pytest.mark.slow
def test_coremltools_is_imported_in_silence():
    code = "import coreml.mil.coremltools, logging; print(logging.getLogger('coremltools').level)"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (process.stdout, process.stderr) == ("0\n", "")
