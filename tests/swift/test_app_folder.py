"""`python -m coreml --swift DIR` writes a whole app, the same every time, and overwrites nothing of the user's."""

import hashlib
import json
import re

import pytest

from coreml import app_folder, export
from coreml.__main__ import main
from coreml.kit.selection import is_kit
from coreml.mil import package
from mlx_sd.core.errors import Failure
from tests.support import swift_files

pytestmark = pytest.mark.filterwarnings("ignore:in . evaluations little repeats itself:UserWarning")


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    """The words of an export whose packages are only described."""
    monkeypatch.setattr(package, "write", lambda *a: a[-1].mkdir() or {})
    monkeypatch.setattr(package, "write_metadata", lambda *_: None)
    return ["--model", "tiny", "--steps", "2", "--swift", str(tmp_path / "A.swiftpm")]


@pytest.fixture
def without_models(monkeypatch):
    """Exports write an empty model set, and say with which options."""
    calls = []

    def write(model, out, options, force, kit):
        calls.append((options, force, kit))
        out.mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(export, "export", write)
    return calls


def content(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_model_set_package_and_sample_lie_side_by_side(arguments, tmp_path, capsys):
    assert main(arguments) == 0
    app = tmp_path / "A.swiftpm"
    assert capsys.readouterr().out.splitlines()[-1] == str(app)
    names = {path.name for path in app.iterdir()}
    assert {"ModelSet", "MLXSDKit", "Sample", "Package.swift", "README.md", "app.json", "project.yml"} <= names
    info = json.loads((app / "ModelSet/info.json").read_text())
    assert info["packages"].keys() == {"TextEncoder", "UnetChunk1", "UnetChunk2", "VAEDecoder", "VAEEncoder"}
    assert is_kit(app / "ModelSet/kit") and (app / "ModelSet/vocab.json").is_file()
    assert {p.name for p in tmp_path.iterdir()} == {"A.swiftpm"}


def test_the_list_has_every_file_and_its_hash(without_models, tmp_path):
    assert main(["--swift", str(tmp_path / "app")]) == 0
    files = content(tmp_path / "app")
    listed = json.loads(files.pop("app.json"))["files"]
    assert listed.keys() == files.keys() == app_folder.sources().keys()
    assert all(hashlib.sha256(files[name]).hexdigest() == entry["sha256"] for name, entry in listed.items())
    in_project = {p.relative_to(swift_files.PACKAGE).as_posix() for p in swift_files.swift_files()}
    in_app = {n.removeprefix("MLXSDKit/") if "MLXSDKit/" in n else f"App/{n}" for n in listed if n.endswith(".swift")}
    assert in_app == {name for name in in_project if not name.startswith("Tests/")}
    assert "MLXSDKit/.swift-format" in listed and not [name for name in listed if ".build" in name]


def test_two_folders_are_equal(without_models, tmp_path):
    for name in ("one", "two"):
        assert main(["--swift", str(tmp_path / name)]) == 0
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_manifests_name_folders_that_exist(without_models, tmp_path):
    assert main(["--swift", str(tmp_path / "app")]) == 0
    for manifest in (tmp_path / "app/Package.swift", tmp_path / "app/MLXSDKit/Package.swift"):
        text, guard, tests = manifest.read_text().partition('if FileManager.default.fileExists(atPath: "\\(Context')
        assert bool(guard) == ("MLXSDKit/" in str(manifest)) and '"Tests' not in text
        targets = re.findall(r'arget\(name: "([\w-]+)"(.*)', text + tests.partition("\n}\n")[2])

        paths = [f"Sources/{name}" for name, line in targets if line and "path:" not in line]
        paths += re.findall(r'\bpath: "([^"]+)"', text)
        for names in re.findall(r"(?:exclude|sources): \[(.*?)\]", text, re.DOTALL):
            paths += re.findall(r'"([^"]+)"', names)
        for path in set(paths) - {"Sources/CoreML", "Sources/CoreAI"}:
            assert (manifest.parent / path).exists(), path


def test_it_implies_the_kit_and_leaves_out_the_second_unet(without_models, tmp_path):
    assert main(["--swift", str(tmp_path / "a"), "--steps", "3"]) == 0
    assert main(["--swift", str(tmp_path / "b"), "--unet", "full"]) == 0
    (first, _, kit), (second, _, _) = without_models
    assert kit.steps == (3,) and first.unets == ("chunks",) and second.unets == ("full",)


def test_nothing_is_overwritten_without_force_and_only_ours_with_it(without_models, tmp_path, capfd):
    app = tmp_path / "app"
    words = ["--swift", str(app)]
    assert main(words) == 0
    view, mine, package = app / "Sample/ContentView.swift", app / "Sample/Mine.swift", app / "MLXSDKit/Package.swift"
    original = view.read_bytes()
    view.write_text("// edited")
    mine.write_text("// mine")
    assert main(words) == 2
    printed = capfd.readouterr().err
    assert "--force" in printed and printed.count("\n") == 1
    assert view.read_text() == "// edited" and len(without_models) == 1
    package.unlink()
    assert main([*words, "--force"]) == 0
    assert view.read_bytes() == original and mine.read_text() == "// mine" and package.is_file()


def test_a_file_of_an_earlier_version_goes_unless_somebody_has_worked_on_it(without_models, tmp_path):
    app = tmp_path / "app"
    assert main(["--swift", str(app)]) == 0
    listed = json.loads((app / "app.json").read_text())
    for name in ("Sample/Old.swift", "Sample/Edited.swift"):
        (app / name).write_text("// old")
        listed["files"][name] = {"bytes": 6, "sha256": hashlib.sha256(b"// old").hexdigest()}
    listed["files"]["../outside"] = listed["files"]["Sample/Old.swift"]
    (tmp_path / "outside").write_text("// old")
    (app / "app.json").write_text(json.dumps(listed))
    (app / "Sample/Edited.swift").write_text("// edited")
    assert main(["--swift", str(app), "--force"]) == 0
    assert not (app / "Sample/Old.swift").exists()
    assert (app / "Sample/Edited.swift").exists() and (tmp_path / "outside").exists()


@pytest.mark.parametrize(
    ("spoil", "says"),
    (
        (lambda app: app.write_text("x"), "is not a folder"),
        (lambda app: (app.mkdir(), (app / "Package.swift").write_text("mine")), "not of an earlier export"),
        (lambda app: (app.mkdir(), (app / "Sample").write_text("mine")), "a folder of the app has this name"),
        (lambda app: (app.mkdir(), (app / "app.json").write_text("{}")), "not the list of an earlier export"),
        (lambda app: (app.mkdir(), (app / "app.json").write_text("{")), "is not JSON"),
        (
            lambda app: (app.mkdir(), (app / "app.json").write_text('{"format": "mlx-sd app", "files": 3}')),
            "not the list",
        ),
        (lambda app: (app.mkdir(), (app / "Package.swift").mkdir()), "not of an earlier export"),
    ),
)
@pytest.mark.parametrize("force", ((), ("--force",)))
def test_what_is_in_the_way_is_one_line_before_any_work(spoil, says, force, without_models, tmp_path, capfd):
    spoil(tmp_path / "app")
    before = content(tmp_path)
    assert main(["--swift", str(tmp_path / "app"), *force]) == 2
    printed = capfd.readouterr().err
    assert says in printed and printed.count("\n") == 1
    assert content(tmp_path) == before and without_models == []


def test_an_export_that_fails_leaves_no_empty_folder(tmp_path, monkeypatch, capfd):
    def fail(model, out, *_, **__):
        out.parent.mkdir(parents=True)
        raise Failure("the disk is full")

    monkeypatch.setattr(export, "export", fail)
    assert main(["--swift", str(tmp_path / "app")]) == 1
    assert "the disk is full" in capfd.readouterr().err and list(tmp_path.iterdir()) == []


def test_out_and_swift_together_are_refused(tmp_path, capfd):
    assert main(["--swift", str(tmp_path / "app"), "--out", str(tmp_path / "out")]) == 2
    assert "leave --out out" in capfd.readouterr().err and list(tmp_path.iterdir()) == []


def test_an_app_folder_outside_the_checkout_needs_nothing_of_it(without_models, tmp_path):
    """No file of it is a link, and none names a folder of the project."""
    assert main(["--swift", str(tmp_path / "app")]) == 0
    moved = (tmp_path / "app").rename(tmp_path / "moved")
    for path in moved.rglob("*"):
        assert not path.is_symlink()
        if path.suffix == ".swift":
            assert "../.." not in path.read_text(), path
