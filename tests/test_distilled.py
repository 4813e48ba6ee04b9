"""Models that were distilled to few steps are recognised, and get the settings that their authors publish."""

from dataclasses import replace

import pytest

from mlx_sd.completion import complete, distilled_words
from mlx_sd.core.errors import InputError
from mlx_sd.distilled import by_name, distilled_of
from mlx_sd.networks.family import Family
from mlx_sd.request import Request

XL, SD1, SD2 = Family.SDXL, Family.SD1, Family.SD2
# As the files and repositories of the hub and of Civitai are called: (name, family, of a LoRA) -> method, steps,
# guidance, sampler, schedule.
NAMES = {
    ("latent-consistency/lcm-lora-sdxl", XL, True): ("LCM", 4, 1.0, "lcm", None),
    ("loras/lcm-lora-sdv1-5/pytorch_lora_weights.safetensors", SD1, True): ("LCM", 4, 1.0, "lcm", None),
    ("LCM_LoRA_SD15.safetensors", SD1, True): ("LCM", 4, 1.0, "lcm", None),
    ("h1t/TCD-SDXL-LoRA", XL, True): ("TCD", 4, 1.0, "tcd", None),
    ("sdxl_lightning_4step_lora.safetensors", XL, True): ("SDXL Lightning", 4, 1.0, "euler", "trailing"),
    ("sdxl_lightning_8step_lora.safetensors", XL, True): ("SDXL Lightning", 8, 1.0, "euler", "trailing"),
    ("Hyper-SDXL-8steps-lora.safetensors", XL, True): ("Hyper-SD", 8, 1.0, "ddim", "trailing"),
    ("Hyper-SD15-2steps-lora.safetensors", SD1, True): ("Hyper-SD", 2, 1.0, "ddim", "trailing"),
    ("Hyper-SD15-1step-lora.safetensors", SD1, True): ("Hyper-SD", 1, 1.0, "tcd", None),
    ("Hyper-SDXL-12steps-CFG-lora.safetensors", XL, True): (
        "Hyper-SD with guidance",
        12,
        5.0,
        "ddim",
        "trailing",
    ),
    ("dmd2_sdxl_4step_lora.safetensors", XL, True): ("DMD2", 4, 1.0, "lcm", None),
    ("stabilityai/sdxl-turbo", XL, False): ("Turbo", 4, 1.0, "euler_ancestral", "trailing"),
    ("sd_xl_turbo_1.0_fp16.safetensors", XL, False): ("Turbo", 4, 1.0, "euler_ancestral", "trailing"),
    ("stabilityai/sd-turbo", SD2, False): ("Turbo", 4, 1.0, "euler", "trailing"),
    ("RunDiffusion/Juggernaut-XL-Lightning", XL, False): ("SDXL Lightning", 4, 1.0, "euler", "trailing"),
    ("realvisxlV40_v40LightningBakedvae.safetensors", XL, False): ("SDXL Lightning", 4, 1.0, "euler", "trailing"),
    ("photon_lcm.safetensors", SD1, False): ("LCM", 4, 1.0, "lcm", None),
}
OTHERS = [
    ("lightning_bolts.safetensors", XL, True),
    ("porsche-turbo.safetensors", XL, True),
    ("hyperrealistic_v3.safetensors", SD1, False),
    ("hyper-detail.safetensors", XL, True),
    ("turbo", SD1, False),
    ("stable-diffusion-xl-base-1.0", XL, False),
    ("lightning/plain.safetensors", XL, False),
    ("dreamlcmish.safetensors", SD1, False),
]


@pytest.mark.parametrize(("name", "expected"), NAMES.items(), ids=lambda value: str(value[0]).rpartition("/")[2])
def test_names_of_authors_are_recognised(name, expected):
    path, family, lora = name
    assert by_name(path, family, lora=lora) == expected


@pytest.mark.parametrize(("name", "family", "lora"), OTHERS)
def test_other_names_are_not(name, family, lora):
    assert by_name(name, family, lora=lora) is None


def named(model, name, **fields):
    return replace(model, name=name, **fields)


def lora(path, scale=1.0):
    return {"path": path, "sha256": "0" * 64, "scale": scale}


def settings(model, **request):
    completed = complete(model, Request(prompt="a", seed=0, **request))
    return completed.steps, completed.guidance, completed.sampler, completed.schedule


def test_a_request_that_says_nothing_gets_the_settings_of_the_method(family):
    sdxl = family("sdxl").model
    assert settings(sdxl)[:2] == (25, 5.0)
    assert settings(named(sdxl, "stabilityai/sdxl-turbo")) == (4, 1.0, "euler_ancestral", "trailing")
    assert settings(named(sdxl, "sdxl_lightning_8step.safetensors")) == (8, 1.0, "euler", "trailing")


def test_what_a_request_says_stays(family):
    turbo = named(family("sdxl").model, "stabilityai/sdxl-turbo")
    assert settings(turbo, steps=1)[0] == 1
    assert settings(turbo, guidance=2.0)[:2] == (4, 2.0)
    steps, guidance, sampler, schedule = settings(turbo, sampler="dpmpp_2m")
    assert (steps, guidance, sampler) == (4, 1.0, "dpmpp_2m") and schedule != "trailing"
    assert settings(turbo, schedule="timesteps=999,749,499,249,1")[0] == 5


def test_a_lora_counts_more_than_the_model_and_the_last_one_most(family):
    turbo = named(family("sd1").model, "photon_lcm", loras=(lora("style.safetensors"),))
    assert distilled_of(turbo).method == "LCM"
    both = named(turbo, "photon_lcm", loras=(lora("TCD-SD15-LoRA"), lora("Hyper-SD15-8steps-lora.safetensors")))
    assert distilled_of(both).method == "Hyper-SD"
    off = named(turbo, "photon", loras=(lora("Hyper-SD15-8steps-lora.safetensors", 0.0),))
    assert distilled_of(off) is None


def test_files_are_recognised_whatever_they_are_called(family):
    model = family("sd2v").model
    trailing = replace(model.scheduler, sampler="euler", timestep_spacing="trailing", prediction_type="epsilon")
    assert distilled_of(replace(model, scheduler=trailing)).method == "Turbo"
    for other in (
        {"prediction_type": "v_prediction"},
        {"rescale_betas_zero_snr": True},
        {"timestep_spacing": "leading"},
        {"sampler": "dpmpp_2m"},
    ):
        assert distilled_of(replace(model, scheduler=replace(trailing, **other))) is None
    assert distilled_of(replace(model, scheduler=replace(trailing, sampler="tcd"))).sampler == "tcd"


def test_a_line_says_which_settings_are_the_methods_own(family):
    turbo = named(family("sdxl").model, "stabilityai/sdxl-turbo")

    def words(**said):
        request = Request(prompt="a", seed=0, **said)
        return distilled_words(turbo, request, complete(turbo, request))

    assert words() == ["this is a Turbo model: --steps 4 --guidance 1.0 --sampler euler_ancestral --schedule trailing"]
    assert words(steps=2, guidance=1.0, sampler="euler", schedule="trailing") == []
    assert words(guidance=7.5) == ["this is a Turbo model, made to work without guidance: leave --guidance out"]
    assert distilled_words(family("sdxl").model, Request(prompt="a"), Request(prompt="a", guidance=7.5)) == []


def test_speed_is_refused_for_what_is_distilled(family):
    with pytest.raises(InputError, match="leave out --speed"):
        complete(named(family("sdxl").model, "sdxl-turbo"), Request(prompt="a", speed="fast"))
