"""What app developers copy and read agrees with what an export writes: the Swift file, and docs/guide/apps.md."""

import json
import re
from pathlib import Path

import pytest
import tree_sitter
import tree_sitter_swift

from coreml import export
from coreml.__main__ import parser
from coreml.kit import tables, write
from coreml.mil import package
from coreml.plan import FORMATS, Options, plan
from mlx_sd.checkpoint.embedded import TINY
from mlx_sd.checkpoint.model_folder import build
from mlx_sd.sampling.scheduler import Scheduler

ROOT = Path(__file__).parent.parent.parent
SWIFT = (ROOT / "coreml/swift/DeepCacheUnet.swift").read_text(encoding="utf-8")
LOOP = (ROOT / "coreml/swift/SamplingLoop.swift").read_text(encoding="utf-8")
KITS = [(ROOT / f"coreml/kit/swift-{name}.md").read_text(encoding="utf-8") for name in FORMATS]
PAGE = (ROOT / "docs/guide/apps.md").read_text(encoding="utf-8")


def faults(swift):
    """(line, text) of each place that is not Swift."""
    swift_language = tree_sitter.Language(tree_sitter_swift.language())
    nodes = [tree_sitter.Parser(swift_language).parse(swift.encode()).root_node]
    errors = []
    while nodes:
        node = nodes.pop()
        nodes += node.children
        if node.is_error or node.is_missing:
            errors.append((node.start_point[0] + 1, node.text.decode()))
    return errors


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


def test_the_swift_files_are_swift():
    assert faults(SWIFT) == [] == faults(LOOP)
    assert faults(SWIFT.replace("guard interval >= 1 else", "guard interval >= 1 els"))


def test_the_loop_of_a_core_ai_kit_differs_in_waiting_alone():
    loop = write.loop("coreai")
    assert faults(loop) == [] and write.loop("coreml") == LOOP != loop
    assert loop.replace("try await ", "try ").replace(" async ", " ") == LOOP
    assert loop.count("await") == 2  # for the UNet, and in the example at the head


@pytest.mark.parametrize(("page", "count"), ((PAGE, 4), (KITS[0], 1), (KITS[1], 1)), ids=("the guide", *FORMATS))
def test_every_snippet_on_a_page_is_swift(page, count):
    snippets = re.findall(r"```swift\n(.*?)```", page, re.DOTALL)
    assert len(snippets) >= count
    assert [faults(snippet) for snippet in snippets] == [[]] * len(snippets)


def test_the_swift_file_reads_what_info_json_says(written):
    info = json.loads(written)
    cases = dict(re.findall(r"        case (\w+)(?: = \"(\w+)\")?", SWIFT))
    keys = {json_name or name for name, json_name in cases.items()}
    assert {"roles", "deepcache", "latents", "scaling_factor", "alphas_cumprod"} <= keys
    assert keys <= info.keys() | info["latents"].keys()
    assert {"branch"} <= info["deepcache"].keys()
    for description in info["packages"].values():
        for function in description["functions"].values():
            for ports in (function["inputs"], function["outputs"]):
                assert all(port.keys() == {"shape", "dtype"} for port in ports.values())
    assert f'format == "{info["format"]}", (1...{info["version"]}).contains(version)' in SWIFT


def test_the_swift_loop_reads_what_a_table_says():
    """Keys of JSON in Swift's spelling: convertFromSnakeCase."""
    scheduler = Scheduler.from_hf({"_class_name": "UniPCMultistepScheduler"})
    (setting,) = tables.choose(scheduler, [], [], [4], [], None)
    table = tables.describe(setting, tables.table_of(setting, scheduler))
    row = next(row for row in table["rows"] if row["correction"])
    fields = {
        "Row": row.keys(),
        "Mix": row["mix"].keys() & row["correction"].keys(),
        "Estimate": row["estimate"].keys(),
        "Start": table["start"].keys(),
    }
    for struct, keys in fields.items():
        body = re.search(rf"struct {struct}: Decodable {{(.*?)\n    }}", LOOP, re.DOTALL)[1]
        properties = re.findall(r"public let (\w+):", body)
        assert sorted(properties) == sorted(re.sub(r"_(\w)", lambda m: m[1].upper(), key) for key in keys)
    assert {"start", "history", "rows"} <= table.keys()


def test_info_json_is_json_as_swift_reads_it(written):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    json.loads(written, parse_constant=refuse)


def test_the_swift_file_knows_the_roles_and_the_ports(items):
    entries = [entry for item in items for entry in item.functions.values()]
    roles = set(re.findall(r'(?:roles)\["(\w+)"\]', SWIFT))
    assert roles == {"unet", "unet_deep", "unet_shallow"} <= {entry.role for entry in entries}
    ports = {p.name for e in entries if e.role in roles for p in (*e.spec.inputs, *e.spec.outputs)}
    assert set(re.findall(r'features\["(\w+)"\]', SWIFT)) == ports


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
