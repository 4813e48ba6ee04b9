"""Each result is made once, whenever the command was ended; what does not fit the folder is refused."""

import json
import shutil
from dataclasses import replace

import mlx.core as mx
import pytest

from bench import dealing
from bench.adapters import drawing, stages, subject
from bench.adapters.drawing import WORD
from mlx_sd.core.errors import InputError
from mlx_sd.train import session
from mlx_sd.train.run import log
from mlx_sd.train.run.folder import CHECKPOINTS

pytestmark = pytest.mark.filterwarnings("ignore:.*loss.png is not drawn.*:UserWarning")


@pytest.fixture
def plan(original, tmp_path):
    """A plan of the tiny random checkpoint, which has the tokenizer of the embedded world."""
    plan = stages.plan(tmp_path / "out", str(original), 0, smoke=True)
    stages.begin(plan)
    return plan


@pytest.fixture
def counted(monkeypatch):
    """Counts pictures that are drawn and made, and remembers how trainings begin."""
    counts = {"drawn": 0, "made": 0, "steps": [], "resumed": []}
    draw, make, run = drawing.write, dealing.make, session.Session.run

    def write(*arguments):
        counts["drawn"] += 1
        draw(*arguments)

    def pictures(ranks, sd, requests, batch):
        counts["made"] += len(requests)
        return make(ranks, sd, requests, batch)

    def train(self):
        show = self.show
        self.show = lambda progress: (counts["steps"].append(progress.step), show(progress))
        counts["resumed"].append(self.resume)
        return run(self)

    monkeypatch.setattr(drawing, "write", write)
    monkeypatch.setattr(dealing, "make", pictures)
    monkeypatch.setattr(session.Session, "run", train)
    monkeypatch.setattr(subject, "TOGETHER", 2)
    return counts


@pytest.mark.slow
def test_nothing_is_made_twice(plan, counted):
    recipe = plan.recipes[WORD.name]
    entry = stages.make(plan, recipe)
    assert counted == {"drawn": 1, "made": 2 * recipe.captions, "steps": [1, 2, 3], "resumed": [False]}
    assert entry == stages.make(plan, recipe)
    assert (counted["drawn"], counted["made"], len(counted["resumed"])) == (1, 2 * recipe.captions, 1)
    assert entry["bytes"] <= entry["limit_bytes"] and entry["small"] and isinstance(entry["works"], bool)
    assert entry["figures"]["things"].keys() == {"with", "without", "true pictures, decoded"}
    assert str(plan.out) not in json.dumps(entry), "paths of this machine are no part of results"


@pytest.mark.slow
def test_a_training_goes_on_where_it_was_stopped(plan, counted, monkeypatch):
    recipe, show = plan.recipes[WORD.name], stages.Progress.show

    def stopped(self, amount, note=""):
        if amount == 2:
            raise KeyboardInterrupt
        show(self, amount, note)

    monkeypatch.setattr(stages.Progress, "show", stopped)
    with pytest.raises(KeyboardInterrupt):
        stages.make(plan, recipe)
    assert not (plan.out / recipe.file).exists()
    monkeypatch.setattr(stages.Progress, "show", show)
    stages.make(plan, recipe)
    assert counted["resumed"] == [False, True] and counted["steps"] == [1, 2, 3] and counted["drawn"] == 1
    lines = log.read(plan.work(recipe) / "training" / log.NAME)
    assert [line["step"] for line in lines] == [0, 1, 2, 3]


@pytest.mark.slow
def test_a_training_killed_before_its_first_checkpoint_begins_again(plan, counted):
    recipe, folder = plan.recipes[WORD.name], plan.work(plan.recipes[WORD.name]) / "training"
    stages.make(plan, recipe)
    (plan.out / recipe.file).unlink()
    shutil.rmtree(folder / CHECKPOINTS)  # what is left has settings and a log, as after a kill at the first steps
    stages.make(plan, recipe)
    assert counted["resumed"] == [False, False] and counted["steps"] == [1, 2, 3, 1, 2, 3]


@pytest.mark.slow
def test_pictures_that_are_stored_are_not_made_again(plan, counted, monkeypatch):
    recipe, make = plan.recipes[WORD.name], dealing.make

    def stopped(ranks, sd, requests, batch):
        if counted["made"] == 6:
            raise KeyboardInterrupt
        return make(ranks, sd, requests, batch)

    monkeypatch.setattr(dealing, "make", stopped)
    with pytest.raises(KeyboardInterrupt):
        stages.make(plan, recipe)
    monkeypatch.setattr(dealing, "make", make)
    stages.make(plan, recipe)
    assert counted["made"] == 2 * recipe.captions and counted["resumed"] == [False]


@pytest.mark.slow
def test_another_adapter_is_measured_anew_and_not_trained(plan, counted):
    recipe = plan.recipes[WORD.name]
    before = stages.make(plan, recipe)
    arrays = mx.load(str(plan.out / recipe.file))
    mx.save_safetensors(str(plan.out / recipe.file), {name: 2 * array for name, array in arrays.items()})
    after = stages.make(plan, recipe)
    assert after["sha256"] != before["sha256"] and counted["resumed"] == [False]
    assert counted["made"] == 4 * recipe.captions


def test_a_folder_goes_on_as_it_was_begun(plan):
    stages.begin(plan)
    recipes = {name: replace(recipe, steps=7) for name, recipe in plan.recipes.items()}
    for other, label in ((replace(plan, seed=1), "--seed"), (replace(plan, hash="x"), "--model")):
        with pytest.raises(InputError, match=f"was begun with another {label}"):
            stages.begin(other)
    with pytest.raises(InputError, match="another recipe"):
        stages.begin(replace(plan, recipes=recipes))


def test_a_checkpoint_of_another_world_is_refused(original, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(original, other)
    merges = (other / "tokenizer" / "merges.txt").read_text(encoding="utf-8").splitlines()
    (other / "tokenizer" / "merges.txt").write_text("\n".join(merges[:100]), encoding="utf-8")
    for model in (str(other), "tiny-classes"):
        with pytest.raises(InputError, match="of another world"):
            stages.plan(tmp_path / "out", model, 0, smoke=True)
    assert not (tmp_path / "out").exists()
