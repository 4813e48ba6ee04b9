"""A kit read back by a reader that knows nothing of ours: it makes the golden picture from the packages alone."""

import ast
import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coreml import export
from coreml.kit.selection import Selection
from coreml.plan import Options
from tests.support import families, kit_reader
from tests.support.effort import slow_but
from tests.support.exports import FORMS, SMALL
from tests.support.kit_app import App, distance, generated

# A few steps show that two loops agree; that DeepCache saves little in them is beside the point.
pytestmark = pytest.mark.filterwarnings("ignore:in . evaluations little repeats itself:UserWarning")

COMPRESSED = {"small palettize4:16": {"compress": "palettize4:16", "target": "iOS18"}}
COMPRESSED |= {f"small {name}": {"compress": name} for name in ("int8", "sparse50")}
EXPORTS = [*(name for name in FORMS if name != "sd2 float16"), "inpaint9", *COMPRESSED]
each_form = pytest.mark.parametrize("form", slow_but(["small float32"], EXPORTS))


@pytest.fixture
def folder(kitted):
    return kitted("small float32")


@pytest.fixture
def kit(folder):
    return folder / "kit"


def test_the_reader_knows_nothing_of_ours():
    tree = ast.parse(Path(kit_reader.__file__).read_text())
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert names == {"json", "unicodedata", "pathlib", "numpy"}


def test_the_manifest_has_every_file_of_the_kit(folder):
    files = kit_reader.load(folder / "info.json")["files"]
    for path in filter(Path.is_file, (folder / "kit").rglob("*")):
        entry = files[path.relative_to(folder).as_posix()]
        assert entry == {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


@pytest.mark.slow
def test_info_json_gains_the_manifest_alone(folder, exported):
    contents = [kit_reader.load(path / "info.json") for path in (folder, exported("small float32"))]
    assert contents[0].keys() == contents[1].keys()
    assert {name for name in contents[0]["files"].keys() - contents[1]["files"] if not name.startswith("kit/")} == set()


def test_kit_json_lists_every_table(kit):
    content = kit_reader.load(kit / "kit.json")
    assert {entry["file"] for entry in content["tables"]} == {f"tables/{p.name}" for p in (kit / "tables").iterdir()}
    assert [entry["deepcache"] for entry in content["tables"]] == [None, "2:0", "3:0+forecast1"]
    for entry in content["tables"]:
        rows = kit_reader.load(kit / entry["file"])["rows"]
        assert (entry["evaluations"], entry["full"]) == (len(rows), sum(row["full"] for row in rows))


def test_the_ids_of_200_texts(folder):
    prompts = kit_reader.load(folder / "kit/prompts.json")
    assert len({entry["text"] for entry in prompts["texts"]}) == len(prompts["texts"]) == 200
    assert len({_script(entry["text"]) for entry in prompts["texts"]}) > 20
    for i, tokenizer in enumerate(prompts["tokenizers"]):
        reader = kit_reader.Tokenizer(folder, tokenizer["start"], tokenizer["end"], tokenizer["length"])
        wrong = [entry["text"] for entry in prompts["texts"] if reader.encode(entry["text"]) != entry["ids"][i]]
        assert wrong == []
    lengths = {len(entry["ids"][0]) for entry in prompts["texts"]}
    assert min(lengths) == 2 and max(lengths) == 77


def _script(text):
    import unicodedata

    return unicodedata.name(text[:1], "NONE").split()[0] if text else "EMPTY"


def test_the_noise_of_the_three_generators(kit):
    content = kit_reader.load(kit / "noise/noise.json")
    assert {entry["generator"] for entry in content["noise"]} == kit_reader.GENERATORS.keys()
    for entry in content["noise"]:
        golden = kit_reader.array(kit / "noise", entry)
        draw = kit_reader.GENERATORS[entry["generator"]](entry["seed"])
        for noise in golden:
            assert np.abs(draw(noise.shape) - noise).max() <= content["tolerance"]
        assert np.abs(golden[0] - golden[1]).max() > 1


def test_the_loop_on_golden_predictions(kit):
    golden = kit_reader.load(kit / "picture/picture.json")
    latents, predictions = (kit_reader.array(kit / "picture", golden["arrays"][n]) for n in ("latents", "noise_pred"))
    table, remaining = kit_reader.load(kit / golden["table"]), iter(predictions)
    draw = kit_reader.GENERATORS[golden["generator"]](golden["seed"])

    def evaluate(x, timestep, deep):
        negative, prompt = next(remaining)
        return negative + golden["guidance"] * (prompt - negative), 0

    trace = kit_reader.run(table, draw(latents.shape[1:]), lambda: draw(latents.shape[1:]), evaluate)
    for step, (a, b) in enumerate(zip(trace, latents, strict=True)):
        assert distance(a, b) <= golden["tolerances"]["arithmetic"], step
    table["rows"][1]["mix"]["base"] *= 1.001
    remaining = iter(predictions)
    trace = kit_reader.run(table, draw(latents.shape[1:]), lambda: draw(latents.shape[1:]), evaluate)
    assert distance(trace[2], latents[2]) > golden["tolerances"]["arithmetic"]


@each_form
def test_the_packages_on_golden_inputs(form, kitted):
    app = App(_export(kitted, form))
    tolerances, states = app.golden["tolerances"], app.arrays["encoder_hidden_states"]
    assert distance(app.states(), states) <= tolerances["encoder_hidden_states"]
    table, features = app.table, {}
    for i, (row, x, expected) in enumerate(
        zip(table["rows"], app.arrays["latents"][:-1], app.arrays["noise_pred"], strict=True)
    ):
        deep = None if row["full"] else [(weight, features[int(j)]) for j, weight in row["deep"]]
        prediction, features[i] = app.unet(states, x, row["timestep"], deep)
        assert distance(prediction, expected) <= tolerances["noise_pred"], i


@each_form
def test_the_golden_picture_comes_out_of_the_packages(form, kitted):
    app = App(_export(kitted, form))
    trace, image = app.picture(app.states())
    for step, tolerance in enumerate(app.golden["tolerances"]["latents"]):
        assert distance(trace[step], app.arrays["latents"][step]) <= tolerance, step
    assert np.abs(image - app.arrays["image"]).max() <= app.golden["tolerances"]["image"]
    levels = np.asarray(Image.open(app.folder / "kit/picture/picture.png"), np.float32).transpose(2, 0, 1)
    assert np.abs(levels / 127.5 - 1 - app.arrays["image"]).max() <= 0.5001 / 127.5


@pytest.mark.slow
def test_a_controlled_unet_makes_the_golden_picture_from_zeros(kitted, control_network):
    app = App(kitted("small float32", control=(control_network(SMALL),)))
    trace, _ = app.picture(app.states())
    assert distance(trace[-1], app.arrays["latents"][-1]) <= app.golden["tolerances"]["latents"][-1]
    files = app.info["files"]
    assert any(name.startswith("controlnet/Small.mlpackage/") for name in files) and "kit/kit.json" in files


@pytest.mark.slow
def test_a_model_that_takes_guidance_as_an_input_has_one_row(shapes, tmp_path):
    stored = shapes["sd1"] | {"unet": shapes["unets"]["lcm"]}
    checkpoint = families.write_folder("sd1", stored, tmp_path / "lcm", unet="lcm")
    options = Options("float32", attention="original", unets=("chunks",))
    export.export(str(checkpoint), tmp_path / "out", options, report=lambda _: None, kit=Selection(("lcm",), (), (4,)))
    app = App(tmp_path / "out")
    assert app.golden["negative"] is None and "timestep_cond" in app.arrays
    assert app.arrays["noise_pred"].shape[:2] == (4, 1) == (4, len(app.arrays["encoder_hidden_states"]))


def test_swapped_prompts_leave_the_tolerances(folder):
    app = App(folder)
    trace, _ = app.picture(app.states(swapped=True))
    assert distance(trace[-1], app.arrays["latents"][-1]) > 10 * app.golden["tolerances"]["latents"][-1]


def test_the_golden_latents_are_those_of_mlx_sd(folder, model):
    app = App(folder)
    result = generated(model("small"), app)
    assert distance(np.array(result.latents[0]).transpose(2, 0, 1), app.arrays["latents"][-1]) <= 1e-5
    assert result.full == sum(row["full"] for row in app.table["rows"]) < result.evaluations


def _export(kitted, form):
    if form in FORMS:
        return kitted(form)
    return kitted(form.partition(" ")[0], dtype="float32", attention="original", **COMPRESSED.get(form, {}))
