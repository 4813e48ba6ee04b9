"""The half without the prompt left out: counted exactly, exact when off, and what stands in its place by formula."""

from functools import partial

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_sd import SADA, At, DeepCache, Request, Spectrum
from mlx_sd.completion import table_of
from mlx_sd.core.errors import InputError
from mlx_sd.cost import cost_of, passes_of
from mlx_sd.predictor import predictor_of
from mlx_sd.reuse.feature_cache import FeatureCache
from mlx_sd.reuse.unconditional import RefreshCount, UnconditionalRefresh
from mlx_sd.sampling import loop
from mlx_sd.sampling.denoise import guide
from mlx_sd.split_checks import check_flags, check_parts
from tests.reuse.test_guided_steps import rows_of_unet
from tests.support import controls, families, instructions, loops, singles
from tests.support.effort import SAMPLERS, slow_but, slow_rows_but
from tests.support.loops import latents_of

pytestmark = pytest.mark.filterwarnings("ignore:in . evaluations little repeats itself")
STEPS = 6
OPTIONS = {"steps": STEPS, "sampler": "ddim", "guidance": 4.0, "seed": 2, "output": "latent"}
CACHES = (None, DeepCache(2), DeepCache(3, 1, 1), At((0, 1, 4)))


def completed(sd, **settings):
    return loops.completed(sd, **{"steps": STEPS} | settings)


# ------------------------------------------------------------------------------------------------ counting


@given(st.integers(1, 5), st.lists(st.booleans(), min_size=1, max_size=30), st.sets(st.integers(0, 29)))
def test_every_r_th_full_evaluation_since_a_change_computes_both(interval, fulls, changes):
    fulls = [True, *fulls]
    counter, since = RefreshCount(interval, changes), []
    for i, full in enumerate(fulls):
        if i in changes:
            since = []
        since += [i] if full else []
        full_and_not_its_turn = full and (len(since) - 1) % interval
        assert counter.leaves_out(i, full) == bool(full_and_not_its_turn)


@pytest.mark.parametrize(("interval", "cache"), list(zip([2, 3, 2, 3], CACHES, strict=True)), ids=str)
def test_the_unet_runs_on_the_rows_that_are_counted(interval, cache, family, monkeypatch):
    sd = family("sd1")
    request = completed(sd, unconditional_refresh=interval, deepcache=cache)
    rows = rows_of_unet(sd, monkeypatch, partial(latents_of, sd, request))
    full = set(range(STEPS)) if cache is None else set(cache.full_evaluations(STEPS))
    order = sorted(full)
    assert rows == [1 if i in full and order.index(i) % interval else 2 for i in range(STEPS)]


@pytest.mark.parametrize("sampler", slow_but(["heun", "unipc"], SAMPLERS))
def test_evaluations_are_counted_and_not_steps(sampler, family, monkeypatch):
    sd = family("sd1")
    request = completed(sd, sampler=sampler, unconditional_refresh=2)
    rows = rows_of_unet(sd, monkeypatch, partial(latents_of, sd, request))
    assert rows == [2 - i % 2 for i in range(len(table_of(sd.model, request).rows))]


@pytest.mark.parametrize("name", slow_but(["sd1"], ["sd1", "sd2v", "sdxl"]))
@pytest.mark.parametrize("cache", CACHES, ids=str)
@pytest.mark.parametrize("interval", [2, 3])
def test_its_cost_is_counted_exactly(name, cache, interval, family):
    """A full evaluation without one half costs that of one row; the sum over evaluations is that of their kinds."""
    model = family(name).model
    settings = {"prompt": "a", "steps": 9, "sampler": "ddim"}
    whole = cost_of(model, Request(**settings)).macs // 9
    half = cost_of(model, Request(**settings, guidance=1.0)).macs // 9
    full = list(range(9)) if cache is None else list(cache.full_evaluations(9))
    plain = cost_of(model, Request(**settings, deepcache=cache))
    cost = cost_of(model, Request(**settings, deepcache=cache, unconditional_refresh=interval))
    left_out = sum(order % interval > 0 for order in range(len(full)))
    assert left_out and cost.macs == plain.macs - left_out * (whole - half)
    assert (cost.evaluations, cost.full) == (plain.evaluations, plain.full)


def test_what_is_counted_is_what_runs_evaluation_by_evaluation(family):
    """The other way round: the kinds that the count names beforehand are those that the generation decides."""
    sd = family("sd1")
    request = completed(sd, steps=9, unconditional_refresh=2, deepcache=DeepCache(2), guidance_interval="0.2-0.8")
    predictor, left_out = predictor_of(sd.model, [request]), []
    named = [predictor.leaves_out_unconditional(i) for i in range(9)]
    unconditional = predictor._unconditional
    original = unconditional.leaves_out

    def noted(evaluation, full):
        left_out.append((evaluation, original(evaluation, full)))
        return left_out[-1][1]

    unconditional.leaves_out = noted
    noise = mx.array(families.noise())
    loop.run(table_of(sd.model, request), predictor, noise, lambda: noise)
    assert [named[i] for i, _ in left_out] == [value for _, value in left_out] and any(named)
    assert not any(named[i] for i in {*range(9)} - {i for i, _ in left_out})
    (part,) = passes_of(sd.model, request)
    assert len(set(part.macs)) == 3  # cached, full without one half (or unguided), and full


# ------------------------------------------------------------------------------------------------ exact


@pytest.mark.parametrize("cache", CACHES[:2], ids=str)
def test_1_is_off_bit_for_bit(cache, family):
    sd = family("sd1")
    plain, same = (
        latents_of(sd, completed(sd, deepcache=cache, **more)) for more in ({}, {"unconditional_refresh": 1})
    )
    assert mx.array_equal(plain, same)


@pytest.mark.parametrize(
    ("cache", "rescale"),
    slow_rows_but(
        [(DeepCache(2, 1, 1), 0.6)],
        [(None, 0.6), (DeepCache(2), 0.0), (DeepCache(2, 1, 1), 0.6), (Spectrum(first=2), 0.0)],
    ),
    ids=str,
)
def test_a_generation_is_the_loop_written_by_hand(cache, rescale, family):
    """e_u = e_c - d; in cached evaluations each half stands above the deep features of its own full evaluations."""
    sd = family("sd1")
    request = completed(sd, unconditional_refresh=2, deepcache=cache, guidance_rescale=rescale)
    table = table_of(sd.model, request)
    contexts = [sd.encode_prompt(text)[0] for text in (families.NEGATIVE, families.PROMPT)]
    full = list(range(STEPS)) if cache is None else list(cache.full_evaluations(STEPS))
    depth = cache.branch + 1 if cache else 1
    forecast = cache.extrapolation(table.log_snr) if cache else None
    pasts, difference, evaluation = ([], []), None, 0

    def carried(past, i):
        entries = past[-forecast.reach :]
        weights = forecast.weights([table.log_snr[j] for j, _ in entries], table.log_snr[i])
        return sum(weight * features for weight, (_, features) in zip(weights, entries, strict=True))

    def predict(x, timestep):
        nonlocal evaluation, difference
        i, evaluation = evaluation, evaluation + 1
        t, alone = mx.array(timestep), i in full and full.index(i) % 2 == 1
        outputs = []
        for context, past in list(zip(contexts, pasts, strict=True))[alone:]:
            if i in full:
                output, deep = sd.unet(x, t, context, depth=depth)
                past.append((i, deep))
            else:
                output, _ = sd.unet(x, t, context, deep=carried(past, i), depth=depth)
            outputs.append(output)
        if alone:
            outputs = [outputs[0] - difference, *outputs]
        else:
            difference = outputs[1] - outputs[0]
        return guide(mx.concatenate(outputs), request.guidance, rescale)

    noise = mx.array(families.noise())
    expected = np.array(loop.run(table, predict, noise, lambda: noise))
    assert np.abs(np.array(latents_of(sd, request)) - expected).max() <= 1e-4 * np.abs(expected).max()


def test_a_difference_that_does_not_change_is_restored_exactly():
    output = mx.array(np.random.RandomState(0).standard_normal((6, 2, 2, 4)).astype(np.float32))
    refresh = UnconditionalRefresh(2)
    refresh.keep(output, 2)
    moved = output + 1
    restored = refresh.restored(moved[2:], 2)
    assert restored.shape == output.shape and mx.abs(restored - moved).max().item() < 1e-6


def test_a_batch_makes_the_pictures_that_each_makes_alone(family):
    sd, prompts = family("sd1"), ["a red tent", "a blue house"]
    settings = {"unconditional_refresh": 2, "deepcache": DeepCache(2)}
    together = np.array(sd.generate(prompts, batch=2, **OPTIONS, **settings).latents)
    for i, prompt in enumerate(prompts):
        alone = np.array(sd.generate(prompt, **OPTIONS, **settings).latents)[0]
        assert np.abs(together[i] - alone).max() <= 1e-4 * np.abs(alone).max()


# ------------------------------------------------------------------------------------------------ beside others


def rows_with(sd, monkeypatch, prompt="a red tent", **settings):
    return rows_of_unet(sd, monkeypatch, lambda: sd.generate(prompt, **OPTIONS | settings))


def test_where_guidance_begins_again_both_halves_are_computed(family, monkeypatch):
    rows = rows_with(family("sd1"), monkeypatch, guidance_interval="0.34-1", unconditional_refresh=3)
    assert rows == [1, 1, 2, 1, 1, 2]
    rows = rows_with(family("sd1"), monkeypatch, guidance_interval="0-0.5", unconditional_refresh=2, deepcache=2)
    assert rows == [2, 2, 1, 1, 1, 1]  # full, cached, full without one half; unguided from there on


def test_adaptive_guidance_looks_where_both_halves_are_computed(family, monkeypatch):
    sd = family("sd1")
    assert rows_with(sd, monkeypatch, adaptive_guidance=1.0, unconditional_refresh=2) == [2, 1] * 3
    assert rows_with(sd, monkeypatch, adaptive_guidance=0.0, unconditional_refresh=2) == [2] + [1] * 5


@pytest.mark.slow
def test_where_the_prompt_changes_both_halves_are_computed(family, monkeypatch):
    sd = family("sd1")
    rows = rows_with(sd, monkeypatch, "a [moon:tent:3]", unconditional_refresh=2)
    assert rows == [2, 1, 2, 2, 1, 2]
    assert rows_with(sd, monkeypatch, "a [moon|tent]", unconditional_refresh=2) == [2] * 6
    alternating = {"unconditional_refresh": 2, **OPTIONS}
    plain, same = (sd.generate("a [moon|tent]", **o).latents for o in (OPTIONS, alternating))
    assert mx.array_equal(plain, same)


def test_rows_of_perturbed_attention_are_always_computed(family, monkeypatch):
    rows = rows_with(family("sd1"), monkeypatch, pag=3.0, unconditional_refresh=2, deepcache=2)
    assert rows == [3, 3, 2, 3, 3, 3]


def test_the_second_pass_begins_with_both_halves(family, monkeypatch):
    rows = rows_with(family("sd1"), monkeypatch, hires="2:3", unconditional_refresh=2, steps=3)
    assert rows == [2, 1, 2] * 2


@pytest.mark.parametrize("guess", [False, True])
def test_control_networks_see_the_rows_that_run(guess, family, shapes, tmp_path, monkeypatch):
    folder = str(controls.write_folder(tmp_path / "control", controls.config("sd1")))
    sd, image = family("sd1"), controls.image()
    settings = {"unconditional_refresh": 2, "deepcache": 2, "guess_mode": guess}
    rows = rows_with(sd, monkeypatch, controls=[(folder, image, 0.7)], **settings)
    assert rows == [2, 2, 1, 2, 2, 2]


def test_tiles_leave_the_half_out_each(family, monkeypatch):
    settings = {"width": 96, "height": 64, "denoise_tile": 12, "steps": 2, "unconditional_refresh": 2}
    rows = rows_with(family("sdxl"), monkeypatch, **settings)
    tiles = len(rows) // 2
    assert tiles > 1 and rows == [2] * tiles + [1] * tiles


def test_pictures_of_classes_leave_the_half_out(monkeypatch):
    from mlx_sd import StableDiffusion

    sd = StableDiffusion.load("tiny-classes", dtype="float32")
    rows = rows_of_unet(
        sd, monkeypatch, lambda: sd.generate(classes="tent", steps=3, output="latent", unconditional_refresh=2)
    )
    assert rows == [2, 1, 2]


@pytest.mark.parametrize("branch", [0, 2])
def test_with_sada_full_evaluations_are_counted_as_they_are_decided(branch, family, monkeypatch):
    """The path decides before an evaluation, so that it is known which rows it has."""
    sd, fulls, original = family("sd1"), [], FeatureCache.decide

    def decide(cache, latents):
        fulls.append(original(cache, latents))
        return fulls[-1]

    monkeypatch.setattr(FeatureCache, "decide", decide)
    settings = {"deepcache": SADA(2, 0.0, 1.0, 1.0, branch), "unconditional_refresh": 2, "steps": 10}
    rows = rows_with(sd, monkeypatch, **settings)
    order = [sum(fulls[:i]) for i in range(10)]
    assert rows == [1 if full and order[i] % 2 else 2 for i, full in enumerate(fulls)]
    assert not all(fulls) and 1 in rows


@pytest.mark.slow
def test_a_refiner_begins_with_both_halves(family, shapes, tmp_path, monkeypatch):
    from mlx_sd import StableDiffusion

    refiner = StableDiffusion.load(singles.refiner_folder(shapes, tmp_path / "refiner"), dtype="float32")
    settings = {"refiner": refiner, "refine_at": 0.5, "unconditional_refresh": 9}
    rows = rows_with(family("sdxl"), monkeypatch, **settings)
    assert sorted(rows) == [1, 1, 1, 1, 2, 2] and rows[0] == 2  # one of each model


# ------------------------------------------------------------------------------------------------ refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guidance": 1.0, "unconditional_refresh": 2}, "--unconditional-refresh says which steps are guided"),
        ({"tgate": 2, "unconditional_refresh": 2}, "leave --tgate or --unconditional-refresh out"),
        ({"prompt": "a AND b", "unconditional_refresh": 2}, "AND weighs"),
        ({"deepcache": "adaptive:0.1", "unconditional_refresh": 2}, "leave one of them out"),
        ({"unconditional_refresh": 0}, "unconditional refresh must be from 1"),
    ],
)
def test_what_does_not_go_together_is_refused(settings, message, family):
    prompt, settings = settings.get("prompt", "a"), {k: v for k, v in settings.items() if k != "prompt"}
    with pytest.raises(InputError, match=message):
        family("sd1").generate(prompt, **OPTIONS | settings)


@pytest.mark.slow
def test_1_is_off_beside_everything(family):
    sd, settings = family("sd1"), OPTIONS | {"steps": 4}
    for others in ({"tgate": 2}, {"deepcache": "adaptive:0.3"}, {"guidance": 1.0}):
        plain, same = (
            sd.generate("a", **settings | others | more).latents for more in ({}, {"unconditional_refresh": 1})
        )
        assert mx.array_equal(plain, same)


def test_images_edited_by_instruction_refuse_it(shapes, tmp_path):
    from mlx_sd import StableDiffusion

    sd = StableDiffusion.load(instructions.write(shapes, tmp_path / "edit", "sd1"), dtype="float32")
    with pytest.raises(InputError, match="without --unconditional-refresh: the image guides at all steps"):
        sd.generate("a", image=instructions.picture((64, 64)), unconditional_refresh=2)


def test_a_split_of_the_rows_refuses_it_by_name(family):
    request = Request(prompt="a", unconditional_refresh=2)
    for check in (
        lambda: check_flags(request, "guidance"),
        lambda: check_parts(family("sd1").model, [completed(family("sd1"), unconditional_refresh=2)], "guidance", 2),
    ):
        with pytest.raises(InputError, match="--unconditional-refresh leaves the latter out; leave one of them out"):
            check()
    check_flags(Request(prompt="a", unconditional_refresh=1), "guidance")
    check_flags(request, "tiles")
