"""Every sampler ends where diffusers' scheduler ends, under one non-linear model and one stream of noise."""

from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch

from mlx_sd.core.errors import InputError
from mlx_sd.sampling import loop, samplers
from mlx_sd.sampling.scheduler import Scheduler
from mlx_sd.sampling.table import Options
from tests.support import families, reference
from tests.support.families import distance

SHAPE, SEED = (2, 8, 8, 4), 11
STEPS = (1, 2, 5, 10, 20, 50)
PREDICTIONS = ("epsilon", "v_prediction", "sample")
MIX = families.numbers("mix", 4, 4).astype(np.float64) * 0.4
# Sigmas are rounded to float32 in diffusers, and most of its classes mix latents in float32
EXACT = 1e-5


def model(x: np.ndarray, t: float) -> np.ndarray:
    """A network in float64: bounded, non-linear, mixing channels, and never blind to its timestep."""
    return np.tanh(1.3 * x @ MIX + t / 700) + 0.3 * x


def ours(
    config: dict[str, Any],
    sampler: str | None = None,
    schedule: str | None = None,
    steps: int = 20,
    options: dict[str, Any] | None = None,
    begin: int | None = None,
) -> np.ndarray:
    scheduler = Scheduler.from_hf(config)
    chosen = samplers.choose(scheduler, sampler, schedule, Options(**(options or {})))
    table = samplers.table(scheduler, *chosen, steps, begin)
    draw = reference.stream(SEED, SHAPE[0], SHAPE[3], SHAPE[1], SHAPE[2])

    def normal() -> mx.array:
        return mx.array(reference.last(draw()))

    def predict(x: mx.array, t: float) -> mx.array:
        return mx.array(model(np.array(x, np.float64), t).astype(np.float32))

    noise, image = (mx.array(families.numbers(name, *SHAPE)) for name in ("start", "image"))
    return np.array(loop.run(table, predict, noise, normal, image=None if begin is None else image))


def theirs(made: Any, steps: int | dict[str, Any], begin: int | None = None, **options: Any) -> np.ndarray:
    set_timesteps = made.set_timesteps

    def precise(*arguments: Any, **keywords: Any) -> None:
        set_timesteps(*arguments, **keywords)
        if hasattr(made, "sigmas"):  # of its weights some are small differences, of which float32 would keep little
            made.sigmas = made.sigmas.double()

    made.set_timesteps = precise
    # DDIM and DDPM refuse nothing and compute in the latents' type; the Euler family casts to float32 itself.
    noise, image = (torch.from_numpy(families.numbers(n, *SHAPE)).movedim(-1, 1).double() for n in ("start", "image"))

    def predict(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(model(x.double().movedim(1, -1).numpy(), float(t))).movedim(-1, 1)

    return reference.last(reference.run(made, steps, noise, predict, SEED, begin, image, **options))


def config(sampler: str, prediction: str = "epsilon", **changes: Any) -> dict[str, Any]:
    """A checkpoint's scheduler config that asks for `sampler` by its diffusers class."""
    name, extra = reference.SCHEDULERS[sampler]
    shared = {
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": False,
        "num_train_timesteps": 1000,
        "steps_offset": 1,
    }
    return shared | {"_class_name": name, "prediction_type": prediction} | extra | changes


def compare(
    measure: Any,
    name: str,
    config: dict[str, Any],
    sampler: str | None,
    schedule: str | None,
    steps: int,
    limit: float = EXACT,
    begin: int | None = None,
) -> None:
    made = reference.scheduler(config, sampler, schedule)
    if ends_where_it_begins(made, steps):
        return
    found, known = ours(config, sampler, schedule, steps, begin=begin), theirs(made, steps, begin)
    if np.isnan(known).any():  # diffusers divides by the length of a last step that has none
        assert np.isfinite(found).all()
    else:
        measure(name, distance(found, known), limit)


def predictions(sampler: str) -> tuple[str, ...]:
    """What diffusers' class takes."""
    return PREDICTIONS[:2] if sampler in ("plms", "euler_ancestral") else PREDICTIONS


TRIPLES = [
    (sampler, schedule, prediction)
    for sampler in reference.SCHEDULERS
    for schedule in samplers.SAMPLERS[sampler].schedules
    for prediction in predictions(sampler)
    if reference.supports(sampler, schedule)
]


@pytest.mark.parametrize(("sampler", "schedule", "prediction"), TRIPLES)
def test_every_sampler_on_every_schedule_ends_where_diffusers_does(sampler, schedule, prediction, measure):
    for steps in STEPS:
        made = config(sampler, prediction)
        if schedule == "diffusers_beta" and starts_twice(reference.scheduler(made, sampler, schedule), steps):
            continue
        # The noise in a predicted image is a small difference of large numbers, in float32 here and there.
        rough = prediction == "sample" and sampler == "lms"
        name = f"sampler {sampler}" + (", noise from sample" if rough else "")
        compare(measure, name, made, sampler, schedule, steps, limit=2 * EXACT if rough else EXACT)


MIDWAY = ((20, 3), (20, 5), (20, 12), (20, 19), (10, 3), (10, 5))


@pytest.mark.parametrize("prediction", PREDICTIONS[:2])
@pytest.mark.parametrize("sampler", reference.SCHEDULERS)
def test_midway_from_an_image_every_sampler_ends_where_diffusers_does(sampler, prediction, measure):
    """Where diffusers itself goes wrong, PNDM and LMS, it is made to start anew: see reference.midway."""
    own = samplers.SAMPLERS[sampler].default_schedule
    for schedule in dict.fromkeys((own, "leading", "trailing", "diffusers_karras")):
        if reference.supports(sampler, schedule):
            for steps, begin in MIDWAY:
                made = config(sampler, prediction)
                compare(measure, f"midway {sampler}", made, sampler, schedule, steps, begin=begin)


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "dpmpp_2m_sde"])
def test_midway_with_checkpoints_that_know_sigmas(sampler, measure):
    name = "EDMEulerScheduler" if sampler == "euler" else "EDMDPMSolverMultistepScheduler"
    kind = {"algorithm_type": "sde-dpmsolver++"} if sampler == "dpmpp_2m_sde" else {}
    made = {"_class_name": name, "prediction_type": "epsilon", "sigma_schedule": "karras", "sigma_data": 0.7} | kind
    for steps, begin in MIDWAY:
        known = theirs(getattr(reference.diffusers, name).from_config(made), steps, begin)
        measure(f"midway {name}", distance(ours(made, sampler, None, steps, begin=begin), known), 2 * EXACT)


@pytest.mark.parametrize("sampler", ["euler", "ddim", "heun", "dpmpp_2m", "dpmpp_2s"])
@pytest.mark.parametrize("steps", [10, 20, 33])
def test_midway_strength_is_that_of_the_img2img_pipeline(sampler, steps):
    """The network is asked from the same timestep on, as often."""
    get = reference.diffusers.StableDiffusionImg2ImgPipeline.get_timesteps
    made = config(sampler)
    pipe = SimpleNamespace(scheduler=reference.scheduler(made, sampler, "linspace"))
    scheduler = Scheduler.from_hf(made)
    for strength in (0.05, 0.1, 0.29, 0.3, 0.57, 0.6, 0.75, 0.8, 0.99, 1.0):
        begin = steps - int(steps * strength)
        pipe.scheduler.set_timesteps(steps)
        known, count = get(pipe, steps, strength, None)
        if begin == steps:  # diffusers' pipelines refuse to run no step, and so do we
            assert count == 0
            continue
        rows = samplers.table(scheduler, sampler, "linspace", Options(), steps, begin).rows
        assert [row.timestep for row in rows] == pytest.approx(known.tolist(), abs=1e-3)


def ends_where_it_begins(made: Any, steps: int) -> bool:
    """Whether diffusers repeats the only level there is, and so returns the noise it was given."""
    made.set_timesteps(steps)
    return steps == 1 and hasattr(made, "sigmas") and bool(made.sigmas[0] == made.sigmas[-1])


def starts_twice(made: Any, steps: int) -> bool:
    """Whether the first two timesteps coincide: diffusers then leaves out the first level and runs past the last."""
    made.set_timesteps(steps)
    return steps > 1 and bool(made.timesteps[0] == made.timesteps[1]) and not hasattr(made, "state_in_first_order")


OPTIONS = [
    ("ddim", {"eta": 0.5}, {}, {"eta": 0.5}),
    ("ddim", {"eta": 1.0}, {}, {"eta": 1.0}),
    ("tcd", {"gamma": 0.0}, {}, {"eta": 0.0}),
    ("tcd", {"gamma": 0.7}, {}, {"eta": 0.7}),
    ("tcd", {"gamma": 1.0}, {}, {"eta": 1.0}),
    ("edm", {"order": 1}, {"_class_name": "EulerDiscreteScheduler"}, {}),
    *(("lms", {"order": k}, {}, {"order": k}) for k in (1, 2, 3)),
    *((s, {"order": k}, {"solver_order": k}, {}) for s in ("dpm_2m", "dpmpp_2s", "deis", "unipc") for k in (1, 2, 3)),
    *((s, {"order": 1}, {"solver_order": 1}, {}) for s in ("dpmpp_2m", "dpmpp_2m_sde")),
    *(("unipc", {"order": k, "kind": "bh1"}, {"solver_order": k, "solver_type": "bh1"}, {}) for k in (1, 2, 3)),
    *((s, {"kind": "heun"}, {"solver_type": "heun"}, {}) for s in ("dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m", "dpmpp_2s")),
    *(("dpm_2m", {"kind": "heun", "order": k}, {"solver_type": "heun", "solver_order": k}, {}) for k in (2, 3)),
    ("dpmpp_2s", {"kind": "heun", "order": 3}, {"solver_type": "heun", "solver_order": 3}, {}),
    ("unipc", {"corrector": False}, {"disable_corrector": list(range(60))}, {}),
    ("dpmpp_2m", {"corrector": True}, {"_class_name": "UniPCMultistepScheduler", "solver_order": 2}, {}),
]


@pytest.mark.parametrize("prediction", PREDICTIONS[:2])
@pytest.mark.parametrize(("sampler", "options", "fields", "arguments"), OPTIONS)
def test_options_mean_what_diffusers_fields_and_arguments_mean(
    sampler, options, fields, arguments, prediction, measure
):
    for schedule in [s for s in ("linspace", "diffusers_karras", "trailing") if reference.supports(sampler, s)]:
        for steps, begin in (*((n, None) for n in STEPS), (20, 3), (20, 5), (20, 7), (10, 4)):
            if options == {"corrector": True} and 1 < steps < 15:
                steps = 14 + steps  # where 2M is of first order at the end only because the end is zero
            end = {"final_sigmas_type": "sigma_min"} if options.get("kind") == "bh1" else {}  # zero is NaN there
            made = config(sampler, prediction, **end)
            own = None if "_class_name" in fields else sampler
            known = reference.scheduler(made | fields, own, schedule, **fields)
            if ends_where_it_begins(known, steps):
                continue
            known = theirs(known, steps, begin, **arguments)
            found = ours(made, sampler, schedule, steps, options, begin)
            if np.isnan(known).any():
                assert schedule == "diffusers_karras" and np.isfinite(found).all()
            else:
                measure(f"options of {sampler}", distance(found, known), EXACT)


@pytest.mark.parametrize("prediction", PREDICTIONS[:2])
@pytest.mark.parametrize("schedule", ["leading", "linspace", "trailing"])
def test_plms_starts_by_runge_kutta_where_the_config_says_so(schedule, prediction, measure):
    made = config("plms", prediction, skip_prk_steps=False)
    for steps in (4, 5, 10, 20, 50):
        known = reference.scheduler(made, None, schedule)
        measure("plms from Runge-Kutta", distance(ours(made, None, schedule, steps), theirs(known, steps)), EXACT)
    for steps, begin in ((20, 3), (20, 5), (20, 12), (20, 16), (10, 3), (10, 5)):
        found = ours(made, None, schedule, steps, begin=begin)
        measure("midway plms from Runge-Kutta", distance(found, theirs(known, steps, begin)), EXACT)


@pytest.mark.parametrize("prediction", PREDICTIONS[:2])
@pytest.mark.parametrize("shape", ["karras", "exponential"])
@pytest.mark.parametrize(
    ("name", "sampler", "fields"),
    [
        ("EDMEulerScheduler", "euler", {}),
        ("EDMEulerScheduler", "edm", {"rho": 5.0, "sigma_max": 40.0}),
        ("EDMDPMSolverMultistepScheduler", "dpmpp_2m", {"rho": 6.0}),
        ("EDMDPMSolverMultistepScheduler", "dpmpp_2m_sde", {"algorithm_type": "sde-dpmsolver++"}),
        ("EDMDPMSolverMultistepScheduler", "dpmpp_3m", {"solver_order": 3, "sigma_data": 1.0}),
    ],
)
def test_checkpoints_that_know_sigmas_instead_of_timesteps(name, sampler, fields, shape, prediction, measure):
    made = {"_class_name": name, "prediction_type": prediction, "sigma_schedule": shape} | fields
    options = {"order": 1, "rho": fields["rho"] if shape == "karras" else None} if sampler == "edm" else {}
    for steps in STEPS[1:]:
        known = getattr(reference.diffusers, name).from_config(made)
        if shape == "exponential" and "rho" in fields:
            made = made | {"rho": 7.0}
        # Of latents at sigma 80 float32 keeps less.
        measure(name, distance(ours(made, sampler, None, steps, options), theirs(known, steps)), 2 * EXACT)


@pytest.mark.parametrize("sampler", ["euler", "heun", "ddpm", "dpmpp_2m", "dpmpp_3m", "dpmpp_2s", "lcm", "tcd"])
def test_timesteps_that_a_user_gives(sampler, measure):
    lists = [[999, 759, 499, 259], [999, 850, 736, 645, 545, 455, 343, 233, 124, 24]]
    for timesteps in lists:
        made = config(sampler)
        known = reference.scheduler(made, sampler)
        found = ours(made, sampler, "timesteps=" + ",".join(map(str, timesteps)), len(timesteps))
        measure("timesteps given", distance(found, theirs(known, {"timesteps": timesteps})), EXACT)
    if sampler not in ("lcm", "tcd"):  # the second list is what Align Your Steps found
        measure("ays", distance(ours(made, sampler, "ays", 10), theirs(known, {"timesteps": lists[1]})), EXACT)


def test_the_lists_of_align_your_steps_are_the_published_ones():
    published = reference.diffusers.schedulers.AysSchedules
    lists = {"StableDiffusionTimesteps": {}, "StableDiffusionXLTimesteps": {"xl": True}}
    for name, kind in lists.items():
        assert list(Scheduler.from_hf(config("euler"), **kind).ays[:-1]) == published[name]
    video = Scheduler.from_hf({"_class_name": "EDMEulerScheduler"})
    assert list(video.ays[:-1]) == published["StableDiffusionVideoSigmas"][:-1]


def test_the_list_of_stable_video_diffusion_as_its_own_scheduler_takes_it(measure):
    sigmas = reference.diffusers.schedulers.AysSchedules["StableDiffusionVideoSigmas"]
    fields = {"prediction_type": "v_prediction", "sigma_min": 0.002, "sigma_max": 700.0}
    known = reference.diffusers.EulerDiscreteScheduler(timestep_type="continuous", **fields)
    found = ours({"_class_name": "EDMEulerScheduler", "sigma_data": 1.0, **fields}, "euler", "ays", 10)
    measure("ays of sigmas", distance(found, theirs(known, {"sigmas": sigmas})), 2 * EXACT)


@pytest.mark.parametrize("sigmas", [[14.6, 6.4, 3.1, 1.2, 0.4, 0.0], [9.0, 4.0, 1.0, 0.1]])
def test_sigmas_that_a_user_gives(sigmas, measure):
    made = config("euler")
    found = ours(made, "euler", "sigmas=" + ",".join(map(str, sigmas)), len(sigmas) - 1)
    measure("sigmas given", distance(found, theirs(reference.scheduler(made), {"sigmas": sigmas})), EXACT)


@pytest.mark.parametrize("sampler", reference.SCHEDULERS)
def test_a_checkpoint_s_own_config_decides_sampler_and_schedule(sampler, measure):
    for changes in ({}, {"timestep_spacing": "trailing"}, {"timestep_spacing": "leading", "steps_offset": 0}):
        made = config(sampler, **changes)
        own = "heun" if sampler == "edm" else sampler
        assert Scheduler.from_hf(made).sampler == own
        if sampler == "dpmpp_2s":
            made.pop("timestep_spacing", None)  # of which its class knows nothing
        compare(measure, "schedulers' own defaults", made, None, None, 20)


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("prediction", PREDICTIONS[:2])
@pytest.mark.parametrize("sampler", ["ddim", "plms"])
def test_set_alpha_to_one_decides_where_ddim_and_plms_end(sampler, prediction, clean, measure):
    for spacing in ("leading", "linspace", "trailing"):
        for steps in STEPS:
            made = config(sampler, prediction, set_alpha_to_one=clean)
            compare(measure, "set_alpha_to_one", made, sampler, spacing, steps)


@pytest.mark.parametrize(
    "sampler",
    ["ddim", "ddpm", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m", "euler", "euler_ancestral", "lcm", "tcd", "unipc"],
)
def test_zero_terminal_snr_is_rescaled_as_diffusers_does(sampler, measure):
    for spacing in [s for s in ("leading", "linspace", "trailing") if reference.supports(sampler, s)]:
        for steps in STEPS:
            made = config(sampler, "v_prediction", rescale_betas_zero_snr=True)
            compare(measure, "rescale_betas_zero_snr", made, sampler, spacing, steps)


@pytest.mark.parametrize("schedule", ["leading", "linspace", "trailing", "diffusers_karras"])
@pytest.mark.parametrize("sampler", ["dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m", "euler", "euler_ancestral", "unipc"])
def test_sigma_min_is_where_it_ends_when_asked(sampler, schedule, measure):
    for steps in STEPS:
        made = config(sampler, final_sigmas_type="sigma_min")
        compare(measure, "final_sigmas_type sigma_min", made, sampler, schedule, steps)


@pytest.mark.parametrize("steps", [5, 14, 15, 20])
@pytest.mark.parametrize("final", ["zero", "sigma_min"])
def test_the_last_step_is_of_the_order_that_the_config_says(final, steps, measure):
    for lower in (True, False):
        for euler in (True, False):
            made = config("dpmpp_2m", lower_order_final=lower, euler_at_final=euler, final_sigmas_type=final)
            compare(measure, "lower_order_final, euler_at_final", made, "dpmpp_2m", "linspace", steps)


@pytest.mark.parametrize("betas", ["linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("sampler", reference.SCHEDULERS)
def test_other_beta_schedules(sampler, betas, measure):
    made = config(sampler, "v_prediction", beta_schedule=betas, beta_start=1e-4, beta_end=0.02)
    for schedule in ("leading", "diffusers_karras"):
        if not reference.supports(sampler, schedule):
            continue
        # Cosine's steep end brings Karras timesteps together.
        if schedule == "leading" or not starts_twice(reference.scheduler(made, sampler, schedule), 20):
            compare(measure, "other betas", made, sampler, schedule, 20)


@pytest.mark.parametrize("sampler", reference.SCHEDULERS)
def test_trained_betas_and_other_lengths_of_training(sampler, measure):
    betas = [float(b) for b in np.linspace(0.001, 0.03, 600)]
    made = config(sampler, trained_betas=betas, num_train_timesteps=600)
    schedule = next(s for s in ("leading", "linspace", "trailing") if reference.supports(sampler, s))
    compare(measure, "trained_betas", made, sampler, schedule, 20)


def test_plms_refuses_networks_that_predict_the_sample():
    with pytest.raises(InputError, match="plms takes networks that predict epsilon or v"):
        ours(config("plms", "sample"), "plms")
