"""Parity with diffusers, live. Run as `pytest tests/parity`; every test measures, and the end is a table."""

import functools
import importlib.util
from collections import defaultdict
from collections.abc import Callable

import pytest

NEEDED = ("torch", "diffusers", "transformers", "DeepCache", "peft", "lycoris", "skimage")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]

# Modules here import the reference when they are collected.
collect_ignore_glob = ["test_*.py"] if MISSING else []

_measured: dict[str, list[float]] = defaultdict(list)


@pytest.fixture
def measure() -> Callable[[str, float, float], None]:
    """measure(name, error, limit) notes a relative error for the table, and fails above the limit."""

    def note(name: str, error: float, limit: float) -> None:
        _measured[name].append(error)
        assert error <= limit, f"{name}: {error:.2g} is more than {limit:.2g}"

    return note


@pytest.fixture(scope="session")
def modules() -> Callable:
    """modules("sd1") are that family's torch networks; made once."""
    from tests.support import reference

    return functools.cache(reference.modules)


def pytest_terminal_summary(terminalreporter) -> None:
    if MISSING:
        terminalreporter.write_line(
            f"skipped: parity needs {', '.join(MISSING)}; pip install -e '.[reference]'", yellow=True
        )
    if not _measured:
        return
    terminalreporter.section("parity with diffusers")
    width = max(map(len, _measured))
    terminalreporter.write_line(f"{'measure':<{width}}  combinations  worst relative error")
    for name, errors in sorted(_measured.items()):
        terminalreporter.write_line(f"{name:<{width}}  {len(errors):12d}  {max(errors):.1e}")
