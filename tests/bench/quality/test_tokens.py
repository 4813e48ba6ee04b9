"""The comparison of samplers of tokens: its points, its blocks, and what is no model of tokens."""

import json

import pytest

from bench.quality import blocks, tokens
from mlx_sd.discrete import calls
from tests.support import tokens as checkpoints

FEW = (
    tokens.Point(calls.MASKGIT, 3),
    tokens.Point(calls.MASKGIT, 3, None, "2"),
    tokens.Point(calls.DNDM, 1000, "linear"),
    tokens.Point(calls.CHAIN, 2, "linear"),
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A tiny random checkpoint, blocks of two pictures, few points and few true pictures."""
    monkeypatch.setattr(blocks, "BLOCK", 2)
    monkeypatch.setattr(tokens, "POINTS", FEW)
    all_of_them = tokens.claims()
    monkeypatch.setattr(tokens, "claims", lambda: all_of_them[:4])
    return checkpoints.write_folder(tmp_path / "model")


def test_every_sampler_has_points_that_it_takes():
    assert {point.sampler for point in tokens.POINTS} == set(calls.NAMES)
    assert len(set(tokens.POINTS)) == len(tokens.POINTS)
    assert all((point.schedule is None) == (point.sampler in calls.MASKING) for point in tokens.POINTS)
    assert all((point.steps is None) == (point.sampler == calls.DNDM_C) for point in tokens.POINTS)


@pytest.mark.slow
def test_points_are_measured_once_and_say_how_often_the_network_was_called(folder, tmp_path, capsys):
    words = ["--model", str(folder), "--images", "2", "--work", str(tmp_path / "work"), "--json", str(tmp_path / "a")]
    assert tokens.main(words) == 0
    values = json.loads((tmp_path / "a").read_text())
    assert [(point["sampler"], point["deepcache"]) for point in values["points"]] == [(p[0], p[3]) for p in FEW]
    maskgit, cached, dndm, chain = values["points"]
    assert (maskgit["calls"], maskgit["full_calls"], cached["calls"], cached["full_calls"]) == (3, 3, 3, 2)
    assert 0 < values["bits"]["per_token"] < 50
    assert chain["calls"] == 2 < 36 * 0.9 < dndm["calls"] <= 36  # 36 tokens, whose times are seldom equal
    assert values["images"] == 2 and values["through_tokens"]["frechet"] > values["true_pictures"] >= 0
    stored = {file: file.stat().st_mtime_ns for file in (tmp_path / "work").iterdir()}
    assert len(stored) == len(FEW)
    assert tokens.main(words) == 0
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "work").iterdir()} == stored
    capsys.readouterr()


@pytest.mark.slow
def test_latents_are_measured_in_the_steps_that_cost_as_much(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tokens, "EQUAL", (tokens.Point(calls.MASKGIT, 3), tokens.Point(calls.MASKGIT, 2000)))
    comparison = tokens.TokenComparison(str(folder), tmp_path, continuous="tiny")
    few, many = comparison.of_latents
    per_step = comparison.continuous.macs_of_call(few)
    per_call = comparison.tokens.macs_of_call(tokens.Point(calls.MASKGIT, 3))
    assert few.steps == 1 and abs(many.steps * per_step - 2000 * per_call) <= per_step / 2

    monkeypatch.setattr(tokens, "EQUAL", (tokens.Point(calls.MASKGIT, 3),))
    words = ["--model", str(folder), "--continuous", "tiny", "--sampler", "d3pm", "--images", "2"]
    assert tokens.main([*words, "--work", str(tmp_path / "work"), "--json", str(tmp_path / "a")]) == 0
    values = json.loads((tmp_path / "a").read_text())
    (point,) = values["continuous"]["points"]
    assert values["continuous"]["model"] == "tiny" and (point["sampler"], point["calls"]) == (tokens.CONTINUOUS, 1)
    assert values["call_seconds"]["min"] > 0 and values["continuous"]["call_seconds"]["median"] > 0
    assert point["macs"] == per_step and values["points"][0]["macs"] == 2 * per_call
    capsys.readouterr()


def test_the_macs_of_cached_calls_are_fewer(folder, tmp_path):
    measured = tokens.TokenComparison(str(folder), tmp_path).tokens
    full, cached = (measured.macs_of_call(tokens.Point(calls.MASKGIT, 20, None, n)) for n in (None, "2"))
    assert cached < full


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "tiny"], "no tokens"),
        (["--model", "tiny", "--images", "20"], "multiple of 16"),
        (["--model", "tiny", "--images", "512"], "at most 500"),
    ],
)
def test_wrong_turns_are_one_line(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    try:
        code = tokens.main(words)
    except SystemExit as stop:
        code = stop.code
    error = capsys.readouterr().err
    assert code == 2 and message in error and "Traceback" not in error
