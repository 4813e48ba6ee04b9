"""The adapters that are a part of the package: of the embedded checkpoint's weights, small, and used by their names."""

import numpy as np
import pytest

from bench import results
from bench.adapters.drawing import true_examples
from bench.adapters.edge_overlap import intersection_over_union
from bench.adapters.recipes import RECIPES
from bench.quality.truth_rules import pixels_of, sky_of
from convert.adapters.merge import locate
from mlx_sd import StableDiffusion
from mlx_sd.checkpoint.control import Control
from mlx_sd.core.embedded import CHECKPOINTS, CONTROLS, EMBEDDINGS, LORAS, place
from mlx_sd.core.errors import InputError
from mlx_sd.core.files import sha256
from mlx_sd.studio.models.catalog import Catalog
from mlx_sd.tasks.edges import canny

ALL = {**LORAS, **EMBEDDINGS, **CONTROLS}
PROMPT = "a red tent on green grass, under a clear day sky"
TOGETHER = 6_000_000  # bytes


@pytest.fixture(scope="module")
def measured():
    return results.read(results.FOLDER / "adapters-tiny-cpu.json")


def test_each_recipe_is_shipped_and_all_are_small_together():
    assert {f"tiny/{recipe.name}" for recipe in RECIPES.values()} == set(ALL)
    sizes = [file.stat().st_size for file in ALL.values()]
    assert sum(sizes) <= TOGETHER
    assert all(file.stat().st_size <= RECIPES[name.split("/")[1]].limit for name, file in ALL.items())


def test_what_is_shipped_is_what_was_measured_on_these_weights_and_works(measured):
    assert measured["hash"] == StableDiffusion.load("tiny", "float32").model.hash and not measured["smoke"]
    by_name = {f"tiny/{entry['adapter']}": entry for entry in measured["adapters"]}
    assert {name: entry["sha256"] for name, entry in by_name.items()} == {n: sha256(f) for n, f in ALL.items()}
    assert all(entry["works"] and entry["small"] for entry in by_name.values())


def test_evening_changes_the_sky_by_its_name():
    sky = {}
    for name in (None, "tiny/evening"):
        sd = StableDiffusion.load("tiny", "float32", loras=[name] if name else [])
        sky[name] = sky_of(pixels_of(sd.generate(PROMPT, seed=1, steps=8, sampler="dpmpp_2m").images[0]))
    assert sky == {None: "day", "tiny/evening": "sunset"}


def test_edges_are_drawn_by_the_name():
    [example] = true_examples(1, 256)
    shown, sd = np.asarray(example.control)[..., 0] > 0, StableDiffusion.load("tiny", "float32")
    overlaps = []
    for controls in ((), (Control("tiny/edges", example.control),)):
        result = sd.generate(example.caption, seed=0, steps=8, sampler="dpmpp_2m", controls=controls)
        overlaps.append(intersection_over_union(shown, canny(np.asarray(result.images[0])) > 0))
    without, overlap = overlaps
    assert overlap >= 2 * without


def test_wrong_names_say_the_right_ones():
    with pytest.raises(InputError, match="--embedding tiny/lilac"):
        locate("tiny/lilac")
    with pytest.raises(InputError, match="did you mean tiny/evening"):
        locate("tiny/evning")
    with pytest.raises(InputError, match="--lora tiny/four-steps"):
        place("tiny/four-steps", CHECKPOINTS)
    assert place("owner/other", LORAS).name == "other"


def test_the_studio_lists_them():
    catalog = Catalog()
    assert {entry.source for entry in catalog.loras()} == set(LORAS)
    assert {entry.source for entry in catalog.embeddings()} == set(EMBEDDINGS)
    assert set(CONTROLS) <= {entry.source for entry in catalog.control_networks()}
