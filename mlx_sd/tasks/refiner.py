"""The hand-over of SDXL: the base runs the first part of one schedule, a refiner the rest, from latents to latents."""

from dataclasses import replace

from ..checkpoint.model import Model
from ..core.errors import InputError
from ..networks.configs import TinyConfig
from ..sampling import samplers, schedules
from ..sampling.steps import Level
from ..sampling.table import Options, Table


def check_refiner(model: Model, refiner: Model) -> None:
    """Raises InputError where the refiner cannot go on from the model's latents."""
    latents = model.vae.config.latent_channels
    if refiner.unet.config.in_channels != latents:
        raise InputError(
            f"the refiner's UNet takes {refiner.unet.config.in_channels} channels, not the {latents} of latents alone"
        )
    configs = [m.vae.config for m in (model, refiner) if m.vae_name is None]
    # The scale of a tiny autoencoder, or of another than the checkpoint's own, says nothing about the UNet's latents.
    scales = {(c.downsampling, c.scaling_factor, c.shift_factor) for c in configs if not isinstance(c, TinyConfig)}
    if len(scales) > 1:
        raise InputError("the refiner's latents are of another VAE than the model's; give one of the same family")


def split_table(
    model: Model,
    refiner: Model,
    table: Table,
    refine_at: float,
    *,
    sampler: str,
    schedule_name: str,
    options: Options,
    steps: int,
    strength: float | None,
) -> tuple[Table, Table]:
    """Returns the base's rows and the refiner's: `table`, cut where timesteps fall below 1 - refine_at of training's.

    That is diffusers' denoising_end and denoising_start. A method with a memory starts anew with the refiner. The
    other arguments are those that `table` was made of. Raises InputError where one of the two has no step.
    """
    if not 0 < refine_at < 1:
        raise InputError(f"the refiner begins between 0 and 1, not at {refine_at}")
    scheduler = model.scheduler
    if scheduler.edm:
        raise InputError("this checkpoint knows no timesteps, by which work is shared with a refiner")
    method = samplers.SAMPLERS[sampler]
    grid = method.grid(scheduler, steps, schedule_name, options.rho or schedules.RHO).steps
    begin = sum(step.timestep >= round(scheduler.num_train_timesteps * (1 - refine_at)) for step in grid)
    if begin == len(grid):
        raise InputError(
            f"the refiner has none of {len(grid)} steps where it begins at {refine_at}; let it begin earlier"
        )
    refined_scheduler = replace(scheduler, prediction_type=refiner.scheduler.prediction_type)
    refined = samplers.table(refined_scheduler, sampler, schedule_name, options, steps, begin)
    first = refined.rows[0]
    # A level is met twice where a step's last evaluation is at its end: the next step begins with the later.
    places = [i for i, row in enumerate(table.rows) if (row.timestep, row.level) == (first.timestep, first.level)]
    if not places or places[-1] == 0:
        of = "" if strength is None else f" of strength {strength}"
        raise InputError(
            f"the refiner begins at {refine_at} and leaves the model none of the steps{of}; let it begin later"
        )
    end = Level(first.level.signal / refined.sigma_data, first.level.noise)
    ended = table._replace(rows=table.rows[: places[-1]], end=end)
    return ended, refined._replace(noise_scale=1.0, image_scale=None, churn_scale=0.0)
