"""Presets: complete, overruled by flags of their own, and printed with their evidence."""

import pytest

from bench import results
from bench.report import reuse
from mlx_sd import DeepCache, Request, StableDiffusion, metadata
from mlx_sd.completion import preset_of, speed_words
from mlx_sd.core.errors import InputError
from mlx_sd.networks.family import Family
from mlx_sd.reuse import presets

FAMILIES = (presets.EMBEDDED, presets.SD, presets.SDXL)


@pytest.mark.parametrize("family_presets", FAMILIES)
def test_every_family_has_every_preset_and_each_states_its_evidence(family_presets):
    assert tuple(family_presets) == presets.NAMES
    assert all(preset.evidence for preset in family_presets.values())
    assert family_presets["exact"].deepcache is family_presets["exact"].tgate is None


@pytest.mark.parametrize("name", presets.NAMES)
def test_the_evidence_of_the_embedded_checkpoint_s_presets_is_what_was_measured(name):
    assert presets.EMBEDDED[name].evidence == reuse.preset_note(results.FOLDER, name)


@pytest.fixture(scope="module")
def sd():
    return StableDiffusion.load("tiny", "float32")


@pytest.mark.parametrize("name", presets.NAMES)
def test_a_preset_is_the_settings_it_names(name, sd):
    request = sd.complete(Request(prompt="a tent", seed=0, speed=name))
    settings = presets.EMBEDDED[name].settings
    assert {key: getattr(request, key) for key in preset_of(sd.model, name).settings} == settings
    overruled = Request(prompt="a tent", seed=0, speed=name, deepcache=DeepCache(4), steps=33)
    by_hand = Request(prompt="a tent", seed=0, **settings | {"deepcache": DeepCache(4), "steps": 33})
    assert sd.complete(overruled) == sd.complete(by_hand)


def test_families_have_presets_of_their_own(family):
    assert preset_of(family("sd1").model, "fast") is presets.SD["fast"]
    assert preset_of(family("sdxl").model, "fast") is presets.SDXL["fast"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "slow"}, "no speed 'slow'; choose exact, fast, fastest"),
        ({"family": Family.UPSCALER}, "--speed is for checkpoints that turn text into images, not for x4 upscaler"),
        ({"family": Family.UNCONDITIONAL}, "not for unconditional diffusion; leave it out"),
        ({"distilled": True}, "distilled to few steps, where little repeats itself: leave out --speed"),
    ],
)
def test_a_checkpoint_or_name_without_a_preset_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        presets.preset(**{"name": "fast", "family": Family.SD1} | arguments)


@pytest.mark.slow
def test_a_preset_is_printed_and_replayed_as_its_settings(run, tmp_path):
    code, _, err = run("a tent", "--seed", 0, "--speed", "fastest", "--output", "a.png")
    flags, evidence = "--sampler dpmpp_2m --steps 6 --tgate 3,5,1,2", presets.EMBEDDED["fastest"].evidence
    assert (code, err) == (0, f"mlx_sd.generate: {flags}: {evidence}\n")
    assert run("--from-image", "a.png", "--output", "b.png")[::2] == (0, "")
    a, b = (metadata.read(tmp_path / name) for name in ("a.png", "b.png"))
    assert a == b and a["tgate"] == str(presets.EMBEDDED["fastest"].tgate)
    assert run("--from-image", "a.png", "--speed", "exact", "--output", "c.png")[0] == 0
    assert metadata.read(tmp_path / "c.png")["tgate"] is None


OTHER_PATHS = {  # what overrules the preset, or was not so when it was measured -> the flags that are printed
    ("steps", 9): "--sampler dpmpp_2m --steps 9 --tgate 4,5,1,2",
    ("sampler", "euler"): "--sampler euler --steps 8 --tgate 4,5,1,2",
    ("tgate", 5): "--sampler dpmpp_2m --steps 8 --tgate 5,5,1,2",
    **dict.fromkeys(
        [
            ("guidance", 7.5),
            ("schedule", "karras"),
            ("width", 64),
            ("freeu", True),
            ("order", 1),
            ("guidance_rescale", 0.5),
        ],
        "--sampler dpmpp_2m --steps 8 --tgate 4,5,1,2",
    ),
}


@pytest.mark.parametrize("change", OTHER_PATHS)
def test_figures_are_printed_only_of_what_was_measured(change, sd):
    plain = Request(prompt="a tent", seed=0, speed="fast")
    words = speed_words(sd.model, "fast", sd.complete(plain))
    assert words == f"--sampler dpmpp_2m --steps 8 --tgate 4,5,1,2: {presets.EMBEDDED['fast'].evidence}"
    changed = plain.with_values(**dict([change]))
    words = speed_words(sd.model, "fast", sd.complete(changed))
    assert words.startswith(f"{OTHER_PATHS[change]}; ") and presets.EMBEDDED["fast"].evidence not in words


def test_an_embedded_checkpoint_with_an_adapter_has_no_figures(sd):
    request = sd.complete(Request(prompt="a tent", seed=0, speed="fast"))
    other = request.with_values(loras=["style.safetensors"])
    assert presets.EMBEDDED["fast"].evidence not in speed_words(sd.model, "fast", other)
