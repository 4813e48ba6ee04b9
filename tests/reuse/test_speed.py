"""Presets: complete, overruled by what is given, and told with what they cost."""

import pytest

from bench import results
from bench.report import reuse
from mlx_sd import DeepCache, StableDiffusion
from mlx_sd import metadata as picture
from mlx_sd.core.errors import InputError
from mlx_sd.reuse import presets as speed

FAMILIES = (speed.EMBEDDED, speed.SD, speed.SDXL)


@pytest.mark.parametrize("presets", FAMILIES)
def test_every_family_has_every_preset_and_each_says_what_is_known(presets):
    assert tuple(presets) == speed.NAMES
    assert all(preset.known for preset in presets.values())
    assert presets["exact"].deepcache is presets["exact"].tgate is None


@pytest.mark.parametrize("name", speed.NAMES)
def test_what_the_embedded_checkpoint_s_presets_say_is_what_was_measured(name):
    told = results.read(results.FOLDER / reuse.CURVES)
    way = reuse.row_of(told, speed.EMBEDDED[name])
    assert way and speed.EMBEDDED[name].known == reuse.preset_note(told, way)


@pytest.mark.parametrize("name", speed.NAMES)
def test_a_preset_is_the_settings_it_names(name):
    sd = StableDiffusion.load("tiny", "float32")
    chosen = sd.settings(speed=name)
    assert {key: getattr(chosen, key) for key in speed.preset(sd.model, name).settings} == speed.EMBEDDED[name].settings
    assert sd.settings(speed=name, deepcache=DeepCache(4), steps=33) == sd.settings(
        **speed.EMBEDDED[name].settings | {"deepcache": DeepCache(4), "steps": 33}
    )


def test_families_are_told_apart(family):
    assert speed.preset(family("sd1").model, "fast") is speed.SD["fast"]
    assert speed.preset(family("sdxl").model, "fast") is speed.SDXL["fast"]


def test_what_has_no_preset_is_refused(family):
    with pytest.raises(InputError, match="no speed 'slow'; choose exact, fast, fastest"):
        speed.preset(family("sd1").model, "slow")


def test_a_preset_is_printed_and_replayed_as_its_settings(run, tmp_path):
    code, _, err = run("a tent", "--speed", "fastest", "--output", "a.png")
    assert (code, err) == (0, f"mlx_sd.generate: {speed.EMBEDDED['fastest']}\n")
    assert run("--from-image", "a.png", "--output", "b.png")[::2] == (0, "")
    a, b = (picture.read(tmp_path / name) for name in ("a.png", "b.png"))
    assert a == b and a["tgate"] == str(speed.EMBEDDED["fastest"].tgate)
    assert run("--from-image", "a.png", "--speed", "exact", "--output", "c.png")[0] == 0
    assert picture.read(tmp_path / "c.png")["tgate"] is None
