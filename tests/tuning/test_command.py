"""The command: measures on this machine, keeps it, goes on after Ctrl-C, and says what is wrong before any work."""

import json
import os
from contextlib import contextmanager

import mlx.core as mx
import pytest

from mlx_sd import StableDiffusion
from mlx_sd.cli import generate
from mlx_sd.networks.tuning import Tuning
from mlx_sd.tune import command, environment, meter
from mlx_sd.tuning import choices, measure, record

SMALL = ["--size", "32x32", "--choices", "conv_in_channels"]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """run(*words) -> (exit code, stdout, stderr), with a cache of its own."""
    monkeypatch.setenv("MLX_SD_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    monkeypatch.setattr(measure, "FEWEST", 3)
    monkeypatch.setattr(measure, "MOST", 3)
    monkeypatch.chdir(tmp_path)

    def call(*words):
        try:
            code = command.main([str(word) for word in words])
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def faster(monkeypatch):
    """A machine on which 16 channels take two thirds of the time, whatever the load is, and change no bit."""

    def step(self, tuning):
        return (2.0, 0.2) if tuning.conv_in_channels == 16 else (3.0, 0.3)

    monkeypatch.setattr(meter.UNetMeter, "step", step)
    monkeypatch.setattr(meter.UNetMeter, "compare", lambda self, tuning: measure.Check(True, 0.0))


def test_a_real_run_measures_keeps_and_shows(run):
    code, out, err = run(*SMALL, "--json")
    (entry,) = json.loads(out)
    assert code == 0 and err == "" and entry["width"] == 32 and entry["family"] == "Stable Diffusion 1"
    (choice,) = entry["choices"]
    assert [value["rounds"] for value in choice["values"]] == [measure.FEWEST] * 2
    assert json.loads(run("--show", "--json")[1]) == [entry]
    (stored,) = record.read(record.path())
    assert stored.coverage.rows == (1, 2) and stored.coverage.tokens == 77
    assert run("--forget")[0] == 0 and not record.path().exists()
    assert run("--forget") == (0, "nothing was measured yet\n", "")
    assert run("--show")[1] == ""


def test_what_is_faster_and_exact_is_used_by_the_next_picture(run, faster, capsys):
    code, out, _ = run(*SMALL)
    assert code == 0 and "66.7% of the time, spread 0.0%: faster, and no bit changes" in out
    assert "pictures of 32 x 32 use from now on: conv_in_channels=16" in out
    assert StableDiffusion.load("tiny").model.tunings[32, 32].exact == Tuning(conv_in_channels=16)
    words = ["a tent", "--size", "32x32", "--steps", "1", "--seed", "1"]
    assert generate.main([*words, "--verbose", "--output", "a.png"]) == 0
    assert "tuned choices: conv_in_channels=16, bit for bit the same\n" in capsys.readouterr().err
    assert generate.main([*words, "--output", "b.png"]) == 0
    assert "tuned" not in capsys.readouterr().err


@pytest.mark.slow
def test_what_changes_a_bit_is_recorded_and_made_again(run, faster, capsys, monkeypatch):
    monkeypatch.setattr(meter.UNetMeter, "compare", lambda self, tuning: measure.Check(False, 1e-6))
    _, out, _ = run(*SMALL)
    assert "changes the picture by 1.0e-06 at most" in out and "use from now on: what they always did" in out
    words = ["a tent", "--size", "32x32", "--steps", "1", "--seed", "1", "--json"]
    recorded = []
    for more in (["--output", "a.png"], ["--tuning", "measured", "--output", "b.png"]):
        assert generate.main([*words, *more]) == 0
        recorded.append(json.loads(capsys.readouterr().out)[0].get("tuning"))
    assert recorded == [None, "conv_in_channels=16"]
    run("--forget")
    assert generate.main(["--from-image", "b.png", "--json", "--output", "c.png"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["tuning"] == "conv_in_channels=16"


def test_ctrl_c_keeps_what_is_measured_and_the_same_command_goes_on(run, faster, monkeypatch):
    step, steps = meter.UNetMeter.step, []

    def interrupted(self, tuning):
        steps.append(tuning)
        if len(steps) == 8:
            raise KeyboardInterrupt
        return step(self, tuning)

    monkeypatch.setattr(meter.UNetMeter, "step", interrupted)
    code, out, err = run(*SMALL)
    assert code == 130 and out == "" and "what is measured is in " in err and "the same command goes on" in err
    assert record.read(record.path())[0].findings[0].rounds == 2  # after a warm-up of each value
    code, out, _ = run(*SMALL)
    assert code == 0 and "conv_in_channels=16" in out and len(steps) == 8 + 2 + 2 * (measure.FEWEST - 2)


def test_minutes_that_are_over_are_said_and_more_go_on(run, monkeypatch):
    code, out, err = run(*SMALL, "--minutes", "0.00001")
    assert code == 0 and "0 rounds, not decided yet" in out
    assert err == "the minutes are over; the same command goes on\n"


def test_a_default_that_does_not_come_out_the_same_twice_makes_nothing_exact(monkeypatch):
    sd = StableDiffusion.load("tiny")
    small = meter.UNetMeter(sd, meter.request_for(sd.model, 32, 32))
    outputs = iter([1.0, 1.001, 1.0, 1.0, 1.0, 1.0, 1.5, -1.0])
    monkeypatch.setattr(small, "_outputs", lambda tuning: [mx.array([next(outputs), 2.0])])
    assert small.compare(Tuning(conv_in_channels=16)) == measure.Check(False, 0.0)
    small._default = None
    assert small.compare(Tuning(conv_in_channels=16)) == measure.Check(True, 0.0)
    assert small.compare(Tuning(piece=4096)) == measure.Check(False, 0.25)
    assert not small.compare(Tuning(piece=8192)).exact


@pytest.mark.slow
def test_a_real_comparison_is_of_bits():
    sd = StableDiffusion.load("tiny")
    small = meter.UNetMeter(sd, meter.request_for(sd.model, 32, 32))
    assert small.compare(Tuning(piece=4096)) == measure.Check(True, 0.0)
    sd.unet.conv.weight = mx.where(
        mx.arange(4)[:, None, None, None] == 0, sd.unet.conv.weight * 1.0001, sd.unet.conv.weight
    )
    assert 0 < small.compare(Tuning()).difference < 1e-2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--minutes", "0"], "--minutes must be above 0"),
        (["--minutes", "nan"], "--minutes must be above 0"),
        (["--size", "big"], "a size is WIDTHxHEIGHT"),
        (["--size", "33x32"], "width must be a positive multiple of"),
        (["--choices", "speed"], "unknown choice 'speed'"),
        (["--choices", "attention_heads", "--size", "32x32"], "attention_heads changes nothing for this model"),
        (["--model", "nowhere"], "nowhere does not exist"),
        (["--show", "--forget"], "do not go together"),
        (["--show", "--model", "tiny"], "--model is about measuring"),
    ],
)
def test_a_wrong_turn_is_one_line_before_anything_is_measured(run, words, message):
    code, out, err = run(*words)
    assert code == 2 and out == "" and message in err and err.count("\n") == 1
    assert not record.path().exists()


def test_a_damaged_file_is_refused_and_forgotten(run):
    record.path().write_text("{")
    code, _, err = run(*SMALL)
    assert code == 2 and "mlx-sd tune --forget removes it" in err and record.path().read_text() == "{"
    assert run("--forget")[0] == 0 and run("--show")[0] == 0


def test_models_that_need_an_image_are_refused(family):
    from mlx_sd import InputError

    with pytest.raises(InputError, match="this one needs an image"):
        meter.request_for(family("inpaint9").model, None, None)


@pytest.mark.parametrize("name", ["sdxl", "sd2v", "tiny-classes"])
@pytest.mark.slow
def test_families_are_measured_with_all_that_their_unet_takes(family, name):
    sd = StableDiffusion.load(name, dtype="float32") if name == "tiny-classes" else family(name)
    small = meter.UNetMeter(sd, meter.request_for(sd.model, None, None))
    assert all(seconds > 0 for seconds in small.step(Tuning())) and small.compare(Tuning(piece=1024)).exact


VARIABLE = choices.Variable("MLX_SD_TEST_VARIABLE", "7", ("cpu",), (0, 0, 0), "of a test")


def fake_child(monkeypatch, digest):
    """Puts something in the place of the child: it takes a third of the time, and has a digest."""

    @contextmanager
    def child(variables, settings):
        asked.append((dict(variables), dict(settings)))
        yield lambda question: [1.0, 0.1] if question == "step" else digest

    asked = []
    monkeypatch.setattr(environment, "_child", child)
    monkeypatch.setattr(command, "VARIABLES", (VARIABLE,))
    monkeypatch.setattr(command, "CHOICES", choices.named(["conv_in_channels"]))
    return asked


@pytest.mark.parametrize(("digest", "outcome"), [("equal", "no bit changes"), ("other", "changes the picture")])
def test_a_variable_of_the_environment_is_measured_in_a_child_and_only_advised(
    run, faster, monkeypatch, digest, outcome
):
    asked = fake_child(monkeypatch, digest)
    monkeypatch.setattr(meter.UNetMeter, "digest", lambda self, tuning: "equal")
    code, out, _ = run("--size", "32x32")
    assert code == 0 and f"MLX_SD_TEST_VARIABLE=7: 50.0% of the time, spread 0.0%: faster, and {outcome}" in out
    assert "to use it, begin commands with it: export MLX_SD_TEST_VARIABLE=7" in out
    assert asked[0][0] == {"MLX_SD_TEST_VARIABLE": "7"} and asked[0][1]["tuning"] == "conv_in_channels=16"
    assert StableDiffusion.load("tiny").model.tunings[32, 32].exact == Tuning(conv_in_channels=16)
    assert "MLX_SD_TEST_VARIABLE" not in os.environ


def test_variables_are_for_devices_and_versions_that_read_them_where_nobody_has_set_them():
    (winograd,) = choices.VARIABLES
    assert winograd.applies("gpu", "0.32.2", {}) and winograd.applies("gpu", "0.33.0.dev1", {})
    assert not winograd.applies("cpu", "0.32.2", {}) and not winograd.applies("gpu", "0.32.1", {})
    assert not winograd.applies("gpu", "0.32.2", {winograd.name: "5"})


@pytest.mark.slow
def test_a_real_child_computes_what_this_process_does():
    sd = StableDiffusion.load("tiny", dtype="float32")
    small = meter.UNetMeter(sd, meter.request_for(sd.model, 32, 32))
    settings = {"model": "tiny", "dtype": "float32", "quantize": None, "width": 32, "height": 32, "tuning": ""}
    with environment._child({}, settings) as ask:
        assert len(ask("step")) == 2 and ask("digest") == small.digest(Tuning())
    with environment._child({}, settings | {"model": "nowhere"}) as ask, pytest.raises(RuntimeError, match="has ended"):
        ask("step")
