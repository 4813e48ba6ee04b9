"""Prompts that AND joins, with networks beside the UNet: each row is what the networks compute for it alone."""

import mlx.core as mx
import pytest

from mlx_sd import Request, controls, image_prompts
from tests.support import controls as support
from tests.support import families
from tests.support import image_prompts as image_support
from tests.support.effort import slow_but

NEGATIVE, SCALE, TIME = "rain", 4.0, 400.0
SIZE = {"width": 64, "height": 64}
# Of each picture: its prompts, and their weights
PICTURES = (("a moon", "a tent"), ("a snowman", "green grass"))
WEIGHTS = (1.0, 0.5)


@pytest.fixture(params=slow_but(["sd1"], ["sd1", "sdxl"]))
def name(request):
    return request.param


@pytest.fixture
def sd(name, family):
    return family(name)


def requests_of(sd, **beside):
    settings = {"negative": NEGATIVE, "guidance": SCALE, "steps": 2, "seed": 1, **SIZE, **beside}
    return [sd.complete(Request(prompt=f"{one} AND {other} :{WEIGHTS[1]}", **settings)) for one, other in PICTURES]


def composed(sd, latents, call):
    """The formula of AND (Liu et al. 2022, eq. 11) over calls of the network, one for each picture and prompt."""
    predictions = []
    for i, prompts in enumerate(PICTURES):
        x = latents[i : i + 1]
        nothing = call(x, NEGATIVE, False)
        differences = [w * (call(x, text, True) - nothing) for w, text in zip(WEIGHTS, prompts, strict=True)]
        predictions.append(nothing + SCALE * (differences[0] + differences[1]))
    return mx.concatenate(predictions)


def inputs(sd, text):
    """The context of a text, and what SDXL takes beside it."""
    context, pooled = sd.encode_prompt(text)
    if pooled is None:
        return context, {}
    return context, {"text_embeds": pooled, "time_ids": mx.array([[64.0, 64, 0, 0, 64, 64]])}


def latents_of(sd):
    side = 64 // sd.vae.config.downsampling
    return mx.array(families.numbers("composed", 2, side, side, 4))


@pytest.mark.parametrize("guess", [False, True])
def test_a_control_network_acts_on_each_prompt(guess, name, sd, tmp_path):
    folder = support.write_folder(tmp_path / "control", support.config(name))
    entry = (str(folder), support.image(), 0.7)
    completed = requests_of(sd, controls=[entry], guess_mode=guess or None)
    (branch,) = controls.branches(sd.model, completed[0])
    t = mx.array(TIME)

    def call(x, text, prompted):
        context, more = inputs(sd, text)
        if guess and not prompted:  # in guess mode nothing is added without a prompt
            return sd.unet(x, t, context, **more)[0]
        residuals = branch.network(x, t, context, branch.image, **more, scale=0.7, guess=guess)
        return sd.unet(x, t, context, **more, skip_residuals=residuals.skips, middle_residual=residuals.middle)[0]

    latents = latents_of(sd)
    prediction = sd.predictor(completed)(latents, TIME)
    assert families.distance(prediction, composed(sd, latents, call)) < 1e-5
    plain = sd.predictor(requests_of(sd))(latents, TIME)
    assert families.distance(plain, prediction) > 0.05


def test_an_image_prompt_acts_on_each_prompt(sd, tmp_path):
    file = image_support.write(tmp_path / "plus.safetensors", "plus", sd.unet)
    completed = requests_of(sd, ip_adapters=[(str(file), image_support.pictures()[0], 0.7)])
    attention = image_prompts.attention(sd.model, completed[0])

    def call(x, text, prompted):
        context, more = inputs(sd, text)
        return sd.unet(x, mx.array(TIME), context, **more, attend=attention.apply(int(not prompted), 1))[0]

    latents = latents_of(sd)
    prediction = sd.predictor(completed)(latents, TIME)
    assert families.distance(prediction, composed(sd, latents, call)) < 1e-5
    assert families.distance(sd.predictor(requests_of(sd))(latents, TIME), prediction) > 0.05
