"""What names of samplers and schedules mean in a text of A1111's web UI, and how ours are written there.

`mlx_sd.sampling.names` has the names themselves; here is what depends on the text around them.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ..core.errors import InputError
from ..discrete import calls
from ..sampling import names, samplers, schedules

# Samplers with timesteps of their own in A1111, whatever the schedule type says -> the schedule that these are here.
_OWN_TIMESTEPS = {"ddim": "leading", "plms": "leading", "unipc": "linspace"}
_UNIFORM = "Uniform"  # A1111's schedule where a text of an early version names none


class Solver(NamedTuple):
    """A sampler and a schedule by our names; None is the checkpoint's or the sampler's own."""

    sampler: str | None
    schedule: str | None
    kind: str | None = None  # of the sampler
    problem: str | None = None  # why the sampler is None; empty where its name is unknown


def labels(settings: Mapping[str, Any]) -> tuple[str, str | None]:
    """Returns A1111's names of sampler and schedule for a JSON object of settings; ours where it has no equal.

    A list of timesteps or sigmas stays as it is; samplers of tokens may have no schedule, which is None.
    """
    sampler, schedule = str(settings.get("sampler")), str(settings.get("schedule"))
    if sampler in calls.NAMES:  # which A1111 does not have
        return sampler, settings.get("schedule")
    label, schedule_type = names.a1111_names(sampler, schedule, settings.get("kind"), settings.get("order"))
    return label, schedule if schedule.partition("=")[0] in schedules.LISTS else schedule_type


def solver_of(sampler: str, schedule: str | None, by_mlx_sd: bool = False) -> Solver:
    """Returns the sampler and the schedule that A1111's names mean.

    sampler: in any version's words; before 1.9 it had the schedule at its end ("DPM++ 2M Karras"). schedule: None where
    the text has none, which then was the uniform one. by_mlx_sd: whether we wrote the names.
    """
    try:
        meaning = names.read_sampler(sampler)
    except InputError as error:
        return Solver(None, None, problem=str(error) if names.is_sampler(sampler) else "")
    if meaning.sampler in _OWN_TIMESTEPS and not by_mlx_sd:
        return Solver(meaning.sampler, _OWN_TIMESTEPS[meaning.sampler], meaning.kind)
    if schedule == _UNIFORM and by_mlx_sd:
        return Solver(meaning.sampler, "linspace", meaning.kind)
    named: str | None = None
    try:
        named = names.read_schedule(schedule or meaning.schedule or _UNIFORM, meaning.sampler)
    except InputError:
        return Solver(meaning.sampler, None, meaning.kind)
    possible = samplers.SAMPLERS[meaning.sampler].schedules
    named = named or meaning.schedule  # Automatic, of a sampler whose name has the schedule
    return Solver(meaning.sampler, named if (named or "").partition("=")[0] in possible else None, meaning.kind)
