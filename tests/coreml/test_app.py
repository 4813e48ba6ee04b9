"""What app developers read agrees with what an export writes: both guides, and the README of the kit."""

import json
import re
from pathlib import Path

import pytest

from coreml import export
from coreml.__main__ import parser
from coreml.mil import package
from coreml.plan import Options, plan
from mlx_sd.checkpoint.model_folder import build
from mlx_sd.core.embedded import TINY
from tests.support.swift_files import faults

ROOT = Path(__file__).parent.parent.parent
KIT = (ROOT / "coreml/kit/README.md").read_text(encoding="utf-8")
PACKAGE = (ROOT / "coreml/swift/README.md").read_text(encoding="utf-8")
PAGE = (ROOT / "docs/guide/apps.md").read_text(encoding="utf-8")
SWIFT_PAGE = (ROOT / "docs/guide/swift.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def items():
    configs = {part: json.loads((TINY / part / "config.json").read_text()) for part in ("text_encoder", "unet", "vae")}
    networks = {part: build(part, config, part) for part, config in configs.items()}
    options = Options(unets=("full", "chunks", "functions"), target="iOS18")
    return plan(networks, options, "tiny")


@pytest.fixture
def written(tmp_path, monkeypatch):
    """The info.json of an export whose packages are only described."""
    monkeypatch.setattr(package, "write", lambda *_: {})
    monkeypatch.setattr(package, "write_metadata", lambda *_: None)
    monkeypatch.setattr(package, "size", lambda *_: 0)
    export.export("tiny", tmp_path / "out", Options(unets=("chunks",)), report=lambda _: None)
    return (tmp_path / "out/info.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("page", "count"), ((PAGE, 2), (SWIFT_PAGE, 3), (KIT, 1), (PACKAGE, 1)), ids=("apps", "swift", "kit", "package")
)
def test_every_snippet_on_a_page_is_swift(page, count):
    snippets = re.findall(r"```swift\n(.*?)```", page, re.DOTALL)
    assert len(snippets) >= count
    assert [faults(snippet) for snippet in snippets] == [[]] * len(snippets)


def test_info_json_is_json_as_swift_reads_it(written):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    json.loads(written, parse_constant=refuse)


def test_the_page_names_every_package_and_its_ports(items):
    rows = [line for line in PAGE.splitlines() if line.startswith("| `")]
    for item in items:
        if item.name == "UnetFunctions":
            continue
        (row,) = (row for row in rows if row.startswith(f"| `{item.name}`") and "float" in row)
        (entry,) = item.functions.values()
        new = [port for port in entry.spec.inputs if item.name == "Unet" or port.name not in row]
        if item.name in ("UnetChunk1", "UnetChunk2"):
            assert "those of `Unet`" in row
            new = [port for port in new if port.name == "deep_feature"]
        for port in (*new, *entry.spec.outputs):
            assert f"`{port.name}`" in row
            assert str(port.dtype).rpartition(".")[2] in row


def test_the_page_names_every_option_of_an_export():
    options = {text for action in parser()._actions for text in action.option_strings if text.startswith("--")}
    for option in options - {"--help", "--force", "--width", "--height"}:
        assert f"`{option}" in PAGE or f" {option} " in PAGE, option
