"""The stages of the recipe: each has its function, needs stages before it, and can be made alone."""

import ast
from pathlib import Path

import pytest

from bench.tiny import __main__ as recipe
from bench.tiny.stages import BY_NAME, OUTSIDE_WORK, STAGES, RecipeError

FOLDER = Path(recipe.__file__).parent


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_a_stage_has_its_function(stage):
    module, function = stage.entry.split(":")
    tree = ast.parse((FOLDER / f"{module}.py").read_text("utf-8"))
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert [argument.arg for argument in functions[function].args.args] == ["plan", "out"]


def test_stages_need_stages_before_them_and_write_in_different_places():
    names = list(BY_NAME)
    assert all(names.index(need) < names.index(stage.name) for stage in STAGES for need in stage.needs)
    assert len({stage.result for stage in STAGES}) == len(STAGES) == len(BY_NAME)
    assert set(OUTSIDE_WORK) < set(names)


def test_a_trial_has_minutes_for_each_stage_that_trains():
    assert recipe.SMOKE_MINUTES.keys() == recipe.TRAINING.keys()


def test_stages_that_are_listed_are_made_in_the_order_of_the_recipe():
    assert recipe.stage_names("token-unet,vq") == ["vq", "token-unet"]
    assert recipe.stage_names(None) == list(BY_NAME)


@pytest.mark.parametrize("text", ["vq,", "", "vq vw", "vq,vq2"])
def test_a_stage_of_another_name_is_refused(text, tmp_path, capsys):
    with pytest.raises(RecipeError, match="no stage is called"):
        recipe.stage_names(text)
    assert recipe.main(["--out", str(tmp_path / "x"), "--only", text]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not (tmp_path / "x").exists()


def test_minutes_are_shared_out_among_stages_and_one_can_have_its_own():
    minutes = recipe.split_minutes(["30", "vq=7"], {"vq": 40.0, "token-unet": 60.0})
    assert minutes == {"vq": 7.0, "token-unet": 18.0}


@pytest.mark.parametrize("option", ["--first-epoch", "--threads", "--scenes"])
def test_a_number_that_is_none_is_one_line_and_nothing_is_made(option, tmp_path, capsys):
    assert recipe.main(["--out", str(tmp_path / "x"), option, "-1"]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not (tmp_path / "x").exists()
