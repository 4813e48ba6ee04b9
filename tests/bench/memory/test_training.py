"""What is counted of a training step is what MLX needs, and the guide has what is counted."""

import itertools
import json
from pathlib import Path

import pytest

from bench import results
from bench.memory import training

ROOT = Path(__file__).parents[3]
COUNTED = results.read(ROOT / "bench/results" / training.FILE)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lora --recompute", "unet", "control", "distill"])
def test_a_step_needs_what_is_counted(name):
    kind, recompute = name.split()[0], "--recompute" in name
    cases = [
        (
            kind,
            {"dtype": "float32", "recompute": recompute, "batch": batch, **training.WORDS.get(kind, {})},
            (side, side),
        )
        for batch, side in ((1, 96), (3, 160))
    ]
    for row in training.compare_all(cases):
        held = sum(row["plan"][f"memory_{part}"] for part in ("frozen", "learned", "moments"))
        counted, measured = row["counted_bytes"], row["measured_bytes"]
        assert 0.9 < counted / measured < 1.1
        assert 0.8 < (counted - held) / (measured - held) < 1.2  # without weights and what belongs to them


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "label"), [*itertools.product(["sd15"], training.TABLE_KINDS), ("sdxl", "LoRA, rank 8")]
)
def test_the_counts_are_those_of_today(name, label):
    values = COUNTED["counted"][name][label]
    counted = {"kept": training.count(name, label, False), "recomputed": training.count(name, label, True)}
    assert values == counted, "python -m bench training --table --json FILE counts them again"


def test_the_guide_has_the_counted_table():
    page = (ROOT / "docs/guide/training.md").read_text(encoding="utf-8")
    assert training.section(ROOT / "bench/results") in page


@pytest.mark.parametrize("file", training.MEASURED)
def test_the_plan_of_a_model_of_full_size_is_within_a_fifth_of_what_was_measured(file):
    values = results.read(ROOT / "bench/results" / file)
    assert (values["kind"], values["dtype"], values["batch"]) == ("lora", "float32", 1)
    kept, recomputed = values["steps"]
    assert (kept["recompute"], recomputed["recompute"]) == (False, True)
    assert kept["measured_bytes"] > recomputed["measured_bytes"]
    for step in values["steps"]:
        assert step["counted_bytes"] == pytest.approx(step["measured_bytes"], rel=0.2)
        assert step["ratio"] == pytest.approx(step["counted_bytes"] / step["measured_bytes"], abs=6e-4)


def test_the_guide_says_what_was_measured_at_full_size():
    page = (ROOT / "docs/guide/training.md").read_text(encoding="utf-8")
    assert training.measured(ROOT / "bench/results") in page


@pytest.mark.slow
def test_the_command_measures_both_ways(tmp_path, capsys):
    file = tmp_path / "out.json"
    assert training.main(["--resolution", "64", "--rank", "2", "--json", str(file)]) == 0
    values = json.loads(file.read_text())
    assert json.loads(capsys.readouterr().out) == values
    assert [row["recompute"] for row in values["steps"]] == [False, True]
    assert values["steps"][0]["counted_bytes"] > values["steps"][1]["counted_bytes"]
    assert values["size"] == [64, 64] and values["machine"]
