"""Whatever one value of info.json is changed into, and whichever key is removed: verify and drive say one line."""

import json
import random
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coreml import asset_checks, drive, info, package_set, verify
from coreml.__main__ import main
from mlx_sd.core.errors import InputError
from tests.support.exports import CORE_AI, SMALL

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

REMOVED = object()
VALUES = (REMOVED, None, True, 0, -1, 1, 3, 2.5, 10**12, "x", "", "1x1", [], ["x"], [[1]], [0, -1], {}, {"x": 1})
FORMS = {
    "coreml": {"dtype": "float32", "unets": ("full", "chunks"), "attention": "original"},
    "coreai": {"dtype": "float32", "attention": "fused", **CORE_AI},
}
COMMANDS = ("verify", "drive")


def places(content: Any, place: tuple = ()) -> Iterator[tuple]:
    """The place of every value in a document, as keys and indices; of long lists those of the first entries."""
    if place:
        yield place
    entries = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in list(entries)[: None if isinstance(content, dict) else 3]:
        yield from places(value, (*place, key))


def changed(content: Any, place: tuple, value: Any) -> Any:
    """The document with another value at a place, or without it."""
    copy = json.loads(json.dumps(content))
    inner = copy
    for key in place[:-1]:
        inner = inner[key]
    if value is REMOVED:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return copy


class StandIn:
    """Takes what the runtime of an asset takes, and gives zeros: an example takes no second."""

    packages: ClassVar[dict[str, Any]] = {}  # of the export that is not damaged

    def __init__(self, path: Path):
        self.path = path
        self.functions = {
            name: {
                "inputs": {n: [p["shape"], p["dtype"]] for n, p in f["inputs"].items()},
                "outputs": {n: [p["shape"], p["dtype"]] for n, p in f["outputs"].items()},
                "states": {},
            }
            for name, f in self.packages[path.stem]["functions"].items()
        }

    def run(self, function, inputs, states=(), seconds=0.0):
        ports = self.functions[function]
        if {n: [list(a.shape), a.dtype.name] for n, a in inputs.items()} != ports["inputs"]:
            raise InputError(f"{self.path} does not take these inputs")
        return {n: np.zeros(shape, dtype) for n, (shape, dtype) in ports["outputs"].items()}

    def close(self) -> None:
        pass


@pytest.fixture(scope="module", params=FORMS)
def folder(request, exported, tmp_path_factory) -> Path:
    if request.param == "coreai":
        pytest.importorskip("coreai", reason="the extra coreai is not installed")
    source = exported(SMALL, **FORMS[request.param])
    return Path(shutil.copytree(source, tmp_path_factory.mktemp(request.param) / "folder"))


@pytest.fixture(scope="module")
def content(folder) -> dict[str, Any]:
    return json.loads((folder / "info.json").read_text(encoding="utf-8"))


def run(command: str, folder: Path, name: str) -> int:
    if command == "verify":
        return main(["verify", str(folder), "--model", name])
    options = ["--steps", "2", "--deepcache", "2", "--seed", "0", "--output", str(folder.parent / "x.png")]
    return main(["drive", str(folder), "a tent", *options])


@pytest.fixture
def quick(monkeypatch, model, content):
    """Nothing is loaded or computed twice."""
    monkeypatch.setattr(StandIn, "packages", content["packages"])
    monkeypatch.setattr(asset_checks, "Runtime", StandIn)
    monkeypatch.setattr(package_set, "Runtime", StandIn)
    for module in (asset_checks, verify):
        monkeypatch.setattr(module.StableDiffusion, "load", lambda *_: model(SMALL))
    monkeypatch.setattr(verify, "verify", lambda *_: [])  # packages themselves hold what it looks at


@given(data=st.data())
def test_a_damaged_info_json_is_refused_or_read(folder, content, data):
    place = data.draw(st.sampled_from([*places(content)]))
    value = data.draw(st.sampled_from(VALUES))
    (folder / "info.json").write_text(json.dumps(changed(content, place, value)), encoding="utf-8")
    with suppress(InputError):
        drive.load(folder)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
@given(data=st.data())
def test_a_damaged_info_json_is_one_line(command, folder, content, quick, model, capfd, data):
    place = data.draw(st.sampled_from([*places(content)]))
    value = data.draw(st.sampled_from(VALUES))
    (folder / "info.json").write_text(json.dumps(changed(content, place, value)), encoding="utf-8")
    code = run(command, folder, model(SMALL).model.name)
    err = capfd.readouterr().err
    assert code in (0, 1, 2) and "Traceback" not in err
    if code == 2:
        assert err.splitlines()[-1].startswith(("coreml verify: ", "mlx_sd.generate: "))


@pytest.mark.parametrize(
    ("place", "value", "words"),
    (
        (("packages", "Unet", "functions", "main", "size"), "x", "packages.Unet.functions.main.size must be"),
        (("packages", "Unet", "functions", "main", "inputs", "sample", "shape"), "x", "inputs.sample.shape must be"),
        (("packages", "Unet", "functions", "main", "inputs", "sample"), REMOVED, "no input sample"),
        (("roles", "any", "text_encoder"), 3, "roles.any.text_encoder must be a list, not 3"),
        (("roles", "any", "text_encoder"), [["Unet", "x"]], "which is no function"),
        (("roles", "64 by 64"), {}, "'64 by 64' is no size"),
        (("networks", "unet", "block_out_channels"), "xy", "networks.unet"),
        (("networks", "unet", "in_channels"), "4", "networks.unet: in_channels must be a usable int"),
        (("networks", "unet", "layers_per_block"), 10**12, "networks.unet.layers_per_block must be at most"),
        (("scheduler", "beta_start"), [], "scheduler: beta_start must be"),
        (("scheduler", "beta_start"), 3, "scheduler: betas are from 0"),
        (("scheduler", "trained_betas"), [0.5], "1000 timesteps and 1 betas"),
        (("tokenizers",), [], "there are 0 for 1 text encoders"),
        (("packages", "Unet", "functions", "main", "states"), ["x"], "main.states: x is no input"),
        (("packages", "../mine"), {"sha256": "", "functions": {}}, "'../mine' is no name of a package"),
    ),
)
def test_the_line_names_the_file_and_the_field(place, value, words, folder, content):
    (folder / "info.json").write_text(json.dumps(changed(content, place, value)), encoding="utf-8")
    with pytest.raises(InputError) as error:
        info.read(folder)
    assert words in str(error.value) and str(error.value).startswith(f"{folder / 'info.json'} is damaged: ")


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["coreai"], indirect=True)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_place_is_tried_once(command, folder, content, quick, model, capfd):
    rng = random.Random(0)
    for place in places(content):
        value = rng.choice(VALUES)
        (folder / "info.json").write_text(json.dumps(changed(content, place, value)), encoding="utf-8")
        assert run(command, folder, model(SMALL).model.name) in (0, 1, 2), (place, value)
        assert "Traceback" not in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["coreai"], indirect=True)
@given(data=st.data())
def test_damage_of_what_an_asset_says_of_itself_is_one_line(folder, quick, model, capfd, data):
    asset = folder / "TextEncoder.aimodel"
    metadata = json.loads((asset / "metadata.json").read_text(encoding="utf-8"))
    inside = ("creatorDefinedMetadata", "mlx_sd")
    place = (*inside, *data.draw(st.sampled_from([*places(metadata[inside[0]][inside[1]])])))
    damaged = changed(metadata, place, data.draw(st.sampled_from(VALUES)))
    (asset / "metadata.json").write_text(json.dumps(damaged), encoding="utf-8")
    try:
        assert main(["verify", str(asset), "--model", model(SMALL).model.name]) in (0, 1, 2)
    finally:
        (asset / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")
    assert "Traceback" not in capfd.readouterr().err
