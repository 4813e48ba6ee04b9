"""Parity with diffusers, live. Run as `pytest tests/parity`; every test measures, and the end is a table."""

import functools
import importlib.util
import os
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

# The networks are tiny, and each pytest-xdist worker has one core: torch's threads cost more than they give.
os.environ.setdefault("OMP_NUM_THREADS", "1")

NEEDED = ("torch", "diffusers", "transformers", "DeepCache", "peft", "lycoris", "skimage", "compel")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]

# Modules here import the reference when they are collected; one has another, in an environment of its own.
_OTHERS = [file.name for file in Path(__file__).parent.glob("test_*.py") if file.name != "test_coreai_torch.py"]
collect_ignore = _OTHERS if MISSING else []

PROPERTY = "relative error"
_errors: dict[str, list[float]] = defaultdict(list)  # by the name of the measure


@pytest.fixture
def measure(request: pytest.FixtureRequest) -> Callable[[str, float, float], None]:
    """measure(name, error, limit) notes a relative error for the table, and fails above the limit."""

    def note(name: str, error: float, limit: float) -> None:
        request.node.user_properties.append((PROPERTY, (name, float(error))))
        assert error <= limit, f"{name}: {error:.2g} is more than {limit:.2g}"

    return note


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Gathers the errors of a test, which may have run in a pytest-xdist worker."""
    if report.when == "call":
        for key, value in report.user_properties:
            if key == PROPERTY:
                _errors[value[0]].append(value[1])


@pytest.fixture(scope="session")
def modules() -> Callable:
    """modules("sd1") are that family's torch networks; made once."""
    from tests.support import reference

    return functools.cache(reference.modules)


@pytest.fixture(scope="module")
def saved(shapes, tmp_path_factory) -> Callable:
    """saved("sd1") is that family's diffusers folder; written once."""
    from tests.support import families

    return functools.cache(
        lambda name: families.write_folder(name, shapes[name], tmp_path_factory.mktemp("folders") / name)
    )


def pytest_terminal_summary(terminalreporter) -> None:
    if MISSING:
        terminalreporter.write_line(
            f"skipped: parity with diffusers needs {', '.join(MISSING)}; pip install -e '.[reference]'", yellow=True
        )
    if not _errors:
        return
    terminalreporter.section("parity with diffusers")
    width = max(map(len, _errors))
    terminalreporter.write_line(f"{'measure':<{width}}  combinations  worst relative error")
    for name, errors in sorted(_errors.items()):
        terminalreporter.write_line(f"{name:<{width}}  {len(errors):12d}  {max(errors):.1e}")
