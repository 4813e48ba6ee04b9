"""Exports with a kit, each written once."""

import pytest

from coreml import export
from coreml.kit.selection import Selection
from coreml.plan import Options
from tests.coreml.conftest import exported, model  # noqa: F401 - fixtures
from tests.support.exports import FORMS

SELECTION = Selection(("dpmpp_2m",), ("karras",), (6,), ("2", "3+forecast1"))


@pytest.fixture(scope="session")
def kitted(model, tmp_path_factory):  # noqa: F811
    """kitted("small float32") is the folder of an export in a form of FORMS, or with options, and with a kit."""
    folders = {}

    def write(name, selection=SELECTION, **options):
        key = repr((name, selection, options))
        if key not in folders:
            family, form = FORMS.get(name, (name, {}))
            folders[key] = tmp_path_factory.mktemp("kits") / "out"
            asked = Options(**(form | options))
            export.export(model(family).model.name, folders[key], asked, report=lambda line: None, kit=selection)
        return folders[key]

    return write
