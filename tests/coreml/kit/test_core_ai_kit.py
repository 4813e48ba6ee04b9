"""A kit beside assets of Core AI, read back by a reader of its own: Apple's runtime makes the golden picture."""

import re

import numpy as np
import pytest

pytest.importorskip("coreai", reason="the extra coreai is not installed")

from tests.support import kit_reader
from tests.support.effort import slow_but
from tests.support.exports import CORE_AI
from tests.support.kit_app import App, distance, generated

# A few steps show that two loops agree; that DeepCache saves little in them is beside the point.
pytestmark = pytest.mark.filterwarnings("ignore:in . evaluations little repeats itself:UserWarning")

EXPORTS = {  # family, options; "small" is quick
    "small": ("small", {"dtype": "float32", "attention": "fused"}),
    "small float16": ("small", {"dtype": "float16", "attention": "split-einsum"}),
    "small palettize4": ("small", {"dtype": "float32", "attention": "fused", "compress": "palettize4"}),
    "sd2v": ("sd2v", {"dtype": "float32", "attention": "original"}),
    "sdxl": ("sdxl", {"dtype": "float32", "attention": "split-einsum"}),
    "inpaint9": ("inpaint9", {"dtype": "float32", "attention": "fused"}),
}
each_export = pytest.mark.parametrize("name", slow_but(("small",), EXPORTS))


@pytest.fixture
def app(kitted):
    """app("small") is an app with that export of EXPORTS and its kit."""

    def start(name):
        family, options = EXPORTS[name]
        return App(kitted(family, **CORE_AI, **options))

    return start


@pytest.mark.slow
@pytest.mark.parametrize("name", ["small", "sdxl", "inpaint9"])
def test_the_golden_picture_comes_out_of_apples_runtime(name, app):
    golden = (a := app(name)).golden
    states = a.states()
    assert distance(states, a.arrays["encoder_hidden_states"]) <= golden["tolerances"]["encoder_hidden_states"]
    trace, image = a.picture(states)
    for step, tolerance in enumerate(golden["tolerances"]["latents"]):
        assert distance(trace[step], a.arrays["latents"][step]) <= tolerance, step
    assert np.abs(image - a.arrays["image"]).max() <= golden["tolerances"]["image"]
    swapped, _ = a.picture(states[::-1])
    assert distance(swapped[-1], a.arrays["latents"][-1]) > 2 * golden["tolerances"]["latents"][-1]


@pytest.mark.slow
@each_export
def test_the_functions_on_golden_inputs(name, app):
    a = app(name)
    table, features = a.table, {}
    assert {row["full"] for row in table["rows"]} == {True, False}
    states, latents = a.arrays["encoder_hidden_states"], a.arrays["latents"][:-1]
    for i, (row, x, expected) in enumerate(zip(table["rows"], latents, a.arrays["noise_pred"], strict=True)):
        deep = None if row["full"] else [(weight, features[int(j)]) for j, weight in row["deep"]]
        prediction, features[i] = a.unet(states, x, row["timestep"], deep)
        assert distance(prediction, expected) <= a.golden["tolerances"]["noise_pred"], i


@pytest.mark.slow
def test_the_golden_latents_are_those_of_mlx_sd(app, model):
    a = app("small")
    result = generated(model("small"), a)
    assert distance(np.array(result.latents[0]).transpose(2, 0, 1), a.arrays["latents"][-1]) <= 1e-5


def test_the_readme_speaks_of_core_ai_with_the_names_of_info_json(app):
    a = app("small")
    folder, packages = a.folder / "kit", a.info["packages"]
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"@\w+@", readme) == []
    assert "Core ML" not in readme and "MLXSDKit" in readme and not list(folder.rglob("*.swift"))
    functions = packages["Unet"]["functions"]
    assert functions.keys() - {"main"} == {"full", "shallow"} and "`full` and `shallow` of `Unet.aimodel`" in readme
    context = functions["main"]["inputs"]["encoder_hidden_states"]["shape"]
    for name in functions["shallow"]["inputs"]:
        assert f"`{name}`" in readme or f'"{name}"' in readme
    assert context[:2] == [2, 77] and "`encoder_hidden_states` (2, 77, C)" in readme
    ids = packages["TextEncoder"]["functions"]["main"]["inputs"]["input_ids"]
    assert ids == {"shape": [1, 77], "dtype": "int32"} and "ids are int32, (1, 77)" in readme
    assert f'prompt: "{a.golden["prompt"]}"' in readme


@pytest.mark.slow
def test_a_unet_without_deepcache_has_tables_without_a_cache(kitted):
    from coreml.kit.selection import Selection

    selection = Selection(("euler",), (), (2,))
    folder = kitted("small", selection, **(CORE_AI | {"unets": ("full",)}), dtype="float32", attention="fused")
    (table,) = kit_reader.load(folder / "kit/kit.json")["tables"]
    assert table["deepcache"] is None and table["full"] == table["evaluations"] == 2
