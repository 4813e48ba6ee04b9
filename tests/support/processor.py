"""What the processor is, for tests of what MKL promises for Intel's alone."""

from pathlib import Path


def is_intel() -> bool:
    """Tells whether MKL rounds a row of a product in the same way whatever the number of rows."""
    description = Path("/proc/cpuinfo")
    return description.exists() and "GenuineIntel" in description.read_text(encoding="utf-8")
