"""What a measurement changes: no bit by itself, all that is faster where it is asked for, and that is recorded."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from mlx_sd import InputError, Request, StableDiffusion
from mlx_sd.metadata import to_a1111
from mlx_sd.networks import tuning
from mlx_sd.networks.tuned_unet import TunedUNet
from mlx_sd.networks.tuning import DEFAULT, Coverage, Tuned, Tuning
from mlx_sd.tuning import apply, choices
from tests.support.tuned import finding, write_entry

SIZE = (32, 32)
OPTIONS = {"prompt": "a tent", "seed": 1, "steps": 2, "width": 32, "height": 32}
EXACT, INEXACT = Tuning(conv_in_channels=16), Tuning(conv_in_channels=16, scores=4096)
COVERAGE = Coverage((1, 2), 4, 4, 77)


@pytest.fixture(scope="module")
def plain():
    return StableDiffusion.load("tiny", dtype="float32")


@pytest.fixture
def tuned(plain):
    """The same model on a machine that has measured something that changes bits, and something that does not."""
    return StableDiffusion(replace(plain.model, tunings={SIZE: Tuned(EXACT, INEXACT, COVERAGE)}))


@pytest.fixture
def seen(monkeypatch):
    """The tunings that convolutions see, in order."""
    noted, convolve = [], mx.conv2d
    monkeypatch.setattr(mx, "conv2d", lambda *a, **k: noted.append(tuning.current()) or convolve(*a, **k))
    return noted


def latents_of(sd, **options):
    """Returns the latents of a picture and its completed request."""
    result = sd.generate(**OPTIONS | options, output="latent")
    return np.array(result.latents), result.requests[0]


def test_nothing_changes_where_nothing_was_measured(plain, seen):
    _, request = latents_of(plain)
    assert request.tuning is None and set(seen) == {DEFAULT}
    latents_of(plain, width=40)
    assert set(seen) == {DEFAULT}


def test_what_changes_no_bit_is_used_silently_and_not_recorded(plain, tuned, seen):
    latents, request = latents_of(tuned)
    assert request.tuning is None and "tuning" not in request.to_json() and EXACT in seen and INEXACT not in seen
    expected, other = latents_of(plain)
    assert np.array_equal(latents, expected) and request == other


def test_what_changes_a_bit_is_used_and_recorded_where_it_is_asked_for(tuned, seen):
    _, request = latents_of(tuned, tuning="measured")
    assert request.tuning == "conv_in_channels=16,scores=4096" and INEXACT in seen
    assert 'Tuning: "conv_in_channels=16,scores=4096"' in to_a1111.to_text(request.to_json())


def test_a_recorded_tuning_is_the_same_on_a_machine_that_has_measured_nothing(plain, tuned):
    latents, request = latents_of(tuned, tuning="measured")
    again = Request.from_json(request.to_json(), "here")
    (result,) = plain.stream([again], output="latent")
    assert np.array_equal(np.array(result.latents), latents) and result.requests[0] == request


def test_off_is_nothing_at_all(tuned, seen):
    _, request = latents_of(tuned, tuning="off")
    assert request.tuning == "off" and set(seen) == {DEFAULT}


def test_what_was_measured_and_changes_no_bit_is_not_recorded(plain):
    sd = StableDiffusion(replace(plain.model, tunings={SIZE: Tuned(EXACT, EXACT, COVERAGE)}))
    assert latents_of(sd, tuning="measured")[1].tuning is None


def test_measured_needs_a_measurement_of_this_size(plain, tuned):
    with pytest.raises(InputError, match=r"nothing was measured for pictures of 40 x 32.*mlx-sd tune --model tiny"):
        latents_of(tuned, width=40, tuning="measured")
    with pytest.raises(InputError, match="nothing was measured"):
        latents_of(plain, tuning="measured")


@pytest.mark.parametrize(
    "options",
    [
        {"count": 2, "batch": 2},  # four rows, and two were compared
        {"prompt": "a tent " * 90},  # two chunks of tokens
        {"freeu": True},
        {"width": 40},
    ],
)
def test_evaluations_that_were_not_compared_are_not_tuned(tuned, seen, options):
    latents_of(tuned, **options)
    assert set(seen) == {DEFAULT}


@pytest.mark.filterwarnings("ignore:in 3 evaluations")
def test_evaluations_with_reuse_and_without_guidance_were_compared(tuned, seen):
    for options in ({"deepcache": 2}, {"guidance": 1.0}, {"guidance_interval": "0-0.5"}):
        seen.clear()
        latents_of(tuned, steps=3, **options)
        assert EXACT in seen


def test_networks_beside_the_unet_are_not_tuned(plain, seen):
    sd = StableDiffusion(replace(plain.model, tunings={SIZE: Tuned(EXACT, EXACT, COVERAGE)}))
    sd.decode(mx.zeros((1, 8, 8, 4)))
    assert seen and set(seen) == {DEFAULT}


def test_a_folder_of_measurements_is_what_pictures_are_made_with(plain, tmp_path, monkeypatch):
    monkeypatch.setenv("MLX_SD_CACHE", str(tmp_path))
    channels, scores = choices.named(["conv_in_channels", "scores"])
    channels_finding = finding(channels, {"16": 0.8}, {"16": True})
    size = str(scores.values[1])
    scores_finding = finding(scores, {size: 0.9}, {size: False})
    scores_finding.beside = "conv_in_channels=16"
    write_entry(plain, SIZE, channels_finding, scores_finding)
    model = StableDiffusion.load("tiny", dtype="float32").model
    assert apply.words(model, None, SIZE).startswith("tuned choices: conv_in_channels=16, bit for bit the same; ")
    assert apply.completed(model, "measured", SIZE) == f"conv_in_channels=16,scores={size}"
    assert apply.words(model, None, (40, 32)) == "tuned choices: none, nothing was measured for 40 x 32"


@pytest.mark.parametrize("text", ["piece=65536", "compile_step=true,fuse_from=4096", "attention_heads=none", "off"])
def test_a_tuning_is_its_text(text):
    assert choices.parse(text) == text
    assert text == "off" or str(choices.parse_tuning(text)) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fast", "takes measured"),
        ("peice=4096", "did you mean 'piece'"),
        ("piece=1", "a whole number from 1024"),
        ("compile_step=maybe", "false or true"),
        ("attention_heads=some", "kernels or none or all"),
        ("piece=4096,piece=8192", "twice"),
        (3, "takes measured"),
    ],
)
def test_a_wrong_tuning_is_named(text, message):
    with pytest.raises(InputError, match=message):
        Request(prompt="x", tuning=text)


def test_values_that_are_the_defaults_are_none():
    assert choices.parse("piece=262144") == "off"


def test_a_step_is_compiled_only_where_it_is_a_function_of_arrays(plain, monkeypatch):
    compiled = []
    monkeypatch.setattr(mx, "compile", lambda run, inputs=None: compiled.append(run) or run)
    unet = TunedUNet(plain.unet, Tuning(compile_step=True))
    x, context = mx.zeros((1, 8, 8, 4)), mx.zeros((1, 77, 192))
    _, deep = unet(x, mx.array(5.0), context, depth=1)
    unet(x, mx.array(5.0), context, depth=1, deep=deep)
    unet(x, mx.array(5.0), context, depth=1, deep=deep)
    assert len(compiled) == 2
    unet(x, mx.array(5.0), context, deep=lambda shallow: None)
    unet(x, mx.array(5.0), context, join=lambda x, skip, number: mx.concatenate([x, skip], axis=-1))
    layer = plain.unet.down.stages[0][0]
    layer.beside = lambda x, apply: mx.zeros_like(apply(x, layer.weight))
    try:
        unet(x, mx.array(5.0), context, depth=2)
    finally:
        del layer.beside
    assert len(compiled) == 2
