"""Exports that several tests look at: each written once."""

from collections.abc import Callable
from pathlib import Path

import pytest

from coreml import export
from coreml.plan import Options


@pytest.fixture(scope="session")
def exported(family, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """exported("sd1", dtype="float16", ...) is the folder of that family's tiny checkpoint with those options.

    only=("unet", ...) leaves out the packages of other networks.
    """
    made: dict[tuple[str, tuple[str, ...], Options], Path] = {}

    def write(name: str, only: tuple[str, ...] = (), **options) -> Path:
        key = name, only, Options(**options)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("exports") / name
            with pytest.MonkeyPatch.context() as patch:
                leave_out(patch, only)
                export.export(family(name).model.name, made[key], key[2], report=lambda line: None)
        return made[key]

    return write


def leave_out(patch: pytest.MonkeyPatch, only: tuple[str, ...]) -> None:
    """Exports write packages of these networks alone, or of all where there are none."""
    whole = export.plan
    patch.setattr(export, "plan", lambda *a: [item for item in whole(*a) if not only or item.part in only])
