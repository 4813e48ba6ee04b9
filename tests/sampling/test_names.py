"""Names of other programs mean the same as ours; what has no equal here is refused with the nearest and the reason."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_sd import InputError, Request
from mlx_sd.sampling import diffusers_classes, names, samplers, schedules
from mlx_sd.sampling.scheduler import Scheduler
from mlx_sd.sampling.table import Options

# Sampler as others write it -> ours, and the schedule in the name.
READ = {
    "Euler a": ("euler_ancestral", None),
    "euler a": ("euler_ancestral", None),
    "EULER_A": ("euler_ancestral", None),
    "k_euler_a": ("euler_ancestral", None),
    "Euler": ("euler", None),
    "LMS": ("lms", None),
    "LMS Karras": ("lms", "karras"),
    "k_lms_ka": ("lms", "karras"),
    "Heun": ("heun", None),
    "DPM++ 2M": ("dpmpp_2m", None),
    "DPM++ 2M Karras": ("dpmpp_2m", "karras"),
    "dpm++ 2m karras": ("dpmpp_2m", "karras"),
    "dpmpp_2m_karras": ("dpmpp_2m", "karras"),
    "dpm++2m": ("dpmpp_2m", None),
    "dpmpp-2m": ("dpmpp_2m", None),
    "DPM++ 2M SGM Uniform": ("dpmpp_2m", "sgm_uniform"),
    "DPM++ 2M AYS": ("dpmpp_2m", "ays"),
    "DPM++ 2M Trailing": ("dpmpp_2m", "trailing"),
    "DPM++ 2M SDE Karras": ("dpmpp_2m_sde", "karras"),
    "DPM++ 2M SDE Exponential": ("dpmpp_2m_sde", "exponential"),
    "dpmpp_2m_sde_gpu": ("dpmpp_2m_sde", None),
    "DDIM": ("ddim", None),
    "DDIM Trailing": ("ddim", "trailing"),
    "ddpm": ("ddpm", None),
    "PLMS": ("plms", None),
    "pndm": ("plms", None),
    "UniPC": ("unipc", None),
    "uni_pc": ("unipc", None),
    "LCM": ("lcm", None),
    "deis": ("deis", None),
    "dpmpp": ("dpmpp_2m", None),
    "DPM-Solver++": ("dpmpp_2m", None),
    "dpmpp_2m_k": ("dpmpp_2m", "karras"),
    "DPMSolverMultistepScheduler": ("dpmpp_2m", None),
    "dpmsolvermultistep": ("dpmpp_2m", None),
    "EulerAncestralDiscreteScheduler": ("euler_ancestral", None),
    "EulerDiscreteScheduler": ("euler", None),
    "PNDMScheduler": ("plms", None),
    "LMSDiscreteScheduler": ("lms", None),
    "HeunDiscreteScheduler": ("heun", None),
    "UniPCMultistepScheduler": ("unipc", None),
    "DPMSolverSinglestepScheduler": ("dpmpp_2s", None),
}
SCHEDULES = {
    "Karras": "karras",
    "Exponential": "exponential",
    "Polyexponential": "exponential",
    "SGM Uniform": "sgm_uniform",
    "SGMUniform": "sgm_uniform",
    "Simple": "simple",
    "Normal": "normal",
    "Uniform": "normal",
    "discrete": "normal",
    "Beta": "beta",
    "Align Your Steps": "ays",
    "AYS": "ays",
    "align_your_steps": "ays",
    "DDIM": "leading",
    "ddim_uniform": "leading",
    "Trailing": "trailing",
    "use_karras_sigmas": "diffusers_karras",
    "timesteps=999,500": "timesteps=999,500",
    "sigmas=3,1,0": "sigmas=3,1,0",
    "Mine.json": "Mine.json",
}


@pytest.mark.parametrize("name", READ)
def test_a_sampler_s_name_in_another_program_means_ours(name):
    request = Request(sampler=name)
    assert (request.sampler, request.schedule) == READ[name]
    assert request == Request(sampler=READ[name][0], schedule=READ[name][1])


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_s_name_in_another_program_means_ours(name):
    assert Request(schedule=name).schedule == SCHEDULES[name]


def test_every_class_of_diffusers_that_a_checkpoint_may_name_is_a_name_too():
    for name in diffusers_classes.CLASSES:
        assert names.read_sampler(name).sampler == Scheduler.from_hf({"_class_name": name}).sampler


@given(
    name=st.sampled_from([*samplers.names(), *READ]),
    change=st.sampled_from([str.upper, str.title, lambda n: n.replace("_", " "), lambda n: re.sub("[ _-]", "", n)]),
)
def test_case_and_what_separates_words_do_not_matter(name, change):
    assert names.read_sampler(change(name)) == names.read_sampler(name)


def test_our_own_names_mean_themselves():
    for sampler in samplers.names():
        assert names.read_sampler(sampler) == names.Meaning(sampler)
    for schedule in schedules.names():
        assert names.read_schedule(schedule) == schedule


def test_a_name_sets_the_kind_that_it_carries():
    request = Request(sampler="DPM++ 2M SDE Heun Karras")
    assert (request.sampler, request.schedule, request.kind) == ("dpmpp_2m_sde", "karras", "heun")
    assert Request(sampler="uni_pc_bh2").kind == "bh2"


# Sampler, schedule and kind -> words of the error.
REFUSED = {
    ("DPM++ 3M SDE", None, None): "third order and adds fresh noise; the nearest is dpmpp_2m_sde",
    ("dpmpp_3m_sde_gpu", None, None): "the nearest is dpmpp_2m_sde",
    ("DPM++ SDE Karras", None, None): "twice a step and adds fresh noise; the nearest is dpmpp_2m_sde",
    ("DPM++ 2S a Karras", None, None): "twice a step and adds fresh noise; the nearest is euler_ancestral",
    ("DPM fast", None, None): "the nearest is dpmpp_2s",
    ("dpm_adaptive", None, None): "chooses its steps while it runs; the nearest is dpmpp_2m",
    ("DPM2", None, None): "the second time in the middle; the nearest is heun",
    ("KDPM2DiscreteScheduler", None, None): "the nearest is heun",
    ("dpm_2_ancestral", None, None): "the nearest is euler_ancestral",
    ("Restart", None, None): "goes back to higher noise levels several times; the nearest is heun",
    ("heunpp2", None, None): "the nearest is heun",
    ("ipndm_v", None, None): "the nearest is lms",
    ("euler_cfg_pp", None, None): "guidance CFG++; the nearest is euler",
    ("FlowMatchEulerDiscreteScheduler", None, None): "trained on flows",
    (None, "KL Optimal", None): "arctangent of sigma; the nearest is ays",
    (None, "kl_optimal", None): "the schedule 'kl_optimal' has no equal here",
    (None, "DPM++ 2M", None): "'DPM++ 2M' is a sampler, not a schedule",
    (None, "DPM++ 2M Karras", None): "is a sampler, not a schedule",
    ("Karras", None, None): "'Karras' is a schedule, not a sampler",
    ("dpmp_2m", None, None): "unknown sampler 'dpmp_2m'; did you mean 'dpmpp_2m'?",
    ("", None, None): "sampler is empty",
    (None, "karas", None): "unknown schedule 'karas'; did you mean 'karras'?",
    ("DPM++ 2M Karras", "exponential", None): "names the schedule karras, not exponential; leave one of them out",
    ("DPM++ 2M SDE Heun", None, "midpoint"): "names the kind heun, not midpoint; leave one of them out",
}


@pytest.mark.parametrize("case", REFUSED)
def test_no_equal_and_no_sense_are_refused_with_the_way_out(case):
    sampler, schedule, kind = case
    with pytest.raises(InputError, match=re.escape(REFUSED[case])) as error:
        Request(sampler=sampler, schedule=schedule, kind=kind)
    assert "\n" not in str(error.value)


def test_the_nearest_is_a_name_of_ours():
    for table, ours in ((names._NO_SAMPLER, samplers.names()), (names._NO_SCHEDULE, schedules.names())):
        assert {entry.nearest for entry in table.values()} <= set(ours)
        assert all(key == names._key(key) for key in table)


def test_the_same_schedule_twice_is_no_contradiction():
    assert Request(sampler="DPM++ 2M Karras", schedule="Karras") == Request(sampler="dpmpp_2m", schedule="karras")
    assert Request(sampler="DPM++ 2M Karras", schedule="Automatic").schedule == "karras"


def test_automatic_is_what_a1111_takes_for_a_sampler():
    automatic = {name: Request(sampler=name, schedule="Automatic").schedule for name in ("DPM++ 2M", "Euler a", "DDIM")}
    assert automatic == {"DPM++ 2M": "karras", "Euler a": "normal", "DDIM": "leading"}
    assert Request(sampler="DPM++ 2M SDE", schedule="Automatic").schedule == "exponential"
    assert Request(schedule="Automatic").schedule is None
    assert Request(sampler="LCM", schedule="Automatic").schedule is None


A1111_SAMPLERS = ["Euler a", "Euler", "LMS", "Heun", "DDIM", "PLMS", "UniPC", "LCM"]
A1111_SAMPLERS += ["DPM++ 2M", "DPM++ 2M SDE", "DPM++ 2M SDE Heun"]
A1111_SCHEDULES = ["Karras", "Exponential", "SGM Uniform", "Align Your Steps", "Simple", "Normal", "DDIM", "Beta"]


@pytest.mark.parametrize("label", A1111_SAMPLERS)
def test_a1111_s_names_come_back(label):
    for schedule in A1111_SCHEDULES:
        sampler, ours, kind = names.canonical(label, schedule)
        assert names.a1111_names(sampler, ours, kind) == (label, schedule)


def test_a1111_gets_our_own_name_where_it_has_none():
    for sampler in samplers.names():
        label, _ = names.a1111_names(sampler, "karras")
        assert label == sampler or names.read_sampler(label).sampler in (sampler, "heun")
    assert names.a1111_names("dpmpp_3m", "linspace") == ("dpmpp_3m", "Uniform")
    assert names.a1111_names("edm", "diffusers_karras", order=1) == ("Euler", "Karras")
    assert names.a1111_names("euler", "sigmas=3,1,0") == ("Euler", "Automatic")


def test_generators_have_a1111_s_names_too():
    assert [Request(rng=name).rng for name in ("numpy", "torch", "CUDA", "CPU", "GPU", "NV")] == [
        *("numpy", "torch", "cuda", "torch", "cuda", "cuda")
    ]
    assert [names.a1111_rng(name) for name in names.GENERATORS] == [None, "CPU", "GPU"]
    for wrong, message in (("tourch", "unknown rng 'tourch'; did you mean 'torch'?"), (3, "unknown rng '3'")):
        with pytest.raises(InputError, match=re.escape(message)):
            Request(rng=wrong)


def test_a_request_holds_one_name_whatever_was_typed():
    typed = Request(prompt="a tent", sampler="DPM++ 2M Karras", rng="CPU")
    assert typed == Request(prompt="a tent", sampler="dpmpp_2m", schedule="karras", rng="torch")
    record = typed.to_json()
    assert (record["sampler"], record["schedule"], record["rng"]) == ("dpmpp_2m", "karras", "torch")


@pytest.mark.parametrize("name", ["karras", "exponential", "beta", "sgm_uniform"])
def test_a_record_of_an_earlier_version_means_diffusers_schedule(name):
    """... which had no rng; a record of this version, and settings of which no picture was made, mean what they say."""
    record = Request(prompt="a tent", sampler="euler", schedule=name, model_hash="0" * 64).to_json()
    earlier = {key: value for key, value in record.items() if key != "rng"}
    assert Request.from_json(record, "here").schedule == name
    assert Request.from_json(earlier, "here") == Request.from_json(record, "here").with_values(
        schedule=f"diffusers_{name}"
    )
    assert Request.from_json({"schedule": name}, "here").schedule == name
    assert Request.from_json(earlier | {"schedule": "linspace"}, "here").schedule == "linspace"


def test_a_checkpoint_s_config_asks_for_diffusers_schedule_and_a_user_for_the_whole_range():
    scheduler = Scheduler.from_hf({"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": True})
    assert samplers.choose(scheduler)[1] == "diffusers_karras"
    assert samplers.choose(scheduler, None, "karras")[1] == "karras"
    assert samplers.choose(scheduler, None, "diffusers_karras", Options(rho=5.0))[2].rho == 5.0
