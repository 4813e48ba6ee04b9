"""A1111's sampler, scheduler, eta and churn -> the settings of our solver."""

from __future__ import annotations

from typing import Any

from ....core.errors import InputError
from ....metadata.a1111_names import solver_of
from ....metadata.to_a1111 import CHURN
from ....sampling import names, samplers
from ..request_error import RequestError, wrong_input
from .fields import Fields

_AUTOMATIC = "Automatic"
_EDM_ORDERS = {"euler": 1, "heun": 2}  # the two that add churn in A1111, which edm does here


def settings_of(fields: Fields) -> dict[str, Any]:
    """Returns sampler, schedule and their options, none where the client names none; RequestError for unknown names."""
    name = fields.text("sampler_name") or fields.text("sampler_index")
    scheduler = fields.text("scheduler") or _AUTOMATIC
    if not name:
        try:
            schedule = names.read_schedule(scheduler)
        except InputError as error:
            raise wrong_input(error, "scheduler") from None
        return {} if schedule is None else {"schedule": schedule}
    try:
        names.canonical(name, scheduler)
    except InputError as error:
        raise wrong_input(error, "scheduler" if _is_known(name) else "sampler_name") from None
    solver = solver_of(name, scheduler)
    if solver.sampler is None:  # `canonical` has read it
        raise RequestError(f"unknown sampler {name!r}", field="sampler_name")
    if solver.schedule is None and names.read_schedule(scheduler, solver.sampler) is not None:
        possible = samplers.SAMPLERS[solver.sampler].schedules
        raise RequestError(f"{name} has no schedule {scheduler!r}; it has {', '.join(possible)}", field="scheduler")
    settings = {"sampler": solver.sampler, "schedule": solver.schedule, "kind": solver.kind}
    return {key: value for key, value in {**settings, **_options(solver.sampler, fields)}.items() if value is not None}


def _is_known(name: str) -> bool:
    try:
        names.read_sampler(name)
    except InputError:
        return False
    return True


def _options(sampler: str, fields: Fields) -> dict[str, Any]:
    """Returns eta and churn for the samplers that take them in A1111; the others take no notice of them there too."""
    churn = {name: fields.number(name) for name in CHURN}
    if sampler in _EDM_ORDERS and churn["s_churn"]:
        churn["s_tmax"] = churn["s_tmax"] or None  # 0 is no limit
        return {"sampler": "edm", "order": _EDM_ORDERS[sampler], **churn}
    if "eta" in samplers.SAMPLERS[sampler].takes:
        return {"eta": fields.number("eta")}
    return {}
