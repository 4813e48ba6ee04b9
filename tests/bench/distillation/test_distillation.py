"""The comparison of caching with pruning and distillation: what is compared, what it costs, and that it goes on."""

import json

import pytest

from bench.adapters import drawing
from bench.distillation import distillation
from bench.distillation.methods import METHODS, STEPS, TRAININGS, Method, Training
from bench.tiny.claims import held_out
from mlx_sd import StableDiffusion
from mlx_sd.cost import cost_of
from mlx_sd.request import Request
from mlx_sd.train.data import dataset
from mlx_sd.train.kind_table import KINDS

SMALL = {"small": Training("prune", {"shape": "small", "scratch": True})}
FEW = (Method("plain", {"steps": 1}), Method("small", {"steps": 1}, "small"))


def test_every_training_is_used_and_every_method_has_its_training():
    assert {method.training for method in METHODS} == {None, *TRAININGS}
    assert len({method.name for method in METHODS}) == len(METHODS)
    for training in TRAININGS.values():
        KINDS[training.kind].settings().with_values(data="pictures", **training.settings).check()


def test_drawn_pictures_are_what_the_trainer_reads_and_no_caption_of_the_measure(tmp_path):
    for name in ("a", "b"):
        drawing.write(tmp_path / name, drawing.world, distillation.SEEDS, 6, 64)
    data = dataset.read(str(tmp_path / "a"), caption=None)
    assert (len(data.examples), data.warnings) == (6, ())
    assert not {example.caption for example in data.examples} & held_out()
    assert distillation.SEEDS.start >= drawing.FIRST_SEED + drawing.EDITIONS * drawing.SEEDS_OF_EDITION
    assert distillation.SEEDS.stop <= drawing.FIRST_MEASURED
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert len(files) == 12
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)


def test_multiplications_are_those_of_full_and_cached_evaluations():
    sd = StableDiffusion.load("tiny", "float32")

    def macs(**settings):
        return cost_of(sd.model, Request(prompt="a tent", seed=0, **settings)).macs

    full, half = macs(steps=1), macs(steps=1, guidance=1.0)
    assert full == 2 * half > 0
    assert macs(steps=STEPS) == STEPS * full
    cached = macs(steps=10, deepcache="2")
    assert 5 * full < cached < 5.6 * full


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--captions", "1"), "--captions must be from 2"),
        (("--captions", "501"), "--captions must be from 2 to 500"),
        (("--steps", "0"), "--steps must be at least 1"),
        (("--pictures", "-1"), "--pictures must be at least 1"),
        (("--pictures", "200001"), "--pictures must be at most 200000"),
    ],
)
def test_what_cannot_be_measured_is_refused(tmp_path, capsys, words, line):
    assert distillation.main(["--work", str(tmp_path / "w"), *words]) == 2
    assert line in capsys.readouterr().err and not (tmp_path / "w").exists()


def test_a_work_folder_that_is_a_file_is_refused(tmp_path, capsys):
    (tmp_path / "w").write_text("")
    assert distillation.main(["--work", str(tmp_path / "w")]) == 2
    assert "is not a folder" in capsys.readouterr().err


@pytest.mark.slow
def test_all_is_measured_and_a_second_run_makes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(distillation, "METHODS", FEW)
    monkeypatch.setattr(distillation, "TRAININGS", SMALL)
    words = ["--work", str(tmp_path / "w"), "--steps", "1", "--batch", "1", "--pictures", "2", "--captions", "2"]
    assert distillation.main([*words, "--json", str(tmp_path / "first.json")]) == 0
    first = json.loads((tmp_path / "first.json").read_text())
    assert [method["name"] for method in first["methods"]] == ["plain", "small"]
    assert first["methods"][1]["macs"] < first["methods"][0]["macs"]
    assert first["training"]["cost"]["small"]["seconds"] > 0
    monkeypatch.setattr(distillation, "Session", None)
    monkeypatch.setattr(distillation.dealing, "make", None)
    assert distillation.main([*words, "--json", str(tmp_path / "second.json")]) == 0
    assert json.loads((tmp_path / "second.json").read_text()) == first
    capsys.readouterr()
