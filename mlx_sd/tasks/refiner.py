"""The hand-over of SDXL: the base runs the first part of one schedule, a refiner the rest, from latents to latents."""

from dataclasses import replace

from ..checkpoint.model import Model
from ..core.errors import InputError
from ..sampling import samplers
from ..sampling import schedules as schedule
from ..sampling.steps import Level
from ..sampling.table import Table
from ..settings import Settings

AT = 0.8  # of the way from noise to picture, as SDXL's authors have it


def check(model: Model, refiner: Model) -> None:
    """InputError where one cannot go on from the other's latents."""
    latents = model.vae.config.latent_channels
    if refiner.unet.config.in_channels != latents:
        raise InputError(
            f"the refiner's UNet takes {refiner.unet.config.in_channels} channels, not the {latents} of latents alone"
        )
    ours, theirs = model.vae.config, refiner.vae.config
    if (ours.downsampling, ours.scaling_factor, ours.shift_factor) != (
        theirs.downsampling,
        theirs.scaling_factor,
        theirs.shift_factor,
    ):
        raise InputError("the refiner's latents are of another VAE than the model's; give one of the same family")


def tables(model: Model, refiner: Model, chosen: Settings, whole: Table, at: float) -> tuple[Table, Table]:
    """The base's rows and the refiner's: `whole`, cut where timesteps fall below 1 - at of those of training.

    That is diffusers' denoising_end and denoising_start. A method with a memory starts anew with the refiner.
    InputError where one of them has no step.
    """
    if not 0 < at < 1:
        raise InputError(f"the refiner begins between 0 and 1, not at {at}")
    scheduler, options = model.scheduler, chosen.options
    if scheduler.edm:
        raise InputError("this checkpoint knows no timesteps, by which work is shared with a refiner")
    method = samplers.SAMPLERS[chosen.sampler]
    grid = method.grid(scheduler, chosen.steps, chosen.schedule, options.rho or schedule.RHO).steps
    begin = sum(step.timestep >= round(scheduler.num_train_timesteps * (1 - at)) for step in grid)
    if begin == len(grid):
        raise InputError(f"the refiner has none of {len(grid)} steps where it begins at {at}; let it begin earlier")
    one = replace(scheduler, prediction_type=refiner.scheduler.prediction_type)
    rest = samplers.table(one, chosen.sampler, chosen.schedule, options, chosen.steps, begin)
    first = rest.rows[0]
    # A level is met twice where a step's last evaluation is at its end: the next step begins with the later.
    places = [i for i, row in enumerate(whole.rows) if (row.timestep, row.level) == (first.timestep, first.level)]
    if not places or places[-1] == 0:
        of = "" if chosen.strength is None else f" of strength {chosen.strength}"
        raise InputError(f"the refiner begins at {at} and leaves the model none of the steps{of}; let it begin later")
    ended = whole._replace(
        rows=whole.rows[: places[-1]], end=Level(first.level.signal / rest.sigma_data, first.level.noise)
    )
    return ended, rest._replace(noise_scale=1.0, image_scale=None, churn_scale=0.0)
