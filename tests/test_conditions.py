"""Prompts over the steps of a picture: edits, AND, and what caches and batches make of them."""

import warnings

import mlx.core as mx
import numpy as np
import pytest

from mlx_sd import DeepCache
from mlx_sd.completion import complete
from mlx_sd.conditions import conditions_of, subjects_of
from mlx_sd.core.errors import InputError
from mlx_sd.predictor import predictor_of
from mlx_sd.request import Request
from mlx_sd.sampling.denoise import guide

OPTIONS = {"steps": 6, "guidance": 4.0, "seed": 2, "sampler": "euler", "output": "latent"}


def latents(sd, prompt, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # DeepCache over few steps
        return np.array(sd.generate(prompt, **{**OPTIONS, **options}).latents)


def completed(sd, prompt, **options):
    names = ("steps", "guidance", "seed", "sampler")
    return complete(sd.model, Request(prompt=prompt, **{name: OPTIONS[name] for name in names}, **options))


@pytest.fixture(params=["sd1", pytest.param("sdxl", marks=pytest.mark.slow)])
def sd(request, family):
    return family(request.param)


def test_an_edit_changes_the_conditions_after_its_step(sd):
    before, after, edited = (completed(sd, text) for text in ("a red tent", "a blue tent", "a [red:blue:0.5] tent"))
    subjects = subjects_of(sd.model, [edited], range(1, 7))
    for i, conditions in enumerate(subjects.conditions):
        expected = conditions_of(sd.model, [before if i < 3 else after])
        assert (np.array(conditions.context) == np.array(expected.context)).all()
        for name, array in expected.keywords.items():
            assert (np.array(conditions.keywords[name]) == np.array(array)).all(), name
    assert subjects.changes == [3]
    assert subjects.conditions[0] is subjects.conditions[2]  # encoded once


def test_a_prompt_that_does_not_change_serves_any_number_of_evaluations(sd):
    predict, x = sd.predictor([completed(sd, "a red tent")]), mx.zeros((1, 4, 4, 4))
    first, *others = (np.array(predict(x, 500.0)) for _ in range(OPTIONS["steps"] + 3))
    assert all((other == first).all() for other in others)


@pytest.mark.slow
def test_a_prompt_that_changes_before_the_first_step_is_the_second_one(sd):
    assert (latents(sd, "a [red:blue:0] tent") == latents(sd, "a blue tent")).all()
    assert (latents(sd, "a [red:blue:6] tent") == latents(sd, "a red tent")).all()
    assert (latents(sd, "a [red:blue:3] tent") != latents(sd, "a red tent")).any()


@pytest.mark.slow
def test_negative_prompts_change_too(sd):
    edited = latents(sd, "a tent", negative="[rain:snow:3]")
    assert (edited != latents(sd, "a tent", negative="rain")).any()
    assert (latents(sd, "a tent", negative="[rain:snow:0]") == latents(sd, "a tent", negative="snow")).all()


def test_steps_are_counted_and_not_evaluations(sd):
    heun = {"steps": 4, "sampler": "heun"}
    request = complete(sd.model, Request(prompt="[a tent:a moon:2]", guidance=4.0, seed=2, **heun))
    from mlx_sd.completion import table_of

    steps = table_of(sd.model, request).steps
    assert steps == [1, 1, 2, 2, 3, 3, 4]
    assert subjects_of(sd.model, [request], steps).changes == [4]


def test_and_adds_the_directions_of_its_prompts(sd):
    request = completed(sd, "a red tent AND a moon :0.5 AND stars :-0.25")
    predict = predictor_of(sd.model, [request])
    x = mx.random.normal((1, 8, 8, 4), key=mx.random.key(0))
    outputs = []
    for text in ("a red tent", " a moon", " stars"):
        conditions = conditions_of(sd.model, [completed(sd, text)])
        rows = mx.concatenate([x, x])
        output, _ = sd.unet(rows, mx.array(900.0), conditions.context, **conditions.keywords)
        outputs.append(np.array(output.astype(mx.float32)))
    u = outputs[0][:1]
    expected = u + 4 * sum(w * (output[1:] - u) for w, output in zip((1, 0.5, -0.25), outputs, strict=True))
    actual = np.array(predict(x, 900.0))
    assert np.abs(actual - expected).max() <= 1e-5 * np.abs(expected).max()


def test_and_is_guided_whatever_the_guidance(sd):
    conditions = conditions_of(sd.model, [completed(sd, "a AND b").with_values(guidance=1.0)])
    assert conditions.guided and conditions.copies == 3


def test_a_single_weight_of_guidance_is_the_formula_of_guidance():
    output = mx.random.normal((4, 3, 3, 2), key=mx.random.key(1))
    assert (np.array(guide(output, 3.0)) == np.array(guide(output, 3.0, 0.0, (1.0,)))).all()
    halved = np.array(guide(output, 3.0, 0.0, (0.5,)))
    assert np.abs(halved - np.array(guide(output, 1.5))).max() <= 1e-6


@pytest.mark.parametrize("prompts", [["a", "a AND b", "a AND b :0.5", "c AND d"], ["[a:b:3]", "[c|d]", "e"]])
def test_a_batch_makes_the_pictures_that_each_prompt_makes_alone(sd, prompts):
    together = latents(sd, prompts, batch=4)
    for i, prompt in enumerate(prompts):
        assert np.abs(together[i] - latents(sd, prompt)[0]).max() <= 1e-4


def test_a_change_of_the_prompt_refreshes_deepcache_and_an_alternation_does_not(sd):
    def full(prompt, **options):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return sd.generate(prompt, **{**OPTIONS, **options}, deepcache=DeepCache(6)).full

    assert full("a tent") == full("[a|b] tent") == 1
    assert full("[a:b:2] tent") == 2
    assert full("[a:b:2] tent", negative="[c:d:4]") == 3


def test_tgate_refuses_what_it_would_leave_out(sd):
    options = {**OPTIONS, "tgate": 3}
    for prompt, message in (("a AND b", "one prompt"), ("[a:b:4]", "after step 4"), ("[a|b]", "after step 5")):
        with pytest.raises(InputError, match=message):
            sd.generate(prompt, **options)
    assert (latents(sd, "[a:b:2]", tgate=3) != latents(sd, "b", tgate=3)).any()


def test_a_lora_in_a_prompt_is_named_and_not_encoded(sd):
    with pytest.raises(InputError, match="load it with the model"):
        sd.generate("a tent <lora:style:0.8>", **OPTIONS)
    latents(sd, "a tent <lora:style:0.8>", prompt_style="plain")


@pytest.mark.slow
def test_a_second_prompt_changes_over_the_steps_too(family):
    sd = family("sdxl")
    assert (latents(sd, "a tent", prompt_2="[red:blue:0]") == latents(sd, "a tent", prompt_2="blue")).all()
    assert (latents(sd, "a tent", prompt_2="a tent") == latents(sd, "a tent")).all()
    with pytest.raises(InputError, match="one --prompt-2"):
        sd.generate("a AND b", prompt_2="c", **OPTIONS)


@pytest.mark.parametrize(
    "settings",
    [{"prompt_2": "a"}, {"negative_2": "a"}, {"original_size": (8, 8)}, {"target_size": (8, 8)}, {"crop": (0, 0)}],
)
def test_what_only_sdxl_takes_is_refused_by_others(family, settings):
    with pytest.raises(InputError, match="is for SDXL"):
        family("sd1").generate("a tent", **OPTIONS, **settings)


@pytest.mark.slow
def test_prompts_of_a_refiner_go_on_where_the_base_ends(family):
    base = refiner = family("sdxl")
    options = {"refiner": refiner, "refine_at": 0.5}
    assert (latents(base, "a [red:blue:0] tent", **options) == latents(base, "a blue tent", **options)).all()
    late = latents(base, "a [red:blue:5] tent", **options)
    assert (late != latents(base, "a red tent", **options)).any()
    assert (late != latents(base, "a [red:blue:4] tent", **options)).any()
