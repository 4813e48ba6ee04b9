"""T-GATE: what is kept is what was computed, and what is dropped is not looked at."""

import warnings

import mlx.core as mx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_sd import Adaptive, At, DeepCache, FreeU, NonUniform, StableDiffusion, TGate
from mlx_sd.core.errors import InputError
from mlx_sd.reuse.tgate import parse
from mlx_sd.sampling import loop, samplers
from mlx_sd.sampling.denoise import guide
from tests.support import families
from tests.support.effort import SAMPLERS, slow_but

pytestmark = pytest.mark.filterwarnings("ignore:in . evaluations little repeats itself")

SHAPES = ("sd1", "sd2v", "sdxl")
STEPS = 6


def generate(sd: StableDiffusion, **options):
    options = {"steps": STEPS, "sampler": "ddim", "guidance": families.GUIDANCE, "seed": families.SEED} | options
    return sd.generate(families.PROMPT, families.NEGATIVE, output="latent", **options)


def spied(sd: StableDiffusion, monkeypatch, **options) -> list[dict]:
    """What each call of the UNet was given: rows of latents and of prompts, and whether it was handed deep features."""
    calls, original = [], type(sd.unet).__call__

    def call(unet, x, t, context, *, deep=None, **inputs):
        calls.append({"rows": x.shape[0], "prompts": context.shape[0], "cached": deep is not None})
        return original(unet, x, t, context, deep=deep, **inputs)

    monkeypatch.setattr(type(sd.unet), "__call__", call)
    generate(sd, **options)
    return calls


@pytest.mark.parametrize("name", slow_but(["sd1"], SHAPES))
@pytest.mark.parametrize("gate", [1, 3, 5])
def test_from_the_gate_on_the_batch_is_half(name, gate, family, monkeypatch):
    calls = spied(family(name), monkeypatch, tgate=TGate(gate))
    assert [call["rows"] for call in calls] == [2] * gate + [1] * (STEPS - gate)
    assert all(call["prompts"] == call["rows"] for call in calls)


@pytest.mark.parametrize("cache", [DeepCache(3), DeepCache(4, 2), NonUniform(3), At((0, 2)), DeepCache(3, forecast=1)])
def test_with_deepcache_the_unet_is_whole_just_before_the_gate_and_at_it(cache, family, monkeypatch):
    calls = spied(family("sd1"), monkeypatch, tgate=TGate(4), deepcache=cache)
    assert [i for i, call in enumerate(calls) if not call["cached"]] == sorted({*cache.full_evaluations(STEPS), 3, 4})


@pytest.mark.parametrize("sampler", slow_but(["heun", "unipc"], SAMPLERS))
def test_it_counts_evaluations_under_every_sampler(sampler, family, monkeypatch):
    calls = spied(family("sd1"), monkeypatch, tgate=TGate(3), sampler=sampler, steps=5)
    assert [call["rows"] for call in calls] == [2] * 3 + [1] * (len(calls) - 3)


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    gate=st.integers(1, STEPS - 1),
    sp=st.integers(1, 4),
    fi=st.integers(1, 4),
    warm_up=st.integers(0, STEPS),
    guidance=st.sampled_from([1.0, families.GUIDANCE]),
    interval=st.sampled_from([None, 2, 3]),
    freeu=st.booleans(),
)
def test_a_gated_generation_is_the_loop_written_by_hand(gate, sp, fi, warm_up, guidance, interval, freeu, family):
    """The layers themselves are replaced here by what they gave, by name, in place of asking `attend`."""
    sd, noise = family("sd1"), mx.array(families.noise())
    contexts = {2: [families.NEGATIVE, families.PROMPT], 1: [families.NEGATIVE]}
    if guidance == 1:
        contexts = {1: [families.PROMPT]}
    join = {"join": FreeU().for_family(sd.model.family).join(sd.unet.config)} if freeu else {}
    layers = [
        (f"{place}.{name}", block, name)
        for place, module in sd.unet.named_modules()
        if hasattr(module, "blocks")
        for block in module.blocks
        for name in ("attn1", "attn2")
    ]
    kept, deep, step = {}, None, 0

    class Given:
        def __init__(self, name, layer, reuses, keeps):
            self.name, self.layer, self.reuses, self.keeps = name, layer, reuses, keeps

        def __call__(self, x, context):
            if self.reuses:
                return kept[self.name]
            y = self.layer(x, context)
            if self.keeps:
                kept[self.name] = (y[:1] + y[1:]) / 2 if step == gate - 1 and len(y) == 2 else y
            return y

    def predict(x: mx.array, t: float) -> mx.array:
        nonlocal deep, step
        rows = 2 if step < gate and guidance != 1 else 1
        context = mx.concatenate([sd.encode_prompt(text)[0] for text in contexts[rows]])
        due = not interval or step % interval == 0 or step in (gate - 1, gate)
        before = {}
        for i, (name, block, which) in enumerate(layers):
            if which == "attn2":
                reuses, keeps = step >= gate, step == gate - 1
            elif interval:
                reuses, keeps = False, False
            elif step < gate - 1:
                reuses, keeps = step > warm_up and step % sp != 0, True
            else:
                reuses, keeps = step >= gate and step % fi != 0, True
            before[i] = block[which]
            block[which] = Given(name, block[which], reuses, keeps)
        output, found = sd.unet(mx.concatenate([x] * rows), mx.array(t), context, deep=None if due else deep, **join)
        for i, (_, block, which) in enumerate(layers):
            block[which] = before[i]
        deep = found if due else deep
        step += 1
        return guide(output, guidance) if rows == 2 else output

    table = samplers.table(sd.model.scheduler, *samplers.choose(sd.model.scheduler, "ddim", None), STEPS)
    by_hand = loop.run(table, predict, noise, lambda: mx.zeros(noise.shape))
    ours = generate(
        sd,
        guidance=guidance,
        latents=noise,
        tgate=TGate(gate, sp, fi, warm_up),
        deepcache=DeepCache(interval) if interval else None,
        freeu=FreeU() if freeu else None,
    )
    assert families.distance(ours.latents, by_hand) <= 1e-6


@pytest.mark.parametrize("name", slow_but(["sd1"], SHAPES))
@pytest.mark.parametrize("cache", slow_but([DeepCache(2)], [None, DeepCache(2), Adaptive(0.05, forecast=1)]))
def test_nothing_survives_a_generation(name, cache, family):
    first = generate(family(name), tgate=TGate(3), deepcache=cache)
    generate(family(name), tgate=TGate(2, 2), seed=77, deepcache=cache)
    again = generate(family(name), tgate=TGate(3), deepcache=cache)
    assert mx.array_equal(first.latents, again.latents)


@pytest.mark.slow
def test_a_batch_is_its_pictures_one_by_one(family):
    options = {"tgate": TGate(3), "deepcache": DeepCache(2), "count": 3}
    assert (
        families.distance(
            generate(family("sd1"), batch=3, **options).latents, generate(family("sd1"), **options).latents
        )
        < 1e-5
    )


@pytest.mark.parametrize("gate", [STEPS, STEPS + 3])
def test_a_gate_that_is_never_reached_is_refused(gate, family):
    with pytest.raises(InputError, match=rf"gate is at evaluation {gate}, but there are only {STEPS}, from 0 to"):
        generate(family("sd2v"), tgate=TGate(gate))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0", "gate_step must be at least 1, not 0"),
        ("4,0", "sp_interval must be at least 1"),
        ("4,1,-1", "fi_interval must be at least 1"),
        ("4,1,1,-1", "warm_up must be at least 0"),
        ("4,1,1,1,1", "takes GATE"),
        ("4.5", "takes GATE"),
        ("", "takes GATE"),
        (True, "takes GATE"),
        (1.5, "takes GATE"),
    ],
)
def test_what_is_no_gate_is_refused(text, says):
    with pytest.raises(InputError, match=says):
        parse(text)


@given(st.tuples(st.integers(1, 99), st.integers(1, 99), st.integers(1, 99), st.integers(0, 99)))
def test_a_gate_reads_what_it_prints(numbers):
    assert parse(str(TGate(*numbers))) == TGate(*numbers)


def test_a_number_is_the_gate_and_a_gate_is_itself():
    assert parse(7) == parse("7") == TGate(7)
    assert parse(None) is None and parse(gate := TGate(4, 1)) is gate


def test_deepcache_in_a_few_steps_warns_and_in_more_does_not(family):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="in 4 evaluations little repeats itself"):
            generate(family("sd2v"), steps=4, deepcache=DeepCache(2))
        generate(family("sd2v"), steps=9, deepcache=DeepCache(2))
        generate(family("sd2v"), steps=4, tgate=TGate(2))
