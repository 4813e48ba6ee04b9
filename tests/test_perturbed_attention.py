"""Perturbed-attention guidance: the formula, and what goes with it."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_sd import DeepCache
from mlx_sd.completion import complete
from mlx_sd.conditions import conditions_of
from mlx_sd.core.errors import InputError
from mlx_sd.networks.blocks import apply_attention
from mlx_sd.perturbed_attention import PerturbedAttention
from mlx_sd.predictor import predictor_of
from mlx_sd.request import Request
from tests.support.effort import slow_but

# In the middle of the tiny UNets, pictures of 64 pixels have one latent, whose attention is the identity anyway.
SIZE = {"width": 192, "height": 128}
OPTIONS = {**SIZE, "steps": 4, "guidance": 4.0, "seed": 2, "sampler": "euler", "output": "latent"}


@pytest.fixture(params=["sd1", pytest.param("sdxl", marks=pytest.mark.slow)])
def sd(request, family):
    return family(request.param)


def completed(sd, **settings):
    return complete(sd.model, Request(prompt="a red tent", seed=2, steps=4, **SIZE, **settings))


@pytest.mark.parametrize("guidance", [4.0, 1.0])
def test_the_prediction_is_moved_away_from_the_perturbed_one(sd, guidance):
    request = completed(sd, guidance=guidance, pag=3.0)
    x = mx.random.normal((1, 16, 24, 4), key=mx.random.key(0))
    conditions = conditions_of(sd.model, [completed(sd, guidance=guidance)])

    def run(attend):
        rows = mx.concatenate([x] * conditions.copies)
        output, _ = sd.unet(rows, mx.array(900.0), conditions.context, **conditions.keywords, attend=attend)
        return np.array(output.astype(mx.float32))

    middle = {id(block.attn1) for layer in sd.unet.middle.layers for block in getattr(layer, "blocks", ())}
    assert middle
    ordinary = run(apply_attention)
    identity = run(
        lambda layer, q, context: layer.out(layer.v(q)) if id(layer) in middle else apply_attention(layer, q, context)
    )
    assert np.abs(ordinary - identity).max() > 1e-3
    u, c = ordinary[0], ordinary[-1]
    expected = (u + guidance * (c - u) if guidance > 1 else c) + 3 * (c - identity[-1])
    actual = np.array(predictor_of(sd.model, [request])(x, 900.0))[0]
    assert np.abs(actual - expected).max() <= 1e-4 * np.abs(expected).max()


def test_the_scale_falls_with_the_timestep_where_it_is_adaptive(sd):
    perturbation = PerturbedAttention(sd.unet, 3.0, 0.005)
    assert [perturbation.scale_at(t) for t in (1000, 800, 400, 0)] == pytest.approx([3, 2, 0, 0])


def test_a_scale_of_0_is_none(sd):
    assert (
        np.array(sd.generate("a", pag=0.0, **OPTIONS).latents) == np.array(sd.generate("a", **OPTIONS).latents)
    ).all()


@pytest.mark.slow
def test_pictures_of_a_batch_are_those_of_each_alone(sd):
    together = np.array(sd.generate(["a", "b"], batch=2, pag=2.0, **OPTIONS).latents)
    for i, prompt in enumerate("ab"):
        alone = np.array(sd.generate(prompt, pag=2.0, **OPTIONS).latents)[0]
        assert np.abs(together[i] - alone).max() <= 1e-4 * np.abs(alone).max()


@pytest.mark.parametrize("branch", slow_but([0], [0, 1, 4, 11]))
def test_deepcache_keeps_all_three_rows(sd, branch):
    if branch not in sd.unet.branches:
        pytest.skip("the UNet has fewer branches")
    result = sd.generate("a", pag=2.0, **{**OPTIONS, "steps": 10}, deepcache=DeepCache(2, branch=branch))
    assert result.full == 5 and np.isfinite(np.array(result.latents)).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tgate": 2, "pag": 3.0}, "T-GATE"),
        ({"pag_adaptive": 0.1}, "give both"),
        ({"prompt": "a AND b", "pag": 3.0}, "AND"),
    ],
)
def test_what_does_not_go_together_is_refused(sd, settings, message):
    settings = dict(settings)
    prompt = settings.pop("prompt", "a")
    with pytest.raises(InputError, match=message):
        sd.generate(prompt, **OPTIONS, **settings)
